//! The risk model and the world that it judges: a market that the test makes, an exchange that
//! answers at random, a strategy that asks for anything. Sums are taken anew for every order.

mod world;

use abi::field::{Price, Side};
use engine_core::market::InstrumentId;
use engine_core::settings::RiskLimits;
use engine_core::strategy::Intent;
use std::collections::BTreeMap;

pub use world::{run, stop_and_resume};

/// Result of a run: orders sent, refusals by rule, and the disagreement that ended it, if any.
pub struct Outcome {
    pub sent: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub disagreement: Option<String>,
}

/// An order that may still trade.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub instrument: usize,
    pub side: Side,
    pub price: u64,
    pub open: u64,
    pub executed: u64,
    pub settled: bool,
    /// A cancel is on its way.
    pub cancelling: bool,
    /// A sale that was marked long.
    pub long_sale: bool,
    /// Number, price and shares, those executed before included, of a replacement on its way.
    pub next: Option<(u32, u64, u64)>,
}

impl Order {
    /// An order that was just sent.
    pub fn new(
        instrument: InstrumentId,
        side: Side,
        price: Price,
        shares: u32,
        long_sale: bool,
    ) -> Self {
        Self {
            instrument: usize::from(instrument.0),
            side,
            price: price.0.into(),
            open: shares.into(),
            executed: 0,
            settled: false,
            cancelling: false,
            long_sale,
            next: None,
        }
    }

    fn shares(&self) -> u64 {
        self.next
            .map_or(self.open, |(_, _, shares)| self.open.max(shares.saturating_sub(self.executed)))
    }

    fn prices(&self) -> impl Iterator<Item = u64> {
        [Some(self.price), self.next.map(|(_, price, _)| price)].into_iter().flatten()
    }
}

/// The market as the test made it.
#[derive(Debug, Clone, Copy)]
pub struct Listing {
    pub bid: u64,
    pub ask: u64,
    pub trading: bool,
    pub short_restricted: bool,
    pub restricted: bool,
}

/// All that the model knows.
pub struct Model {
    pub limits: RiskLimits,
    pub listings: Vec<Listing>,
    pub orders: BTreeMap<u32, Order>,
    pub shares: Vec<i128>,
    pub marks: Vec<i128>,
    pub feed_heard_at: u64,
    /// Times at which messages were sent, those of the last second.
    spent: Vec<u64>,
    last: Vec<Option<(Side, u64, u64, u64)>>,
    /// Whether the last order that was looked at sells more than is held.
    pub short: bool,
}

impl Model {
    pub fn new(limits: RiskLimits, listings: Vec<Listing>) -> Self {
        let count = listings.len();
        Self {
            limits,
            listings,
            orders: BTreeMap::new(),
            shares: vec![0; count],
            marks: vec![0; count],
            feed_heard_at: 0,
            spent: Vec::new(),
            last: vec![None; count],
            short: false,
        }
    }

    /// Every rule that an order breaks; none if it may leave.
    pub fn check(&mut self, intent: &Intent, now: u64) -> Vec<&'static str> {
        let (id, side, price, shares, replaced) = match *intent {
            Intent::Enter { instrument, side, price, shares } => {
                (usize::from(instrument.0), side, u64::from(price.0), u64::from(shares), None)
            }
            Intent::Replace { user_ref, price, shares } => {
                let order = self.orders[&user_ref];
                let (price, shares) = (u64::from(price.0), u64::from(shares));
                (order.instrument, order.side, price, shares, Some((user_ref, order)))
            }
            Intent::Cancel { .. } => return Vec::new(),
        };
        let listing = self.listings[id];
        self.marks[id] = i128::from((listing.bid + listing.ask) / 2);
        let mut broken = Vec::new();
        let mut rule = |name, is_broken: bool| {
            if is_broken {
                broken.push(name)
            }
        };
        let limits = &self.limits;
        rule("restricted", listing.restricted);
        rule("halted", !listing.trading);
        rule("stale", now - self.feed_heard_at > limits.feed_age_max_ns);
        rule("shares", shares < 1 || shares > u64::from(limits.order_shares_max));
        rule("lot", shares % u64::from(limits.lot_shares) != 0);
        rule("tick", price >= 10_000 && price % 100 != 0);
        let worth = if side == Side::Sell { price.max(listing.bid) } else { price };
        rule("notional", worth * shares > limits.order_notional_max * 10_000);
        let middle = listing.bid + listing.ask;
        let far = (2 * price).abs_diff(middle) * 10_000;
        rule("collar", price == 0 || far > middle * u64::from(limits.price_collar_bps));
        let others = || self.orders.values().filter(|order| order.instrument == id);
        let crosses = |other: &Order| match side {
            Side::Buy => other.side == Side::Sell && other.prices().any(|at| price >= at),
            Side::Sell => other.side == Side::Buy && other.prices().any(|at| price <= at),
        };
        rule("self-trade", others().any(crosses));
        let before = replaced.map_or(0, |(_, order)| order.open);
        let working: i128 = others()
            .filter(|order| order.side == side)
            .map(|order| i128::from(order.shares()))
            .sum();
        let worst_working = working + i128::from(shares.saturating_sub(before));
        let short = side == Side::Sell && self.shares[id] < worst_working;
        let marked_long = replaced.is_some_and(|(_, order)| order.long_sale);
        let restricted = listing.short_restricted && price <= listing.bid;
        rule("short-sale", short && (marked_long || restricted));
        self.short = short;
        let again = |last: (Side, u64, u64, u64)| {
            (last.0, last.1, last.2) == (side, price, shares)
                && now - last.3 < limits.duplicate_window_ns
        };
        rule("duplicate", replaced.is_none() && self.last[id].is_some_and(again));
        let held = if side == Side::Buy { self.shares[id] } else { -self.shares[id] };
        rule("position", held + worst_working > i128::from(limits.position_shares_max));
        let count = self.orders.len() as u64;
        rule("open-orders", replaced.is_none() && count >= u64::from(limits.orders_open_max));
        let (gross, net) = self.exposures(side, worth * shares, replaced);
        // Towards zero, and not past it.
        let closing = held + worst_working <= 0;
        rule("gross", gross && !closing);
        rule("net", net);
        if broken.is_empty() && !self.has_rate(now) {
            broken.push("rate");
        }
        if broken.is_empty() {
            self.spend(now);
            self.last[id] =
                Some((side, price, shares, now)).filter(|_| replaced.is_none()).or(self.last[id]);
        }
        broken
    }

    /// Whether an order of a value would pass the gross and the net limit.
    fn exposures(
        &self,
        side: Side,
        order_value: u64,
        replaced: Option<(u32, Order)>,
    ) -> (bool, bool) {
        let limits = &self.limits;
        let value = |order: &Order| {
            i128::from(order.prices().max().unwrap_or(0)) * i128::from(order.shares())
        };
        let is_other = |(number, _): &(&u32, &Order)| Some(**number) != replaced.map(|(n, _)| n);
        let all: i128 = self.orders.iter().filter(is_other).map(|(_, order)| value(order)).sum();
        let own = i128::from(order_value).max(replaced.map_or(0, |(_, order)| value(&order)));
        let positions = self.shares.iter().zip(&self.marks).map(|(shares, mark)| shares * mark);
        let gross: i128 = positions.clone().map(i128::abs).sum();
        let net: i128 = positions.sum();
        let signed = i128::from(order_value) * if side == Side::Buy { 1 } else { -1 };
        let after = (net + signed).abs();
        let net_max = i128::from(limits.net_notional_max) * 10_000;
        let too_gross = gross + all + own > i128::from(limits.gross_notional_max) * 10_000;
        (too_gross, after > net.abs() && after > net_max)
    }

    /// Whether the last second leaves room for one message more.
    fn has_rate(&mut self, now: u64) -> bool {
        self.spent.retain(|sent| now - sent < 1_000_000_000);
        self.spent.len() < self.limits.messages_per_second_max as usize
    }

    /// A message was sent.
    pub fn spend(&mut self, now: u64) {
        self.spent.push(now);
    }

    /// Shares of an order traded.
    pub fn execute(&mut self, number: u32, shares: u64, price: Price) {
        let order = self.orders.get_mut(&number).expect("the exchange fills known orders");
        order.open -= shares;
        order.executed += shares;
        let signed = i128::from(shares) * if order.side == Side::Buy { 1 } else { -1 };
        self.shares[order.instrument] += signed;
        self.marks[order.instrument] = i128::from(price.0);
        if order.open == 0 {
            self.orders.remove(&number);
        }
    }
}
