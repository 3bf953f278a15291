//! The way of an order through the engine: a datagram in, an order out, both recorded. And risk
//! alone.

use abi::field::{Price, Side, Symbol, Time48};
use abi::itch::{AddOrder, Message, OrderDelete, StockDirectory, TradingAction};
use abi::journal::{Kind, Record, encode_record};
use abi::mold::{PacketBuilder, Session};
use abi::ouch::outbound::{self, Accepted, AccountQueryResponse, Replaced};
use abi::ouch::{Capacity, CrossType, Display, OrderState, TimeInForce, inbound};
use abi::soup::{LoginAccepted, Packet};
use anyhow::{Result, ensure};
use engine_core::book::{Bbo, Quote};
use engine_core::counters::Counter;
use engine_core::maker::{Maker, MakerSettings};
use engine_core::market::InstrumentId;
use engine_core::orders::candidate::Candidate;
use engine_core::orders::{Orders, OwnOrder};
use engine_core::pipeline::{Core, Line};
use engine_core::risk::{Risk, Situation};
use engine_core::settings::{BookLimits, Login, RiskLimits, Settings};
use engine_core::trading_status::{Status, TradingState};
use std::collections::HashMap;

/// Limits that everything here passes.
fn limits() -> RiskLimits {
    RiskLimits {
        order_shares_max: 1_000,
        lot_shares: 1,
        order_notional_max: 1_000_000,
        price_collar_bps: 500,
        position_shares_max: 5_000,
        orders_open_max: 64,
        gross_notional_max: 1 << 30,
        net_notional_max: 1 << 30,
        messages_per_second_max: 1_000_000,
        duplicate_window_ns: 0,
        feed_age_max_ns: 1_000_000_000,
        rejects_in_a_row_max: 5,
        loss_max: 1 << 30,
    }
}

/// The instrument's locate code.
const LOCATE: u16 = 1;

fn symbol() -> Symbol {
    Symbol::new("AAPL").expect("four letters")
}

fn time() -> Time48 {
    Time48::new(1).expect("a nanosecond after midnight")
}

/// The directory message of the instrument.
pub fn directory_of() -> Message {
    let mut directory = [b' '; StockDirectory::LEN];
    directory[..3].copy_from_slice(&[b'R', 0, LOCATE as u8]);
    directory[11..19].copy_from_slice(&symbol().0);
    Message::StockDirectory(StockDirectory::decode(&directory).expect("a directory message"))
}

/// The message that starts its trading.
pub fn trading_of() -> Message {
    Message::TradingAction(TradingAction {
        stock_locate: LOCATE,
        tracking_number: 0,
        timestamp: time(),
        stock: symbol(),
        trading_state: b'T',
        reserved: b' ',
        reason: abi::field::Alpha::BLANK,
    })
}

/// An order of 100 shares.
pub fn quote(order_ref: u64, side: Side, price: u32) -> Message {
    Message::AddOrder(AddOrder {
        stock_locate: LOCATE,
        tracking_number: 0,
        timestamp: time(),
        order_ref,
        side,
        shares: 100,
        stock: symbol(),
        price: Price(price),
    })
}

/// The end of an order.
pub fn delete(order_ref: u64) -> Message {
    let (stock_locate, tracking_number, timestamp) = (LOCATE, 0, time());
    Message::OrderDelete(OrderDelete { stock_locate, tracking_number, timestamp, order_ref })
}

/// Appends the exchange's answer to an OUCH message, if it has one. `sides` remembers the orders.
pub fn answer_to(message: &[u8], sides: &mut HashMap<u32, Side>, out: &mut Vec<u8>) {
    let (time_in_force, display) = (TimeInForce::Day, Display::Visible);
    let (capacity, cross_type) = (Capacity::Principal, CrossType::Continuous);
    let order_state = OrderState::Live;
    let answer = match inbound::Message::decode(message) {
        Ok((inbound::Message::EnterOrder(m), _)) => {
            sides.insert(m.user_ref_num, m.side.book_side());
            outbound::Message::Accepted(Accepted {
                timestamp: 1,
                user_ref_num: m.user_ref_num,
                side: m.side,
                quantity: m.quantity,
                symbol: m.symbol,
                price: m.price,
                time_in_force,
                display,
                order_ref: 1,
                capacity,
                intermarket_sweep: b'N',
                cross_type,
                order_state,
                cl_ord_id: m.cl_ord_id,
            })
        }
        Ok((inbound::Message::ReplaceOrder(m), _)) => {
            let side = sides.remove(&m.orig_user_ref_num).unwrap_or(Side::Buy);
            sides.insert(m.user_ref_num, side);
            outbound::Message::Replaced(Replaced {
                timestamp: 1,
                orig_user_ref_num: m.orig_user_ref_num,
                user_ref_num: m.user_ref_num,
                side: side.into(),
                quantity: m.quantity,
                symbol: symbol(),
                price: m.price,
                time_in_force,
                display,
                order_ref: 1,
                capacity,
                intermarket_sweep: b'N',
                cross_type,
                order_state,
                cl_ord_id: m.cl_ord_id,
            })
        }
        Ok((inbound::Message::AccountQuery(_), _)) => {
            let (timestamp, next_user_ref_num) = (1, 1);
            let answer = AccountQueryResponse { timestamp, next_user_ref_num };
            outbound::Message::AccountQueryResponse(answer)
        }
        _ => return,
    };
    let mut payload = Vec::new();
    answer.encode_with(&[], &mut payload);
    Packet::Sequenced(&payload).encode_to(out);
    if matches!(answer, outbound::Message::AccountQueryResponse(_)) {
        // Nothing else is waiting: the engine has caught up.
        Packet::ServerHeartbeat.encode_to(out);
    }
}

/// An engine that makes a market in one instrument, and the exchange around it.
struct Bench {
    core: Core<Maker>,
    sequence: u64,
    next_ref: u64,
    answers: Vec<u8>,
    sides: HashMap<u32, Side>,
    records: Vec<u8>,
    now: u64,
}

impl Bench {
    fn new() -> Result<Self> {
        let book = BookLimits { orders_max: 1 << 16, levels_max: 1_024 };
        let login = Login::new("user", "pass")?;
        let settings = Settings::new(vec![symbol()], limits(), &[], login, None, book)?;
        let maker = MakerSettings {
            quote_shares: 100,
            inventory_shares_max: 1_000,
            requote_interval_ns: 0,
        };
        Ok(Self {
            core: Core::new(settings, Maker::new(maker, 1)),
            sequence: 1,
            next_ref: 1,
            answers: Vec::new(),
            sides: HashMap::new(),
            records: vec![0; 1 << 16],
            now: 1_000_000_000,
        })
    }

    fn datagram(&mut self, message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        let session = Session::new("DAY").expect("three letters");
        let mut packet = PacketBuilder::new(session, self.sequence);
        packet.push(&bytes);
        self.sequence += 1;
        packet.finish()
    }

    fn add(&mut self, side: Side, price: u32) -> Vec<u8> {
        self.next_ref += 1;
        self.datagram(&quote(self.next_ref, side, price))
    }

    fn delete(&mut self, order_ref: u64) -> Vec<u8> {
        self.datagram(&delete(order_ref))
    }

    fn feed(&mut self, datagram: &[u8]) {
        self.core.on_feed(Line::A, datagram, self.now);
        self.answer_all();
    }

    /// Brings the engine to where it trades.
    fn open(&mut self) {
        for message in [directory_of(), trading_of()] {
            let datagram = self.datagram(&message);
            self.feed(&datagram);
        }
        for (side, price) in [(Side::Buy, 1_000_000), (Side::Sell, 1_000_500)] {
            let datagram = self.add(side, price);
            self.feed(&datagram);
        }
        self.core.on_session_connected(self.now);
        self.core.session_out().clear();
        let mut sequence = abi::field::Alpha([b' '; 20]);
        sequence.0[19] = b'1';
        let session = Session::new("DAY").expect("three letters");
        let mut bytes = Vec::new();
        Packet::LoginAccepted(LoginAccepted { session, sequence }).encode_to(&mut bytes);
        self.core.on_session_bytes(&bytes, self.now);
        self.answer_all();
    }

    /// Answers everything that was sent, until nothing more is.
    fn answer_all(&mut self) {
        while !self.core.session_out().is_empty() {
            let sent = std::mem::take(self.core.session_out());
            let mut rest = &sent[..];
            self.answers.clear();
            while let Ok(Some((packet, len))) = Packet::decode(rest) {
                rest = &rest[len..];
                if let Packet::Unsequenced(message) = packet {
                    answer_to(message, &mut self.sides, &mut self.answers);
                }
            }
            *self.core.session_out() = sent;
            self.core.session_out().clear();
            let answers = std::mem::take(&mut self.answers);
            self.core.on_session_bytes(&answers, self.now);
            self.answers = answers;
        }
        self.core.counters.drain_events().for_each(drop);
        self.core.take_refusals().for_each(drop);
    }
}

/// One datagram through the engine, recorded, and the order that follows, recorded. Bytes of
/// orders.
#[inline(never)]
fn measured_path(core: &mut Core<Maker>, datagram: &[u8], now: u64, records: &mut [u8]) -> usize {
    core.on_feed(Line::A, datagram, now);
    let input = Record { kind: Kind::FeedA, sequence: 1, time_ns: now, payload: datagram };
    let at = encode_record(&input, 1, records);
    let out = core.session_out();
    if !out.is_empty() {
        let output = Record { kind: Kind::SessionSent, sequence: 2, time_ns: now, payload: out };
        encode_record(&output, 1, &mut records[at..]);
    }
    out.len()
}

/// The best bid goes up and down by a cent; the maker follows it. Returns the orders sent.
///
/// # Errors
/// The engine did not follow every time.
pub fn path(rounds: u64) -> Result<u64> {
    let mut bench = Bench::new()?;
    bench.open();
    let mut orders = 0;
    for round in 0..rounds {
        bench.now += 1_000_000;
        let better = bench.add(Side::Buy, 1_000_100);
        let order_ref = bench.next_ref;
        let worse = bench.delete(order_ref);
        for datagram in [better, worse] {
            let sent = measured_path(&mut bench.core, &datagram, bench.now, &mut bench.records);
            orders += u64::from(sent > 0);
            bench.answer_all();
        }
        ensure!(orders == 2 * (round + 1), "round {round}: {orders} orders");
    }
    ensure!(bench.core.counters.get(Counter::RiskRejected) == 0, "risk refused an order");
    Ok(orders)
}

#[inline(never)]
fn measured_risk(risk: &mut Risk, order: &Candidate, situation: &Situation<'_>, now: u64) -> bool {
    risk.check(order, situation, now).is_ok()
}

/// All checks of an order that passes, with two orders working. Returns the orders judged.
///
/// # Errors
/// One was refused.
pub fn risk(rounds: u64) -> Result<u64> {
    let id = InstrumentId(0);
    let mut orders = Orders::new(1);
    orders.insert(OwnOrder::new(1, id, Side::Buy, Price(999_900), 100));
    orders.insert(OwnOrder::new(2, id, Side::Sell, Price(1_000_600), 100));
    let quote = |price| Some(Quote { price: Price(price), shares: 100 });
    let bbo = Bbo { bid: quote(1_000_000), ask: quote(1_000_500) };
    let status = Status::in_state(TradingState::Trading);
    let mut risk = Risk::new(limits(), vec![false]);
    for round in 0..rounds {
        let now = 1_000_000 * (round + 1);
        let situation = Situation::new(id, bbo, &status, &orders, now);
        let (side, price) = (Side::Buy, Price(1_000_000));
        let order = Candidate { instrument: id, side, price, shares: 100, replaces: None };
        ensure!(measured_risk(&mut risk, &order, &situation, now), "order {round} was refused");
    }
    Ok(rounds)
}
