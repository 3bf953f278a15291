//! A recorded day: a length-prefixed ITCH 5.0 file is published as it was recorded, and our own
//! orders are matched against the book that it makes.
//!
//! What is assumed, for a recording cannot answer an order that was not there:
//! - Nothing we do changes the recording. Our orders are not published, and shares that we take
//!   stay in the recorded book, so that taking the same quote again and again is possible here and
//!   not in life.
//! - An order that crosses the recorded touch trades at once, at the recorded prices, with at most
//!   the shares shown there.
//! - The rest queues behind all shares shown at its price at that moment. Executions at its price
//!   use up that queue first; cancels shorten it only when fewer shares are left than it was long.
//! - An execution at a worse price, or a recorded order that arrives at or through ours, would have
//!   met our order first: it fills, with as many shares.
//! - Trades against hidden orders (`P`) at a price through ours fill it likewise.

use crate::market::{DayTime, Event, Market, NewOrder, OrderRef};
use abi::field::{Price, Side, Symbol};
use abi::itch::{Framed, Message, timestamp_of};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, HashMap};

/// Our orders are numbered from here, so that they never meet a recorded reference.
const OWN_REF_FIRST: OrderRef = 1 << 62;

#[derive(Debug, Clone, Copy)]
struct Shown {
    side: Side,
    price: Price,
    shares: u32,
}

#[derive(Debug, Clone, Copy)]
struct Own {
    order_ref: OrderRef,
    side: Side,
    price: Price,
    shares: u32,
    queue_ahead: u64,
}

#[derive(Debug, Default)]
struct RecordedBook {
    bids: BTreeMap<Price, u64>,
    asks: BTreeMap<Price, u64>,
    own: Vec<Own>,
}

impl RecordedBook {
    fn side_mut(&mut self, side: Side) -> &mut BTreeMap<Price, u64> {
        match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        }
    }

    fn shown(&mut self, side: Side, price: Price) -> u64 {
        self.side_mut(side).get(&price).copied().unwrap_or(0)
    }

    fn change(&mut self, side: Side, price: Price, add: u32, take: u32) {
        let levels = self.side_mut(side);
        let shares = levels.entry(price).or_default();
        *shares = (*shares + u64::from(add)).saturating_sub(u64::from(take));
        if *shares == 0 {
            levels.remove(&price);
        }
    }
}

/// Whether `price` is at least as good for a counterparty of an order at `limit` on `side`.
fn reaches(side: Side, limit: Price, price: Price) -> bool {
    match side {
        Side::Buy => price <= limit,
        Side::Sell => price >= limit,
    }
}

/// A recorded day as a market.
pub struct ReplayMarket {
    messages: Vec<Vec<u8>>,
    at: usize,
    first_time: u64,
    /// Speed in hundredths: 100 plays as fast as it was recorded.
    speed_percent: u32,
    symbols: HashMap<u16, Symbol>,
    books: HashMap<Symbol, RecordedBook>,
    orders: HashMap<OrderRef, (Symbol, Shown)>,
    next_ref: OrderRef,
    next_match: u64,
}

impl ReplayMarket {
    /// Reads a recording. Every message must be ITCH 5.0.
    ///
    /// # Errors
    /// Names the byte offset of the first frame that is not.
    pub fn read(file: &[u8], speed_percent: u32) -> Result<Self> {
        let mut messages = Vec::new();
        let mut symbols = HashMap::new();
        let mut frames = Framed::new(file);
        loop {
            let offset = frames.offset();
            let Some(frame) = frames.next() else { break };
            let wrong = || {
                format!("frame at byte {offset}: not a length-prefixed ITCH 5.0 file from here on")
            };
            let frame = frame.with_context(wrong)?;
            if let Message::StockDirectory(m) = Message::decode(frame).with_context(wrong)? {
                symbols.insert(m.stock_locate, m.stock);
            }
            messages.push(frame.to_vec());
        }
        ensure!(!messages.is_empty(), "the recording holds no message");
        ensure!(
            !symbols.is_empty(),
            "the recording has no Stock Directory ('R') message, so no symbol"
        );
        let books = symbols.values().map(|symbol| (*symbol, RecordedBook::default())).collect();
        let first_time = timestamp_of(&messages[0]).map_or(0, |time| time.nanos());
        Ok(Self {
            messages,
            at: 0,
            first_time,
            speed_percent: speed_percent.max(1),
            symbols,
            books,
            orders: HashMap::new(),
            next_ref: OWN_REF_FIRST,
            next_match: 1,
        })
    }

    /// The symbols of the recording, in the order of their locate codes.
    pub fn symbols(&self) -> Vec<Symbol> {
        let mut symbols: Vec<_> = self.symbols.iter().collect();
        symbols.sort();
        symbols.into_iter().map(|(_, symbol)| *symbol).collect()
    }

    fn fill(&mut self, own: Own, shares: u32, price: Price, resting: bool) -> Event {
        let match_number = OWN_REF_FIRST + self.next_match;
        self.next_match += 1;
        Event::Fill { order_ref: own.order_ref, shares, price, match_number, resting }
    }

    /// Lets `shares` that traded or arrived at `price` meet our orders on `side` first.
    fn meet_own(
        &mut self,
        symbol: Symbol,
        side: Side,
        price: Price,
        shares: u32,
        events: &mut Vec<Event>,
    ) {
        let Some(book) = self.books.get_mut(&symbol) else { return };
        let mut left = shares;
        let mut filled = Vec::new();
        for own in &mut book.own {
            if own.side != side || !reaches(side, own.price, price) {
                continue;
            }
            if own.price == price {
                let ahead = own.queue_ahead.min(u64::from(left)) as u32;
                own.queue_ahead -= u64::from(ahead);
                if own.queue_ahead > 0 || left == ahead {
                    continue;
                }
                left -= ahead;
            }
            let taken = own.shares.min(left);
            own.shares -= taken;
            left -= taken;
            if taken > 0 {
                filled.push((*own, taken));
            }
        }
        book.own.retain(|own| own.shares > 0);
        for (own, taken) in filled {
            let fill = self.fill(own, taken, own.price, true);
            events.push(fill);
        }
    }

    /// A queue can't be longer than what is shown at its price.
    fn shorten_queues(&mut self, symbol: Symbol, side: Side, price: Price) {
        if let Some(book) = self.books.get_mut(&symbol) {
            let shown = book.shown(side, price);
            let here = book.own.iter_mut().filter(|own| own.side == side && own.price == price);
            here.for_each(|own| own.queue_ahead = own.queue_ahead.min(shown));
        }
    }

    fn arrive(
        &mut self,
        locate: u16,
        order_ref: u64,
        side: Side,
        price: Price,
        shares: u32,
        events: &mut Vec<Event>,
    ) {
        let Some(symbol) = self.symbols.get(&locate).copied() else { return };
        self.orders.insert(order_ref, (symbol, Shown { side, price, shares }));
        self.books.entry(symbol).or_default().change(side, price, shares, 0);
        self.meet_own_through(symbol, side.opposite(), price, shares, events);
    }

    /// A recorded order that arrives at or through our price would have traded with us, whole queue
    /// or not: had there been a queue at our price, it would have traded with that.
    fn meet_own_through(
        &mut self,
        symbol: Symbol,
        side: Side,
        price: Price,
        shares: u32,
        events: &mut Vec<Event>,
    ) {
        if let Some(book) = self.books.get_mut(&symbol) {
            let here = book
                .own
                .iter_mut()
                .filter(|own| own.side == side && reaches(side, own.price, price));
            here.for_each(|own| own.queue_ahead = 0);
        }
        self.meet_own(symbol, side, price, shares, events);
    }

    fn leave(&mut self, order_ref: u64, shares: u32) -> Option<(Symbol, Shown)> {
        let (symbol, shown) = self.orders.get_mut(&order_ref)?;
        let taken = shares.min(shown.shares);
        shown.shares -= taken;
        let (symbol, left) = (*symbol, *shown);
        if left.shares == 0 {
            self.orders.remove(&order_ref);
        }
        self.books.entry(symbol).or_default().change(left.side, left.price, 0, taken);
        Some((symbol, Shown { shares: taken, ..left }))
    }

    fn execute(&mut self, order_ref: u64, shares: u32, events: &mut Vec<Event>) {
        if let Some((symbol, shown)) = self.leave(order_ref, shares) {
            self.meet_own(symbol, shown.side, shown.price, shown.shares, events);
            self.shorten_queues(symbol, shown.side, shown.price);
        }
    }

    fn cancel(&mut self, order_ref: u64, shares: u32) {
        if let Some((symbol, shown)) = self.leave(order_ref, shares) {
            self.shorten_queues(symbol, shown.side, shown.price);
        }
    }

    fn follow(&mut self, message: &Message, events: &mut Vec<Event>) {
        match message {
            Message::AddOrder(m) => {
                self.arrive(m.stock_locate, m.order_ref, m.side, m.price, m.shares, events)
            }
            Message::AddOrderMpid(m) => {
                self.arrive(m.stock_locate, m.order_ref, m.side, m.price, m.shares, events)
            }
            Message::OrderExecuted(m) => self.execute(m.order_ref, m.executed_shares, events),
            Message::OrderExecutedWithPrice(m) => {
                self.execute(m.order_ref, m.executed_shares, events)
            }
            Message::OrderCancel(m) => self.cancel(m.order_ref, m.cancelled_shares),
            Message::OrderDelete(m) => self.cancel(m.order_ref, u32::MAX),
            Message::OrderReplace(m) => {
                if let Some((_, shown)) = self.orders.get(&m.order_ref).copied() {
                    self.cancel(m.order_ref, u32::MAX);
                    self.arrive(
                        m.stock_locate,
                        m.new_order_ref,
                        shown.side,
                        m.price,
                        m.shares,
                        events,
                    );
                }
            }
            Message::Trade(m) => {
                let through = |side, price: Price| match side {
                    Side::Buy => Price(price.0.saturating_add(1)),
                    Side::Sell => Price(price.0.saturating_sub(1)),
                };
                for side in [Side::Buy, Side::Sell] {
                    self.meet_own(m.stock, side, through(side, m.price), m.shares, events);
                }
            }
            _ => {}
        }
    }
}

impl Market for ReplayMarket {
    fn open(&mut self, _now: DayTime, _events: &mut Vec<Event>) {}

    fn next_at(&self) -> Option<u64> {
        let time = timestamp_of(self.messages.get(self.at)?)?.nanos();
        let since = u128::from(time.saturating_sub(self.first_time));
        u64::try_from(since * 100 / u128::from(self.speed_percent)).ok()
    }

    fn step(&mut self, _now: DayTime, events: &mut Vec<Event>) {
        let Some(bytes) = self.messages.get(self.at).cloned() else { return };
        self.at += 1;
        let message = Message::decode(&bytes).expect("decoded when the file was read");
        events.push(Event::Recorded(bytes));
        self.follow(&message, events);
    }

    fn lists(&self, symbol: Symbol) -> bool {
        self.books.contains_key(&symbol)
    }

    fn enter(&mut self, order: &NewOrder, _now: DayTime, events: &mut Vec<Event>) -> OrderRef {
        let order_ref = self.next_ref;
        self.next_ref += 1;
        let (side, price) = (order.side, order.price);
        let mut own = Own { order_ref, side, price, shares: order.shares, queue_ahead: 0 };
        let book =
            self.books.get_mut(&order.symbol).expect("the caller asked whether it is listed");
        let touch: Vec<(Price, u64)> = match side {
            Side::Buy => book.asks.range(..=price).map(|(p, s)| (*p, *s)).collect(),
            Side::Sell => book.bids.range(price..).rev().map(|(p, s)| (*p, *s)).collect(),
        };
        own.queue_ahead = book.shown(side, price);
        for (price, shown) in touch {
            let shares = own.shares.min(u32::try_from(shown).unwrap_or(u32::MAX));
            own.shares -= shares;
            if shares > 0 {
                let fill = self.fill(own, shares, price, false);
                events.push(fill);
            }
        }
        if own.shares > 0 && order.rests {
            self.books.get_mut(&order.symbol).expect("found above").own.push(own);
        }
        order_ref
    }

    fn reduce(
        &mut self,
        order_ref: OrderRef,
        shares: u32,
        _now: DayTime,
        _events: &mut Vec<Event>,
    ) {
        for book in self.books.values_mut() {
            let ours = book.own.iter_mut().filter(|own| own.order_ref == order_ref);
            ours.for_each(|own| own.shares = own.shares.saturating_sub(shares));
            book.own.retain(|own| own.shares > 0);
        }
    }

    fn replace(
        &mut self,
        order_ref: OrderRef,
        order: &NewOrder,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> OrderRef {
        self.reduce(order_ref, u32::MAX, now, events);
        self.enter(order, now, events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::stamp;
    use abi::itch::{AddOrder, OrderExecuted};

    fn symbol() -> Symbol {
        Symbol::new("AAPL").unwrap()
    }

    fn market() -> ReplayMarket {
        let mut directory = [b' '; abi::itch::StockDirectory::LEN];
        directory[..11].copy_from_slice(&[b'R', 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        directory[11..19].copy_from_slice(&symbol().0);
        let file = [&[0, directory.len() as u8][..], &directory].concat();
        ReplayMarket::read(&file, 100).unwrap()
    }

    fn add(
        market: &mut ReplayMarket,
        order_ref: u64,
        side: Side,
        price: u32,
        shares: u32,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let message = Message::AddOrder(AddOrder {
            stock_locate: 1,
            tracking_number: 0,
            timestamp: stamp(0),
            order_ref,
            side,
            shares,
            stock: symbol(),
            price: Price(price),
        });
        market.follow(&message, &mut events);
        events
    }

    fn execute(market: &mut ReplayMarket, order_ref: u64, executed_shares: u32) -> Vec<(u32, u32)> {
        let mut events = Vec::new();
        let (stock_locate, tracking_number, timestamp) = (1, 0, stamp(0));
        let message = OrderExecuted {
            stock_locate,
            tracking_number,
            timestamp,
            order_ref,
            executed_shares,
            match_number: 1,
        };
        market.follow(&Message::OrderExecuted(message), &mut events);
        fills(&events)
    }

    fn fills(events: &[Event]) -> Vec<(u32, u32)> {
        let fill = |event: &Event| match event {
            Event::Fill { shares, price, .. } => Some((*shares, price.0)),
            _ => None,
        };
        events.iter().filter_map(fill).collect()
    }

    fn enter(market: &mut ReplayMarket, side: Side, price: u32, shares: u32) -> Vec<(u32, u32)> {
        let mut events = Vec::new();
        let order = NewOrder { symbol: symbol(), side, price: Price(price), shares, rests: true };
        market.enter(&order, 0, &mut events);
        fills(&events)
    }

    #[test]
    fn an_order_waits_for_the_queue_before_it() {
        let mut market = market();
        add(&mut market, 1, Side::Buy, 100, 50);
        assert_eq!(enter(&mut market, Side::Buy, 100, 30), []);
        add(&mut market, 2, Side::Buy, 100, 50);
        assert_eq!(execute(&mut market, 1, 40), []);
        assert_eq!(execute(&mut market, 1, 10), []);
        assert_eq!(execute(&mut market, 2, 20), [(20, 100)]);
        assert_eq!(execute(&mut market, 2, 20), [(10, 100)]);
    }

    #[test]
    fn a_crossing_order_takes_what_is_shown() {
        let mut market = market();
        add(&mut market, 1, Side::Sell, 101, 50);
        add(&mut market, 2, Side::Sell, 102, 50);
        assert_eq!(enter(&mut market, Side::Buy, 102, 70), [(50, 101), (20, 102)]);
        assert_eq!(enter(&mut market, Side::Buy, 101, 70), [(50, 101)]);
    }

    #[test]
    fn a_trade_through_our_price_and_an_arrival_at_it_fill() {
        let mut market = market();
        add(&mut market, 1, Side::Buy, 99, 50);
        enter(&mut market, Side::Buy, 100, 30);
        assert_eq!(execute(&mut market, 1, 10), [(10, 100)]);
        assert_eq!(fills(&add(&mut market, 3, Side::Sell, 100, 15)), [(15, 100)]);
    }

    #[test]
    fn a_broken_recording_is_named_by_its_offset() {
        let error = ReplayMarket::read(&[0, 1, b'?'], 100).err().unwrap();
        assert!(format!("{error:#}").contains("frame at byte 0"), "{error:#}");
        assert!(ReplayMarket::read(&[], 100).is_err());
    }
}
