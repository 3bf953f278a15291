//! The world around the model: feed, exchange, and a strategy that asks for anything.

use super::{Listing, Model, Order, Outcome};
use abi::control::Orders;
use abi::counters::State;
use abi::field::{Alpha, Price, Side, Symbol, Time48};
use abi::itch::{AddOrder, Message, OrderDelete, RegSho, StockDirectory, TradingAction};
use abi::mold::{PacketBuilder, Session};
use abi::ouch::outbound::{
    self, Accepted, AccountQueryResponse, Canceled, Executed, Rejected, Replaced,
};
use abi::ouch::{Capacity, CrossType, Display, OrderState, TimeInForce, inbound};
use abi::soup::{LoginAccepted, Packet};
use engine_core::counters::Counter;
use engine_core::market::InstrumentId;
use engine_core::pipeline::{Core, Line};
use engine_core::settings::{BookLimits, Login, RiskLimits, Settings};
use engine_core::strategy::{Actions, Intent, Strategy, View};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

const SYMBOLS: [&str; 4] = ["AAPL", "MSFT", "PENY", "BANN"];
/// Asks, on every timer tick, for the intents that the world put there.
struct Asker(Rc<RefCell<Vec<Intent>>>);

impl Strategy for Asker {
    fn on_bbo(&mut self, _: &View<'_>, _: InstrumentId, _: &mut Actions) {}

    fn on_timer(&mut self, _: &View<'_>, actions: &mut Actions) {
        self.0.borrow().iter().for_each(|intent| assert!(actions.push(*intent)));
    }
}

struct World {
    rng: ChaCha8Rng,
    core: Core<Asker>,
    asked: Rc<RefCell<Vec<Intent>>>,
    model: Model,
    now: u64,
    sequence: u64,
    quotes: Vec<[Option<u64>; 2]>,
    next_ref: u64,
    outcome: Outcome,
}

/// Has the engine trade under `engine`, judged under `model`, until it disagrees or has been asked
/// for so many intents.
pub fn run(seed: u64, intents: u64, engine: RiskLimits, model: RiskLimits) -> Outcome {
    let mut world = World::new(seed, engine, model);
    world.open();
    let mut asked = 0;
    while asked < intents && world.outcome.disagreement.is_none() {
        let silent = world.below(100) == 0;
        world.now += if silent { 60_000_000 } else { u64::from(world.below(3)) * 5_000_000 };
        if !silent && world.below(6) > 0 {
            world.move_market();
        }
        asked += world.ask();
        world.answer_some();
        world.core.counters.drain_events().for_each(drop);
    }
    assert_eq!(world.core.counters.get(Counter::SessionMalformed), 0);
    world.outcome
}

/// Has the exchange refuse orders until trading stops, and an operator let it go on. Returns the
/// states, and what was sent while it was stopped.
pub fn stop_and_resume(limits: RiskLimits) -> ([State; 3], usize) {
    let mut world = World::new(1, limits, limits);
    world.open();
    (0..limits.rejects_in_a_row_max).for_each(|number| world.reject(1_000 + number));
    let stopped = world.core.state();
    world.core.on_control(Orders::default(), world.now);
    let still = world.core.state();
    *world.asked.borrow_mut() = (0..8).map(|_| world.intent()).collect();
    world.core.on_tick(world.now);
    let sent = world.core.session_out().len();
    world.core.on_control(Orders { resume: true, ..Orders::default() }, world.now);
    ([stopped, still, world.core.state()], sent)
}

impl World {
    fn new(seed: u64, engine: RiskLimits, limits: RiskLimits) -> Self {
        let symbols = SYMBOLS.map(|symbol| Symbol::new(symbol).unwrap());
        let book = BookLimits { orders_max: 1_024, levels_max: 64 };
        let login = Login::new("user", "pass").unwrap();
        let settings =
            Settings::new(symbols.to_vec(), engine, &symbols[3..], login, None, book).unwrap();
        let listing = |bid, ask| Listing {
            bid,
            ask,
            trading: true,
            short_restricted: false,
            restricted: false,
        };
        let mut listings =
            vec![listing(1_000_000, 1_000_200), listing(400_000, 400_100), listing(9_000, 9_010)];
        listings.push(Listing { restricted: true, ..listings[0] });
        let asked = Rc::new(RefCell::new(Vec::new()));
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            core: Core::new(settings, Asker(asked.clone())),
            asked,
            model: Model::new(limits, listings),
            now: 1,
            sequence: 1,
            quotes: vec![[None; 2]; SYMBOLS.len()],
            next_ref: 1,
            outcome: Outcome { sent: 0, refused: BTreeMap::new(), disagreement: None },
        }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.rng.next_u32() % bound
    }

    fn publish(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        let mut packet = PacketBuilder::new(Session::new("DAY").unwrap(), self.sequence);
        assert!(packet.push(&bytes));
        self.sequence += 1;
        self.core.on_feed(Line::A, &packet.finish(), self.now);
        self.model.feed_heard_at = self.now;
    }

    /// Directory, trading, touch, login: everything until orders may leave.
    fn open(&mut self) {
        for (index, symbol) in SYMBOLS.iter().enumerate() {
            let mut bytes = [b' '; StockDirectory::LEN];
            bytes[..3].copy_from_slice(&[b'R', 0, index as u8 + 1]);
            bytes[11..19].copy_from_slice(&Symbol::new(symbol).unwrap().0);
            self.publish(&Message::StockDirectory(StockDirectory::decode(&bytes).unwrap()));
            self.set_trading(index, true);
            let Listing { bid, ask, .. } = self.model.listings[index];
            self.set_quote(index, Side::Buy, bid);
            self.set_quote(index, Side::Sell, ask);
        }
        self.core.on_session_connected(self.now);
        self.core.session_out().clear();
        let mut sequence = Alpha([b' '; 20]);
        sequence.0[19] = b'1';
        let session = Session::new("DAY").unwrap();
        let mut bytes = Vec::new();
        Packet::LoginAccepted(LoginAccepted { session, sequence }).encode_to(&mut bytes);
        self.core.on_session_bytes(&bytes, self.now);
        self.core.session_out().clear();
        self.answer(&outbound::Message::AccountQueryResponse(AccountQueryResponse {
            timestamp: 1,
            next_user_ref_num: 1,
        }));
        bytes.clear();
        Packet::ServerHeartbeat.encode_to(&mut bytes);
        self.core.on_session_bytes(&bytes, self.now);
    }

    fn set_trading(&mut self, index: usize, trading: bool) {
        self.model.listings[index].trading = trading;
        self.publish(&Message::TradingAction(TradingAction {
            stock_locate: index as u16 + 1,
            tracking_number: 0,
            timestamp: Time48::new(1).unwrap(),
            stock: Symbol::new(SYMBOLS[index]).unwrap(),
            trading_state: if trading { b'T' } else { b'H' },
            reserved: b' ',
            reason: Alpha::BLANK,
        }));
    }

    fn set_quote(&mut self, index: usize, side: Side, price: u64) {
        let (stock_locate, tracking_number) = (index as u16 + 1, 0);
        let timestamp = Time48::new(1).unwrap();
        let slot = usize::from(side == Side::Sell);
        if let Some(order_ref) = self.quotes[index][slot].take() {
            self.publish(&Message::OrderDelete(OrderDelete {
                stock_locate,
                tracking_number,
                timestamp,
                order_ref,
            }));
        }
        self.quotes[index][slot] = Some(self.next_ref);
        self.publish(&Message::AddOrder(AddOrder {
            stock_locate,
            tracking_number,
            timestamp,
            order_ref: self.next_ref,
            side,
            shares: 100,
            stock: Symbol::new(SYMBOLS[index]).unwrap(),
            price: Price(price as u32),
        }));
        self.next_ref += 1;
    }

    fn move_market(&mut self) {
        let index = self.below(4) as usize;
        let listing = self.model.listings[index];
        match self.below(12) {
            0 => self.set_trading(index, !listing.trading),
            1 => {
                let restricted = !listing.short_restricted;
                self.model.listings[index].short_restricted = restricted;
                let (stock_locate, tracking_number) = (index as u16 + 1, 0);
                self.publish(&Message::RegSho(RegSho {
                    stock_locate,
                    tracking_number,
                    timestamp: Time48::new(1).unwrap(),
                    stock: Symbol::new(SYMBOLS[index]).unwrap(),
                    action: if restricted { b'1' } else { b'0' },
                }));
            }
            _ => {
                let tick = if listing.bid < 10_000 { 10 } else { 100 };
                let step = tick * (1 + u64::from(self.below(4)));
                let up = self.below(2) == 0;
                let lowest = listing.bid > 100 * tick;
                let bid = if up || !lowest { listing.bid + step } else { listing.bid - step };
                let ask = bid + tick * (1 + u64::from(self.below(3)));
                self.model.listings[index].bid = bid;
                self.model.listings[index].ask = ask;
                self.set_quote(index, Side::Sell, ask.max(listing.ask));
                self.set_quote(index, Side::Buy, bid);
                self.set_quote(index, Side::Sell, ask);
            }
        }
        if !self.model.listings[index].trading && self.below(3) == 0 {
            self.set_trading(index, true);
        }
    }

    fn intent(&mut self) -> Intent {
        let known: Vec<u32> = self.model.orders.keys().copied().collect();
        let choice = self.below(10);
        if !known.is_empty() && choice < 4 {
            let user_ref = known[self.below(known.len() as u32) as usize];
            let order = self.model.orders[&user_ref];
            if choice < 2 {
                return Intent::Cancel { user_ref };
            }
            let price = self.price(order.instrument, order.side);
            return Intent::Replace { user_ref, price, shares: self.shares() };
        }
        let instrument = if self.below(30) == 0 { 3 } else { self.below(3) as usize };
        let side = if self.below(2) == 0 { Side::Buy } else { Side::Sell };
        let price = self.price(instrument, side);
        let shares = self.shares();
        Intent::Enter { instrument: InstrumentId(instrument as u16), side, price, shares }
    }

    fn shares(&mut self) -> u32 {
        match self.below(40) {
            0 => self.below(2_000),
            1 => self.below(3),
            _ => 5 * self.below(60),
        }
    }

    fn price(&mut self, instrument: usize, side: Side) -> Price {
        let Listing { bid, ask, .. } = self.model.listings[instrument];
        let touch = if side == Side::Buy { bid } else { ask };
        let tick = if touch < 10_000 { 1 } else { 100 };
        let near = touch + tick * u64::from(self.below(8)) - tick * 4;
        Price(match self.below(40) {
            0 => near + 1,
            1 => near + near / 100,
            2 => near - near / 90,
            _ => near,
        } as u32)
    }

    /// Has the strategy ask, and the model judge what came of it.
    fn ask(&mut self) -> u64 {
        let mut intents: Vec<Intent> = (0..self.below(17)).map(|_| self.intent()).collect();
        if intents.len() > 2 && self.below(4) == 0 {
            intents[1] = intents[0];
        }
        *self.asked.borrow_mut() = intents.clone();
        self.core.on_tick(self.now);
        let out = std::mem::take(self.core.session_out());
        let mut messages = sent(&out);
        *self.core.session_out() = out;
        self.core.session_out().clear();
        self.core.take_refusals().for_each(drop);
        for intent in &intents {
            self.follow(intent, &mut messages);
        }
        if let Some(extra) = messages.front() {
            self.disagree(format!("sent without being asked for: {extra:?}"));
        }
        intents.len() as u64
    }

    fn disagree(&mut self, what: String) {
        self.outcome.disagreement.get_or_insert(format!("at {}: {what}", self.now));
    }

    fn follow(&mut self, intent: &Intent, messages: &mut VecDeque<inbound::Message>) {
        if let Intent::Cancel { user_ref } = *intent {
            let Some(order) = self.model.orders.get(&user_ref).copied() else { return };
            let number = order.next.map_or(user_ref, |(number, ..)| number);
            if matches!(messages.front(), Some(inbound::Message::CancelOrder(m)) if m.user_ref_num == number)
            {
                messages.pop_front();
                self.model.spend(self.now);
                self.model.orders.get_mut(&user_ref).unwrap().cancelling = true;
            }
            return;
        }
        if let Intent::Replace { user_ref, .. } = intent {
            let order = self.model.orders.get(user_ref);
            let working = order.is_some_and(|o| o.settled && !o.cancelling && o.next.is_none());
            if !working {
                return;
            }
        }
        let broken = self.model.check(intent, self.now);
        let left = messages.front().is_some_and(|message| self.is_of(message, intent));
        match (left, broken.first()) {
            (true, None) => {
                self.outcome.sent += 1;
                self.note_sent(intent, messages.pop_front().unwrap());
            }
            (false, Some(rule)) => *self.outcome.refused.entry(rule).or_default() += 1,
            (true, Some(_)) => self.disagree(format!("{intent:?} escaped, although {broken:?}")),
            (false, None) => self.disagree(format!("{intent:?} was refused without a rule")),
        }
    }

    fn is_of(&self, message: &inbound::Message, intent: &Intent) -> bool {
        match (message, *intent) {
            (
                inbound::Message::EnterOrder(m),
                Intent::Enter { instrument, side, price, shares },
            ) => {
                let symbol = Symbol::new(SYMBOLS[usize::from(instrument.0)]).unwrap();
                (m.symbol, m.side.book_side(), m.quantity) == (symbol, side, shares)
                    && m.price == price.into()
            }
            (inbound::Message::ReplaceOrder(m), Intent::Replace { user_ref, price, shares }) => {
                let executed = self.model.orders[&user_ref].executed;
                (m.orig_user_ref_num, m.price) == (user_ref, price.into())
                    && u64::from(m.quantity) == u64::from(shares) + executed
            }
            _ => false,
        }
    }

    fn note_sent(&mut self, intent: &Intent, message: inbound::Message) {
        match (*intent, message) {
            (
                Intent::Enter { instrument, side, price, shares },
                inbound::Message::EnterOrder(m),
            ) => {
                let is_long_sale = side == Side::Sell && !self.model.short;
                let order = Order::new(instrument, side, price, shares, is_long_sale);
                self.model.orders.insert(m.user_ref_num, order);
            }
            (Intent::Replace { user_ref, price, shares }, inbound::Message::ReplaceOrder(m)) => {
                let order = self.model.orders.get_mut(&user_ref).unwrap();
                let quantity = u64::from(shares) + order.executed;
                order.next = Some((m.user_ref_num, price.0.into(), quantity));
            }
            _ => unreachable!("`is_of` compared them"),
        }
    }

    fn answer(&mut self, message: &outbound::Message) {
        let (mut payload, mut bytes) = (Vec::new(), Vec::new());
        message.encode_with(&[], &mut payload);
        Packet::Sequenced(&payload).encode_to(&mut bytes);
        self.core.on_session_bytes(&bytes, self.now);
    }

    /// The exchange answers some of what it was sent, in any order between orders.
    fn answer_some(&mut self) {
        let numbers: Vec<u32> = self.model.orders.keys().copied().collect();
        for number in numbers {
            let order = self.model.orders[&number];
            let choice = self.below(12);
            match (order.settled, order.next) {
                (false, _) if choice == 0 => {
                    self.model.orders.remove(&number);
                    self.reject(number);
                }
                (false, _) if choice < 8 => self.accept(number, &order),
                (false, _) => {}
                (true, Some(next)) if choice == 0 => {
                    let order = self.model.orders.get_mut(&number).unwrap();
                    (order.next, order.cancelling) = (None, false);
                    self.reject(next.0);
                }
                (true, Some(next)) if choice < 6 => self.replaced(number, &order, next),
                (true, _) if choice < 8 => {
                    let shares = 1 + u64::from(self.below(order.open as u32));
                    self.model.execute(number, shares, Price(order.price as u32));
                    self.answer(&outbound::Message::Executed(Executed {
                        timestamp: 1,
                        user_ref_num: number,
                        quantity: shares as u32,
                        price: Price(order.price as u32).into(),
                        liquidity_flag: b'A',
                        match_number: self.next_ref,
                    }));
                }
                (true, None) if choice < 10 => {
                    self.model.orders.remove(&number);
                    let (timestamp, quantity) = (1, order.open as u32);
                    self.answer(&outbound::Message::Canceled(Canceled {
                        timestamp,
                        user_ref_num: number,
                        quantity,
                        reason: b'U',
                    }));
                }
                (true, _) => {}
            }
        }
    }

    fn reject(&mut self, user_ref_num: u32) {
        let (timestamp, reason, cl_ord_id) = (1, 1, Alpha::BLANK);
        self.answer(&outbound::Message::Rejected(Rejected {
            timestamp,
            user_ref_num,
            reason,
            cl_ord_id,
        }));
    }

    fn accept(&mut self, number: u32, order: &Order) {
        self.model.orders.get_mut(&number).unwrap().settled = true;
        self.answer(&outbound::Message::Accepted(Accepted {
            timestamp: 1,
            user_ref_num: number,
            side: order.side.into(),
            quantity: order.open as u32,
            symbol: Symbol::new(SYMBOLS[order.instrument]).unwrap(),
            price: Price(order.price as u32).into(),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            order_ref: number.into(),
            capacity: Capacity::Principal,
            intermarket_sweep: b'N',
            cross_type: CrossType::Continuous,
            order_state: OrderState::Live,
            cl_ord_id: Alpha::BLANK,
        }));
    }

    fn replaced(&mut self, old: u32, order: &Order, (number, price, quantity): (u32, u64, u64)) {
        // Fills while the replacement was on its way come off what it leaves open.
        let Some(open) = quantity.checked_sub(order.executed).filter(|open| *open > 0) else {
            return;
        };
        self.model.orders.remove(&old);
        let after = Order { price, open, next: None, ..*order };
        self.model.orders.insert(number, after);
        self.answer(&outbound::Message::Replaced(Replaced {
            timestamp: 1,
            orig_user_ref_num: old,
            user_ref_num: number,
            side: order.side.into(),
            quantity: open as u32,
            symbol: Symbol::new(SYMBOLS[order.instrument]).unwrap(),
            price: Price(price as u32).into(),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            order_ref: number.into(),
            capacity: Capacity::Principal,
            intermarket_sweep: b'N',
            cross_type: CrossType::Continuous,
            order_state: OrderState::Live,
            cl_ord_id: Alpha::BLANK,
        }));
    }
}

/// The OUCH messages in what was sent.
fn sent(mut bytes: &[u8]) -> VecDeque<inbound::Message> {
    let mut messages = VecDeque::new();
    while let Some((packet, len)) = Packet::decode(bytes).unwrap() {
        bytes = &bytes[len..];
        if let Packet::Unsequenced(message) = packet {
            messages.push_back(inbound::Message::decode(message).unwrap().0);
        }
    }
    messages
}
