//! Order entry: OUCH 5.0 messages become orders, fills become OUCH answers. Cancels an account's
//! orders when its connection is lost, as a port set to "cancel on disconnect" does.

use crate::limits::ACCOUNT_ORDERS_MAX;
use crate::market::{DayTime, Event, Market, NewOrder, OrderRef};
use abi::field::{Alpha, Price, Symbol};
use abi::ouch::inbound::{
    CancelOrder, EnterOrder, MassCancel, Message as Inbound, ModifyOrder, ReplaceOrder,
};
use abi::ouch::outbound::{
    Accepted, AccountQueryResponse, Canceled, DisableResponse, EnableResponse, Executed,
    MassCancelResponse, Message as Outbound, Modified, Rejected, Replaced,
};
use abi::ouch::{Capacity, OrderState, QUANTITY_MAX, TimeInForce, UserRefNum, reject};
use std::collections::HashMap;

/// The highest limit price: 199,999.9900.
const PRICE_MAX: Price = Price(1_999_999_900);

#[derive(Debug, Clone, Copy)]
struct Live {
    order_ref: OrderRef,
    request: EnterOrder,
    open: u32,
    executed: u32,
}

/// One account's orders.
#[derive(Default)]
pub struct Account {
    next_user_ref: UserRefNum,
    live: HashMap<UserRefNum, Live>,
    by_ref: HashMap<OrderRef, UserRefNum>,
    disabled: bool,
}

/// OUCH answers to an account, in sending order.
pub type Answers = Vec<Outbound>;

impl Account {
    /// An account without orders.
    pub fn new() -> Self {
        Self { next_user_ref: 1, ..Self::default() }
    }

    /// Orders that can trade.
    pub fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Takes one message. What happened in the market is appended to `events`; its fills of this
    /// account are already answered, those of others are for the caller to deliver.
    pub fn on_message(
        &mut self,
        message: &Inbound,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> Answers {
        let mut answers = Vec::new();
        match message {
            Inbound::EnterOrder(m) => self.enter(m, market, now, events, &mut answers),
            Inbound::ReplaceOrder(m) => self.replace(m, market, now, events, &mut answers),
            Inbound::CancelOrder(m) => self.cancel(m, market, now, events, &mut answers),
            Inbound::ModifyOrder(m) => self.modify(m, market, now, events, &mut answers),
            Inbound::MassCancel(m) => self.mass_cancel(m, market, now, events, &mut answers),
            Inbound::DisableOrderEntry(m) => {
                self.disabled = true;
                let (user_ref_num, firm) = (m.user_ref_num, m.firm);
                answers.push(Outbound::DisableResponse(DisableResponse {
                    timestamp: now,
                    user_ref_num,
                    firm,
                }));
            }
            Inbound::EnableOrderEntry(m) => {
                self.disabled = false;
                let (user_ref_num, firm) = (m.user_ref_num, m.firm);
                answers.push(Outbound::EnableResponse(EnableResponse {
                    timestamp: now,
                    user_ref_num,
                    firm,
                }));
            }
            Inbound::AccountQuery(_) => {
                let next_user_ref_num = self.next_user_ref;
                answers.push(Outbound::AccountQueryResponse(AccountQueryResponse {
                    timestamp: now,
                    next_user_ref_num,
                }));
            }
        }
        answers
    }

    /// A number that was used before is a retransmission, and ignored.
    fn is_new(&mut self, user_ref: UserRefNum) -> bool {
        let new = user_ref >= self.next_user_ref;
        if new {
            self.next_user_ref = user_ref.saturating_add(1);
        }
        new
    }

    fn refusal(
        &self,
        symbol: Symbol,
        price: abi::ouch::Price,
        quantity: u32,
        market: &dyn Market,
    ) -> Result<Price, u16> {
        if self.disabled {
            return Err(reject::DESTINATION_CLOSED);
        }
        if !market.lists(symbol) {
            return Err(reject::INVALID_SYMBOL);
        }
        if quantity == 0 || quantity > QUANTITY_MAX {
            return Err(reject::INVALID_QUANTITY);
        }
        if self.live.len() >= ACCOUNT_ORDERS_MAX {
            return Err(reject::OTHER);
        }
        price.narrow().filter(|p| p.0 > 0 && *p <= PRICE_MAX).ok_or(reject::INVALID_PRICE)
    }

    fn enter(
        &mut self,
        m: &EnterOrder,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
        answers: &mut Answers,
    ) {
        if !self.is_new(m.user_ref_num) {
            return;
        }
        let price = match self.refusal(m.symbol, m.price, m.quantity, market) {
            Ok(price) => price,
            Err(reason) => return answers.push(rejected(m.user_ref_num, reason, m.cl_ord_id, now)),
        };
        let rests = m.time_in_force != TimeInForce::ImmediateOrCancel;
        let order = NewOrder {
            symbol: m.symbol,
            side: m.side.book_side(),
            price,
            shares: m.quantity,
            rests,
        };
        let first = events.len();
        let order_ref = market.enter(&order, now, events);
        answers.push(Outbound::Accepted(Accepted {
            timestamp: now,
            user_ref_num: m.user_ref_num,
            side: m.side,
            quantity: m.quantity,
            symbol: m.symbol,
            price: m.price,
            time_in_force: m.time_in_force,
            display: m.display,
            order_ref,
            capacity: m.capacity,
            intermarket_sweep: m.intermarket_sweep,
            cross_type: m.cross_type,
            order_state: OrderState::Live,
            cl_ord_id: m.cl_ord_id,
        }));
        let live = Live { order_ref, request: *m, open: m.quantity, executed: 0 };
        self.keep(m.user_ref_num, live);
        self.answer_own_fills(&events[first..], now, answers);
        if !rests {
            self.drop_rest(m.user_ref_num, b'I', now, answers);
        }
    }

    fn keep(&mut self, user_ref: UserRefNum, live: Live) {
        self.by_ref.insert(live.order_ref, user_ref);
        self.live.insert(user_ref, live);
    }

    fn forget(&mut self, user_ref: UserRefNum) -> Option<Live> {
        let live = self.live.remove(&user_ref)?;
        self.by_ref.remove(&live.order_ref);
        Some(live)
    }

    /// Removes an order that has left the market and answers `Canceled` for its open shares.
    fn drop_rest(&mut self, user_ref: UserRefNum, reason: u8, now: DayTime, answers: &mut Answers) {
        if let Some(live) = self.forget(user_ref) {
            answers.push(canceled(user_ref, live.open, reason, now));
        }
    }

    fn answer_own_fills(&mut self, events: &[Event], now: DayTime, answers: &mut Answers) {
        for event in events {
            answers.extend(self.on_event(event, now));
        }
    }

    /// The answer that an event is for this account, if it is one.
    pub fn on_event(&mut self, event: &Event, now: DayTime) -> Option<Outbound> {
        let Event::Fill { order_ref, shares, price, match_number, resting } = event else {
            return None;
        };
        let user_ref_num = *self.by_ref.get(order_ref)?;
        let live = self.live.get_mut(&user_ref_num)?;
        live.open = live.open.saturating_sub(*shares);
        live.executed += shares;
        if live.open == 0 {
            self.forget(user_ref_num);
        }
        Some(Outbound::Executed(Executed {
            timestamp: now,
            user_ref_num,
            quantity: *shares,
            price: (*price).into(),
            liquidity_flag: if *resting { b'A' } else { b'R' },
            match_number: *match_number,
        }))
    }

    fn replace(
        &mut self,
        m: &ReplaceOrder,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
        answers: &mut Answers,
    ) {
        if !self.is_new(m.user_ref_num) {
            return;
        }
        // An order that is gone can't be replaced; its last answer said so already.
        let Some(old) = self.live.get(&m.orig_user_ref_num).copied() else { return };
        if m.quantity <= old.executed {
            market.reduce(old.order_ref, u32::MAX, now, events);
            return self.drop_rest(m.orig_user_ref_num, b'U', now, answers);
        }
        let open = m.quantity - old.executed;
        let price = match self.refusal(old.request.symbol, m.price, open, market) {
            Ok(price) => price,
            Err(reason) => return answers.push(rejected(m.user_ref_num, reason, m.cl_ord_id, now)),
        };
        let side = old.request.side;
        let order = NewOrder {
            symbol: old.request.symbol,
            side: side.book_side(),
            price,
            shares: open,
            rests: true,
        };
        let first = events.len();
        let order_ref = market.replace(old.order_ref, &order, now, events);
        self.forget(m.orig_user_ref_num);
        answers.push(Outbound::Replaced(Replaced {
            timestamp: now,
            orig_user_ref_num: m.orig_user_ref_num,
            user_ref_num: m.user_ref_num,
            side,
            quantity: open,
            symbol: old.request.symbol,
            price: m.price,
            time_in_force: m.time_in_force,
            display: m.display,
            order_ref,
            capacity: Capacity::Principal,
            intermarket_sweep: m.intermarket_sweep,
            cross_type: old.request.cross_type,
            order_state: OrderState::Live,
            cl_ord_id: m.cl_ord_id,
        }));
        self.keep(
            m.user_ref_num,
            Live { order_ref, request: old.request, open, executed: old.executed },
        );
        self.answer_own_fills(&events[first..], now, answers);
    }

    /// Lowers an order's open shares to `left`, in the market too; returns how many went.
    fn lower(
        &mut self,
        user_ref: UserRefNum,
        left: u32,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> u32 {
        let Some(live) = self.live.get_mut(&user_ref).filter(|live| live.open > left) else {
            return 0;
        };
        let gone = live.open - left;
        live.open = left;
        market.reduce(live.order_ref, gone, now, events);
        if left == 0 {
            self.forget(user_ref);
        }
        gone
    }

    fn cancel(
        &mut self,
        m: &CancelOrder,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
        answers: &mut Answers,
    ) {
        let gone = self.lower(m.user_ref_num, m.quantity, market, now, events);
        if gone > 0 {
            answers.push(canceled(m.user_ref_num, gone, b'U', now));
        }
    }

    fn modify(
        &mut self,
        m: &ModifyOrder,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
        answers: &mut Answers,
    ) {
        let known = self.live.contains_key(&m.user_ref_num);
        if known && m.quantity > 0 {
            self.lower(m.user_ref_num, m.quantity, market, now, events);
            let (user_ref_num, side, quantity) = (m.user_ref_num, m.side, m.quantity);
            answers.push(Outbound::Modified(Modified {
                timestamp: now,
                user_ref_num,
                side,
                quantity,
            }));
        }
    }

    fn mass_cancel(
        &mut self,
        m: &MassCancel,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
        answers: &mut Answers,
    ) {
        if !self.is_new(m.user_ref_num) {
            return;
        }
        let (user_ref_num, firm, symbol) = (m.user_ref_num, m.firm, m.symbol);
        answers.push(Outbound::MassCancelResponse(MassCancelResponse {
            timestamp: now,
            user_ref_num,
            firm,
            symbol,
        }));
        let all = symbol == Symbol::BLANK;
        answers.extend(self.cancel_where(
            |live| all || live.request.symbol == symbol,
            b'U',
            market,
            now,
            events,
        ));
    }

    fn cancel_where(
        &mut self,
        wanted: impl Fn(&Live) -> bool,
        reason: u8,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> Answers {
        let chosen =
            self.live.iter().filter(|(_, live)| wanted(live)).map(|(user_ref, _)| *user_ref);
        let mut chosen: Vec<_> = chosen.collect();
        chosen.sort_unstable();
        let mut answers = Vec::new();
        for user_ref in chosen {
            let gone = self.lower(user_ref, 0, market, now, events);
            answers.push(canceled(user_ref, gone, reason, now));
        }
        answers
    }

    /// The connection is lost: everything is cancelled by the exchange's supervision.
    pub fn on_disconnect(
        &mut self,
        market: &mut dyn Market,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> Answers {
        self.cancel_where(|_| true, b'S', market, now, events)
    }
}

fn rejected(
    user_ref_num: UserRefNum,
    reason: u16,
    cl_ord_id: Alpha<14>,
    timestamp: DayTime,
) -> Outbound {
    Outbound::Rejected(Rejected { timestamp, user_ref_num, reason, cl_ord_id })
}

fn canceled(user_ref_num: UserRefNum, quantity: u32, reason: u8, timestamp: DayTime) -> Outbound {
    Outbound::Canceled(Canceled { timestamp, user_ref_num, quantity, reason })
}

#[cfg(test)]
mod tests;
