//! The model of background order flow: a zero-intelligence market after Smith, Farmer, Gillemot and
//! Krishnamurthy, "Statistical theory of the continuous double auction" (2003).
//!
//! Orders of independent traders arrive as one Poisson process of `rate` events a second, spread
//! evenly over the symbols. An event is
//! - a limit order (50 %): at a geometrically distributed distance from the opposite touch, mean 4
//!   ticks, 1 to 5 round lots;
//! - an order that takes the touch at once (15 %), 1 to 3 round lots;
//! - a cancel (35 %) of a background order chosen evenly; also whenever a book holds its maximum.
//!
//! A reference price per symbol moves by one tick either way with probability 1/20 at each event.
//! Limit orders are placed around it when the opposite side is empty, and a quarter of all limit
//! orders is placed relative to it, which pulls the touch back; without it the model's price would
//! be free to drift off. The model has no memory, no news and no adverse selection: it exercises an
//! engine, it does not tell whether a strategy earns.

use crate::limits::BACKGROUND_ORDERS_MAX;
use crate::market::{DayTime, Event, Market, NewOrder, OrderRef};
use crate::matching::{MatchingBook, Numbers, stamp};
use abi::field::{Alpha, Price, Side, Symbol};
use abi::itch::{Message, StockDirectory, SystemEvent, TradingAction};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const TICK: u32 = 100;
const ROUND_LOT: u32 = 100;
/// Background orders that each side starts with.
const OPENING_ORDERS: u32 = 40;
/// Opening prices: 50 to 250 units, by the seed.
const OPENING_PRICE: std::ops::Range<u32> = 500_000..2_500_000;

struct Listed {
    book: MatchingBook,
    reference: u32,
    background: Vec<OrderRef>,
}

/// A market made of background flow and whatever accounts send.
pub struct FlowMarket {
    listed: Vec<Listed>,
    numbers: Numbers,
    rng: ChaCha8Rng,
    rate: u32,
    next_at: u64,
}

impl FlowMarket {
    /// A market in `symbols` with `rate` events a second in all, determined by `seed`.
    pub fn new(symbols: &[Symbol], rate: u32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let listed = symbols.iter().enumerate().map(|(index, symbol)| Listed {
            book: MatchingBook::new(*symbol, index as u16 + 1),
            reference: (OPENING_PRICE.start + below(&mut rng, OPENING_PRICE.len() as u32)) / TICK
                * TICK,
            background: Vec::new(),
        });
        let listed = listed.collect();
        Self { listed, numbers: Numbers::default(), rng, rate: rate.max(1), next_at: 0 }
    }

    fn find(&mut self, order_ref: OrderRef) -> Option<&mut Listed> {
        self.listed.iter_mut().find(|listed| listed.book.holds(order_ref))
    }

    fn limit_order(&mut self, index: usize, now: DayTime, events: &mut Vec<Event>) {
        let rng = &mut self.rng;
        let side = if below(rng, 2) == 0 { Side::Buy } else { Side::Sell };
        let lots = 1 + below(rng, 5);
        let mut distance = 1;
        while below(rng, 4) != 0 {
            distance += 1;
        }
        let anchored = below(rng, 4) == 0;
        let listed = &mut self.listed[index];
        let opposite = listed.book.best(side.opposite()).filter(|_| !anchored);
        let anchor = opposite.map_or(listed.reference, |price| price.0);
        let price = match side {
            Side::Buy => anchor.saturating_sub(distance * TICK).max(TICK),
            Side::Sell => anchor + distance * TICK,
        };
        let order = NewOrder {
            symbol: listed.book.symbol(),
            side,
            price: Price(price),
            shares: lots * ROUND_LOT,
            rests: true,
        };
        let order_ref = listed.book.enter(&order, false, &mut self.numbers, now, events);
        if listed.book.holds(order_ref) {
            listed.background.push(order_ref);
        }
    }

    fn taking_order(&mut self, index: usize, now: DayTime, events: &mut Vec<Event>) {
        let side = if below(&mut self.rng, 2) == 0 { Side::Buy } else { Side::Sell };
        let shares = (1 + below(&mut self.rng, 3)) * ROUND_LOT;
        let listed = &mut self.listed[index];
        let Some(price) = listed.book.best(side.opposite()) else { return };
        let order = NewOrder { symbol: listed.book.symbol(), side, price, shares, rests: false };
        listed.book.enter(&order, false, &mut self.numbers, now, events);
    }

    fn cancel(&mut self, index: usize, now: DayTime, events: &mut Vec<Event>) {
        let listed = &mut self.listed[index];
        listed.background.retain(|order_ref| listed.book.holds(*order_ref));
        if listed.background.len() > OPENING_ORDERS as usize / 2 {
            let at = below(&mut self.rng, listed.background.len() as u32);
            let order_ref = listed.background.swap_remove(at as usize);
            listed.book.reduce(order_ref, u32::MAX, now, events);
        }
    }

    fn schedule(&mut self) {
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let wait = -(1.0 - uniform).ln() * 1e9 / f64::from(self.rate);
        self.next_at += wait as u64;
    }
}

fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(bound)) >> 32) as u32
}

impl Market for FlowMarket {
    fn open(&mut self, now: DayTime, events: &mut Vec<Event>) {
        let system = |event_code| {
            let (stock_locate, tracking_number, timestamp) = (0, 0, stamp(now));
            Event::Feed(Message::SystemEvent(SystemEvent {
                stock_locate,
                tracking_number,
                timestamp,
                event_code,
            }))
        };
        events.push(system(b'O'));
        for (index, listed) in self.listed.iter().enumerate() {
            events.push(Event::Feed(directory(listed.book.symbol(), index as u16 + 1, now)));
        }
        events.push(system(b'S'));
        for (index, listed) in self.listed.iter().enumerate() {
            events.push(Event::Feed(trading(listed.book.symbol(), index as u16 + 1, now)));
        }
        for index in 0..self.listed.len() {
            (0..OPENING_ORDERS * 2).for_each(|_| self.limit_order(index, now, events));
        }
        events.push(system(b'Q'));
        self.schedule();
    }

    fn next_at(&self) -> Option<u64> {
        Some(self.next_at)
    }

    fn step(&mut self, now: DayTime, events: &mut Vec<Event>) {
        let index = below(&mut self.rng, self.listed.len() as u32) as usize;
        let listed = &mut self.listed[index];
        match below(&mut self.rng, 40) {
            0 => listed.reference += TICK,
            1 => listed.reference = (listed.reference - TICK).max(OPENING_PRICE.start / 2),
            _ => {}
        }
        let full = listed.background.len() >= BACKGROUND_ORDERS_MAX;
        match below(&mut self.rng, 100) {
            0..50 if !full => self.limit_order(index, now, events),
            50..65 => self.taking_order(index, now, events),
            _ => self.cancel(index, now, events),
        }
        self.schedule();
    }

    fn lists(&self, symbol: Symbol) -> bool {
        self.listed.iter().any(|listed| listed.book.symbol() == symbol)
    }

    fn enter(&mut self, order: &NewOrder, now: DayTime, events: &mut Vec<Event>) -> OrderRef {
        let listed = self.listed.iter_mut().find(|listed| listed.book.symbol() == order.symbol);
        let listed = listed.expect("the caller asked whether the symbol is listed");
        listed.book.enter(order, true, &mut self.numbers, now, events)
    }

    fn reduce(&mut self, order_ref: OrderRef, shares: u32, now: DayTime, events: &mut Vec<Event>) {
        if let Some(listed) = self.find(order_ref) {
            listed.book.reduce(order_ref, shares, now, events);
        }
    }

    fn replace(
        &mut self,
        order_ref: OrderRef,
        order: &NewOrder,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> OrderRef {
        let index = self.listed.iter().position(|listed| listed.book.holds(order_ref));
        let book = &mut self.listed[index.expect("the caller replaces a resting order")].book;
        book.replace(order_ref, order, &mut self.numbers, now, events)
    }
}

fn directory(stock: Symbol, stock_locate: u16, now: DayTime) -> Message {
    Message::StockDirectory(StockDirectory {
        stock_locate,
        tracking_number: 0,
        timestamp: stamp(now),
        stock,
        market_category: b'Q',
        financial_status: b'N',
        round_lot_size: ROUND_LOT,
        round_lots_only: b'N',
        issue_classification: b'C',
        issue_sub_type: Alpha::new("Z").expect("one letter"),
        authenticity: b'T',
        short_sale_threshold: b'N',
        ipo_flag: b'N',
        luld_price_tier: b'1',
        etp_flag: b'N',
        etp_leverage_factor: 0,
        inverse: b'N',
    })
}

fn trading(stock: Symbol, stock_locate: u16, now: DayTime) -> Message {
    Message::TradingAction(TradingAction {
        stock_locate,
        tracking_number: 0,
        timestamp: stamp(now),
        stock,
        trading_state: b'T',
        reserved: b' ',
        reason: Alpha::BLANK,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, steps: usize) -> Vec<Event> {
        let symbols = [Symbol::new("AAA").unwrap(), Symbol::new("BBB").unwrap()];
        let mut market = FlowMarket::new(&symbols, 100, seed);
        let mut events = Vec::new();
        market.open(0, &mut events);
        for _ in 0..steps {
            let at = market.next_at().unwrap();
            market.step(at, &mut events);
        }
        for listed in &market.listed {
            let (bid, ask) = (listed.book.best(Side::Buy), listed.book.best(Side::Sell));
            assert!(bid.unwrap() < ask.unwrap(), "a crossed or empty book");
        }
        events
    }

    #[test]
    fn a_seed_determines_the_day() {
        assert_eq!(run(1, 5_000), run(1, 5_000));
        assert_ne!(run(1, 5_000), run(2, 5_000));
    }

    #[test]
    fn books_stay_two_sided_and_every_kind_of_event_occurs() {
        let events = run(3, 100_000);
        let count = |wanted: fn(&Message) -> bool| {
            events.iter().filter(|event| matches!(event, Event::Feed(m) if wanted(m))).count()
        };
        assert!(count(|m| matches!(m, Message::AddOrder(_))) > 40_000);
        assert!(count(|m| matches!(m, Message::OrderExecuted(_))) > 10_000);
        assert!(count(|m| matches!(m, Message::OrderDelete(_))) > 20_000);
    }
}
