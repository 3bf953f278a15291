//! Pre-trade risk checks that every order must pass before it is sent (SEC Rule 15c3-5, and what
//! trading firms add). Decides; counts and sends nothing. Cancels always pass.

use crate::book::Bbo;
use crate::ladder::{CENTS_MAX, cents};
use crate::market::InstrumentId;
use crate::orders::candidate::{Candidate, Replaced};
use crate::orders::{InstrumentExposure, Orders};
use crate::risk::rate::RateWindow;
use crate::settings::RiskLimits;
use crate::trading_status::{ShortSale, Status};
use abi::field::{Price, Side};
use abi::journal::Refusal;

/// Market, orders and feed age that the limits are checked against.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    bbo: Bbo,
    status: &'a Status,
    orders: &'a Orders,
    own: &'a InstrumentExposure,
    feed_heard_at: u64,
}

impl<'a> Situation<'a> {
    /// The situation of an instrument: its touch, what the exchange says about it, our orders and
    /// positions, and when the feed was last heard, 0 for never.
    #[inline(always)]
    pub fn new(
        instrument: InstrumentId,
        bbo: Bbo,
        status: &'a Status,
        orders: &'a Orders,
        feed_heard_at: u64,
    ) -> Self {
        Self { bbo, status, orders, own: orders.own(instrument), feed_heard_at }
    }
}

/// The last new order of an instrument, to tell a repetition. Starts with 0 shares, which matches
/// no order that reaches this check.
#[derive(Debug, Clone, Copy)]
struct Last {
    side: Side,
    price: Price,
    shares: u32,
    at: u64,
}

impl Last {
    fn is_for_the_same(&self, order: &Candidate) -> bool {
        (self.side, self.price, self.shares) == (order.side, order.price, order.shares)
    }
}

const NO_ORDER: Last = Last { side: Side::Buy, price: Price(0), shares: 0, at: 0 };

/// Of a restricted instrument: the fast path takes each new order for a repetition.
const NEVER: Last = Last { at: u64::MAX / 2, ..NO_ORDER };

/// Risk state of an instrument: its restriction and last new order.
#[derive(Debug, Clone, Copy)]
struct InstrumentRisk {
    is_restricted: bool,
    last: Last,
}

/// Limits converted to the units that are compared.
#[derive(Debug, Clone, Copy)]
struct Derived {
    /// `order_notional_max`, `gross_notional_max`, `net_notional_max` in 1/10,000.
    order_money_max: u64,
    gross_money_max: u64,
    net_money_max: u64,
    /// 2^64 / `lot_shares`, rounded up, modulo 2^64. Its product with a multiple of the lot is less
    /// than it, and with any other number of shares not (Lemire, Kaser, Kurz: Faster remainder by
    /// direct computation, 2019, section 3.2).
    lot_inverse: u64,
    /// `lot_inverse` less one: the largest product of a multiple of the lot with the inverse.
    lot_product_max: u64,
    /// Limits as wide as what they are compared with.
    collar_bps: u64,
    position_max: i64,
    open_max: usize,
    rate_max: usize,
}

impl Derived {
    fn of(limits: &RiskLimits) -> Self {
        let inverse = (u64::MAX / u64::from(limits.lot_shares)).wrapping_add(1);
        Self {
            order_money_max: money(limits.order_notional_max),
            gross_money_max: money(limits.gross_notional_max),
            net_money_max: money(limits.net_notional_max),
            lot_inverse: inverse,
            lot_product_max: inverse.wrapping_sub(1),
            collar_bps: limits.price_collar_bps.into(),
            position_max: limits.position_shares_max.into(),
            open_max: limits.orders_open_max as usize,
            rate_max: limits.messages_per_second_max as usize,
        }
    }

    #[inline(always)]
    fn is_whole_lots(&self, shares: u32) -> bool {
        u64::from(shares).wrapping_mul(self.lot_inverse) <= self.lot_product_max
    }
}

/// The checks, with the state that rate and repetition need.
pub struct Risk {
    limits: RiskLimits,
    derived: Derived,
    kept: Box<[InstrumentRisk]>,
    rate: RateWindow,
    rejects_in_a_row: u32,
}

/// The least price of which a quote must be a whole number of cents (Reg NMS rule 612).
const DOLLAR: u32 = Price::SCALE;

const NOTHING: Replaced =
    Replaced { user_ref: 0, shares: 0, price: Price(0), executed: 0, is_long_sale: false };

/// The most shares of an order with what it has executed (OUCH 5.0: fewer than 1,000,000).
const QUANTITY_MAX: u32 = 999_999;

/// Shares and money of one order, and of the one that it replaces: of both, only one can trade.
#[derive(Clone, Copy)]
struct Size {
    /// Shares by which it adds to what works.
    added_shares: u64,
    /// Value at its limit; of a sale at the bid, if that is higher: a sale trades at its limit or
    /// better.
    value: u64,
    /// The value of the replaced order, which is counted as working already.
    counted: u64,
}

impl Size {
    #[inline(always)]
    fn of<const BUY: bool, const NEW: bool, const PLAIN: bool>(
        order: &Candidate,
        old: Replaced,
        bbo: Bbo,
    ) -> Self {
        let (added_shares, counted) = if NEW {
            (order.shares, 0)
        } else {
            (order.shares.saturating_sub(old.shares), notional(old.price, old.shares))
        };
        // The fast path passes no sale below the bid.
        let bid = if BUY || PLAIN { None } else { bbo.bid };
        let price = bid.map_or(order.price, |bid| bid.price.max(order.price));
        let value = notional(price, order.shares);
        Self { added_shares: added_shares.into(), value, counted }
    }
}

// No sum here overflows. An order of ours has fewer than 2^20 shares (`settings`), at less than
// 2^32 each; there are 2^32 order numbers, so that no position passes 2^52 shares; `Exposure` is
// bounded.
impl Risk {
    /// Checks against `limits`; `restricted` instruments are not traded at all.
    pub fn new(limits: RiskLimits, restricted: Vec<bool>) -> Self {
        let keep = |is_restricted| {
            let last = if is_restricted { NEVER } else { NO_ORDER };
            InstrumentRisk { is_restricted, last }
        };
        Self {
            limits,
            derived: Derived::of(&limits),
            kept: restricted.into_iter().map(keep).collect(),
            rate: RateWindow::new(limits.messages_per_second_max as usize),
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
        self.derived = Derived::of(&limits);
        self.rate.make_room(self.derived.rate_max);
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
        let plainly = match (order.side, order.replaces.is_some()) {
            (Side::Buy, false) => self.check_sided::<true, true, true>(order, now, now_ns),
            (Side::Sell, false) => self.check_sided::<false, true, true>(order, now, now_ns),
            (Side::Buy, true) => self.check_sided::<true, false, true>(order, now, now_ns),
            (Side::Sell, true) => self.check_sided::<false, false, true>(order, now, now_ns),
        };
        plainly.or_else(|_| self.check_unusual(order, now, now_ns))
    }

    #[cold]
    #[inline(never)]
    fn check_unusual(
        &mut self,
        order: &Candidate,
        now: &Situation<'_>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        match (order.side, order.replaces.is_some()) {
            (Side::Buy, false) => self.check_sided::<true, true, false>(order, now, now_ns),
            (Side::Sell, false) => self.check_sided::<false, true, false>(order, now, now_ns),
            (Side::Buy, true) => self.check_sided::<true, false, false>(order, now, now_ns),
            (Side::Sell, true) => self.check_sided::<false, false, false>(order, now, now_ns),
        }
    }

    /// All checks, for a side and for new orders (`NEW`) or replacements, so that none has to ask
    /// which. `PLAIN` is the fast path, which calls nothing and so keeps everything in registers:
    /// it may refuse too much and then runs again with `PLAIN = false`, which decides.
    #[inline(always)]
    fn check_sided<const BUY: bool, const NEW: bool, const PLAIN: bool>(
        &mut self,
        order: &Candidate,
        now: &Situation<'_>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let Self { limits, derived, kept, rate, .. } = self;
        let old = if NEW { NOTHING } else { order.replaces.unwrap_or(NOTHING) };
        let kept = &mut kept[usize::from(order.instrument.0)];
        let own = now.own;
        let size = Size::of::<BUY, NEW, PLAIN>(order, old, now.bbo);

        check_market::<NEW, PLAIN>(kept, now, now_ns, limits)?;
        check_order::<PLAIN>(order, old, size, limits, derived)?;
        check_price::<BUY, PLAIN>(order.price, now.bbo, derived)?;
        check_others::<BUY, PLAIN>(order, old, size, now)?;
        if NEW
            && now_ns < kept.last.at + limits.duplicate_window_ns
            && (PLAIN || kept.last.is_for_the_same(order))
        {
            return Err(Refusal::Duplicate);
        }
        if own.held::<BUY>() + (own.working::<BUY>() + size.added_shares) as i64
            > derived.position_max
        {
            return Err(Refusal::Position);
        }
        if NEW && now.orders.open_count() >= derived.open_max {
            return Err(Refusal::OpenOrders);
        }
        check_exposure::<BUY, PLAIN>(size, now, derived)?;
        if !rate.has_room(derived.rate_max, now_ns) {
            return Err(Refusal::Rate);
        }
        rate.add(now_ns);
        if NEW {
            let (side, price, shares) = (order.side, order.price, order.shares);
            kept.last = Last { side, price, shares, at: now_ns };
        }
        Ok(())
    }

    /// Counts a message that was sent: a cancel is never refused, but it counts.
    pub fn spend(&mut self, now_ns: u64) {
        self.rate.add(now_ns);
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
fn check_market<const NEW: bool, const PLAIN: bool>(
    kept: &InstrumentRisk,
    now: &Situation<'_>,
    now_ns: u64,
    limits: &RiskLimits,
) -> Result<(), Refusal> {
    if !(NEW && PLAIN) && kept.is_restricted {
        return Err(Refusal::Restricted);
    }
    if !now.status.may_be_traded() {
        return Err(if now.status.is_trading() { Refusal::Unsound } else { Refusal::Halted });
    }
    if now_ns > now.feed_heard_at + limits.feed_age_max_ns {
        return Err(Refusal::Stale);
    }
    Ok(())
}

#[inline(always)]
fn check_order<const PLAIN: bool>(
    order: &Candidate,
    old: Replaced,
    size: Size,
    limits: &RiskLimits,
    derived: &Derived,
) -> Result<(), Refusal> {
    if order.shares == 0 || order.shares > limits.order_shares_max {
        return Err(Refusal::Shares);
    }
    if old.executed > 0 && order.shares.saturating_add(old.executed) > QUANTITY_MAX {
        return Err(Refusal::Shares);
    }
    if !derived.is_whole_lots(order.shares) {
        return Err(Refusal::Lot);
    }
    if cents(order.price) > CENTS_MAX && (PLAIN || order.price.0 >= DOLLAR) {
        return Err(Refusal::Tick);
    }
    if size.value > derived.order_money_max {
        return Err(Refusal::Notional);
    }
    Ok(())
}

#[inline(always)]
fn check_price<const BUY: bool, const PLAIN: bool>(
    price: Price,
    bbo: Bbo,
    derived: &Derived,
) -> Result<(), Refusal> {
    let Some(bid) = bbo.bid else { return Err(Refusal::NoReference) };
    let Some(ask) = bbo.ask else { return Err(Refusal::NoReference) };
    if bid.price >= ask.price || PLAIN && !BUY && price < bid.price {
        return Err(Refusal::NoReference);
    }
    let mid_doubled = u64::from(bid.price.0) + u64::from(ask.price.0);
    let distance_doubled = mid_doubled.abs_diff(u64::from(price.0) * 2);
    // A price of 0 is 100 % away, and no collar is as wide.
    if distance_doubled * 10_000 > mid_doubled * derived.collar_bps {
        return Err(Refusal::Collar);
    }
    Ok(())
}

/// Checks an order against our other orders in the instrument: refuses a self-trade, a short sale
/// at or below the bid, and the replacement of a sale marked long by one that would be short, since
/// a replacement keeps the mark (Reg SHO rule 200).
#[inline(always)]
fn check_others<const BUY: bool, const PLAIN: bool>(
    order: &Candidate,
    old: Replaced,
    size: Size,
    now: &Situation<'_>,
) -> Result<(), Refusal> {
    if now.own.may_meet::<BUY>(order.price) && (PLAIN || now.orders.meets(order)) {
        return Err(Refusal::SelfTrade);
    }
    if !BUY && (old.is_long_sale || now.status.short_sale != ShortSale::Free) {
        let position = &now.own.position;
        let short = position.shares < (position.working_sell + size.added_shares) as i64;
        if old.is_long_sale && short {
            return Err(Refusal::ShortSale);
        }
        let is_free = now.status.short_sale == ShortSale::Free;
        if !is_free && PLAIN
            || !is_free && short && now.bbo.bid.is_none_or(|bid| order.price <= bid.price)
        {
            return Err(Refusal::ShortSale);
        }
    }
    Ok(())
}

/// Every working order counts as filled at its price; a short position counts as much as a long
/// one. What can only make a position smaller is never refused for it, nor what brings the net
/// nearer to zero.
#[inline(always)]
fn check_exposure<const BUY: bool, const PLAIN: bool>(
    size: Size,
    now: &Situation<'_>,
    derived: &Derived,
) -> Result<(), Refusal> {
    let exposure = now.orders.exposure();
    // The order and the one it replaces can't both trade: the larger of the two counts.
    let added = size.value.saturating_sub(size.counted);
    if exposure.gross + exposure.working + added > derived.gross_money_max
        && (PLAIN || !is_closing::<BUY>(size, now.own))
    {
        return Err(Refusal::Gross);
    }
    let value = if BUY { size.value as i64 } else { -(size.value as i64) };
    let net = (exposure.net + value).unsigned_abs();
    if net > derived.net_money_max && (PLAIN || net > exposure.net.unsigned_abs()) {
        return Err(Refusal::Net);
    }
    Ok(())
}

/// Whether the order, filled with all that works on its side, leaves no more than the position was.
fn is_closing<const BUY: bool>(size: Size, own: &InstrumentExposure) -> bool {
    let held = own.held::<BUY>();
    held < 0 && held.unsigned_abs() >= own.working::<BUY>() + size.added_shares
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

mod rate;
#[cfg(test)]
mod tests;
