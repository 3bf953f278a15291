//! One order of ours, and what an instrument's orders and executions come to. Decides and finds
//! nothing.

use super::NO_SLOT;
use crate::limits::OWN_ORDERS_MAX;
use crate::market::InstrumentId;
use crate::order_state::State;
use abi::field::{Price, Side};
use abi::ouch::UserRefNum;

/// UserRefNum, price and quantity of an order if its replacement is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement {
    /// The number that the order will have.
    pub user_ref: UserRefNum,
    /// Its price then.
    pub price: Price,
    /// Its shares then, those executed before included.
    pub quantity: u32,
}

/// One of our orders that can still trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnOrder {
    /// UserRefNum of the order.
    pub user_ref: UserRefNum,
    /// Instrument of the order.
    pub instrument: InstrumentId,
    /// Side of the order.
    pub side: Side,
    /// Price of the order.
    pub price: Price,
    /// Shares that can still trade.
    pub open: u32,
    /// Shares executed, over all replacements.
    pub executed: u32,
    /// Where it stands.
    pub state: State,
    /// A replacement that was sent and not answered.
    pub replacement: Option<Replacement>,
    /// The exchange has accepted it, whatever was asked for since.
    pub is_accepted: bool,
    /// The exchange refused a cancel of it: asking again at once would only be refused again.
    pub cancel_refused: bool,
    /// A sale that is marked long, as what is held when it was sent.
    pub is_long_sale: bool,
}

impl OwnOrder {
    /// A new order, just sent.
    pub fn new(
        user_ref: UserRefNum,
        instrument: InstrumentId,
        side: Side,
        price: Price,
        open: u32,
    ) -> Self {
        Self {
            user_ref,
            instrument,
            side,
            price,
            open,
            executed: 0,
            state: State::PendingNew,
            replacement: None,
            is_accepted: false,
            cancel_refused: false,
            is_long_sale: false,
        }
    }

    /// The most shares that it can still trade, a pending replacement included.
    pub fn open_at_most(&self) -> u32 {
        let replaced = self.replacement.map_or(0, |r| r.quantity.saturating_sub(self.executed));
        self.open.max(replaced)
    }

    /// Whether a cancel of it would tell the exchange anything new.
    pub fn is_cancellable(&self) -> bool {
        self.state != State::PendingCancel && !self.cancel_refused
    }

    /// Returns the order's part of the sums over working orders.
    #[inline]
    pub(super) fn working(&self) -> Working {
        let price = self.replacement.map_or(self.price, |r| r.price.max(self.price));
        let shares = u64::from(self.open_at_most());
        Working {
            shares,
            notional: (u64::from(price.0) * shares).min(ORDER_NOTIONAL_MAX),
            cancellable: self.is_cancellable().into(),
        }
    }
}

/// Cap on the value of one order, in 1/10,000: 225 billion of the currency. An exchange could
/// answer with an order of any size; the sum of all working orders must not overflow.
const ORDER_NOTIONAL_MAX: u64 = 1 << 51;
const _: () = assert!(
    ORDER_NOTIONAL_MAX as u128 * OWN_ORDERS_MAX as u128 + EXPOSURE_MAX as u128 + (1 << 52)
        <= u64::MAX as u128,
    "positions, working orders and one more are added up",
);

/// Part of one order in the sums over working orders.
#[derive(Clone, Copy, Default)]
pub(super) struct Working {
    /// The most shares that it can still trade.
    pub shares: u64,
    /// The most money that it can still trade, in 1/10,000.
    pub notional: u64,
    /// 1 if it can be cancelled.
    pub cancellable: usize,
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
    /// Mark: the last price of a share, for valuation.
    pub mark: Price,
}

impl Position {
    /// Profit and loss if the position were closed at `price`, or at its mark where there is no
    /// price.
    pub fn pnl(&self, price: Option<Price>) -> i64 {
        let price = i64::from(price.unwrap_or(self.mark).0);
        self.cash.saturating_add(self.shares.saturating_mul(price))
    }

    pub(super) fn value(&self) -> i64 {
        self.shares.saturating_mul(i64::from(self.mark.0))
    }
}

/// Position, price bounds and first order of one instrument.
#[derive(Debug, Clone, Copy)]
pub struct InstrumentExposure {
    /// Shares and money.
    pub position: Position,
    /// No buy order of ours works at a higher price, no sell order at a lower one. Orders that are
    /// gone may still count; [`Orders::tighten`] forgets them.
    pub(super) buys_up_to: Price,
    pub(super) sells_down_to: Price,
    /// The slot of its first order.
    pub(super) head: u16,
}

pub(super) const NOTHING: InstrumentExposure = InstrumentExposure {
    position: Position { shares: 0, cash: 0, working_buy: 0, working_sell: 0, mark: Price(0) },
    buys_up_to: Price(0),
    sells_down_to: Price(u32::MAX),
    head: NO_SLOT,
};

impl InstrumentExposure {
    /// Net shares as an order of the side adds to them.
    #[inline(always)]
    pub(crate) fn held<const BUY: bool>(&self) -> i64 {
        if BUY { self.position.shares } else { -self.position.shares }
    }

    /// The most shares that working orders of the side can trade.
    #[inline(always)]
    pub(crate) fn working<const BUY: bool>(&self) -> u64 {
        if BUY { self.position.working_buy } else { self.position.working_sell }
    }

    /// Whether an order at `price` may trade with one of ours; if not, it can't.
    #[inline(always)]
    pub(crate) fn may_meet<const BUY: bool>(&self, price: Price) -> bool {
        if BUY { price >= self.sells_down_to } else { price <= self.buys_up_to }
    }

    #[inline]
    pub(super) fn move_working(&mut self, side: Side, before: u64, after: u64) {
        let working = match side {
            Side::Buy => &mut self.position.working_buy,
            Side::Sell => &mut self.position.working_sell,
        };
        *working = *working - before + after;
    }

    #[inline]
    pub(super) fn widen(&mut self, order: &OwnOrder) {
        let replaced = order.replacement.map_or(order.price, |r| r.price);
        match order.side {
            Side::Buy => self.buys_up_to = self.buys_up_to.max(order.price).max(replaced),
            Side::Sell => self.sells_down_to = self.sells_down_to.min(order.price).min(replaced),
        }
    }
}

/// Cap on an exposure: far above every limit (`settings`), and far enough below the ends of its
/// type that an order can be added.
pub(super) const EXPOSURE_MAX: u64 = 1 << 61;

/// Money at risk over all instruments, in 1/10,000, positions at their marks. Each figure is at
/// most 2^61.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exposure {
    /// The sum of the positions' values, short ones negative.
    pub net: i64,
    /// The sum of the positions' absolute values.
    pub gross: u64,
    /// The most that working orders can add to it.
    pub working: u64,
}
