//! Our own orders and positions, as the exchange's answers make them. Sends nothing.
//!
//! ```text
//!            accepted            executed (all)
//! PendingNew ────────► Live ───────────────────► gone
//!     │ rejected        │ ▲ replaced / replace rejected
//!     ▼                 ▼ │
//!    gone        PendingReplace        any state ── cancelled ──► gone
//!                 PendingCancel ── cancel rejected ──► Live
//! ```

use crate::limits::OWN_ORDERS_MAX;
use crate::market::InstrumentId;
use abi::field::{Price, Side};
use abi::ouch::UserRefNum;

/// Where an order stands between us and the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Sent, not answered.
    PendingNew,
    /// Accepted.
    Live,
    /// A replacement was sent; its number, price and total quantity.
    PendingReplace {
        /// The number that the order will have.
        user_ref: UserRefNum,
        /// Its price then.
        price: Price,
        /// Its shares then, those executed before included.
        quantity: u32,
    },
    /// A cancel was sent.
    PendingCancel,
}

/// One of our orders that can still trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnOrder {
    /// Its number.
    pub user_ref: UserRefNum,
    /// What it is for.
    pub instrument: InstrumentId,
    /// Its side.
    pub side: Side,
    /// Its price.
    pub price: Price,
    /// Shares that can still trade.
    pub open: u32,
    /// Shares executed, over all replacements.
    pub executed: u32,
    /// Where it stands.
    pub state: State,
}

impl OwnOrder {
    /// The most shares that it can still trade, a pending replacement included.
    pub fn open_at_most(&self) -> u32 {
        match self.state {
            State::PendingReplace { quantity, .. } => {
                self.open.max(quantity.saturating_sub(self.executed))
            }
            _ => self.open,
        }
    }
}

/// Shares and money of one instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Net shares; negative is short.
    pub shares: i64,
    /// Money received less money paid, 1/10,000 of the currency.
    pub cash: i64,
    /// The most shares that working buy orders can add.
    pub working_buy: u64,
    /// The most shares that working sell orders can take.
    pub working_sell: u64,
}

impl Position {
    /// Profit and loss if the position were closed at `mark`.
    pub fn pnl(&self, mark: Option<Price>) -> i64 {
        let mark = mark.map_or(0, |price| i64::from(price.0));
        self.cash.saturating_add(self.shares.saturating_mul(mark))
    }
}

/// All own orders that can still trade, and the positions that their executions made.
pub struct Orders {
    slots: Box<[Option<OwnOrder>]>,
    open_count: usize,
    positions: Vec<Position>,
}

fn slot_of(user_ref: UserRefNum) -> usize {
    user_ref as usize & (OWN_ORDERS_MAX - 1)
}

impl Orders {
    /// No orders, flat in every instrument.
    pub fn new(instruments: usize) -> Self {
        Self {
            slots: vec![None; OWN_ORDERS_MAX].into_boxed_slice(),
            open_count: 0,
            positions: vec![Position::default(); instruments],
        }
    }

    /// Orders that can still trade.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// An instrument's position.
    pub fn position(&self, id: InstrumentId) -> Position {
        self.positions[usize::from(id.0)]
    }

    /// The order of a number, or the one that a pending replacement gives that number.
    pub fn get(&self, user_ref: UserRefNum) -> Option<&OwnOrder> {
        self.slots[slot_of(user_ref)].as_ref().filter(|order| order.user_ref == user_ref)
    }

    /// All orders that can still trade.
    pub fn iter(&self) -> impl Iterator<Item = &OwnOrder> {
        self.slots.iter().flatten()
    }

    /// Whether an order of this number can be kept.
    pub fn has_room(&self, user_ref: UserRefNum) -> bool {
        self.slots[slot_of(user_ref)].is_none()
    }

    /// Keeps a new order. The caller asked [`Self::has_room`].
    pub fn insert(&mut self, order: OwnOrder) {
        self.work(&order, true);
        let slot = &mut self.slots[slot_of(order.user_ref)];
        debug_assert!(slot.is_none());
        *slot = Some(order);
        self.open_count += 1;
    }

    /// Changes an order; its working shares follow. An order with nothing open is gone afterwards.
    pub fn update(&mut self, user_ref: UserRefNum, change: impl FnOnce(&mut OwnOrder)) -> bool {
        let slot = slot_of(user_ref);
        let Some(mut order) = self.slots[slot].filter(|order| order.user_ref == user_ref) else {
            return false;
        };
        self.work(&order, false);
        change(&mut order);
        if order.open == 0 {
            self.slots[slot] = None;
            self.open_count -= 1;
        } else {
            self.work(&order, true);
            self.slots[slot] = Some(order);
        }
        true
    }

    /// Takes an order out.
    pub fn remove(&mut self, user_ref: UserRefNum) -> Option<OwnOrder> {
        let order = *self.get(user_ref)?;
        self.update(user_ref, |order| order.open = 0);
        Some(order)
    }

    /// The number of the first order that is so.
    pub fn find(&self, wanted: impl Fn(&OwnOrder) -> bool) -> Option<UserRefNum> {
        self.iter().find(|order| wanted(order)).map(|order| order.user_ref)
    }

    /// Finds the order whose pending replacement has this number.
    pub fn find_replacing(&self, new_ref: UserRefNum) -> Option<UserRefNum> {
        self.find(|order| {
            matches!(order.state, State::PendingReplace { user_ref, .. } if user_ref == new_ref)
        })
    }

    /// Books an execution to the position.
    pub fn book(&mut self, id: InstrumentId, side: Side, shares: u32, price: u64) {
        let position = &mut self.positions[usize::from(id.0)];
        let money = i64::from(shares).saturating_mul(price.min(i64::MAX as u64) as i64);
        let (shares, money) = match side {
            Side::Buy => (i64::from(shares), -money),
            Side::Sell => (-i64::from(shares), money),
        };
        position.shares = position.shares.saturating_add(shares);
        position.cash = position.cash.saturating_add(money);
    }

    fn work(&mut self, order: &OwnOrder, add: bool) {
        let position = &mut self.positions[usize::from(order.instrument.0)];
        let working = match order.side {
            Side::Buy => &mut position.working_buy,
            Side::Sell => &mut position.working_sell,
        };
        let shares = u64::from(order.open_at_most());
        *working = if add { *working + shares } else { *working - shares };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(user_ref: UserRefNum, open: u32) -> OwnOrder {
        OwnOrder {
            user_ref,
            instrument: InstrumentId(0),
            side: Side::Buy,
            price: Price(10_000),
            open,
            executed: 0,
            state: State::PendingNew,
        }
    }

    #[test]
    fn working_shares_follow_the_orders() {
        let mut orders = Orders::new(1);
        orders.insert(order(1, 100));
        orders.insert(order(2, 50));
        assert_eq!(orders.position(InstrumentId(0)).working_buy, 150);
        let pending = State::PendingReplace { user_ref: 3, price: Price(1), quantity: 120 };
        orders.update(2, |order| order.state = pending);
        assert_eq!(orders.position(InstrumentId(0)).working_buy, 220);
        assert_eq!(orders.find_replacing(3), Some(2));
        orders.update(1, |order| order.open -= 100);
        assert_eq!((orders.open_count(), orders.position(InstrumentId(0)).working_buy), (1, 120));
        orders.remove(2);
        assert_eq!(orders.position(InstrumentId(0)), Position::default());
    }

    #[test]
    fn money_and_shares_are_booked() {
        let mut orders = Orders::new(1);
        orders.book(InstrumentId(0), Side::Buy, 100, 10_000);
        orders.book(InstrumentId(0), Side::Sell, 40, 11_000);
        let position = orders.position(InstrumentId(0));
        assert_eq!((position.shares, position.cash), (60, -560_000));
        assert_eq!(position.pnl(Some(Price(11_000))), 100_000);
    }

    #[test]
    fn a_slot_in_use_is_no_room() {
        let mut orders = Orders::new(1);
        orders.insert(order(1, 100));
        assert!(!orders.has_room(1 + OWN_ORDERS_MAX as u32));
        assert!(orders.get(1 + OWN_ORDERS_MAX as u32).is_none());
    }
}
