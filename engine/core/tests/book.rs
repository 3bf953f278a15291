//! The book against a model of maps and queues that shares no code with it, and against what
//! LOBSTER shows for a real morning. `SEED=n cargo test -p engine-core --test book` repeats a run.
#![allow(clippy::disallowed_methods, reason = "a test reads its seed and its recording")]

use abi::field::{Price, Side, Symbol, Time48};
use abi::itch::{
    AddOrder, Framed, Message, OrderCancel, OrderDelete, OrderExecuted, OrderReplace, RegSho,
    StockDirectory, TradingAction,
};
use engine_core::book::{Bbo, Quote};
use engine_core::market::{BookError, Change, InstrumentId, Market};
use engine_core::trading_status::{ShortSale, TradingState};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, HashMap};

const TRACKING: u16 = 0;
const SYMBOLS: [&str; 2] = ["AAPL", "PENY"];

fn time() -> Time48 {
    Time48::new(1).unwrap()
}

fn bytes_of(message: Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_to(&mut bytes);
    bytes
}

fn directory(locate: u16, symbol: &str) -> Vec<u8> {
    let mut bytes = vec![b' '; StockDirectory::LEN];
    bytes[0] = b'R';
    bytes[1..3].copy_from_slice(&locate.to_be_bytes());
    bytes[11..19].copy_from_slice(&Symbol::new(symbol).unwrap().0);
    bytes
}

fn market(orders_max: usize, levels_max: usize) -> Market {
    let symbols = SYMBOLS.map(|symbol| Symbol::new(symbol).unwrap());
    let mut market = Market::new(&symbols, orders_max, levels_max);
    for (index, symbol) in SYMBOLS.iter().enumerate() {
        market.apply(&directory(index as u16 + 1, symbol), |_, _| {}).unwrap();
    }
    market
}

fn add(locate: u16, order_ref: u64, side: Side, shares: u32, price: u32) -> Vec<u8> {
    let stock = Symbol::new(SYMBOLS[usize::from(locate) - 1]).unwrap();
    let (timestamp, price) = (time(), Price(price));
    let (stock_locate, tracking_number) = (locate, TRACKING);
    bytes_of(Message::AddOrder(AddOrder {
        stock_locate,
        tracking_number,
        timestamp,
        order_ref,
        side,
        shares,
        stock,
        price,
    }))
}

/// An order of the model.
#[derive(Debug, Clone, Copy)]
struct Order {
    locate: u16,
    side: Side,
    price: u32,
    shares: u32,
}

#[derive(Default)]
struct Model {
    orders: HashMap<u64, Order>,
    queues: BTreeMap<(u16, Side, u32), Vec<u64>>,
}

impl Model {
    fn add(&mut self, order_ref: u64, order: Order) {
        self.orders.insert(order_ref, order);
        self.queues.entry((order.locate, order.side, order.price)).or_default().push(order_ref);
    }

    fn remove(&mut self, order_ref: u64) -> Order {
        let order = self.orders.remove(&order_ref).unwrap();
        let key = (order.locate, order.side, order.price);
        let queue = self.queues.get_mut(&key).unwrap();
        queue.retain(|other| *other != order_ref);
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        order
    }

    fn depth(&self, locate: u16, side: Side) -> Vec<Quote> {
        let levels = self.queues.range((locate, side, 0)..=(locate, side, u32::MAX));
        let quote = |((_, _, price), queue): (&(u16, Side, u32), &Vec<u64>)| Quote {
            price: Price(*price),
            shares: queue.iter().map(|order| self.orders[order].shares).sum(),
        };
        let mut depth: Vec<_> = levels.map(quote).collect();
        if side == Side::Buy {
            depth.reverse();
        }
        depth
    }

    fn bbo(&self, locate: u16) -> Bbo {
        let best = |side| self.depth(locate, side).first().copied();
        Bbo { bid: best(Side::Buy), ask: best(Side::Sell) }
    }
}

/// A price near a wandering middle, sometimes far off, sometimes no whole cent, sometimes absurd.
fn price(rng: &mut ChaCha8Rng, middle: u32, locate: u16, step: u64) -> u32 {
    let near = middle + 100 * (rng.next_u32() % 60) - 3_000;
    match rng.next_u32() % 200 {
        0 => [1, 100, u32::MAX, u32::MAX / 100 * 100][rng.next_u32() as usize % 4],
        1..=20 => 100 * (1 + rng.next_u32() % 100_000),
        21..=40 if locate == 2 && step > 3_000 => near + 1 + rng.next_u32() % 99,
        _ => near,
    }
}

/// One random message, applied to the model; its bytes and the instrument.
fn step(rng: &mut ChaCha8Rng, model: &mut Model, middle: u32, step: u64) -> (Vec<u8>, u16) {
    let (stock_locate, tracking_number, timestamp) = (0, TRACKING, time());
    let known: Vec<u64> = model.orders.keys().copied().collect();
    let choice = rng.next_u32() % 10;
    if known.len() < 40 || choice < 4 && known.len() < 400 {
        let locate = 1 + (rng.next_u32() % 2) as u16;
        let side = if rng.next_u32().is_multiple_of(2) { Side::Buy } else { Side::Sell };
        let (shares, price) = (1 + rng.next_u32() % 500, price(rng, middle, locate, step));
        model.add(step, Order { locate, side, price, shares });
        return (add(locate, step, side, shares, price), locate);
    }
    let mut sorted = known;
    sorted.sort_unstable();
    let order_ref = sorted[rng.next_u32() as usize % sorted.len()];
    let order = model.orders[&order_ref];
    let part = 1 + rng.next_u32() % order.shares;
    let message = match choice {
        4 | 5 => Message::OrderExecuted(OrderExecuted {
            stock_locate,
            tracking_number,
            timestamp,
            order_ref,
            executed_shares: part,
            match_number: 1,
        }),
        6 => Message::OrderCancel(OrderCancel {
            stock_locate,
            tracking_number,
            timestamp,
            order_ref,
            cancelled_shares: part,
        }),
        7 => {
            let price = price(rng, middle, order.locate, step);
            model.remove(order_ref);
            model.add(step, Order { price, shares: part, ..order });
            Message::OrderReplace(OrderReplace {
                stock_locate,
                tracking_number,
                timestamp,
                order_ref,
                new_order_ref: step,
                shares: part,
                price: Price(price),
            })
        }
        _ => {
            model.remove(order_ref);
            Message::OrderDelete(OrderDelete {
                stock_locate,
                tracking_number,
                timestamp,
                order_ref,
            })
        }
    };
    if (4..7).contains(&choice) {
        match order.shares - part {
            0 => drop(model.remove(order_ref)),
            left => model.orders.get_mut(&order_ref).unwrap().shares = left,
        }
    }
    let mut bytes = bytes_of(message);
    bytes[1..3].copy_from_slice(&order.locate.to_be_bytes());
    (bytes, order.locate)
}

#[test]
fn it_agrees_with_a_model_of_maps() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    eprintln!("SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut market, mut model) = (market(1_024, 1_024), Model::default());
    let mut middle = 5_000_000;
    for index in 1..60_000u64 {
        // The touch wanders, and now and then jumps by more than the ladder's window.
        middle = match rng.next_u32() % 1_000 {
            // Prices below the window's width too.
            0 if rng.next_u32().is_multiple_of(2) => 4_000 + rng.next_u32() % 500 * 100,
            0 => 1_000_000 + rng.next_u32() % 90_000 * 100,
            1..=250 => middle + 100,
            251..=500 => (middle - 100).max(4_000),
            _ => middle,
        };
        let before = [1, 2].map(|locate| model.bbo(locate));
        let (bytes, locate) = step(&mut rng, &mut model, middle, index);
        let id = InstrumentId(locate - 1);
        let mut touched = None;
        let applied = market.apply(&bytes, |_, id| touched = Some(id));
        applied.unwrap_or_else(|error| panic!("step {index}: {error}"));
        let bbo = model.bbo(locate);
        assert_eq!(market.bbo(id), bbo, "step {index}");
        if bbo != before[usize::from(locate) - 1] {
            assert_eq!(touched, Some(id), "step {index}");
        }
        if index.is_multiple_of(50) {
            for side in [Side::Buy, Side::Sell] {
                let depth: Vec<_> = market.depth(id, side).collect();
                assert_eq!(depth, model.depth(locate, side), "step {index}");
            }
            for ((locate, side, price), queue) in &model.queues {
                let orders = market.queue(InstrumentId(locate - 1), *side, Price(*price));
                let orders: Vec<u64> = orders.map(|(order_ref, _)| order_ref).collect();
                assert_eq!(orders, *queue, "step {index}");
            }
            assert_eq!(market.orders_count(), model.orders.len());
        }
    }
}

/// Nothing of the book may change with a message that is refused.
fn refused(market: &mut Market, bytes: &[u8], expected: BookError) {
    let shown = |market: &Market| {
        let sides = [Side::Buy, Side::Sell];
        let depth = sides.map(|side| market.depth(InstrumentId(0), side).collect::<Vec<_>>());
        (depth, market.bbo(InstrumentId(0)), market.orders_count())
    };
    let before = shown(market);
    assert_eq!(market.apply(bytes, |_, _| {}), Err(expected));
    assert_eq!(shown(market), before);
}

#[test]
fn what_cannot_be_applied_changes_nothing_and_has_a_name() {
    let mut market = market(4, 2);
    let delete = |locate, order_ref| {
        let (stock_locate, tracking_number, timestamp) = (locate, TRACKING, time());
        bytes_of(Message::OrderDelete(OrderDelete {
            stock_locate,
            tracking_number,
            timestamp,
            order_ref,
        }))
    };
    refused(&mut market, &delete(1, 9), BookError::UnknownOrder);
    refused(&mut market, &add(1, 1, Side::Buy, 0, 100), BookError::Shares);
    let mut market = self::market(6, 2);
    market.apply(&add(1, 1, Side::Buy, u32::MAX, 1_000_000), |_, _| {}).unwrap();
    market.apply(&add(1, 2, Side::Buy, 5, 1_000_100), |_, _| {}).unwrap();
    market.apply(&add(1, 4, Side::Buy, 5, 200), |_, _| {}).unwrap();
    market.apply(&add(1, 5, Side::Buy, 5, 300), |_, _| {}).unwrap();
    refused(&mut market, &add(1, 1, Side::Sell, 1, 2_000_000), BookError::DuplicateOrder);
    refused(&mut market, &add(1, 3, Side::Buy, 1, 1_000_000), BookError::Shares);
    refused(&mut market, &add(1, 3, Side::Buy, 1, 100), BookError::LevelsFull);
    refused(&mut market, &add(1, 3, Side::Buy, 1, 9_000_000), BookError::LevelsFull);
    refused(&mut market, &add(1, 3, Side::Buy, 1, 999_950), BookError::LevelsFull);
    refused(&mut market, &delete(2, 1), BookError::Instrument);
    assert!(matches!(market.apply(&[b'A'; 35], |_, _| {}), Err(BookError::Malformed)));
    assert!(matches!(market.apply(&[0xff; 9], |_, _| {}), Err(BookError::Malformed)));
    assert!(matches!(market.apply(&[], |_, _| {}), Err(BookError::Malformed)));
    market.apply(&add(1, 3, Side::Sell, 5, 2_000_000), |_, _| {}).unwrap();
    market.apply(&add(2, 6, Side::Sell, 5, 2_000_000), |_, _| {}).unwrap();
    // Orders whose home is taken go to the overflow, until it is full.
    for index in 1..=6 {
        market.apply(&add(2, 6 + 8 * index, Side::Sell, 5, 2_000_000), |_, _| {}).unwrap();
    }
    refused(&mut market, &add(2, 6 + 8 * 7, Side::Sell, 5, 2_000_000), BookError::TableFull);
}

#[test]
fn the_status_follows_the_feed() {
    let mut market = market(4, 2);
    let id = InstrumentId(0);
    let (stock_locate, tracking_number, timestamp) = (1, TRACKING, time());
    let stock = Symbol::new("AAPL").unwrap();
    let action = |trading_state| {
        bytes_of(Message::TradingAction(TradingAction {
            stock_locate,
            tracking_number,
            timestamp,
            stock,
            trading_state,
            reserved: b' ',
            reason: abi::field::Alpha::BLANK,
        }))
    };
    assert_eq!(market.status(id).state(), TradingState::Halted);
    for (code, state) in [
        (b'T', TradingState::Trading),
        (b'P', TradingState::Paused),
        (b'Q', TradingState::QuotationOnly),
        (b'z', TradingState::Halted),
        (b'T', TradingState::Trading),
    ] {
        assert_eq!(market.apply(&action(code), |_, _| {}), Ok(Change::Status(id)));
        assert_eq!(market.status(id).state(), state);
    }
    let reg_sho = |action| {
        let sho = RegSho { stock_locate, tracking_number, timestamp, stock, action };
        bytes_of(Message::RegSho(sho))
    };
    market.apply(&reg_sho(b'1'), |_, _| {}).unwrap();
    assert_eq!(market.status(id).short_sale, ShortSale::RestrictedToday);
    let halt = |halt_action| {
        bytes_of(Message::OperationalHalt(abi::itch::OperationalHalt {
            stock_locate,
            tracking_number,
            timestamp,
            stock,
            market_code: b'Q',
            halt_action,
        }))
    };
    market.apply(&halt(b'H'), |_, _| {}).unwrap();
    assert!(!market.status(id).is_trading());
    market.apply(&halt(b'T'), |_, _| {}).unwrap();
    assert!(market.status(id).is_trading());
}

/// The real morning: every best bid and offer in LOBSTER's own order. Skipped where the data is
/// not.
#[test]
fn a_real_morning_passes_through_the_reference_states() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let read = |name: &str| std::fs::read(data.join(name));
    let Ok(file) = read("nasdaq-aapl-2012-06-21-open.itch") else {
        eprintln!("skipped: there is no {}", data.display());
        return;
    };
    let csv = String::from_utf8(read("nasdaq-aapl-2012-06-21-open.bbo.csv").unwrap()).unwrap();
    let mut expected =
        csv.lines().skip_while(|line| !line.starts_with(|c: char| c.is_ascii_digit()));
    let (mut market, mut last, mut open, mut seen) =
        (market(1 << 16, 1_024), Bbo::default(), false, 0);
    for frame in Framed::new(&file) {
        let change = market.apply(frame.unwrap(), |_, _| {}).unwrap();
        open |= change == Change::MarketOpened;
        let bbo = market.bbo(InstrumentId(0));
        if bbo != last && open {
            let side = |quote: Option<Quote>| quote.map_or((0, 0), |q| (q.price.0, q.shares));
            let ((ask, asked), (bid, bidden)) = (side(bbo.ask), side(bbo.bid));
            assert_eq!(Some(format!("{ask},{asked},{bid},{bidden}").as_str()), expected.next());
            seen += 1;
        }
        last = bbo;
    }
    assert_eq!((expected.next(), seen > 10_000), (None, true));
}
