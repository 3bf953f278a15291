//! The exchange in one piece: the market with background flow, what it publishes, one account and
//! its session. The parts are `quietcore-exchange`'s own; sockets and clocks are the machine's.

use abi::field::{Side, Symbol};
use abi::mold::{Request, Session};
use abi::ouch::UserRefNum;
use abi::ouch::inbound::Message as Inbound;
use abi::ouch::outbound::Message as Outbound;
use abi::soup::Packet;
use exchange::market::{Event, Market};
use exchange::order_entry::Account;
use exchange::publisher::Publisher;
use exchange::soup_account::SequencedLog;
use exchange::synthetic_market::FlowMarket;
use std::collections::HashMap;

/// Output of the exchange for one input.
#[derive(Default)]
pub struct Effects {
    /// Datagrams for both lines.
    pub datagrams: Vec<Vec<u8>>,
    /// Bytes for the order-entry connection.
    pub bytes: Vec<u8>,
}

/// Symbol and side of an entered order, to book its fills.
#[derive(Debug, Clone, Copy)]
struct Entered {
    symbol: Symbol,
    side: Side,
}

/// Exchange of the simulated machine: a market, one account, its feed and its order-entry session.
pub struct Exchange {
    market: Box<dyn Market>,
    account: Account,
    publisher: Publisher,
    log: SequencedLog,
    stream: Vec<u8>,
    opened_at: Option<u64>,
    entered: HashMap<UserRefNum, Entered>,
    /// Net shares of the account, by symbol.
    pub positions: HashMap<Symbol, i64>,
    /// The highest number that an order came with.
    pub user_ref_max: UserRefNum,
    /// A number that came a second time.
    pub reused: Option<UserRefNum>,
    /// Orders and replacements that came.
    pub orders: u64,
    /// The account is not told of its fills.
    pub loses_fills: bool,
}

impl Exchange {
    /// A closed exchange with background flow; it opens with the first login.
    pub fn new(symbols: &[Symbol], rate: u32, seed: u64) -> Self {
        Self::with(Box::new(FlowMarket::new(symbols, rate, seed)))
    }

    /// A closed exchange with a market of any kind.
    pub fn with(market: Box<dyn Market>) -> Self {
        let session = Session::new("SIM").expect("three letters");
        Self {
            market,
            account: Account::new(),
            publisher: Publisher::new(session),
            log: SequencedLog::new(session),
            stream: Vec::new(),
            opened_at: None,
            entered: HashMap::new(),
            positions: HashMap::new(),
            user_ref_max: 0,
            reused: None,
            orders: 0,
            loses_fills: false,
        }
    }

    /// Orders of the account that can trade.
    pub fn live_count(&self) -> usize {
        self.account.live_count()
    }

    /// Whether it has opened, and nothing more will happen by itself.
    pub fn is_over(&self) -> bool {
        self.opened_at.is_some() && self.market.next_at().is_none()
    }

    /// When the market moves by itself next.
    pub fn next_at(&self) -> Option<u64> {
        Some(self.opened_at? + self.market.next_at()?)
    }

    /// The market moves by itself.
    pub fn step(&mut self, now: u64) -> Effects {
        let mut events = Vec::new();
        self.market.step(now, &mut events);
        self.publish(&events, true, now)
    }

    /// A sign of life on feed and session.
    pub fn beat(&self) -> Effects {
        let mut bytes = Vec::new();
        Packet::ServerHeartbeat.encode_to(&mut bytes);
        Effects { datagrams: vec![self.publisher.heartbeat()], bytes }
    }

    /// The answer to a re-request.
    pub fn replay(&self, request: &[u8]) -> Vec<Vec<u8>> {
        Request::decode(request).map_or(Vec::new(), |request| self.publisher.replay(&request))
    }

    /// The order-entry connection is gone.
    pub fn on_gone(&mut self, now: u64) -> Effects {
        self.stream.clear();
        let mut events = Vec::new();
        let answers = self.account.on_disconnect(&mut *self.market, now, &mut events);
        let mut effects = self.publish(&events, false, now);
        self.tell(answers, &mut effects);
        effects
    }

    /// Bytes came over the order-entry connection.
    pub fn on_bytes(&mut self, bytes: &[u8], now: u64) -> Effects {
        self.stream.extend_from_slice(bytes);
        let stream = std::mem::take(&mut self.stream);
        let (mut effects, mut at) = (Effects::default(), 0);
        while let Ok(Some((packet, len))) = Packet::decode(&stream[at..]) {
            at += len;
            match packet {
                Packet::LoginRequest(request) => {
                    effects.bytes.extend(self.log.login(&request).unwrap_or_default());
                    self.open(now, &mut effects);
                }
                Packet::Unsequenced(message) => self.on_order(message, now, &mut effects),
                _ => {}
            }
        }
        self.stream = stream[at..].to_vec();
        effects
    }

    fn open(&mut self, now: u64, effects: &mut Effects) {
        if self.opened_at.is_none() {
            self.opened_at = Some(now);
            let mut events = Vec::new();
            self.market.open(now, &mut events);
            effects.datagrams.extend(self.publish(&events, false, now).datagrams);
        }
    }

    fn on_order(&mut self, message: &[u8], now: u64, effects: &mut Effects) {
        let Ok((message, _)) = Inbound::decode(message) else { return };
        self.note(&message);
        let mut events = Vec::new();
        let answers = self.account.on_message(&message, &mut *self.market, now, &mut events);
        self.tell(answers, effects);
        effects.datagrams.extend(self.publish(&events, false, now).datagrams);
    }

    fn note(&mut self, message: &Inbound) {
        let (user_ref, entered) = match message {
            Inbound::EnterOrder(m) => {
                let (symbol, side) = (m.symbol, m.side.book_side());
                (m.user_ref_num, Some(Entered { symbol, side }))
            }
            Inbound::ReplaceOrder(m) => {
                (m.user_ref_num, self.entered.get(&m.orig_user_ref_num).copied())
            }
            _ => return,
        };
        self.orders += 1;
        if user_ref <= self.user_ref_max {
            self.reused = Some(user_ref);
        }
        self.user_ref_max = self.user_ref_max.max(user_ref);
        if let Some(entered) = entered {
            self.entered.insert(user_ref, entered);
        }
    }

    /// Sends answers into the session, and books the fills among them.
    fn tell(&mut self, answers: Vec<Outbound>, effects: &mut Effects) {
        for answer in answers {
            if let Outbound::Executed(m) = &answer
                && let Some(entered) = self.entered.get(&m.user_ref_num)
            {
                let signed = i64::from(m.quantity) * if entered.side == Side::Buy { 1 } else { -1 };
                *self.positions.entry(entered.symbol).or_default() += signed;
                if self.loses_fills {
                    continue;
                }
            }
            let mut message = Vec::new();
            answer.encode_with(&[], &mut message);
            effects.bytes.extend(self.log.push(&message));
        }
    }

    fn publish(&mut self, events: &[Event], answer: bool, now: u64) -> Effects {
        let mut effects = Effects::default();
        let mut answers = Vec::new();
        for event in events {
            match event {
                Event::Feed(message) => {
                    let mut bytes = Vec::new();
                    message.encode_to(&mut bytes);
                    self.publisher.push(&bytes);
                }
                Event::Fill { .. } if answer => answers.extend(self.account.on_event(event, now)),
                Event::Recorded(bytes) => self.publisher.push(bytes),
                Event::Fill { .. } => {}
            }
        }
        self.tell(answers, &mut effects);
        effects.datagrams = self.publisher.take_new();
        effects
    }
}
