//! Our own orders and positions, as the exchange's answers make them. Sends nothing; the moves of a
//! single order are `order_state`'s.

use crate::limits::{EXECUTIONS_KEPT, OWN_ORDERS_MAX};
use crate::market::InstrumentId;
use crate::order_state::{Event, State, next};
use crate::orders::candidate::Candidate;
use crate::orders::own_order::{EXPOSURE_MAX, NOTHING, Working};
use abi::field::{Price, Side};
use abi::ouch::UserRefNum;

/// Orders before the risk checks.
pub mod candidate;
mod own_order;

pub(crate) use crate::orders::own_order::InstrumentExposure;
pub use crate::orders::own_order::{Exposure, OwnOrder, Position, Replacement};

/// One execution, kept so that it can be broken.
#[derive(Debug, Clone, Copy)]
struct Booked {
    match_number: u64,
    user_ref: UserRefNum,
    instrument: InstrumentId,
    side: Side,
    shares: u32,
    price: u64,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Empty,
    Order(OwnOrder),
    /// The number of a replacement, which the order of that number will get.
    Replacing(UserRefNum),
}

/// All own orders that can still trade, and the positions that their executions made.
pub struct Orders {
    slots: Box<[Slot; OWN_ORDERS_MAX]>,
    instruments: Box<[InstrumentExposure]>,
    /// For each slot the ones of its instrument before and after it.
    links: Box<[(u16, u16); OWN_ORDERS_MAX]>,
    open_count: usize,
    cancellable_count: usize,
    exposure: Exposure,
    booked: Vec<Booked>,
    booked_next: usize,
}

/// No slot: past the last one.
const NO_SLOT: u16 = u16::MAX;
const _: () = assert!(OWN_ORDERS_MAX <= NO_SLOT as usize);

fn slot_of(user_ref: UserRefNum) -> usize {
    user_ref as usize & (OWN_ORDERS_MAX - 1)
}

impl Orders {
    /// No orders, flat in every instrument.
    pub fn new(instruments: usize) -> Self {
        Self {
            slots: Box::new([Slot::Empty; OWN_ORDERS_MAX]),
            instruments: vec![NOTHING; instruments].into_boxed_slice(),
            links: Box::new([(NO_SLOT, NO_SLOT); OWN_ORDERS_MAX]),
            open_count: 0,
            cancellable_count: 0,
            exposure: Exposure::default(),
            booked: Vec::with_capacity(EXECUTIONS_KEPT),
            booked_next: 0,
        }
    }

    /// Orders that can still trade.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Orders for which [`OwnOrder::is_cancellable`] holds.
    pub fn cancellable_count(&self) -> usize {
        self.cancellable_count
    }

    /// An instrument's position.
    #[inline]
    pub fn position(&self, id: InstrumentId) -> &Position {
        &self.own(id).position
    }

    /// Returns the position, price bounds and first order of an instrument.
    #[inline(always)]
    pub(crate) fn own(&self, id: InstrumentId) -> &InstrumentExposure {
        &self.instruments[usize::from(id.0)]
    }

    #[inline(always)]
    fn own_mut(&mut self, id: InstrumentId) -> &mut InstrumentExposure {
        &mut self.instruments[usize::from(id.0)]
    }

    /// Money at risk.
    #[inline]
    pub fn exposure(&self) -> Exposure {
        self.exposure
    }

    /// The order of a number.
    #[inline]
    pub fn get(&self, user_ref: UserRefNum) -> Option<&OwnOrder> {
        match &self.slots[slot_of(user_ref)] {
            Slot::Order(order) if order.user_ref == user_ref => Some(order),
            _ => None,
        }
    }

    /// All orders of an instrument that can still trade, in no order that means anything.
    #[inline]
    pub fn of(&self, id: InstrumentId) -> impl Iterator<Item = &OwnOrder> {
        let in_use = |slot: u16| (slot != NO_SLOT).then_some(slot_of(slot.into()));
        let first = in_use(self.own(id).head);
        std::iter::successors(first, move |slot| in_use(self.links[*slot].1))
            .filter_map(|slot| self.at(slot))
    }

    /// Whether an order would trade with one of ours, pending replacements included.
    #[cold]
    pub(crate) fn meets(&self, order: &Candidate) -> bool {
        let meets = |price: Price| match order.side {
            Side::Buy => order.price >= price,
            Side::Sell => order.price <= price,
        };
        let mut others = self.of(order.instrument).filter(|other| other.side != order.side);
        others.any(|other| meets(other.price) || other.replacement.is_some_and(|r| meets(r.price)))
    }

    /// Whether an order may trade with one of ours, as far as [`Self::tighten`] has looked.
    #[inline(always)]
    pub(crate) fn may_meet(&self, order: &Candidate) -> bool {
        let own = self.own(order.instrument);
        match order.side {
            Side::Buy => own.may_meet::<true>(order.price),
            Side::Sell => own.may_meet::<false>(order.price),
        }
    }

    /// Has [`InstrumentExposure::may_meet`] know the orders that are there, and no others.
    #[cold]
    pub(crate) fn tighten(&mut self, id: InstrumentId) {
        let mut own = InstrumentExposure {
            buys_up_to: NOTHING.buys_up_to,
            sells_down_to: NOTHING.sells_down_to,
            ..*self.own(id)
        };
        self.of(id).for_each(|order| own.widen(order));
        *self.own_mut(id) = own;
    }

    fn link(&mut self, id: InstrumentId, slot: usize) {
        let head = &mut self.instruments[usize::from(id.0)].head;
        self.links[slot] = (NO_SLOT, *head);
        if *head != NO_SLOT {
            self.links[usize::from(*head)].0 = slot as u16;
        }
        *head = slot as u16;
    }

    fn unlink(&mut self, id: InstrumentId, slot: usize) {
        let (before, after) = self.links[slot];
        match before {
            NO_SLOT => self.own_mut(id).head = after,
            before => self.links[usize::from(before)].1 = after,
        }
        if after != NO_SLOT {
            self.links[usize::from(after)].0 = before;
        }
    }

    fn at(&self, slot: usize) -> Option<&OwnOrder> {
        match &self.slots[slot] {
            Slot::Order(order) => Some(order),
            Slot::Empty | Slot::Replacing(_) => None,
        }
    }

    /// All orders that can still trade.
    pub fn iter(&self) -> impl Iterator<Item = &OwnOrder> {
        (0..self.slots.len()).filter_map(|slot| self.at(slot))
    }

    /// Whether an order of this number can be kept.
    #[inline]
    pub fn has_room(&self, user_ref: UserRefNum) -> bool {
        matches!(self.slots[slot_of(user_ref)], Slot::Empty)
    }

    /// Keeps a new order. The caller asked [`Self::has_room`].
    pub fn insert(&mut self, order: OwnOrder) {
        let slot = slot_of(order.user_ref);
        debug_assert!(matches!(self.slots[slot], Slot::Empty));
        self.shift(&order, Working::default());
        self.link(order.instrument, slot);
        self.slots[slot] = Slot::Order(order);
        self.open_count += 1;
        if let Some(replacement) = order.replacement {
            self.slots[slot_of(replacement.user_ref)] = Slot::Replacing(order.user_ref);
        }
    }

    /// Changes an order by an event; one that is gone is forgotten. `None` if there is no such
    /// order or the event makes no sense for it; nothing is changed then.
    #[inline]
    pub fn apply(
        &mut self,
        user_ref: UserRefNum,
        event: impl FnOnce(&mut OwnOrder) -> Event,
    ) -> Option<OwnOrder> {
        let slot = slot_of(user_ref);
        let order = match &mut self.slots[slot] {
            Slot::Order(order) if order.user_ref == user_ref => order,
            _ => return None,
        };
        let before = *order;
        let event = event(order);
        let Some(state) = next(before.state, event, order.executed > 0) else {
            *order = before;
            return None;
        };
        order.state = state;
        order.is_accepted |= event == Event::Accepted;
        if matches!(event, Event::Replaced | Event::ReplacedDead | Event::ReplaceRejected) {
            order.replacement = None;
        }
        let after = *order;
        if after.state.is_gone() {
            self.end_work(&after, before.working());
            self.take_out(&before);
            self.open_count -= 1;
        } else {
            self.shift(&after, before.working());
            self.put(&before, &after);
        }
        Some(after)
    }

    /// We sent a replacement of an order that is at rest; of another one, nothing is changed.
    #[inline]
    pub(crate) fn replace_sent(&mut self, user_ref: UserRefNum, replacement: Replacement) {
        let Slot::Order(order) = &mut self.slots[slot_of(user_ref)] else { return };
        let Some(state) = next(order.state, Event::ReplaceSent, order.executed > 0) else { return };
        if order.user_ref == user_ref {
            let before = order.working();
            (order.state, order.replacement) = (state, Some(replacement));
            let after = order.working();
            let own = &mut self.instruments[usize::from(order.instrument.0)];
            own.widen(order);
            own.move_working(order.side, before.shares, after.shares);
            self.exposure.working = self.exposure.working - before.notional + after.notional;
            self.slots[slot_of(replacement.user_ref)] = Slot::Replacing(user_ref);
        }
    }

    /// Puts an order that was changed in its slot where it belongs now.
    #[inline]
    fn put(&mut self, before: &OwnOrder, after: &OwnOrder) {
        if before.user_ref != after.user_ref || before.replacement.is_some() {
            self.put_elsewhere(before, after);
        }
        if let Some(replacement) = after.replacement {
            self.slots[slot_of(replacement.user_ref)] = Slot::Replacing(after.user_ref);
        }
    }

    #[inline(never)]
    fn put_elsewhere(&mut self, before: &OwnOrder, after: &OwnOrder) {
        self.take_out(before);
        let slot = slot_of(after.user_ref);
        self.link(after.instrument, slot);
        self.slots[slot] = Slot::Order(*after);
    }

    /// Forgets an order without an event.
    pub fn forget(&mut self, user_ref: UserRefNum) {
        if let Some(order) = self.get(user_ref).copied() {
            self.end_work(&order, order.working());
            self.take_out(&order);
            self.open_count -= 1;
        }
    }

    fn rewrite(&mut self, user_ref: UserRefNum, change: impl FnOnce(&mut OwnOrder)) {
        let Slot::Order(order) = &mut self.slots[slot_of(user_ref)] else { return };
        if order.user_ref == user_ref {
            let before = *order;
            change(order);
            let after = *order;
            self.shift(&after, before.working());
            self.put(&before, &after);
        }
    }

    /// Says how many shares an order had executed under its earlier numbers.
    pub fn carry_executed(&mut self, user_ref: UserRefNum, executed: u32) {
        self.rewrite(user_ref, |order| {
            order.executed = executed;
            if executed > 0 {
                order.state = State::PartiallyFilled;
            }
        });
    }

    /// An order whose cancel was refused may be cancelled again.
    pub fn allow_cancel(&mut self, user_ref: UserRefNum) {
        self.rewrite(user_ref, |order| order.cancel_refused = false);
    }

    /// The exchange never saw what was last sent about an order: a new one is not there, another is
    /// as it was.
    pub fn resolve_unanswered(&mut self, user_ref: UserRefNum) {
        let never_there = |order: &OwnOrder| !order.is_accepted;
        if self.get(user_ref).is_some_and(never_there) {
            return self.forget(user_ref);
        }
        self.rewrite(user_ref, |order| {
            order.replacement = None;
            order.state = if order.executed > 0 { State::PartiallyFilled } else { State::Live };
        });
    }

    fn take_out(&mut self, order: &OwnOrder) {
        let slot = slot_of(order.user_ref);
        self.slots[slot] = Slot::Empty;
        if let Some(replacement) = order.replacement {
            self.slots[slot_of(replacement.user_ref)] = Slot::Empty;
        }
        self.unlink(order.instrument, slot);
    }

    /// The number of the first order that is so, in the slots from `slot` on; `slot` is behind it
    /// then. A walk over all orders takes one step for each slot, whatever it does with them.
    pub fn find_from(
        &self,
        slot: &mut usize,
        wanted: impl Fn(&OwnOrder) -> bool,
    ) -> Option<UserRefNum> {
        while let Some(at) = (*slot < self.slots.len()).then_some(*slot) {
            *slot += 1;
            if let Some(order) = self.at(at).filter(|order| wanted(order)) {
                return Some(order.user_ref);
            }
        }
        None
    }

    /// The order whose pending replacement has this number.
    pub fn replaced_by(&self, new_ref: UserRefNum) -> Option<UserRefNum> {
        let Slot::Replacing(user_ref) = self.slots[slot_of(new_ref)] else { return None };
        let replacement = self.get(user_ref)?.replacement?;
        (replacement.user_ref == new_ref).then_some(user_ref)
    }

    /// Books an execution to the position, and keeps it in case that it is broken.
    pub fn book(&mut self, order: &OwnOrder, shares: u32, price: u64, match_number: u64) {
        let (instrument, side, user_ref) = (order.instrument, order.side, order.user_ref);
        let booked = Booked { match_number, user_ref, instrument, side, shares, price };
        self.move_position(&booked);
        if self.booked.len() < EXECUTIONS_KEPT {
            self.booked.push(booked);
        } else {
            self.booked[self.booked_next] = booked;
        }
        self.booked_next = (self.booked_next + 1) % EXECUTIONS_KEPT;
    }

    /// Takes an execution back; `false` if it is not known any more.
    pub fn break_trade(&mut self, user_ref: UserRefNum, match_number: u64) -> bool {
        let is_it = |b: &Booked| b.match_number == match_number && b.user_ref == user_ref;
        let Some(at) = self.booked.iter().position(is_it) else { return false };
        let booked = self.booked[at];
        let side = if booked.side == Side::Buy { Side::Sell } else { Side::Buy };
        self.move_position(&Booked { side, ..booked });
        self.booked[at].shares = 0;
        true
    }

    fn move_position(&mut self, booked: &Booked) {
        let position = &mut self.own_mut(booked.instrument).position;
        let money =
            i64::from(booked.shares).saturating_mul(booked.price.min(i64::MAX as u64) as i64);
        let (shares, money) = match booked.side {
            Side::Buy => (i64::from(booked.shares), -money),
            Side::Sell => (-i64::from(booked.shares), money),
        };
        let before = *position;
        position.shares = position.shares.saturating_add(shares);
        position.cash = position.cash.saturating_add(money);
        position.mark = Price(u32::try_from(booked.price).unwrap_or(u32::MAX));
        let after = *position;
        self.expose(&before, &after);
    }

    /// Says what a share of an instrument is worth now.
    #[inline]
    pub fn mark(&mut self, id: InstrumentId, mark: Price) {
        let position = &mut self.own_mut(id).position;
        let before = *position;
        position.mark = mark;
        if before.shares != 0 && before.mark != mark {
            let after = *position;
            self.expose(&before, &after);
        }
    }

    fn expose(&mut self, before: &Position, after: &Position) {
        let (old, new) = (before.value(), after.value());
        let net = self.exposure.net.saturating_sub(old).saturating_add(new);
        self.exposure.net = net.clamp(-(EXPOSURE_MAX as i64), EXPOSURE_MAX as i64);
        let gross = self.exposure.gross.saturating_sub(old.unsigned_abs());
        self.exposure.gross = gross.saturating_add(new.unsigned_abs()).min(EXPOSURE_MAX);
    }

    /// An order adds something else to what works than before.
    #[inline]
    fn shift(&mut self, order: &OwnOrder, before: Working) {
        let after = order.working();
        let own = &mut self.instruments[usize::from(order.instrument.0)];
        own.widen(order);
        own.move_working(order.side, before.shares, after.shares);
        self.exposure.working = self.exposure.working - before.notional + after.notional;
        self.cancellable_count = self.cancellable_count - before.cancellable + after.cancellable;
    }

    /// An order adds nothing any more.
    #[inline]
    fn end_work(&mut self, order: &OwnOrder, before: Working) {
        self.own_mut(order.instrument).move_working(order.side, before.shares, 0);
        self.exposure.working -= before.notional;
        self.cancellable_count -= before.cancellable;
    }
}
