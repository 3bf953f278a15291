//! Each row of the table "What is done about bad input" in docs/engine.md that the core decides: the counter
//! and the reaction. The rows about disks and clocks are tested where those are.

use abi::counters::{Counter, State};
use abi::field::{Alpha, Price, Side, Symbol, Time48};
use abi::itch::{AddOrder, Message, OrderDelete, OrderExecuted, StockDirectory, TradingAction};
use abi::mold::{PacketBuilder, Session};
use abi::ouch::outbound::{self, Accepted, AccountQueryResponse, CancelReject};
use abi::ouch::{Capacity, CrossType, Display, OrderState, TimeInForce};
use abi::soup::{LoginAccepted, Packet};
use engine_core::market::InstrumentId;
use engine_core::pipeline::{Core, Line, Verdict};
use engine_core::settings::{BookLimits, Login, RiskLimits, Settings};
use engine_core::strategy::{Actions, Intent, Strategy, View};

const MS: u64 = 1_000_000;
const SYMBOLS: [&str; 2] = ["AAPL", "MSFT"];

/// Joins the best bid with ten shares whenever it has no order there.
struct Joiner;

impl Strategy for Joiner {
    fn on_bbo(&mut self, view: &View<'_>, instrument: InstrumentId, actions: &mut Actions) {
        if let (Some(bid), None) = (view.bbo(instrument).bid, view.orders(instrument).next()) {
            let (side, price, shares) = (Side::Buy, bid.price, 10);
            actions.push(Intent::Enter { instrument, side, price, shares });
        }
    }
}

/// A core that trades: both instruments have a book, the session stands.
struct Bench {
    core: Core<Joiner>,
    now: u64,
    next: u64,
    order_ref: u64,
}

fn session() -> Session {
    Session::new("DAY").unwrap()
}

fn timestamp() -> Time48 {
    Time48::new(1).unwrap()
}

impl Bench {
    fn new() -> Self {
        let words = [
            1_000,
            1,
            1_000_000,
            5_000,
            10_000,
            64,
            1 << 30,
            1 << 30,
            1_000,
            0,
            1_000 * MS,
            10,
            1 << 30,
        ];
        let risk = RiskLimits::from_words(&words).unwrap();
        let symbols = SYMBOLS.iter().map(|text| Symbol::new(text).unwrap()).collect();
        let login = Login::new("user", "pass").unwrap();
        let book = BookLimits { orders_max: 1_024, levels_max: 16 };
        let settings = Settings::new(symbols, risk, &[], login, None, book).unwrap();
        let core = Core::new(settings, Joiner);
        let mut bench = Self { core, now: 1_000 * MS, next: 1, order_ref: 0 };
        bench.core.on_session_connected(bench.now);
        let (session, sequence) = (session(), Alpha::decimal_right(1).unwrap());
        bench.hear(Packet::LoginAccepted(LoginAccepted { session, sequence }));
        let account = AccountQueryResponse { timestamp: 1, next_user_ref_num: 1 };
        bench.answer(outbound::Message::AccountQueryResponse(account));
        bench.hear(Packet::ServerHeartbeat);
        for (locate, text) in (1..).zip(SYMBOLS) {
            let stock = Symbol::new(text).unwrap();
            let mut directory = [b' '; StockDirectory::LEN];
            directory[..5].copy_from_slice(&[b'R', 0, locate as u8, 0, 0]);
            directory[11..19].copy_from_slice(&stock.0);
            bench.give(&[&directory]);
            bench.say(&Message::TradingAction(TradingAction {
                stock_locate: locate,
                tracking_number: 0,
                timestamp: timestamp(),
                stock,
                trading_state: b'T',
                reserved: b' ',
                reason: Alpha::BLANK,
            }));
            bench.add(locate, Side::Buy, 1_000_000);
            bench.add(locate, Side::Sell, 1_000_200);
        }
        assert_eq!(bench.core.state(), State::Trading);
        bench
    }

    fn get(&self, counter: Counter) -> u64 {
        self.core.counters.get(counter)
    }

    fn hear(&mut self, packet: Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode_to(&mut bytes);
        self.core.on_session_bytes(&bytes, self.now);
    }

    fn answer(&mut self, message: outbound::Message) {
        let mut bytes = Vec::new();
        message.encode_with(&[], &mut bytes);
        self.hear(Packet::Sequenced(&bytes));
    }

    fn accept(&mut self, user_ref_num: u32) {
        self.answer(outbound::Message::Accepted(Accepted {
            timestamp: 1,
            user_ref_num,
            side: abi::ouch::Side::Buy,
            quantity: 10,
            symbol: Symbol::new("AAPL").unwrap(),
            price: abi::ouch::Price(1_000_000),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            order_ref: 5,
            capacity: Capacity::Principal,
            intermarket_sweep: b'N',
            cross_type: CrossType::Continuous,
            order_state: OrderState::Live,
            cl_ord_id: Alpha::BLANK,
        }));
    }

    /// The exchange accepts an order, and cancels it.
    fn end_order(&mut self, user_ref_num: u32) {
        self.accept(user_ref_num);
        let (timestamp, quantity, reason) = (1, 10, b'U');
        let gone = outbound::Canceled { timestamp, user_ref_num, quantity, reason };
        self.answer(outbound::Message::Canceled(gone));
    }

    /// A datagram with these messages, next in sequence.
    fn give(&mut self, messages: &[&[u8]]) {
        self.now += MS;
        let datagram = datagram(session(), self.next, messages);
        self.next += messages.len() as u64;
        assert_eq!(self.core.on_feed(Line::A, &datagram, self.now), Verdict::Accepted);
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        self.give(&[&bytes]);
    }

    fn add(&mut self, stock_locate: u16, side: Side, price: u32) -> u64 {
        self.order_ref += 1;
        self.say(&Message::AddOrder(add(stock_locate, self.order_ref, side, price)));
        self.order_ref
    }

    fn delete(&mut self, stock_locate: u16, order_ref: u64) {
        let (tracking_number, timestamp) = (0, timestamp());
        let delete = OrderDelete { stock_locate, tracking_number, timestamp, order_ref };
        self.say(&Message::OrderDelete(delete));
    }

    /// Types of the OUCH messages that went out since the last call.
    fn sent(&mut self) -> String {
        let (mut at, mut types) = (0, String::new());
        let bytes = std::mem::take(self.core.session_out());
        while let Some((packet, len)) = Packet::decode(&bytes[at..]).unwrap() {
            at += len;
            if let Packet::Unsequenced(message) = packet {
                types.push(char::from(message[0]));
            }
        }
        types
    }

    fn is_unsound(&self, instrument: u16) -> bool {
        self.core.market().status(InstrumentId(instrument)).is_unsound()
    }
}

fn datagram(session: Session, sequence: u64, messages: &[&[u8]]) -> Vec<u8> {
    let mut builder = PacketBuilder::new(session, sequence);
    messages.iter().for_each(|message| assert!(builder.push(message)));
    builder.finish()
}

fn add(stock_locate: u16, order_ref: u64, side: Side, price: u32) -> AddOrder {
    let (tracking_number, timestamp, shares) = (0, timestamp(), 100);
    let stock = Symbol::new(SYMBOLS[usize::from(stock_locate) - 1]).unwrap();
    let price = Price(price);
    AddOrder { stock_locate, tracking_number, timestamp, order_ref, side, shares, stock, price }
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_to(&mut bytes);
    bytes
}

#[test]
fn what_is_no_datagram_of_the_session_is_skipped_and_another_session_ends_the_process() {
    let mut bench = Bench::new();
    for bytes in [&b"GET / HTTP/1.1"[..], &[0; 20], &[0xff; 1_472]] {
        assert_eq!(bench.core.on_feed(Line::B, bytes, bench.now), Verdict::Dropped);
    }
    let foreign = datagram(Session::new("NEXT").unwrap(), 1, &[b"x"]);
    bench.core.on_feed(Line::A, &foreign, bench.now);
    assert_eq!(bench.get(Counter::FeedPacketsMalformed), 4);
    assert!(!bench.core.session_rolled());
    bench.core.on_feed(Line::A, &foreign, bench.now + 5_001 * MS);
    assert!(bench.core.session_rolled());
}

#[test]
fn a_message_of_an_unknown_type_is_skipped() {
    let mut bench = Bench::new();
    bench.sent();
    let known = bytes(&Message::AddOrder(add(1, 77, Side::Buy, 1_000_100)));
    bench.give(&[b"?no such type", &known]);
    assert_eq!(
        (bench.get(Counter::FeedMessagesMalformed), bench.get(Counter::BooksUnsound)),
        (1, 0)
    );
    assert!(bench.core.market().resting(77).is_some());
}

#[test]
fn a_book_message_of_a_wrong_length_takes_every_instrument_out() {
    let mut bench = Bench::new();
    assert_eq!(bench.sent(), "QOO");
    bench.accept(1);
    let long = [bytes(&Message::AddOrder(add(1, 77, Side::Buy, 1_000_100))), vec![0]].concat();
    bench.give(&[&long]);
    assert_eq!(
        (bench.get(Counter::FeedMessagesMalformed), bench.get(Counter::BooksUnsound)),
        (1, 2)
    );
    assert!(bench.is_unsound(0) && bench.is_unsound(1));
    assert_eq!(bench.sent(), "XX", "orders are cancelled");
}

#[test]
fn an_impossible_reference_takes_its_instrument_out_and_leaves_the_book_as_it_was() {
    type Break = fn(&mut Bench);
    let breaks: [(&str, Counter, Break); 5] = [
        ("unknown", Counter::BookUnknownOrder, |bench| bench.delete(1, 999)),
        ("doubled", Counter::BookRefused, |bench| {
            bench.say(&Message::AddOrder(add(1, 1, Side::Buy, 999_900)));
        }),
        ("another instrument's", Counter::BookRefused, |bench| bench.delete(1, 3)),
        ("more shares than there are", Counter::BookRefused, |bench| {
            bench.say(&Message::OrderExecuted(OrderExecuted {
                stock_locate: 1,
                tracking_number: 0,
                timestamp: timestamp(),
                order_ref: 1,
                executed_shares: 101,
                match_number: 5,
            }));
        }),
        ("full table", Counter::BookRefused, |bench| {
            // Prices of which each is a level of its own: the levels run out before the orders do.
            for number in 0..2_000 {
                if bench.get(Counter::BookRefused) == 0 {
                    bench.add(1, Side::Buy, 10_000 + number * 100);
                }
            }
        }),
    ];
    for (what, counter, act) in breaks {
        let mut bench = Bench::new();
        assert_eq!(bench.sent(), "QOO");
        bench.accept(1);
        let before = bench.core.market().bbo(InstrumentId(0));
        act(&mut bench);
        assert_eq!((bench.get(counter), bench.get(Counter::BooksUnsound)), (1, 1), "{what}");
        assert_eq!(bench.core.market().bbo(InstrumentId(0)), before, "{what}");
        assert!(bench.is_unsound(0) && !bench.is_unsound(1), "{what}");
        assert_eq!(bench.sent(), "X", "{what}: its orders are cancelled");
    }
}

#[test]
fn an_unsound_instrument_is_not_traded_and_others_are() {
    let mut bench = Bench::new();
    bench.delete(1, 999);
    bench.end_order(1);
    bench.end_order(2);
    bench.sent();
    bench.add(1, Side::Buy, 1_000_100);
    assert_eq!((bench.sent().as_str(), bench.get(Counter::RefusedUnsound)), ("", 1));
    bench.add(2, Side::Buy, 1_000_100);
    assert_eq!(bench.sent(), "O");
}

#[test]
fn a_crossed_book_is_no_reference() {
    let mut bench = Bench::new();
    // The order in MSFT is gone, so that the strategy wants another.
    bench.end_order(2);
    bench.sent();
    let refused = bench.get(Counter::RefusedNoReference);
    bench.add(2, Side::Buy, 1_000_300);
    assert_eq!(bench.sent(), "");
    assert_eq!(bench.get(Counter::RefusedNoReference), refused + 1);
}

#[test]
fn in_a_gap_no_strategy_is_called_and_then_what_is_missing_is_asked_for() {
    let mut bench = Bench::new();
    bench.sent();
    let skipped = bytes(&Message::AddOrder(add(1, 60, Side::Buy, 1_000_050)));
    let held = bytes(&Message::AddOrder(add(2, 61, Side::Buy, 1_000_050)));
    let (first, second) = (bench.next, bench.next + 1);
    bench.core.on_feed(Line::A, &datagram(session(), second, &[&held]), bench.now);
    assert_eq!((bench.get(Counter::FeedGaps), bench.core.take_request()), (1, None));
    bench.core.on_tick(bench.now + 10 * MS);
    let request = bench.core.take_request().expect("a request");
    assert_eq!((request.sequence, request.count), (first, 1));
    assert_eq!(bench.sent(), "");
    let answer = datagram(session(), first, &[&skipped]);
    bench.core.on_feed(Line::Replay, &answer, bench.now + 11 * MS);
    assert!(bench.core.market().resting(60).is_some() && bench.core.market().resting(61).is_some());
}

#[test]
fn a_silent_feed_lets_no_order_out() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.sent();
    bench.now += 2_000 * MS;
    // The feed is silent; an answer of the exchange calls the strategy.
    bench.answer(outbound::Message::Executed(outbound::Executed {
        timestamp: 1,
        user_ref_num: 1,
        quantity: 10,
        price: abi::ouch::Price(1_000_000),
        liquidity_flag: b'A',
        match_number: 1,
    }));
    assert_eq!((bench.sent().as_str(), bench.get(Counter::RefusedStale)), ("", 1));
}

#[test]
fn an_exchange_that_answers_nonsense_changes_nothing() {
    let mut bench = Bench::new();
    bench.core.on_session_bytes(b"\0\0garbage", bench.now);
    assert!(bench.core.take_reset());
    assert_eq!(bench.get(Counter::SessionMalformed), 1);
    let mut bench = Bench::new();
    bench.hear(Packet::Sequenced(b"no OUCH"));
    assert!(bench.core.take_reset());
    assert_eq!(bench.get(Counter::SessionMalformed), 1);
    let mut bench = Bench::new();
    let reject = |user_ref_num| CancelReject { timestamp: 1, user_ref_num };
    bench.answer(outbound::Message::CancelReject(reject(500)));
    assert_eq!(bench.get(Counter::SessionUnknownOrder), 1);
    bench.accept(1);
    bench.answer(outbound::Message::CancelReject(reject(1)));
    assert_eq!(bench.get(Counter::OrderNonsense), 1);
    assert_eq!((bench.core.state(), bench.core.desk().orders.open_count()), (State::Trading, 2));
    assert!(!bench.core.take_reset());
}

#[test]
fn limits_out_of_range_are_refused() {
    let mut bench = Bench::new();
    let before = *bench.core.desk().risk.limits();
    bench.core.on_limits(&[0; RiskLimits::WORDS]);
    assert_eq!(bench.get(Counter::LimitsRefused), 1);
    assert_eq!(*bench.core.desk().risk.limits(), before);
}
