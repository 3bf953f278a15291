//! A core that trades two instruments, and the exchange around it, message by message.
#![allow(dead_code, reason = "each test file uses some of it")]

use abi::counters::{Counter, State};
use abi::field::{Alpha, Price, Side, Symbol, Time48};
use abi::itch::{AddOrder, Message, OrderDelete, StockDirectory, TradingAction};
use abi::journal::{Recovery, Refused};
use abi::mold::{PacketBuilder, Session};
use abi::ouch::outbound::{self, Accepted, AccountQueryResponse};
use abi::ouch::{Capacity, CrossType, Display, OrderState, TimeInForce};
use abi::soup::{LoginAccepted, Packet};
use engine_core::market::InstrumentId;
use engine_core::pipeline::{Core, Line, Verdict};
use engine_core::settings::{BookLimits, Login, RiskLimits, Settings};
use engine_core::strategy::{Actions, Execution, Intent, OrderUpdate, Strategy, View};
use std::cell::RefCell;
use std::rc::Rc;

pub const MS: u64 = 1_000_000;
pub const SYMBOLS: [&str; 2] = ["AAPL", "MSFT"];

/// Joins the best bid with ten shares whenever it has no order there, and notes what it is told.
pub struct Joiner {
    told: Rc<RefCell<Vec<String>>>,
}

impl Strategy for Joiner {
    fn on_bbo(&mut self, view: &View<'_>, instrument: InstrumentId, actions: &mut Actions) {
        if let (Some(bid), None) = (view.bbo(instrument).bid, view.orders(instrument).next()) {
            let (side, price, shares) = (Side::Buy, bid.price, 10);
            actions.push(Intent::Enter { instrument, side, price, shares });
        }
    }

    fn on_execution(&mut self, view: &View<'_>, it: &Execution, actions: &mut Actions) {
        self.told.borrow_mut().push(format!("{} traded {}", it.user_ref, it.shares));
        self.on_bbo(view, it.instrument, actions);
    }

    fn on_order(&mut self, _: &View<'_>, it: &OrderUpdate, _: &mut Actions) {
        let OrderUpdate { user_ref, change, open, .. } = it;
        self.told.borrow_mut().push(format!("{user_ref} {change:?} {open}"));
    }

    fn on_refused(&mut self, _: &View<'_>, it: &Refused) {
        self.told.borrow_mut().push(format!("refused {:?}", it.reason));
    }
}

/// A core that trades: both instruments have a book, the session stands.
pub struct Bench {
    pub core: Core<Joiner>,
    pub now: u64,
    pub next: u64,
    order_ref: u64,
    told: Rc<RefCell<Vec<String>>>,
}

pub fn session() -> Session {
    Session::new("DAY").unwrap()
}

pub fn timestamp() -> Time48 {
    Time48::new(1).unwrap()
}

impl Bench {
    pub fn new() -> Self {
        let bench = Self::with(Recovery::default(), 1 << 30);
        assert_eq!(bench.core.state(), State::Trading);
        bench
    }

    /// A core that found this in its journal, and stops at so large a loss.
    pub fn with(recovery: Recovery, loss_max: u64) -> Self {
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
            loss_max,
        ];
        let risk = RiskLimits::from_words(&words).unwrap();
        let symbols = SYMBOLS.iter().map(|text| Symbol::new(text).unwrap()).collect();
        let login = Login::new("user", "pass").unwrap();
        let book = BookLimits { orders_max: 1_024, levels_max: 16 };
        let settings = Settings::new(symbols, risk, &[], login, None, book).unwrap();
        let told = Rc::new(RefCell::new(Vec::new()));
        let core = Core::new(settings, Joiner { told: told.clone() });
        let mut bench = Self { core, now: 1_000 * MS, next: 1, order_ref: 0, told };
        bench.core.on_recovered(recovery);
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
        bench
    }

    /// Calls of the strategy since the last call of this.
    pub fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut *self.told.borrow_mut())
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.core.counters.get(counter)
    }

    pub fn hear(&mut self, packet: Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode_to(&mut bytes);
        self.core.on_session_bytes(&bytes, self.now);
    }

    pub fn answer(&mut self, message: outbound::Message) {
        let mut bytes = Vec::new();
        message.encode_with(&[], &mut bytes);
        self.hear(Packet::Sequenced(&bytes));
    }

    pub fn accept(&mut self, user_ref_num: u32) {
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

    /// One of our orders trades at its price.
    pub fn execute(&mut self, user_ref_num: u32, quantity: u32) {
        self.answer(outbound::Message::Executed(outbound::Executed {
            timestamp: 1,
            user_ref_num,
            quantity,
            price: abi::ouch::Price(1_000_000),
            liquidity_flag: b'A',
            match_number: 1,
        }));
    }

    /// The exchange accepts an order, and cancels it.
    pub fn end_order(&mut self, user_ref_num: u32) {
        self.accept(user_ref_num);
        let (timestamp, quantity, reason) = (1, 10, b'U');
        let gone = outbound::Canceled { timestamp, user_ref_num, quantity, reason };
        self.answer(outbound::Message::Canceled(gone));
    }

    /// A datagram with these messages, next in sequence.
    pub fn give(&mut self, messages: &[&[u8]]) {
        self.now += MS;
        let datagram = datagram(session(), self.next, messages);
        self.next += messages.len() as u64;
        assert_eq!(self.core.on_feed(Line::A, &datagram, self.now), Verdict::Accepted);
    }

    pub fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        self.give(&[&bytes]);
    }

    pub fn add(&mut self, stock_locate: u16, side: Side, price: u32) -> u64 {
        self.order_ref += 1;
        self.say(&Message::AddOrder(add(stock_locate, self.order_ref, side, price)));
        self.order_ref
    }

    pub fn delete(&mut self, stock_locate: u16, order_ref: u64) {
        let (tracking_number, timestamp) = (0, timestamp());
        let delete = OrderDelete { stock_locate, tracking_number, timestamp, order_ref };
        self.say(&Message::OrderDelete(delete));
    }

    /// Types of the OUCH messages that went out since the last call.
    pub fn sent(&mut self) -> String {
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

    pub fn is_unsound(&self, instrument: u16) -> bool {
        self.core.market().status(InstrumentId(instrument)).is_unsound()
    }
}

pub fn datagram(session: Session, sequence: u64, messages: &[&[u8]]) -> Vec<u8> {
    let mut builder = PacketBuilder::new(session, sequence);
    messages.iter().for_each(|message| assert!(builder.push(message)));
    builder.finish()
}

pub fn add(stock_locate: u16, order_ref: u64, side: Side, price: u32) -> AddOrder {
    let (tracking_number, timestamp, shares) = (0, timestamp(), 100);
    let stock = Symbol::new(SYMBOLS[usize::from(stock_locate) - 1]).unwrap();
    let price = Price(price);
    AddOrder { stock_locate, tracking_number, timestamp, order_ref, side, shares, stock, price }
}

pub fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_to(&mut bytes);
    bytes
}
