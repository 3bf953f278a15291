//! What every order must pass before it is sent (SEC Rule 15c3-5, and what desks add). Decides; counts
//! and sends nothing. Cancels always pass.

use crate::book::Bbo;
use crate::market::InstrumentId;
use crate::orders::{Orders, Position};
use crate::settings::RiskLimits;
use crate::status::{ShortSale, Status};
use abi::field::{Price, Side};
use abi::journal::Refusal;

/// An order as risk sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// What it is for.
    pub instrument: InstrumentId,
    /// Its side.
    pub side: Side,
    /// Its price.
    pub price: Price,
    /// Shares that can trade.
    pub shares: u32,
    /// The order that it replaces: its open shares and their value are counted as working already.
    pub replaces: Option<Replaced>,
}

/// The order that a candidate replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Its number.
    pub user_ref: u32,
    /// Its open shares.
    pub shares: u32,
    /// Its price.
    pub price: Price,
}

/// What the limits are held against.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// The touch.
    pub bbo: Bbo,
    /// What the exchange says about the instrument.
    pub status: &'a Status,
    /// Our orders and positions.
    pub orders: &'a Orders,
    /// When the feed was last heard, 0 for never.
    pub feed_heard_at: u64,
}

/// The last new order of an instrument, to tell a repetition.
#[derive(Debug, Clone, Copy)]
struct Last {
    side: Side,
    price: Price,
    shares: u32,
    at: u64,
}

/// The checks, with the state that rate and repetition need.
pub struct Risk {
    limits: RiskLimits,
    /// `order_notional_max`, `gross_notional_max`, `net_notional_max` in 1/10,000.
    money: [u64; 3],
    restricted: Vec<bool>,
    last: Vec<Option<Last>>,
    /// Nanoseconds of message budget; one message costs `cost_ns`, one second refills it.
    budget_ns: u64,
    cost_ns: u64,
    refilled_at: u64,
    rejects_in_a_row: u32,
}

const SECOND_NS: u64 = 1_000_000_000;

/// The least price of which a quote must be a whole number of cents (Reg NMS rule 612).
const DOLLAR: u32 = Price::SCALE;
const CENT: u32 = Price::SCALE / 100;

impl Risk {
    /// Checks against `limits`; `restricted` instruments are not traded at all.
    pub fn new(limits: RiskLimits, restricted: Vec<bool>) -> Self {
        Self {
            limits,
            money: limits_in_money(&limits),
            last: vec![None; restricted.len()],
            restricted,
            budget_ns: SECOND_NS,
            cost_ns: SECOND_NS / u64::from(limits.orders_per_second_max),
            refilled_at: 0,
            rejects_in_a_row: 0,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &RiskLimits {
        &self.limits
    }

    /// Puts other limits in force, from the next order on.
    pub fn set_limits(&mut self, limits: RiskLimits) {
        self.limits = limits;
        self.money = limits_in_money(&limits);
        self.cost_ns = SECOND_NS / u64::from(limits.orders_per_second_max);
    }

    /// Passes an order or says why not. A passed order uses up rate budget.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies.
    #[inline]
    pub fn check(
        &mut self,
        order: &Candidate,
        now: &Situation<'_>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        self.check_market(order, now, now_ns)?;
        self.check_order(order, now)?;
        self.check_others(order, now)?;
        self.check_repetition(order, now_ns)?;
        self.check_position(order, now)?;
        self.check_exposure(order, now.orders)?;
        self.spend(now_ns)?;
        self.remember(order, now_ns);
        Ok(())
    }

    #[inline(always)]
    fn check_market(
        &self,
        order: &Candidate,
        now: &Situation<'_>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        if self.restricted[usize::from(order.instrument.0)] {
            return Err(Refusal::Restricted);
        }
        if !now.status.is_trading() {
            return Err(Refusal::Halted);
        }
        if now.status.is_unsound {
            return Err(Refusal::Unsound);
        }
        if now_ns.saturating_sub(now.feed_heard_at) > self.limits.feed_age_max_ns {
            return Err(Refusal::Stale);
        }
        Ok(())
    }

    #[inline(always)]
    fn check_order(&self, order: &Candidate, now: &Situation<'_>) -> Result<(), Refusal> {
        let limits = &self.limits;
        if order.shares == 0 || order.shares > limits.order_shares_max {
            return Err(Refusal::Shares);
        }
        if limits.lot_shares > 1 && !order.shares.is_multiple_of(limits.lot_shares) {
            return Err(Refusal::Lot);
        }
        if order.price.0 >= DOLLAR && !order.price.0.is_multiple_of(CENT) {
            return Err(Refusal::Tick);
        }
        if notional(order.price, order.shares) > self.money[0] {
            return Err(Refusal::Notional);
        }
        let uncrossed = Some(now.bbo).filter(|bbo| !bbo.is_crossed());
        let mid_doubled =
            uncrossed.and_then(|bbo| bbo.mid_doubled()).ok_or(Refusal::NoReference)?;
        let distance_doubled = mid_doubled.abs_diff(u64::from(order.price.0) * 2);
        if distance_doubled * 10_000 > mid_doubled * u64::from(limits.price_collar_bps) {
            return Err(Refusal::Collar);
        }
        Ok(())
    }

    /// What our other orders in the instrument forbid: trading with ourselves, selling short at the bid.
    #[inline(always)]
    fn check_others(&self, order: &Candidate, now: &Situation<'_>) -> Result<(), Refusal> {
        let meets = |price: Price| match order.side {
            Side::Buy => order.price >= price,
            Side::Sell => order.price <= price,
        };
        for other in now.orders.of(order.instrument).filter(|other| other.side != order.side) {
            if meets(other.price) || other.replacement.is_some_and(|r| meets(r.price)) {
                return Err(Refusal::SelfTrade);
            }
        }
        if now.status.short_sale != ShortSale::Free && order.side == Side::Sell {
            let position = now.orders.position(order.instrument);
            let added = added_shares(order);
            let short = position.shares < (position.working_sell + added) as i64;
            if short && now.bbo.bid.is_none_or(|bid| order.price <= bid.price) {
                return Err(Refusal::ShortSale);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn check_repetition(&self, order: &Candidate, now_ns: u64) -> Result<(), Refusal> {
        let repeats = |last: &Last| {
            (last.side, last.price, last.shares) == (order.side, order.price, order.shares)
                && now_ns.saturating_sub(last.at) < self.limits.duplicate_window_ns
        };
        let last = &self.last[usize::from(order.instrument.0)];
        let repeated = order.replaces.is_none() && last.as_ref().is_some_and(repeats);
        if repeated { Err(Refusal::Duplicate) } else { Ok(()) }
    }

    #[inline(always)]
    fn check_position(&self, order: &Candidate, now: &Situation<'_>) -> Result<(), Refusal> {
        let position = now.orders.position(order.instrument);
        let (working, held) = match order.side {
            Side::Buy => (position.working_buy, position.shares),
            Side::Sell => (position.working_sell, -position.shares),
        };
        let worst = held.saturating_add((working + added_shares(order)) as i64);
        if worst > i64::from(self.limits.position_shares_max) {
            return Err(Refusal::Position);
        }
        let open_max = self.limits.orders_open_max as usize;
        if order.replaces.is_none() && now.orders.open_count() >= open_max {
            return Err(Refusal::OpenOrders);
        }
        Ok(())
    }

    /// Every working order counts as filled at its price; a short position counts as much as a long one.
    /// What can only make a position smaller is never refused for it.
    #[inline(always)]
    fn check_exposure(&self, order: &Candidate, orders: &Orders) -> Result<(), Refusal> {
        let exposure = orders.exposure();
        let value = notional(order.price, order.shares);
        // The order and the one it replaces can't both trade: the larger of the two counts.
        let counted = order.replaces.map_or(0, |old| notional(old.price, old.shares));
        let working = exposure.working - counted + value.max(counted);
        let too_much = exposure.gross.saturating_add(working) > self.money[1];
        if too_much && !is_closing(order, orders.position(order.instrument)) {
            return Err(Refusal::Gross);
        }
        let signed = if order.side == Side::Buy { value as i64 } else { -(value as i64) };
        let net = exposure.net.saturating_add(signed).unsigned_abs();
        // An order that brings the net towards zero is never refused for it.
        let grows = net > exposure.net.unsigned_abs();
        if grows && net > self.money[2] {
            return Err(Refusal::Net);
        }
        Ok(())
    }

    /// Takes one message's worth from the rate budget. Cancels are never refused, but they count.
    ///
    /// # Errors
    /// [`Refusal::Rate`] when the budget of the last second is used up.
    pub fn spend(&mut self, now_ns: u64) -> Result<(), Refusal> {
        let passed = now_ns.saturating_sub(self.refilled_at);
        self.refilled_at = now_ns;
        self.budget_ns = self.budget_ns.saturating_add(passed).min(SECOND_NS);
        self.budget_ns = self.budget_ns.checked_sub(self.cost_ns).ok_or(Refusal::Rate)?;
        Ok(())
    }

    fn remember(&mut self, order: &Candidate, at: u64) {
        if order.replaces.is_none() {
            let (side, price, shares) = (order.side, order.price, order.shares);
            self.last[usize::from(order.instrument.0)] = Some(Last { side, price, shares, at });
        }
    }

    /// The exchange took an order.
    pub fn note_accept(&mut self) {
        self.rejects_in_a_row = 0;
    }

    /// The exchange refused an order. `true` if it has refused too many in a row.
    pub fn note_reject(&mut self) -> bool {
        self.rejects_in_a_row = self.rejects_in_a_row.saturating_add(1);
        self.rejects_in_a_row >= self.limits.rejects_in_a_row_max
    }

    /// Forgets the rejects: an operator let trading go on.
    pub fn forgive(&mut self) {
        self.rejects_in_a_row = 0;
    }

    /// Whether a loss, in 1/10,000, is as large as it may be.
    pub fn is_lost(&self, pnl: i64) -> bool {
        pnl < 0 && pnl.unsigned_abs() >= money(self.limits.loss_max)
    }
}

#[inline(always)]
fn notional(price: Price, shares: u32) -> u64 {
    u64::from(price.0) * u64::from(shares)
}

/// Whole units of the currency in 1/10,000.
#[inline(always)]
fn money(units: u64) -> u64 {
    units.saturating_mul(u64::from(Price::SCALE))
}

/// Whether the order, filled with all that works on its side, leaves no more than the position was.
fn is_closing(order: &Candidate, position: &Position) -> bool {
    let (working, held) = match order.side {
        Side::Buy => (position.working_buy, position.shares),
        Side::Sell => (position.working_sell, -position.shares),
    };
    held < 0 && held.unsigned_abs() >= working + added_shares(order)
}

fn limits_in_money(limits: &RiskLimits) -> [u64; 3] {
    [limits.order_notional_max, limits.gross_notional_max, limits.net_notional_max].map(money)
}

/// Shares by which the order adds to what is working.
#[inline(always)]
fn added_shares(order: &Candidate) -> u64 {
    u64::from(order.shares.saturating_sub(order.replaces.map_or(0, |old| old.shares)))
}

#[cfg(test)]
mod tests;
