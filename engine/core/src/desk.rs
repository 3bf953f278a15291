//! Order entry: intents become OUCH 5.0 messages, the exchange's answers become orders and positions.
//! Bytes to send collect in an outbox; the rim sends them.

use crate::counters::{Counter, Counters};
use crate::limits::{OUTBOX_LEN, OWN_ORDERS_MAX};
use crate::market::{InstrumentId, Market};
use crate::orders::{Orders, OwnOrder, State};
use crate::risk::{Candidate, Risk, Situation};
use crate::settings::Settings;
use crate::strategy::{Execution, Intent};
use abi::field::{Alpha, Price, Side};
use abi::ouch::inbound::{AccountQuery, CancelOrder, EnterOrder, ReplaceOrder};
use abi::ouch::outbound::{Accepted, Canceled, Executed, Message, Replaced};
use abi::ouch::{Capacity, CrossType, Display, OrderState, TimeInForce, UserRefNum};
use abi::wire::WireError;

/// The longest message we send: Enter Order, its empty appendage, SoupBinTCP's three bytes.
const MESSAGE_LEN_MAX: usize = 3 + EnterOrder::LEN + 2;

/// Orders, risk and the bytes to the exchange.
pub struct Desk {
    /// Our orders and positions.
    pub orders: Orders,
    risk: Risk,
    next_user_ref: UserRefNum,
    out: Vec<u8>,
    /// An Account Query was answered on this connection.
    pub(crate) query_answered: bool,
}

impl Desk {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            orders: Orders::new(settings.instruments.len()),
            risk: Risk::new(settings.risk),
            next_user_ref: 1,
            out: Vec::with_capacity(OUTBOX_LEN),
            query_answered: false,
        }
    }

    /// Bytes for the order-entry connection. The rim takes them after every input.
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Appends a SoupBinTCP Unsequenced packet around a message with an empty appendage.
    fn send(&mut self, message: &[u8]) {
        let length = 1 + message.len() as u16 + 2;
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.push(b'U');
        self.out.extend_from_slice(message);
        self.out.extend_from_slice(&[0, 0]);
    }

    fn has_room(&self, counters: &mut Counters) -> bool {
        let room = self.out.len() + MESSAGE_LEN_MAX <= OUTBOX_LEN;
        if !room {
            counters.count(Counter::OutboxFull);
        }
        room
    }

    /// Asks the exchange which number comes next.
    pub(crate) fn query_account(&mut self) {
        self.query_answered = false;
        self.send(&AccountQuery {}.to_bytes());
    }

    /// Turns an intent into a message, if risk passes it.
    pub(crate) fn act(
        &mut self,
        intent: Intent,
        market: &Market,
        now: u64,
        counters: &mut Counters,
    ) {
        if !self.has_room(counters) {
            return;
        }
        match intent {
            Intent::Enter { instrument, side, price, shares } => {
                self.enter(instrument, side, price, shares, market, now, counters);
            }
            Intent::Replace { user_ref, price, shares } => {
                self.replace(user_ref, price, shares, market, now, counters);
            }
            Intent::Cancel { user_ref } => self.cancel(user_ref, now, counters),
        }
    }

    /// The next number whose slot is free. Numbers may be left out; an order that rests for long must
    /// not stop everything else when the numbers come round to its slot.
    fn free_user_ref(&self, counters: &mut Counters) -> Option<UserRefNum> {
        let numbers = self.next_user_ref..self.next_user_ref.saturating_add(OWN_ORDERS_MAX as u32);
        let free = numbers.into_iter().find(|number| self.orders.has_room(*number));
        if free.is_none() {
            counters.count(Counter::AdmissionRefused);
        }
        free
    }

    fn passes(
        &mut self,
        id: InstrumentId,
        order: &Candidate,
        market: &Market,
        now: u64,
        counters: &mut Counters,
    ) -> bool {
        let situation = Situation {
            bbo: market.bbo(id),
            trading: market.status(id).is_trading(),
            position: self.orders.position(id),
            open_orders: self.orders.open_count(),
        };
        let passed = self.risk.check(order, &situation, now).is_ok();
        if !passed {
            counters.count(Counter::RiskRejected);
        }
        passed
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "an order is these values; a struct would be Intent again"
    )]
    fn enter(
        &mut self,
        instrument: InstrumentId,
        side: Side,
        price: Price,
        shares: u32,
        market: &Market,
        now: u64,
        counters: &mut Counters,
    ) {
        let Some(user_ref) = self.free_user_ref(counters) else { return };
        let candidate = Candidate { side, price, shares, replaces: 0, is_new: true };
        if !self.passes(instrument, &candidate, market, now, counters) {
            return;
        }
        let message = EnterOrder {
            user_ref_num: user_ref,
            side: side.into(),
            quantity: shares,
            symbol: market.symbol(instrument),
            price: price.into(),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            capacity: Capacity::Principal,
            intermarket_sweep: b'N',
            cross_type: CrossType::Continuous,
            cl_ord_id: Alpha::BLANK,
        };
        self.send(&message.to_bytes());
        self.next_user_ref = user_ref + 1;
        let state = State::PendingNew;
        self.orders.insert(OwnOrder {
            user_ref,
            instrument,
            side,
            price,
            open: shares,
            executed: 0,
            state,
        });
        counters.count(Counter::OrdersSent);
    }

    fn replace(
        &mut self,
        user_ref: UserRefNum,
        price: Price,
        shares: u32,
        market: &Market,
        now: u64,
        counters: &mut Counters,
    ) {
        let Some(order) = self.orders.get(user_ref).copied() else { return };
        if order.state != State::Live {
            return;
        }
        let Some(new_ref) = self.free_user_ref(counters) else { return };
        let candidate =
            Candidate { side: order.side, price, shares, replaces: order.open, is_new: false };
        if !self.passes(order.instrument, &candidate, market, now, counters) {
            return;
        }
        let quantity = shares + order.executed;
        let message = ReplaceOrder {
            orig_user_ref_num: user_ref,
            user_ref_num: new_ref,
            quantity,
            price: price.into(),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            intermarket_sweep: b'N',
            cl_ord_id: Alpha::BLANK,
        };
        self.send(&message.to_bytes());
        self.next_user_ref = new_ref + 1;
        let state = State::PendingReplace { user_ref: new_ref, price, quantity };
        self.orders.update(user_ref, |order| order.state = state);
        counters.count(Counter::ReplacesSent);
    }

    fn cancel(&mut self, user_ref: UserRefNum, now: u64, counters: &mut Counters) {
        let known = self.orders.update(user_ref, |order| order.state = State::PendingCancel);
        if known {
            // A cancel only lowers risk: it goes out over budget too, but it uses budget up.
            let _ = self.risk.spend(now);
            self.send(&CancelOrder { user_ref_num: user_ref, quantity: 0 }.to_bytes());
            counters.count(Counter::CancelsSent);
        }
    }

    /// Cancels every order that has no cancel on the way.
    pub(crate) fn cancel_all(&mut self, now: u64, counters: &mut Counters) {
        let wanted =
            |order: &OwnOrder| !matches!(order.state, State::PendingCancel | State::PendingNew);
        while self.has_room(counters) {
            let Some(user_ref) = self.orders.find(wanted) else { return };
            self.cancel(user_ref, now, counters);
        }
    }

    /// Takes one message from the exchange; returns the execution that it was, if it was one.
    pub(crate) fn on_message(
        &mut self,
        bytes: &[u8],
        market: &Market,
        counters: &mut Counters,
    ) -> Result<Option<Execution>, WireError> {
        let (message, _) = Message::decode(bytes)?;
        match message {
            Message::Accepted(m) => self.on_accepted(&m, market, counters),
            Message::Replaced(m) => self.on_replaced(&m, market, counters),
            Message::Executed(m) => return Ok(self.on_executed(&m, counters)),
            Message::Canceled(m) => self.on_canceled(&m, counters),
            Message::AiqCanceled(m) => {
                self.reduce(m.user_ref_num, m.decrement_shares, counters);
            }
            Message::Rejected(m) => self.on_rejected(m.user_ref_num, counters),
            Message::CancelReject(m) => {
                self.orders.update(m.user_ref_num, |order| order.state = State::Live);
            }
            Message::Modified(m) => {
                self.orders.update(m.user_ref_num, |order| order.open = order.open.min(m.quantity));
            }
            Message::AccountQueryResponse(m) => {
                self.next_user_ref = self.next_user_ref.max(m.next_user_ref_num);
                self.query_answered = true;
            }
            Message::BrokenTrade(_)
            | Message::CancelPending(_)
            | Message::PriorityUpdate(_)
            | Message::Restated(_)
            | Message::SystemEvent(_)
            | Message::MassCancelResponse(_)
            | Message::DisableResponse(_)
            | Message::EnableResponse(_) => {}
        }
        Ok(None)
    }

    fn saw(&mut self, user_ref: UserRefNum) {
        self.next_user_ref = self.next_user_ref.max(user_ref.saturating_add(1));
    }

    fn on_accepted(&mut self, m: &Accepted, market: &Market, counters: &mut Counters) {
        counters.count(Counter::OrdersAccepted);
        self.saw(m.user_ref_num);
        let dead = m.order_state == OrderState::Dead;
        let known = self.orders.update(m.user_ref_num, |order| {
            order.open = if dead { 0 } else { m.quantity };
            if order.state == State::PendingNew {
                order.state = State::Live;
            }
        });
        if !known && !dead {
            self.adopt(
                m.user_ref_num,
                m.symbol,
                m.side.book_side(),
                m.price,
                m.quantity,
                0,
                market,
                counters,
            );
        }
    }

    /// Keeps an order that an earlier process of this engine sent.
    #[allow(clippy::too_many_arguments, reason = "an order is these values")]
    fn adopt(
        &mut self,
        user_ref: UserRefNum,
        symbol: abi::field::Symbol,
        side: Side,
        price: abi::ouch::Price,
        open: u32,
        executed: u32,
        market: &Market,
        counters: &mut Counters,
    ) {
        match (market.find(symbol), price.narrow(), self.orders.has_room(user_ref)) {
            (Some(instrument), Some(price), true) if open > 0 => {
                let state = State::Live;
                self.orders.insert(OwnOrder {
                    user_ref,
                    instrument,
                    side,
                    price,
                    open,
                    executed,
                    state,
                });
            }
            _ => counters.count(Counter::SessionUnknownOrder),
        }
    }

    fn on_replaced(&mut self, m: &Replaced, market: &Market, counters: &mut Counters) {
        counters.count(Counter::OrdersAccepted);
        self.saw(m.user_ref_num);
        let executed = self.orders.remove(m.orig_user_ref_num).map_or(0, |old| old.executed);
        if m.order_state == OrderState::Live {
            let side = m.side.book_side();
            self.adopt(
                m.user_ref_num,
                m.symbol,
                side,
                m.price,
                m.quantity,
                executed,
                market,
                counters,
            );
        }
    }

    fn on_executed(&mut self, m: &Executed, counters: &mut Counters) -> Option<Execution> {
        let Some(order) = self.orders.get(m.user_ref_num).copied() else {
            counters.count(Counter::SessionUnknownOrder);
            return None;
        };
        counters.count(Counter::Executions);
        counters.add(Counter::SharesFilled, m.quantity.into());
        self.orders.update(m.user_ref_num, |order| {
            order.open = order.open.saturating_sub(m.quantity);
            order.executed = order.executed.saturating_add(m.quantity);
        });
        self.orders.book(order.instrument, order.side, m.quantity, m.price.0);
        Some(Execution {
            user_ref: m.user_ref_num,
            instrument: order.instrument,
            side: order.side,
            shares: m.quantity,
            price: m.price.narrow().unwrap_or(order.price),
        })
    }

    fn on_canceled(&mut self, m: &Canceled, counters: &mut Counters) {
        self.reduce(m.user_ref_num, m.quantity, counters);
    }

    fn reduce(&mut self, user_ref: UserRefNum, shares: u32, counters: &mut Counters) {
        let known =
            self.orders.update(user_ref, |order| order.open = order.open.saturating_sub(shares));
        if !known {
            counters.count(Counter::SessionUnknownOrder);
        } else if self.orders.get(user_ref).is_none() {
            counters.count(Counter::OrdersCancelled);
        }
    }

    fn on_rejected(&mut self, user_ref: UserRefNum, counters: &mut Counters) {
        counters.count(Counter::OrdersRejected);
        self.saw(user_ref);
        if let Some(original) = self.orders.find_replacing(user_ref) {
            self.orders.update(original, |order| order.state = State::Live);
        } else {
            self.orders.remove(user_ref);
        }
    }

    /// Replays of this connection may have skipped answers that were under way when it broke: an
    /// order that the exchange never saw is not open, and will never be answered.
    pub(crate) fn forget_unanswered(&mut self) {
        while let Some(user_ref) = self.orders.find(|order| order.state == State::PendingNew) {
            self.orders.remove(user_ref);
        }
        while let Some(user_ref) = self.orders.find(|order| order.state != State::Live) {
            self.orders.update(user_ref, |order| order.state = State::Live);
        }
    }
}
