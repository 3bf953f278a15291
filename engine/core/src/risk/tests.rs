//! Each limit passes at its value and refuses one past it.

use super::*;
use crate::book::Quote;
use crate::orders::OwnOrder;
use crate::trading_status::TradingState;
use abi::journal::Refusal as R;

const ID: InstrumentId = InstrumentId(0);

const OLD: Replaced = Replaced { user_ref: 1, ..NOTHING };

fn limits() -> RiskLimits {
    RiskLimits {
        order_shares_max: 1_000,
        lot_shares: 1,
        order_notional_max: 50_000,
        price_collar_bps: 100,
        position_shares_max: 500,
        orders_open_max: 2,
        gross_notional_max: 1 << 30,
        net_notional_max: 1 << 30,
        messages_per_second_max: 4,
        duplicate_window_ns: 1_000,
        feed_age_max_ns: 1_000_000,
        rejects_in_a_row_max: 3,
        loss_max: 1_000,
    }
}

/// A world in which an order for up to 500 shares at 100.00 passes.
struct World {
    limits: RiskLimits,
    status: Status,
    bbo: Bbo,
    orders: Orders,
    heard: u64,
    restricted: bool,
}

impl World {
    fn new() -> Self {
        let quote = |price| Some(Quote { price: Price(price), shares: 100 });
        Self {
            limits: limits(),
            status: Status::in_state(TradingState::Trading),
            bbo: Bbo { bid: quote(999_900), ask: quote(1_000_100) },
            orders: Orders::new(1),
            heard: 0,
            restricted: false,
        }
    }

    fn risk(&self) -> Risk {
        Risk::new(self.limits, vec![self.restricted])
    }

    fn situation(&self) -> Situation<'_> {
        Situation::new(ID, self.bbo, &self.status, &self.orders, self.heard)
    }

    fn verdict(&self, order: Candidate) -> Result<(), R> {
        self.risk().check(&order, &self.situation(), 0)
    }

    fn rest(&mut self, user_ref: u32, side: Side, price: u32, shares: u32) {
        self.orders.insert(OwnOrder::new(user_ref, ID, side, Price(price), shares));
    }

    /// Buys, or sells if negative.
    fn trade(&mut self, shares: i64, price: u32) {
        let side = if shares > 0 { Side::Buy } else { Side::Sell };
        let order = OwnOrder::new(99, ID, side, Price(price), 1);
        self.orders.book(&order, shares.unsigned_abs() as u32, price.into(), 1);
    }
}

fn order(side: Side, shares: u32, price: u32) -> Candidate {
    Candidate { instrument: ID, side, price: Price(price), shares, replaces: None }
}

fn buy(shares: u32, price: u32) -> Candidate {
    order(Side::Buy, shares, price)
}

#[test]
fn an_orders_own_limits() {
    let world = World::new();
    assert_eq!(world.verdict(buy(500, 1_000_000)), Ok(()));
    assert_eq!(world.verdict(buy(501, 1_000_000)), Err(R::Notional));
    assert_eq!(world.verdict(buy(0, 1_000_000)), Err(R::Shares));
    assert_eq!(world.verdict(buy(1_001, 1_000_000)), Err(R::Shares));
    assert_eq!(world.verdict(buy(1, 1_010_000)), Ok(()));
    assert_eq!(world.verdict(buy(1, 1_010_100)), Err(R::Collar));
    assert_eq!(world.verdict(buy(1, 989_900)), Err(R::Collar));
    assert_eq!(world.verdict(buy(1, 1_000_050)), Err(R::Tick));
    let world = World { limits: RiskLimits { lot_shares: 100, ..limits() }, ..World::new() };
    assert_eq!(world.verdict(buy(300, 1_000_000)), Ok(()));
    assert_eq!(world.verdict(buy(250, 1_000_000)), Err(R::Lot));
}

#[test]
fn below_a_dollar_a_tick_is_a_hundredth_of_a_cent() {
    let quote = |price| Some(Quote { price: Price(price), shares: 100 });
    let bbo = Bbo { bid: quote(5_000), ask: quote(5_010) };
    let world = World { bbo, ..World::new() };
    assert_eq!(world.verdict(buy(1, 5_007)), Ok(()));
}

#[test]
fn the_market_must_be_there() {
    let halted = Status::default();
    let mut unsound = World::new().status;
    unsound.mark_unsound();
    let crossed = Bbo { bid: World::new().bbo.ask, ask: World::new().bbo.bid };
    let order = buy(1, 1_000_000);
    let verdict = |world: World| world.verdict(order);
    assert_eq!(verdict(World { status: halted, ..World::new() }), Err(R::Halted));
    assert_eq!(verdict(World { status: unsound, ..World::new() }), Err(R::Unsound));
    assert_eq!(verdict(World { bbo: Bbo::default(), ..World::new() }), Err(R::NoReference));
    assert_eq!(verdict(World { bbo: crossed, ..World::new() }), Err(R::NoReference));
    assert_eq!(verdict(World { restricted: true, ..World::new() }), Err(R::Restricted));
    let world = World::new();
    let at = |now| world.risk().check(&order, &world.situation(), now);
    assert_eq!((at(1_000_000), at(1_000_001)), (Ok(()), Err(R::Stale)));
}

#[test]
fn working_orders_count_as_filled_on_their_side_only() {
    let mut world = World::new();
    world.trade(100, 1_000_000);
    world.rest(1, Side::Buy, 999_900, 300);
    assert_eq!(world.verdict(buy(100, 1_000_000)), Ok(()));
    assert_eq!(world.verdict(buy(101, 1_000_000)), Err(R::Position));
    assert_eq!(world.verdict(order(Side::Sell, 500, 1_000_000)), Ok(()));
    let old = Replaced { shares: 300, price: Price(999_900), ..OLD };
    let replace = |shares| Candidate { replaces: Some(old), ..buy(shares, 1_000_000) };
    assert_eq!(world.verdict(replace(400)), Ok(()));
    assert_eq!(world.verdict(replace(401)), Err(R::Position));
    world.rest(2, Side::Buy, 999_800, 1);
    assert_eq!(world.verdict(buy(1, 1_000_000)), Err(R::OpenOrders));
    assert_eq!(world.verdict(replace(300)), Ok(()));
}

#[test]
fn exposure_is_gross_with_everything_working_and_net_with_the_order() {
    let mut world = World::new();
    (world.limits.gross_notional_max, world.limits.net_notional_max) = (50_000, 30_000);
    world.trade(-200, 1_000_000);
    world.rest(1, Side::Sell, 1_000_100, 100);
    // 20,000 short and 10,001 working leave 19,999 gross.
    assert_eq!(world.verdict(buy(200, 1_000_000)), Ok(()), "it closes the position");
    assert_eq!(world.verdict(buy(201, 1_000_000)), Err(R::Gross));
    assert_eq!(world.verdict(order(Side::Sell, 100, 1_000_000)), Ok(()));
    assert_eq!(world.verdict(order(Side::Sell, 101, 1_000_000)), Err(R::Net));
    let old = Replaced { shares: 100, price: Price(1_000_100), ..OLD };
    let replace = Candidate { replaces: Some(old), ..order(Side::Sell, 99, 1_000_000) };
    assert_eq!(world.verdict(replace), Ok(()));
}

#[test]
fn orders_of_any_size_are_added_up() {
    let mut world = World::new();
    world.limits.orders_open_max = 64;
    // An exchange that answers nonsense can have us keep such orders.
    (1..=3).for_each(|user_ref| world.rest(user_ref, Side::Buy, u32::MAX, u32::MAX));
    assert_eq!(world.verdict(buy(1, 1_000_000)), Err(R::Position));
    assert_eq!(world.verdict(order(Side::Sell, 1, 1_000_000)), Err(R::SelfTrade));
    let mut world = World { limits: world.limits, ..World::new() };
    (1..=3).for_each(|user_ref| world.rest(user_ref, Side::Sell, u32::MAX, u32::MAX));
    assert_eq!(world.verdict(buy(1, 1_000_000)), Err(R::Gross));
}

#[test]
fn our_own_orders_are_not_traded_with() {
    let mut world = World::new();
    world.rest(1, Side::Sell, 1_000_000, 100);
    assert_eq!(world.verdict(buy(1, 999_900)), Ok(()));
    assert_eq!(world.verdict(buy(1, 1_000_000)), Err(R::SelfTrade));
    assert_eq!(world.verdict(order(Side::Sell, 1, 999_900)), Ok(()));
}

#[test]
fn a_restricted_short_sale_needs_a_price_above_the_bid() {
    let mut world = World::new();
    world.status.short_sale = ShortSale::RestrictedToday;
    assert_eq!(world.verdict(order(Side::Sell, 1, 999_900)), Err(R::ShortSale));
    assert_eq!(world.verdict(order(Side::Sell, 1, 1_000_000)), Ok(()));
    world.trade(100, 1_000_000);
    assert_eq!(world.verdict(order(Side::Sell, 100, 999_900)), Ok(()));
    assert_eq!(world.verdict(order(Side::Sell, 101, 999_900)), Err(R::ShortSale));
}

#[test]
fn the_same_order_waits_and_a_second_refills_the_rate() {
    let world =
        World { limits: RiskLimits { feed_age_max_ns: 1 << 40, ..limits() }, ..World::new() };
    let mut risk = world.risk();
    let mut send = |shares, at| risk.check(&buy(shares, 1_000_000), &world.situation(), at);
    assert_eq!(send(1, 0), Ok(()));
    assert_eq!(send(1, 999), Err(R::Duplicate));
    assert_eq!(send(1, 1_000), Ok(()));
    assert_eq!((send(2, 1_000), send(3, 1_000)), (Ok(()), Ok(())));
    assert_eq!(send(4, 1_000), Err(R::Rate));
    assert_eq!(send(4, 999_999_999), Err(R::Rate), "four within this second");
    assert_eq!((send(4, 1_000_000_000), send(5, 1_000_000_999)), (Ok(()), Err(R::Rate)));
}

#[test]
fn a_replacement_keeps_to_the_exchanges_quantity_and_to_its_mark() {
    let limits = RiskLimits {
        order_shares_max: 999_999,
        order_notional_max: 1 << 40,
        position_shares_max: 1 << 30,
        gross_notional_max: 1 << 40,
        net_notional_max: 1 << 40,
        ..limits()
    };
    let mut world = World { limits, ..World::new() };
    let replace =
        |side, shares, old| Candidate { replaces: Some(old), ..order(side, shares, 1_000_000) };
    let old = Replaced { shares: 1, price: Price(1_000_000), executed: 499_999, ..OLD };
    assert_eq!(world.verdict(replace(Side::Buy, 500_000, old)), Ok(()));
    assert_eq!(world.verdict(replace(Side::Buy, 500_001, old)), Err(R::Shares));
    world.trade(100, 1_000_000);
    world.rest(1, Side::Sell, 1_000_100, 100);
    let old = Replaced { shares: 100, price: Price(1_000_100), is_long_sale: true, ..OLD };
    assert_eq!(world.verdict(replace(Side::Sell, 100, old)), Ok(()));
    assert_eq!(world.verdict(replace(Side::Sell, 101, old)), Err(R::ShortSale));
    let short = Replaced { is_long_sale: false, ..old };
    assert_eq!(world.verdict(replace(Side::Sell, 101, short)), Ok(()));
}

#[test]
fn a_sale_is_worth_what_it_can_trade_at_and_zero_is_no_price() {
    let limits = RiskLimits { price_collar_bps: 9_999, order_notional_max: 99, ..limits() };
    let world = World { limits, ..World::new() };
    assert_eq!(world.verdict(order(Side::Sell, 1, 500_000)), Err(R::Notional), "the bid is 99.99");
    assert_eq!(world.verdict(buy(1, 500_000)), Ok(()));
    assert_eq!(world.verdict(buy(1, 0)), Err(R::Collar));
    let wide = RiskLimits { price_collar_bps: 10_000, ..limits };
    assert!(wide.check().is_err(), "a collar of 100 % is none");
}

#[test]
fn rejects_in_a_row_and_losses_stop() {
    let mut risk = World::new().risk();
    assert!(!risk.note_reject() && !risk.note_reject());
    risk.note_accept();
    assert!(!risk.note_reject() && !risk.note_reject() && risk.note_reject());
    assert!(!risk.is_lost(-9_999_999) && risk.is_lost(-10_000_000) && !risk.is_lost(10_000_000));
}
