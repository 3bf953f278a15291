//! Price-time matching: the best price first, at one price the oldest order first. Pure: orders in,
//! events out.

use crate::market::{DayTime, Event, NewOrder, OrderRef};
use abi::field::{Price, Side, Symbol, Time48};
use abi::itch::{AddOrder, Message, OrderCancel, OrderDelete, OrderExecuted, OrderReplace};
use std::collections::{BTreeMap, HashMap, VecDeque};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Resting {
    side: Side,
    price: Price,
    shares: u32,
    /// Whether an account is told of its fills.
    owned: bool,
}

/// The book of one symbol.
#[derive(Debug)]
pub struct MatchingBook {
    symbol: Symbol,
    locate: u16,
    bids: BTreeMap<Price, VecDeque<OrderRef>>,
    asks: BTreeMap<Price, VecDeque<OrderRef>>,
    orders: HashMap<OrderRef, Resting>,
}

/// Numbers that are unique over all books of an exchange.
#[derive(Debug, Default)]
pub struct Numbers {
    order_ref: OrderRef,
    match_number: u64,
}

impl Numbers {
    fn order_ref(&mut self) -> OrderRef {
        self.order_ref += 1;
        self.order_ref
    }

    fn match_number(&mut self) -> u64 {
        self.match_number += 1;
        self.match_number
    }
}

/// The feed's time stamp of a moment. A day has fewer nanoseconds than 2^48.
pub fn stamp(now: DayTime) -> Time48 {
    Time48::new(now & ((1 << 48) - 1)).expect("masked to 48 bits")
}

impl MatchingBook {
    /// An empty book.
    pub fn new(symbol: Symbol, locate: u16) -> Self {
        Self {
            symbol,
            locate,
            bids: BTreeMap::new(),
            asks: BTreeMap::new(),
            orders: HashMap::new(),
        }
    }

    /// Returns the symbol of this book.
    pub fn symbol(&self) -> Symbol {
        self.symbol
    }

    /// Whether the order rests here.
    pub fn holds(&self, order_ref: OrderRef) -> bool {
        self.orders.contains_key(&order_ref)
    }

    /// Shares of a resting order; 0 if it does not rest.
    pub fn shares_of(&self, order_ref: OrderRef) -> u32 {
        self.orders.get(&order_ref).map_or(0, |order| order.shares)
    }

    /// Best price of a side.
    pub fn best(&self, side: Side) -> Option<Price> {
        match side {
            Side::Buy => self.bids.keys().next_back().copied(),
            Side::Sell => self.asks.keys().next().copied(),
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut BTreeMap<Price, VecDeque<OrderRef>> {
        match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        }
    }

    /// Matches an order and lets the rest of it rest if it may. Returns its number.
    pub fn enter(
        &mut self,
        order: &NewOrder,
        owned: bool,
        numbers: &mut Numbers,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> OrderRef {
        let order_ref = numbers.order_ref();
        let left = self.match_against(order, order_ref, owned, numbers, now, events);
        if left > 0 && order.rests {
            self.rest(order, order_ref, left, owned);
            events.push(Event::Feed(Message::AddOrder(AddOrder {
                stock_locate: self.locate,
                tracking_number: 0,
                timestamp: stamp(now),
                order_ref,
                side: order.side,
                shares: left,
                stock: self.symbol,
                price: order.price,
            })));
        }
        order_ref
    }

    fn rest(&mut self, order: &NewOrder, order_ref: OrderRef, shares: u32, owned: bool) {
        let resting = Resting { side: order.side, price: order.price, shares, owned };
        self.orders.insert(order_ref, resting);
        self.side_mut(order.side).entry(order.price).or_default().push_back(order_ref);
    }

    fn crosses(&self, order: &NewOrder) -> Option<Price> {
        let best = self.best(order.side.opposite())?;
        let crosses = match order.side {
            Side::Buy => best <= order.price,
            Side::Sell => best >= order.price,
        };
        crosses.then_some(best)
    }

    fn match_against(
        &mut self,
        order: &NewOrder,
        taker: OrderRef,
        owned: bool,
        numbers: &mut Numbers,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> u32 {
        let mut left = order.shares;
        while left > 0 {
            let Some(price) = self.crosses(order) else { break };
            let queue =
                self.side_mut(order.side.opposite()).get(&price).expect("a best price has a queue");
            let maker_ref = queue[0];
            let maker = self.orders[&maker_ref];
            let shares = left.min(maker.shares);
            let match_number = numbers.match_number();
            left -= shares;
            self.take(maker_ref, shares);
            events.push(Event::Feed(Message::OrderExecuted(OrderExecuted {
                stock_locate: self.locate,
                tracking_number: 0,
                timestamp: stamp(now),
                order_ref: maker_ref,
                executed_shares: shares,
                match_number,
            })));
            let fill = |order_ref, resting| Event::Fill {
                order_ref,
                shares,
                price,
                match_number,
                resting,
            };
            events.extend(maker.owned.then(|| fill(maker_ref, true)));
            events.extend(owned.then(|| fill(taker, false)));
        }
        left
    }

    /// Takes shares off a resting order that has them, and the order out if none are left.
    fn take(&mut self, order_ref: OrderRef, shares: u32) {
        let order = self.orders.get_mut(&order_ref).expect("the order rests");
        order.shares -= shares;
        if order.shares == 0 {
            let order = self.orders.remove(&order_ref).expect("the order rests");
            let side = self.side_mut(order.side);
            let queue = side.get_mut(&order.price).expect("a resting order has a queue");
            queue.retain(|other| *other != order_ref);
            if queue.is_empty() {
                side.remove(&order.price);
            }
        }
    }

    /// Takes shares off a resting order and tells the feed; nothing happens if it does not rest.
    pub fn reduce(
        &mut self,
        order_ref: OrderRef,
        shares: u32,
        now: DayTime,
        events: &mut Vec<Event>,
    ) {
        let Some(order) = self.orders.get(&order_ref).copied() else { return };
        let (stock_locate, tracking_number, timestamp) = (self.locate, 0, stamp(now));
        let message = if shares >= order.shares {
            Message::OrderDelete(OrderDelete {
                stock_locate,
                tracking_number,
                timestamp,
                order_ref,
            })
        } else {
            let cancelled_shares = shares;
            Message::OrderCancel(OrderCancel {
                stock_locate,
                tracking_number,
                timestamp,
                order_ref,
                cancelled_shares,
            })
        };
        self.take(order_ref, shares.min(order.shares));
        events.push(Event::Feed(message));
    }

    /// Replaces a resting order, which loses its place in the queue.
    pub fn replace(
        &mut self,
        order_ref: OrderRef,
        order: &NewOrder,
        numbers: &mut Numbers,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> OrderRef {
        let owned = self.orders.get(&order_ref).is_some_and(|old| old.owned);
        if self.crosses(order).is_some() || !self.holds(order_ref) {
            self.reduce(order_ref, u32::MAX, now, events);
            return self.enter(order, owned, numbers, now, events);
        }
        let new_order_ref = numbers.order_ref();
        self.take(order_ref, self.shares_of(order_ref));
        self.rest(order, new_order_ref, order.shares, owned);
        events.push(Event::Feed(Message::OrderReplace(OrderReplace {
            stock_locate: self.locate,
            tracking_number: 0,
            timestamp: stamp(now),
            order_ref,
            new_order_ref,
            shares: order.shares,
            price: order.price,
        })));
        new_order_ref
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(side: Side, price: u32, shares: u32) -> NewOrder {
        NewOrder {
            symbol: Symbol::new("X").unwrap(),
            side,
            price: Price(price),
            shares,
            rests: true,
        }
    }

    struct Bench(MatchingBook, Numbers);

    impl Bench {
        fn enter(&mut self, side: Side, price: u32, shares: u32) -> (OrderRef, Vec<String>) {
            let mut events = Vec::new();
            let order_ref =
                self.0.enter(&order(side, price, shares), true, &mut self.1, 0, &mut events);
            (order_ref, events.iter().map(short).collect())
        }
    }

    fn short(event: &Event) -> String {
        match event {
            Event::Feed(Message::AddOrder(m)) => {
                format!("A{} {}@{}", m.order_ref, m.shares, m.price.0)
            }
            Event::Feed(Message::OrderExecuted(m)) => {
                format!("E{} {}", m.order_ref, m.executed_shares)
            }
            Event::Feed(Message::OrderDelete(m)) => format!("D{}", m.order_ref),
            Event::Feed(Message::OrderCancel(m)) => {
                format!("X{} {}", m.order_ref, m.cancelled_shares)
            }
            Event::Feed(Message::OrderReplace(m)) => {
                format!("U{}>{} {}@{}", m.order_ref, m.new_order_ref, m.shares, m.price.0)
            }
            Event::Fill { order_ref, shares, price, .. } => {
                format!("fill{order_ref} {shares}@{}", price.0)
            }
            other => format!("{other:?}"),
        }
    }

    fn bench() -> Bench {
        Bench(MatchingBook::new(Symbol::new("X").unwrap(), 1), Numbers::default())
    }

    #[test]
    fn best_price_first_then_oldest() {
        let mut bench = bench();
        bench.enter(Side::Sell, 11, 5);
        bench.enter(Side::Sell, 10, 5);
        bench.enter(Side::Sell, 10, 5);
        let (_, events) = bench.enter(Side::Buy, 11, 12);
        assert_eq!(
            events,
            [
                "E2 5",
                "fill2 5@10",
                "fill4 5@10",
                "E3 5",
                "fill3 5@10",
                "fill4 5@10",
                "E1 2",
                "fill1 2@11",
                "fill4 2@11"
            ]
        );
        assert_eq!((bench.0.best(Side::Sell), bench.0.best(Side::Buy)), (Some(Price(11)), None));
    }

    #[test]
    fn what_does_not_trade_rests_unless_it_may_not() {
        let mut bench = bench();
        bench.enter(Side::Sell, 10, 5);
        let (_, events) = bench.enter(Side::Buy, 10, 8);
        assert_eq!(events, ["E1 5", "fill1 5@10", "fill2 5@10", "A2 3@10"]);
        let mut events = Vec::new();
        let ioc = NewOrder { rests: false, ..order(Side::Sell, 10, 9) };
        bench.0.enter(&ioc, false, &mut bench.1, 0, &mut events);
        assert_eq!(events.iter().map(short).collect::<Vec<_>>(), ["E2 3", "fill2 3@10"]);
        assert_eq!(bench.0.best(Side::Sell), None);
    }

    #[test]
    fn a_replace_loses_its_place_and_may_trade() {
        let mut bench = bench();
        let (first, _) = bench.enter(Side::Buy, 10, 5);
        bench.enter(Side::Buy, 10, 5);
        let mut events = Vec::new();
        let new = bench.0.replace(first, &order(Side::Buy, 10, 7), &mut bench.1, 0, &mut events);
        assert_eq!(events.iter().map(short).collect::<Vec<_>>(), ["U1>3 7@10"]);
        let (_, traded) = bench.enter(Side::Sell, 10, 6);
        assert_eq!(traded[0], "E2 5");
        events.clear();
        bench.enter(Side::Sell, 12, 1);
        bench.0.replace(new, &order(Side::Buy, 12, 2), &mut bench.1, 0, &mut events);
        assert_eq!(
            events.iter().map(short).collect::<Vec<_>>(),
            ["D3", "E5 1", "fill5 1@12", "fill6 1@12", "A6 1@12"]
        );
    }

    #[test]
    fn a_reduced_order_keeps_its_place() {
        let mut bench = bench();
        let (first, _) = bench.enter(Side::Buy, 10, 5);
        bench.enter(Side::Buy, 10, 5);
        let mut events = Vec::new();
        bench.0.reduce(first, 3, 0, &mut events);
        bench.0.reduce(99, 3, 0, &mut events);
        assert_eq!(events.iter().map(short).collect::<Vec<_>>(), ["X1 3"]);
        assert_eq!(bench.enter(Side::Sell, 10, 2).1[0], "E1 2");
    }
}
