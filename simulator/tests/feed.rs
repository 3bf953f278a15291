//! The core's feed side against the exchange's publisher: loss, reordering, gaps that are too old,
//! snapshots. The judge is a core that was given every message once and in sequence. `SEED=n`
//! repeats a run.

use abi::field::{Price, Side, Symbol, Time48};
use abi::itch::{Message, OrderDelete};
use abi::mold::{Request, Session};
use engine_core::book::Bbo;
use engine_core::counters::Counter;
use engine_core::market::InstrumentId;
use engine_core::pipeline::{Core, Line};
use engine_core::settings::{BookLimits, Login, RiskLimits, Settings, SnapshotSettings};
use engine_core::strategy::{Actions, Strategy, View};
use exchange::faults::{FaultRates, Faults};
use exchange::market::{Event, Market};
use exchange::publisher::Publisher;
use exchange::snapshot_server::Books;
use exchange::synthetic_market::FlowMarket;

const SYMBOLS: [&str; 3] = ["AAPL", "MSFT", "SPY"];
const MS: u64 = 1_000_000;

struct Watcher;

impl Strategy for Watcher {
    fn on_bbo(&mut self, _: &View<'_>, _: InstrumentId, _: &mut Actions) {}
}

fn symbols() -> Vec<Symbol> {
    SYMBOLS.iter().map(|text| Symbol::new(text).unwrap()).collect()
}

fn core() -> Core<Watcher> {
    let risk = RiskLimits::from_words(&[
        100,
        1,
        10_000,
        500,
        1_000,
        64,
        100_000,
        100_000,
        100,
        0,
        1_000 * MS,
        10,
        1_000,
    ]);
    let login = Login::new("quiet", "core").unwrap();
    let book = BookLimits { orders_max: 50_000, levels_max: 1_024 };
    let settings = Settings::new(symbols(), risk.unwrap(), &[], login.clone(), None, book).unwrap();
    let snapshot = SnapshotSettings { login, gap_age_max_ns: 200 * MS, gap_messages_max: 10_000 };
    Core::new(settings.with_snapshot(snapshot).unwrap(), Watcher)
}

/// The exchange's side, and virtual time.
struct Exchange {
    market: FlowMarket,
    publisher: Publisher,
    books: Books,
    now: u64,
}

impl Exchange {
    fn new(seed: u64) -> Self {
        let session = Session::new("DAY").unwrap();
        let mut exchange = Self {
            market: FlowMarket::new(&symbols(), 1_000, seed),
            publisher: Publisher::new(session),
            books: Books::default(),
            now: 1_000 * MS,
        };
        let mut events = Vec::new();
        exchange.market.open(0, &mut events);
        exchange.take(events);
        exchange
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            if let Event::Feed(message) = event {
                self.publish(&message);
            }
        }
    }

    fn publish(&mut self, message: &Message) {
        self.books.apply(message);
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        self.publisher.push(&bytes);
    }

    /// A millisecond of the market: the datagrams that it makes.
    fn step(&mut self) -> Vec<Vec<u8>> {
        self.now += MS;
        let mut events = Vec::new();
        self.market.step(0, &mut events);
        self.take(events);
        self.publisher.take_new()
    }

    fn answer(&self, core: &mut Core<Watcher>) {
        while let Some(request) = core.take_request() {
            let request = Request::decode(&request.to_bytes()).unwrap();
            for datagram in self.publisher.replay(&request) {
                core.on_feed(Line::Replay, &datagram, self.now);
            }
        }
        core.on_tick(self.now);
        core.session_out().clear();
    }

    fn heartbeat(&mut self, core: &mut Core<Watcher>) {
        for _ in 0..400 {
            self.now += MS;
            core.on_feed(Line::A, &self.publisher.heartbeat(), self.now);
            self.answer(core);
        }
    }

    fn connect_snapshots(&self, core: &mut Core<Watcher>) -> Vec<u8> {
        core.on_snapshot_connected(self.now);
        core.snapshot_out().expect("a login").clear();
        self.books.stream(self.publisher.session(), self.publisher.count() as u64 + 1)
    }
}

/// Everything that a strategy can see of one book: touch, queues, status.
type Shown = (Bbo, Vec<(u64, u32)>, String);

fn shown(core: &Core<Watcher>) -> Vec<Shown> {
    let market = core.market();
    let all = market.instruments().map(|id| {
        let mut queues = Vec::new();
        for side in [Side::Buy, Side::Sell] {
            let prices: Vec<Price> = market.depth(id, side).map(|quote| quote.price).collect();
            prices.into_iter().for_each(|price| queues.extend(market.queue(id, side, price)));
        }
        (market.bbo(id), queues, format!("{:?}", market.status(id)))
    });
    all.collect()
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    eprintln!("SEED={seed}");
    seed
}

fn lossy(seed: u64) -> [Faults; 2] {
    let rates = FaultRates { loss_ppm: 10_000, duplicate_ppm: 5_000, reorder_ppm: 10_000 };
    [Faults::new(rates, seed), Faults::new(rates, seed + 1)]
}

fn feed(core: &mut Core<Watcher>, lines: &mut [Faults; 2], datagram: &[u8], now: u64) {
    for (line, faults) in [Line::A, Line::B].into_iter().zip(lines) {
        for copy in faults.pass(datagram) {
            core.on_feed(line, &copy, now);
        }
    }
}

#[test]
fn one_percent_of_loss_and_reordering_leaves_the_same_books_and_quotes() {
    let seed = seed();
    let mut exchange = Exchange::new(seed);
    let (mut judge, mut core, mut lines) = (core(), core(), lossy(seed));
    for _ in 0..400_000 {
        for datagram in exchange.step() {
            judge.on_feed(Line::A, &datagram, exchange.now);
            feed(&mut core, &mut lines, &datagram, exchange.now);
        }
        exchange.answer(&mut core);
    }
    exchange.heartbeat(&mut core);
    judge.on_tick(exchange.now);
    assert!(core.counters.get(Counter::FeedRequests) > 10, "nothing was lost on both lines");
    assert!(core.counters.get(Counter::FeedReordered) > 10);
    let told = |core: &Core<Watcher>| {
        [Counter::BboHash, Counter::BboChanges, Counter::FeedMessages].map(|c| core.counters.get(c))
    };
    assert_eq!(told(&core), told(&judge));
    assert_eq!(shown(&core), shown(&judge));
}

#[test]
fn a_gap_that_is_too_old_is_bridged_by_a_snapshot() {
    let seed = seed();
    let mut exchange = Exchange::new(seed);
    exchange.publisher.forget_before(200);
    let (mut judge, mut late, mut lines) = (core(), core(), lossy(seed));
    for turn in 0..20_000 {
        for datagram in exchange.step() {
            judge.on_feed(Line::A, &datagram, exchange.now);
            if turn > 9_000 {
                feed(&mut late, &mut lines, &datagram, exchange.now);
            }
        }
        if turn > 9_000 {
            exchange.answer(&mut late);
        }
        if late.wants_snapshot() {
            // It comes in pieces, with the feed going on between them.
            let stream = exchange.connect_snapshots(&mut late);
            for piece in stream.chunks(1_000) {
                for datagram in exchange.step() {
                    judge.on_feed(Line::A, &datagram, exchange.now);
                    feed(&mut late, &mut lines, &datagram, exchange.now);
                }
                late.on_snapshot_bytes(piece, exchange.now);
            }
            assert!(late.take_snapshot_reset() && !late.wants_snapshot());
        }
    }
    exchange.heartbeat(&mut late);
    assert_eq!(late.counters.get(Counter::SnapshotsLoaded), 1);
    assert_eq!(shown(&late), shown(&judge));
}

#[test]
fn half_a_snapshot_or_another_sessions_is_none() {
    let mut exchange = Exchange::new(seed());
    (0..500).for_each(|_| drop(exchange.step()));
    exchange.publisher.forget_before(0);
    let mut core = core();
    exchange.heartbeat(&mut core);
    assert!(core.wants_snapshot());
    let whole = exchange.connect_snapshots(&mut core);
    for cut in [50, whole.len() / 2, whole.len() - 30] {
        core.on_snapshot_bytes(&whole[..cut], exchange.now);
        core.on_snapshot_lost();
        assert!(core.wants_snapshot(), "cut at {cut}");
        exchange.connect_snapshots(&mut core);
    }
    assert_eq!(core.counters.get(Counter::SnapshotsFailed), 3);
    let other = exchange.books.stream(Session::new("OTHER").unwrap(), 5);
    core.on_snapshot_bytes(&other, exchange.now);
    exchange.connect_snapshots(&mut core);
    core.on_snapshot_bytes(b"\0\x02?x", exchange.now);
    assert_eq!(core.counters.get(Counter::SnapshotsFailed), 5);
    // A connection that brings nothing is given up.
    core.take_snapshot_reset();
    core.on_tick(exchange.now + 5_001 * MS);
    assert!(core.take_snapshot_reset() && core.wants_snapshot());
    exchange.connect_snapshots(&mut core);
    core.on_snapshot_bytes(&whole, exchange.now);
    assert!(!core.wants_snapshot());
    let mut judge = self::core();
    let all = Request {
        session: exchange.publisher.session(),
        sequence: 1,
        count: exchange.publisher.count() as u16,
    };
    exchange.publisher.forget_before(usize::MAX);
    let mut next = 1;
    while next <= exchange.publisher.count() as u64 {
        for datagram in exchange.publisher.replay(&Request { sequence: next, ..all }) {
            judge.on_feed(Line::A, &datagram, exchange.now);
        }
        judge.on_tick(exchange.now);
        next = judge.counters.get(Counter::FeedSequence);
    }
    assert_eq!(shown(&core), shown(&judge));
}

#[test]
fn a_book_that_missed_a_message_is_healed() {
    let mut exchange = Exchange::new(seed());
    let mut core = core();
    let give = |exchange: &mut Exchange, core: &mut Core<Watcher>| {
        for datagram in exchange.step() {
            core.on_feed(Line::A, &datagram, exchange.now);
        }
    };
    (0..500).for_each(|_| give(&mut exchange, &mut core));
    exchange.now += 60_000 * MS;
    let timestamp = Time48::new(5).unwrap();
    let (stock_locate, tracking_number, order_ref) = (1, 0, u64::MAX / 2);
    let strange = OrderDelete { stock_locate, tracking_number, timestamp, order_ref };
    exchange.publish(&Message::OrderDelete(strange));
    give(&mut exchange, &mut core);
    core.on_tick(exchange.now);
    assert_eq!(core.counters.get(Counter::BooksUnsound), 1);
    assert_eq!(
        core.market().instruments().filter(|id| core.market().status(*id).is_unsound()).count(),
        1
    );
    assert!(core.wants_snapshot());
    let stream = exchange.connect_snapshots(&mut core);
    core.on_snapshot_bytes(&stream, exchange.now);
    assert_eq!(core.counters.get(Counter::BooksUnsound), 0);
    assert!(core.market().instruments().all(|id| !core.market().status(id).is_unsound()));
    assert!(!core.wants_snapshot());
}
