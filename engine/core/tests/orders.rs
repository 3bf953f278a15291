//! Every state with every event, on the order table that trades: what the table of moves says
//! happens, and the working shares, the exposure and the numbers in use stay what the orders add up
//! to.

use abi::field::{Price, Side};
use engine_core::market::InstrumentId;
use engine_core::order_state::{Event, State, next, table};
use engine_core::orders::{Orders, OwnOrder, Replacement};

const ID: InstrumentId = InstrumentId(0);
const NEW_REF: u32 = 20;

fn order_in(state: State, executed: u32) -> OwnOrder {
    let order = OwnOrder::new(7, ID, Side::Buy, Price(1_000_000), 100);
    let replacement = Replacement { user_ref: NEW_REF, price: Price(1_000_100), quantity: 150 };
    OwnOrder {
        state,
        executed,
        is_accepted: state != State::PendingNew,
        replacement: (state == State::PendingReplace).then_some(replacement),
        ..order
    }
}

/// Applies the changes that order entry makes to an order together with the event.
fn change(order: &mut OwnOrder, event: Event) {
    match event {
        Event::ExecutedPart => {
            (order.open, order.executed) = (order.open - 40, order.executed + 40)
        }
        Event::CancelledPart => order.open -= 40,
        Event::ExecutedAll | Event::CancelledAll | Event::AcceptedDead | Event::ReplacedDead => {
            order.open = 0;
        }
        Event::ReplaceSent => {
            order.replacement =
                Some(Replacement { user_ref: NEW_REF, price: Price(999_900), quantity: 50 });
        }
        Event::Replaced => (order.user_ref, order.open) = (NEW_REF, 150),
        _ => {}
    }
}

fn assert_sums(orders: &Orders, context: &str) {
    let all: Vec<_> = orders.iter().copied().collect();
    let of: Vec<_> = orders.of(ID).copied().collect();
    assert_eq!((all.len(), of.len()), (orders.open_count(), orders.open_count()), "{context}");
    let working: u64 = all.iter().map(|order| u64::from(order.open_at_most())).sum();
    assert_eq!(orders.position(ID).working_buy, working, "{context}");
    let dearest =
        |order: &OwnOrder| order.replacement.map_or(order.price, |r| r.price.max(order.price));
    let value = |order: &OwnOrder| u64::from(dearest(order).0) * u64::from(order.open_at_most());
    assert_eq!(orders.exposure().working, all.iter().map(value).sum::<u64>(), "{context}");
    let cancellable = all.iter().filter(|order| order.is_cancellable()).count();
    assert_eq!(orders.cancellable_count(), cancellable, "{context}");
}

#[test]
fn every_event_in_every_state() {
    let mut made_sense = 0;
    let reachable = State::ALL.into_iter().filter(|state| !state.is_gone());
    for (state, event) in reachable.flat_map(|s| Event::ALL.map(|event| (s, event))) {
        for executed in [0, 30] {
            let context = format!("{event:?} in {state:?} after {executed} shares");
            let mut orders = Orders::new(1);
            orders.insert(order_in(State::Live, 0));
            orders.forget(7);
            let before = order_in(state, executed);
            orders.insert(before);
            assert_sums(&orders, &context);
            let after = orders.apply(7, |order| {
                change(order, event);
                event
            });
            assert_sums(&orders, &context);
            let executed_now = executed > 0 || event == Event::ExecutedPart;
            let expected = next(state, event, executed_now);
            assert_eq!(after.map(|order| order.state), expected, "{context}");
            made_sense += u32::from(expected.is_some());
            match after {
                None => assert_eq!(orders.get(7), Some(&before), "{context}"),
                Some(order) if order.state.is_gone() => {
                    assert_eq!(orders.open_count(), 0, "{context}");
                    assert!(orders.has_room(7) && orders.has_room(NEW_REF), "{context}");
                }
                Some(order) => {
                    assert_eq!(orders.get(order.user_ref), Some(&order), "{context}");
                    let waits = order.replacement.is_some();
                    assert_eq!(orders.replaced_by(NEW_REF), waits.then_some(7), "{context}");
                }
            }
        }
    }
    assert!(made_sense > 60, "{made_sense} moves: too little was tried");
}

#[test]
fn nothing_happens_to_an_order_that_is_gone_but_a_broken_trade() {
    for state in State::ALL.into_iter().filter(|state| state.is_gone()) {
        for event in Event::ALL {
            let expected = (event == Event::TradeBroken).then_some(state);
            assert_eq!(next(state, event, true), expected, "{event:?} in {state:?}");
        }
    }
}

#[test]
fn a_broken_trade_takes_back_shares_and_money_once() {
    let mut orders = Orders::new(1);
    let order = order_in(State::Live, 0);
    orders.book(&order, 100, 1_000_000, 5);
    orders.book(&order, 50, 1_000_100, 6);
    assert!(orders.break_trade(7, 5));
    assert_eq!((orders.position(ID).shares, orders.position(ID).cash), (50, -50_005_000));
    assert!(!orders.break_trade(8, 6) && !orders.break_trade(7, 9));
    assert!(orders.break_trade(7, 5));
    assert_eq!(orders.position(ID).shares, 50);
}

#[test]
fn the_guide_shows_the_table() {
    let guide = include_str!("../../../docs/orders.md");
    assert!(guide.contains(&table()), "docs/orders.md must contain:\n{}", table());
}
