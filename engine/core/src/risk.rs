//! What every order must pass before it is sent. Decides; counts and sends nothing.

use crate::book::Bbo;
use crate::orders::Position;
use crate::settings::RiskLimits;
use abi::field::{Price, Side};

/// Why an order was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No shares, or more than `order_shares_max`.
    Shares,
    /// Price times shares above `order_notional_max`.
    Notional,
    /// No touch to compare the price with.
    NoReference,
    /// Further from the middle than `price_collar_bps`.
    Collar,
    /// The position with all working orders would pass `position_shares_max`.
    Position,
    /// `orders_open_max` orders are open.
    OpenOrders,
    /// More than `orders_per_second_max`.
    Rate,
    /// The instrument does not trade.
    Halted,
}

/// An order as risk sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Its side.
    pub side: Side,
    /// Its price.
    pub price: Price,
    /// Shares that can trade.
    pub shares: u32,
    /// Shares of the order it replaces, already counted as working.
    pub replaces: u32,
    /// Whether it adds an open order.
    pub is_new: bool,
}

/// What the limits are held against.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// The touch.
    pub bbo: Bbo,
    /// Whether the instrument trades.
    pub trading: bool,
    /// Its position.
    pub position: Position,
    /// Open orders over all instruments.
    pub open_orders: usize,
}

/// The checks, with the state that the order rate needs.
pub struct Risk {
    limits: RiskLimits,
    /// Nanoseconds of message budget; one message costs `cost_ns`, one second refills it.
    budget_ns: u64,
    refilled_at: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Risk {
    /// Checks against `limits`.
    pub fn new(limits: RiskLimits) -> Self {
        Self { limits, budget_ns: SECOND_NS, refilled_at: 0 }
    }

    /// Passes an order or says why not. A passed order uses up rate budget.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies.
    pub fn check(
        &mut self,
        order: &Candidate,
        now: &Situation,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        self.check_order(order, now)?;
        self.check_totals(order, now)?;
        self.spend(now_ns)
    }

    fn check_order(&self, order: &Candidate, now: &Situation) -> Result<(), Refusal> {
        if !now.trading {
            return Err(Refusal::Halted);
        }
        if order.shares == 0 || order.shares > self.limits.order_shares_max {
            return Err(Refusal::Shares);
        }
        let notional = u64::from(order.price.0) * u64::from(order.shares);
        if notional > self.limits.order_notional_max.saturating_mul(u64::from(Price::SCALE)) {
            return Err(Refusal::Notional);
        }
        let mid_doubled = now.bbo.mid_doubled().ok_or(Refusal::NoReference)?;
        let distance_doubled = mid_doubled.abs_diff(u64::from(order.price.0) * 2);
        if distance_doubled * 10_000 > mid_doubled * u64::from(self.limits.price_collar_bps) {
            return Err(Refusal::Collar);
        }
        Ok(())
    }

    fn check_totals(&self, order: &Candidate, now: &Situation) -> Result<(), Refusal> {
        let (working, held) = match order.side {
            Side::Buy => (now.position.working_buy, now.position.shares),
            Side::Sell => (now.position.working_sell, -now.position.shares),
        };
        let added = u64::from(order.shares.max(order.replaces) - order.replaces);
        let worst = i128::from(held) + i128::from(working) + i128::from(added);
        if worst > i128::from(self.limits.position_shares_max) {
            return Err(Refusal::Position);
        }
        if order.is_new && now.open_orders >= self.limits.orders_open_max as usize {
            return Err(Refusal::OpenOrders);
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
        let cost = SECOND_NS / u64::from(self.limits.orders_per_second_max);
        self.budget_ns = self.budget_ns.checked_sub(cost).ok_or(Refusal::Rate)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Quote;

    fn limits() -> RiskLimits {
        RiskLimits {
            order_shares_max: 1_000,
            order_notional_max: 50_000,
            price_collar_bps: 100,
            position_shares_max: 500,
            orders_open_max: 2,
            orders_per_second_max: 4,
        }
    }

    fn situation() -> Situation {
        let quote = |price| Some(Quote { price: Price(price), shares: 100 });
        Situation {
            bbo: Bbo { bid: quote(999_900), ask: quote(1_000_100) },
            trading: true,
            position: Position::default(),
            open_orders: 0,
        }
    }

    fn buy(shares: u32, price: u32) -> Candidate {
        Candidate { side: Side::Buy, price: Price(price), shares, replaces: 0, is_new: true }
    }

    fn verdict(order: Candidate, now: Situation) -> Result<(), Refusal> {
        Risk::new(limits()).check(&order, &now, 0)
    }

    #[test]
    fn each_limit_refuses_one_past_it() {
        let now = situation();
        assert_eq!(verdict(buy(500, 1_000_000), now), Ok(()));
        assert_eq!(verdict(buy(501, 1_000_000), now), Err(Refusal::Notional));
        assert_eq!(verdict(buy(0, 1_000_000), now), Err(Refusal::Shares));
        assert_eq!(verdict(buy(1_001, 1_000_000), now), Err(Refusal::Shares));
        assert_eq!(verdict(buy(1, 1_010_000), now), Ok(()));
        assert_eq!(verdict(buy(1, 1_010_001), now), Err(Refusal::Collar));
        assert_eq!(verdict(buy(1, 989_999), now), Err(Refusal::Collar));
        assert_eq!(verdict(buy(1, 1), Situation { trading: false, ..now }), Err(Refusal::Halted));
        assert_eq!(
            verdict(buy(1, 1), Situation { bbo: Bbo::default(), ..now }),
            Err(Refusal::NoReference)
        );
        assert_eq!(
            verdict(buy(1, 1_000_000), Situation { open_orders: 2, ..now }),
            Err(Refusal::OpenOrders)
        );
    }

    #[test]
    fn working_orders_count_as_filled_on_their_side_only() {
        let mut now = situation();
        now.position = Position { shares: 100, working_buy: 300, working_sell: 50, cash: 0 };
        assert_eq!(verdict(buy(100, 1_000_000), now), Ok(()));
        assert_eq!(verdict(buy(101, 990_000), now), Err(Refusal::Position));
        let sell = Candidate { side: Side::Sell, ..buy(500, 1_000_000) };
        assert_eq!(verdict(sell, now), Ok(()));
        let replace = Candidate { replaces: 300, shares: 400, is_new: false, ..buy(0, 1_000_000) };
        assert_eq!(verdict(replace, now), Ok(()));
    }

    #[test]
    fn a_second_refills_the_rate() {
        let (mut risk, now) = (Risk::new(limits()), situation());
        let mut send = |at| risk.check(&buy(1, 1_000_000), &now, at);
        for _ in 0..4 {
            assert_eq!(send(0), Ok(()));
        }
        assert_eq!(send(0), Err(Refusal::Rate));
        assert_eq!(send(250_000_000), Ok(()));
        assert_eq!(send(250_000_001), Err(Refusal::Rate));
    }
}
