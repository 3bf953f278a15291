//! Order entry: intents become OUCH 5.0 messages, the exchange's answers become orders and
//! positions. Bytes to send collect in an outbox; the rim sends them.

mod cancels;

use crate::counters::{Counter, Counters};
use crate::limits::{OUTBOX_LEN, OWN_ORDERS_MAX, REFUSALS_MAX};
use crate::market::{InstrumentId, Market};
use crate::order_state::{Event, State};
use crate::orders::candidate::{Candidate, Replaced as Old};
use crate::orders::{Orders, OwnOrder, Replacement};
use crate::risk::{Risk, Situation};
use crate::settings::Settings;
use crate::strategy::{Execution, Intent, OrderChange, OrderUpdate};
use abi::field::{Alpha, Price, Side, Symbol};
use abi::journal::{Recovery, Refused, StopReason};
use abi::ouch::inbound::{AccountQuery, EnterOrder, ReplaceOrder};
use abi::ouch::outbound::{Accepted, Executed, Message, Replaced};
use abi::ouch::{Capacity, CrossType, Display, OrderState, TimeInForce, UserRefNum};
use abi::wire::WireError;

/// The longest message we send: Enter Order, its empty appendage, SoupBinTCP's three bytes.
const MESSAGE_LEN_MAX: usize = 3 + EnterOrder::LEN + 2;

/// Market, time and time of the last feed packet for the checks of one intent.
#[derive(Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub market: &'a Market,
    pub now: u64,
    pub feed_heard_at: u64,
}

/// Effect of a message from the exchange: none, an execution or a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing that the strategy is told at once.
    Nothing,
    /// One of our orders traded.
    Execution(Execution),
    /// Trading must stop.
    Stop(StopReason),
}

/// Appends a SoupBinTCP Unsequenced packet around a message with an empty appendage.
#[inline]
fn put<const LEN: usize>(out: &mut Vec<u8>, message: &[u8; LEN]) {
    let mut packet = [0; MESSAGE_LEN_MAX];
    packet[..2].copy_from_slice(&(1 + LEN as u16 + 2).to_be_bytes());
    packet[2] = b'U';
    packet[3..3 + LEN].copy_from_slice(message);
    out.extend_from_slice(&packet[..3 + LEN + 2]);
}

/// Change that an event is to a strategy; none for what it asked for itself, and for executions.
fn change_of(event: Event) -> Option<OrderChange> {
    Some(match event {
        Event::Accepted => OrderChange::Accepted,
        Event::AcceptedDead | Event::Rejected => OrderChange::Rejected,
        Event::Replaced => OrderChange::Replaced,
        Event::ReplacedDead | Event::CancelledPart | Event::CancelledAll => OrderChange::Cancelled,
        Event::ReplaceRejected => OrderChange::ReplaceRejected,
        Event::CancelRejected => OrderChange::CancelRejected,
        Event::ExecutedPart
        | Event::ExecutedAll
        | Event::TradeBroken
        | Event::CancelSent
        | Event::ReplaceSent => return None,
    })
}

/// Orders, risk and the bytes to the exchange.
pub struct OrderEntry {
    /// Our orders and positions.
    pub orders: Orders,
    /// Risk checks with their limits.
    pub risk: Risk,
    next_user_ref: UserRefNum,
    out: Vec<u8>,
    refusals: Vec<Refused>,
    /// Change of an order by the last message, for the strategy.
    update: Option<OrderUpdate>,
    /// When a mass cancel went out that is not answered for every order.
    mass_cancel_at: Option<u64>,
    /// An Account Query was answered on this connection.
    pub(crate) query_answered: bool,
}

impl OrderEntry {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            orders: Orders::new(settings.instruments.len()),
            risk: Risk::new(settings.risk, settings.restricted.clone()),
            next_user_ref: 1,
            out: Vec::with_capacity(OUTBOX_LEN),
            refusals: Vec::with_capacity(REFUSALS_MAX),
            update: None,
            mass_cancel_at: None,
            query_answered: false,
        }
    }

    /// The highest number that may have been used.
    pub(crate) fn user_ref_max(&self) -> UserRefNum {
        self.next_user_ref - 1
    }

    /// Numbers that an earlier run recorded as sent are not used again, whether the exchange saw
    /// them or not.
    pub(crate) fn recover(&mut self, recovery: &Recovery) {
        self.next_user_ref = self.next_user_ref.max(recovery.user_ref_max.saturating_add(1));
    }

    /// Bytes for the order-entry connection. The rim takes them after every input.
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The orders that risk refused since [`Self::take_refusals`].
    pub(crate) fn refusals(&self) -> &[Refused] {
        &self.refusals
    }

    /// Change of an order by the last message from the exchange, other than an execution.
    pub(crate) fn take_update(&mut self) -> Option<OrderUpdate> {
        self.update.take()
    }

    /// The orders that risk refused since the last call.
    pub fn take_refusals(&mut self) -> impl Iterator<Item = Refused> + '_ {
        self.refusals.drain(..)
    }

    #[inline]
    fn send<const LEN: usize>(&mut self, message: &[u8; LEN]) {
        put(&mut self.out, message);
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
    #[inline]
    pub(crate) fn act(&mut self, intent: Intent, moment: Moment<'_>, counters: &mut Counters) {
        if !self.has_room(counters) {
            return;
        }
        match intent {
            Intent::Enter { instrument, side, price, shares } => {
                let order = Candidate { instrument, side, price, shares, replaces: None };
                self.enter(&order, moment, counters);
            }
            Intent::Replace { user_ref, price, shares } => {
                self.replace(user_ref, price, shares, moment, counters);
            }
            Intent::Cancel { user_ref } => self.cancel(user_ref, moment.now, counters),
        }
    }

    /// The next number whose slot is free. Numbers may be left out; an order that rests for long
    /// must not stop everything else when the numbers come round to its slot.
    #[inline]
    fn free_user_ref(&self, counters: &mut Counters) -> Option<UserRefNum> {
        let numbers = self.next_user_ref..self.next_user_ref.saturating_add(OWN_ORDERS_MAX as u32);
        let free = numbers.into_iter().find(|number| self.orders.has_room(*number));
        if free.is_none() {
            counters.count(Counter::AdmissionRefused);
        }
        free
    }

    #[inline(always)]
    fn passes(&mut self, order: &Candidate, moment: Moment<'_>, counters: &mut Counters) -> bool {
        let Moment { market, now, feed_heard_at } = moment;
        let bbo = market.bbo(order.instrument);
        if let Some(doubled) = bbo.mid_doubled() {
            self.orders.mark(order.instrument, Price((doubled / 2) as u32));
        }
        if self.orders.may_meet(order) {
            self.orders.tighten(order.instrument);
        }
        let status = market.status(order.instrument);
        let situation = Situation::new(order.instrument, bbo, status, &self.orders, feed_heard_at);
        let Err(reason) = self.risk.check(order, &situation, now) else { return true };
        counters.count(Counter::RiskRejected);
        counters.count(Counter::of_refusal(reason));
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push(Refused {
                reason,
                side: if order.side == Side::Buy { b'B' } else { b'S' },
                instrument: order.instrument.0,
                shares: order.shares,
                price: order.price.0,
                replaces: order.replaces.map_or(0, |old| old.user_ref),
            });
        }
        false
    }

    fn enter(&mut self, order: &Candidate, moment: Moment<'_>, counters: &mut Counters) {
        let Some(user_ref) = self.free_user_ref(counters) else { return };
        if !self.passes(order, moment, counters) {
            return;
        }
        let message = EnterOrder {
            user_ref_num: user_ref,
            side: self.marked_side(order),
            quantity: order.shares,
            symbol: moment.market.symbol(order.instrument),
            price: order.price.into(),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            capacity: Capacity::Principal,
            intermarket_sweep: b'N',
            cross_type: CrossType::Continuous,
            cl_ord_id: Alpha::BLANK,
        };
        self.send(&message.to_bytes());
        self.next_user_ref = user_ref + 1;
        let Candidate { instrument, side, price, shares, .. } = *order;
        let is_long_sale = message.side == abi::ouch::Side::Sell;
        let order = OwnOrder::new(user_ref, instrument, side, price, shares);
        self.orders.insert(OwnOrder { is_long_sale, ..order });
        counters.count(Counter::OrdersSent);
    }

    /// A sale of more than is held, with all that is for sale already, is marked short (Reg SHO
    /// rule 200).
    fn marked_side(&self, order: &Candidate) -> abi::ouch::Side {
        let position = self.orders.position(order.instrument);
        let sold = position.working_sell + u64::from(order.shares);
        match order.side {
            Side::Sell if position.shares < sold as i64 => abi::ouch::Side::SellShort,
            side => side.into(),
        }
    }

    fn replace(
        &mut self,
        user_ref: UserRefNum,
        price: Price,
        shares: u32,
        moment: Moment<'_>,
        counters: &mut Counters,
    ) {
        let Some(order) = self.orders.get(user_ref).filter(|order| order.state.is_working()) else {
            return;
        };
        let replaces = Some(Old {
            user_ref,
            shares: order.open,
            price: order.price,
            executed: order.executed,
            is_long_sale: order.is_long_sale,
        });
        let (instrument, side, executed) = (order.instrument, order.side, order.executed);
        let Some(new_ref) = self.free_user_ref(counters) else { return };
        let candidate = Candidate { instrument, side, price, shares, replaces };
        if !self.passes(&candidate, moment, counters) {
            return;
        }
        let quantity = shares + executed;
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
        self.orders.replace_sent(user_ref, Replacement { user_ref: new_ref, price, quantity });
        counters.count(Counter::ReplacesSent);
    }

    /// Takes one message from the exchange.
    pub(crate) fn on_message(
        &mut self,
        bytes: &[u8],
        market: &Market,
        counters: &mut Counters,
    ) -> Result<Answer, WireError> {
        let (message, _) = Message::decode(bytes)?;
        match message {
            Message::Accepted(m) => self.on_accepted(&m, market, counters),
            Message::Replaced(m) => self.on_replaced(&m, market, counters),
            Message::Executed(m) => return Ok(self.on_executed(&m, counters)),
            Message::Canceled(m) => self.reduce(m.user_ref_num, m.quantity, counters),
            Message::AiqCanceled(m) => {
                self.reduce(m.user_ref_num, m.decrement_shares, counters);
            }
            Message::Rejected(m) => return Ok(self.on_rejected(m.user_ref_num, counters)),
            Message::CancelReject(m) => self.change(m.user_ref_num, counters, |order| {
                order.cancel_refused = true;
                Event::CancelRejected
            }),
            Message::Modified(m) => {
                let open = self.orders.get(m.user_ref_num).map_or(0, |order| order.open);
                self.reduce(m.user_ref_num, open.saturating_sub(m.quantity), counters);
            }
            Message::BrokenTrade(m) => {
                counters.count(Counter::TradesBroken);
                if !self.orders.break_trade(m.user_ref_num, m.match_number) {
                    return Ok(Answer::Stop(StopReason::TradeUnknown));
                }
            }
            Message::AccountQueryResponse(m) => {
                self.next_user_ref = self.next_user_ref.max(m.next_user_ref_num);
                self.query_answered = true;
            }
            Message::CancelPending(_)
            | Message::PriorityUpdate(_)
            | Message::Restated(_)
            | Message::SystemEvent(_)
            | Message::MassCancelResponse(_)
            | Message::DisableResponse(_)
            | Message::EnableResponse(_) => {}
        }
        Ok(Answer::Nothing)
    }

    /// Applies an event; one about an unknown order, or that makes no sense, changes nothing.
    fn change(
        &mut self,
        user_ref: UserRefNum,
        counters: &mut Counters,
        event: impl FnOnce(&mut OwnOrder) -> Event,
    ) {
        if self.orders.get(user_ref).is_none() {
            return counters.count(Counter::SessionUnknownOrder);
        }
        let mut happened = None;
        let applied = self.orders.apply(user_ref, |order| *happened.insert(event(order)));
        let (Some(order), Some(event)) = (applied, happened) else {
            return counters.count(Counter::OrderNonsense);
        };
        if order.state == State::Cancelled {
            counters.count(Counter::OrdersCancelled);
        }
        let OwnOrder { user_ref, instrument, side, open, .. } = order;
        let open = if order.state.is_gone() { 0 } else { open };
        self.update =
            change_of(event).map(|change| OrderUpdate { user_ref, instrument, side, open, change });
    }

    fn saw(&mut self, user_ref: UserRefNum) {
        self.next_user_ref = self.next_user_ref.max(user_ref.saturating_add(1));
    }

    fn on_accepted(&mut self, m: &Accepted, market: &Market, counters: &mut Counters) {
        counters.count(Counter::OrdersAccepted);
        self.risk.note_accept();
        self.saw(m.user_ref_num);
        let dead = m.order_state == OrderState::Dead;
        if self.orders.get(m.user_ref_num).is_some() {
            self.change(m.user_ref_num, counters, |order| {
                order.open = m.quantity;
                if dead { Event::AcceptedDead } else { Event::Accepted }
            });
        } else if !dead {
            self.adopt(m.user_ref_num, m.symbol, m.side, m.price, m.quantity, market, counters);
        }
    }

    /// Keeps an order that an earlier process of this engine sent.
    #[allow(clippy::too_many_arguments, reason = "an order is these values")]
    fn adopt(
        &mut self,
        user_ref: UserRefNum,
        symbol: Symbol,
        side: abi::ouch::Side,
        price: abi::ouch::Price,
        open: u32,
        market: &Market,
        counters: &mut Counters,
    ) {
        match (market.find(symbol), price.narrow(), self.orders.has_room(user_ref)) {
            (Some(instrument), Some(price), true) if open > 0 => {
                let is_long_sale = side == abi::ouch::Side::Sell;
                let order = OwnOrder::new(user_ref, instrument, side.book_side(), price, open);
                let (state, is_accepted) = (State::Live, true);
                self.orders.insert(OwnOrder { state, is_accepted, is_long_sale, ..order });
            }
            _ => counters.count(Counter::SessionUnknownOrder),
        }
    }

    fn on_replaced(&mut self, m: &Replaced, market: &Market, counters: &mut Counters) {
        counters.count(Counter::OrdersAccepted);
        self.risk.note_accept();
        self.saw(m.user_ref_num);
        let dead = m.order_state == OrderState::Dead;
        let (user_ref, price) = (m.user_ref_num, m.price.narrow());
        let known = self.orders.get(m.orig_user_ref_num).copied();
        let asked = known.and_then(|order| order.replacement);
        if asked.is_some_and(|asked| asked.user_ref != user_ref) {
            return counters.count(Counter::OrderNonsense);
        }
        if asked.is_some() {
            return self.change(m.orig_user_ref_num, counters, |order| {
                order.user_ref = user_ref;
                (order.price, order.open) = (price.unwrap_or(order.price), m.quantity);
                order.cancel_refused = false;
                if dead { Event::ReplacedDead } else { Event::Replaced }
            });
        }
        // Replayed after a restart: this process never asked for it.
        self.orders.forget(m.orig_user_ref_num);
        if !dead {
            self.adopt(user_ref, m.symbol, m.side, m.price, m.quantity, market, counters);
        }
        if let Some(old) = known {
            self.orders.carry_executed(user_ref, old.executed);
        }
    }

    /// Books an execution. One of an order that is not known, not accepted, or of more than is open
    /// is one all the same: the account holds what nobody counts, and trading stops.
    fn on_executed(&mut self, m: &Executed, counters: &mut Counters) -> Answer {
        let Some(before) = self.orders.get(m.user_ref_num).copied() else {
            counters.count(Counter::SessionUnknownOrder);
            return Answer::Stop(StopReason::TradeUnknown);
        };
        if m.quantity == 0 {
            counters.count(Counter::OrderNonsense);
            return Answer::Nothing;
        }
        let left = before.open.saturating_sub(m.quantity);
        let is_expected = before.is_accepted && m.quantity <= before.open;
        counters.count(Counter::Executions);
        counters.add(Counter::SharesFilled, m.quantity.into());
        self.change(m.user_ref_num, counters, |order| {
            order.open = left;
            order.executed = order.executed.saturating_add(m.quantity);
            if left == 0 { Event::ExecutedAll } else { Event::ExecutedPart }
        });
        self.orders.book(&before, m.quantity, m.price.0, m.match_number);
        if !is_expected {
            counters.count(Counter::OrderNonsense);
            return Answer::Stop(StopReason::TradeUnknown);
        }
        Answer::Execution(Execution {
            user_ref: m.user_ref_num,
            instrument: before.instrument,
            side: before.side,
            shares: m.quantity,
            price: m.price.narrow().unwrap_or(before.price),
        })
    }

    fn reduce(&mut self, user_ref: UserRefNum, shares: u32, counters: &mut Counters) {
        self.change(user_ref, counters, |order| {
            order.open = order.open.saturating_sub(shares);
            if order.open == 0 { Event::CancelledAll } else { Event::CancelledPart }
        });
    }

    fn on_rejected(&mut self, user_ref: UserRefNum, counters: &mut Counters) -> Answer {
        counters.count(Counter::OrdersRejected);
        self.saw(user_ref);
        match self.orders.replaced_by(user_ref) {
            Some(original) => self.change(original, counters, |_| Event::ReplaceRejected),
            None => self.change(user_ref, counters, |_| Event::Rejected),
        }
        let stop = self.risk.note_reject();
        if stop { Answer::Stop(StopReason::Rejects) } else { Answer::Nothing }
    }

    /// The exchange has told everything: what it did not answer, it never saw. An order that it
    /// never saw is not open, and a replacement or cancel that it never saw changes nothing.
    pub(crate) fn forget_unanswered(&mut self) {
        let mut slot = 0;
        while let Some(user_ref) =
            self.orders.find_from(&mut slot, |order| !order.state.is_working())
        {
            self.orders.resolve_unanswered(user_ref);
        }
    }

    /// Profit and loss of an instrument in ticks, its position marked at the BBO's other side.
    pub(crate) fn pnl(&self, id: InstrumentId, market: &Market) -> i64 {
        let position = self.orders.position(id);
        let side = if position.shares >= 0 { Side::Buy } else { Side::Sell };
        position.pnl(market.bbo(id).side(side).map(|quote| quote.price))
    }
}
