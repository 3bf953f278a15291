//! Callbacks of a strategy: every execution and every end of an order, whether it may act or not.

mod bench;

use abi::control::Orders;
use abi::counters::{Counter, State};
use abi::field::{Alpha, Side};
use abi::itch::Message;
use abi::journal::{Recovery, StopReason};
use abi::mold::Session;
use abi::ouch::outbound::{self, CancelReject, Canceled, Rejected};
use abi::soup::{LoginAccepted, LoginRejectReason, Packet};
use bench::{Bench, MS, add, bytes, datagram, session};
use engine_core::market::InstrumentId;
use engine_core::pipeline::Line;

fn position(bench: &Bench) -> i64 {
    bench.core.order_entry().orders.position(InstrumentId(0)).shares
}

#[test]
fn an_execution_in_a_gap_is_told_and_nothing_is_asked_for() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.sent();
    bench.told();
    let held = bytes(&Message::AddOrder(add(2, 61, Side::Buy, 1_000_050)));
    bench.core.on_feed(Line::A, &datagram(session(), bench.next + 1, &[&held]), bench.now);
    bench.execute(1, 10);
    assert_eq!((bench.told(), position(&bench)), (vec!["1 traded 10".to_owned()], 10));
    assert_eq!(bench.sent(), "", "it wanted another order, in a gap");
}

#[test]
fn an_execution_while_trading_is_stopped_is_told() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.core.on_control(Orders { kill: true, ..Orders::default() }, bench.now);
    bench.sent();
    bench.told();
    bench.execute(1, 4);
    assert_eq!((bench.told(), bench.sent().as_str()), (vec!["1 traded 4".to_owned()], ""));
}

#[test]
fn the_ends_of_orders_and_refusals_are_told() {
    let mut bench = Bench::new();
    bench.told();
    bench.accept(1);
    let reject = Rejected { timestamp: 1, user_ref_num: 2, reason: 1, cl_ord_id: Alpha::BLANK };
    bench.answer(outbound::Message::Rejected(reject));
    let gone = Canceled { timestamp: 1, user_ref_num: 1, quantity: 4, reason: b'U' };
    bench.answer(outbound::Message::Canceled(gone));
    bench.answer(outbound::Message::Canceled(Canceled { quantity: 6, ..gone }));
    let told = ["1 Accepted 10", "2 Rejected 0", "1 Cancelled 6", "1 Cancelled 0"];
    assert_eq!(bench.told(), told);
    // The feed is silent: what it asks for then is refused.
    let mut bench = Bench::new();
    bench.accept(1);
    bench.told();
    bench.now += 2_000 * MS;
    bench.execute(1, 10);
    assert_eq!(bench.told(), ["1 traded 10", "refused Stale"]);
}

#[test]
fn a_refused_cancel_is_told() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.core.on_control(Orders { drain: true, ..Orders::default() }, bench.now);
    bench.told();
    let answer = CancelReject { timestamp: 1, user_ref_num: 1 };
    bench.answer(outbound::Message::CancelReject(answer));
    assert_eq!(bench.told(), ["1 CancelRejected 10"]);
}

#[test]
fn executions_that_nobody_expects_are_booked_and_stop_trading() {
    // More than is open.
    let mut bench = Bench::new();
    bench.accept(1);
    bench.execute(1, 15);
    assert_eq!((position(&bench), bench.core.state()), (15, State::Halted));
    assert_eq!(bench.core.take_stops().collect::<Vec<_>>(), [StopReason::TradeUnknown]);
    // Before the exchange has accepted the order.
    let mut bench = Bench::new();
    bench.execute(1, 5);
    assert_eq!((position(&bench), bench.core.state()), (5, State::Halted));
    // Of an order that is not known: nobody knows in what.
    let mut bench = Bench::new();
    bench.execute(77, 150);
    assert_eq!((position(&bench), bench.core.state()), (0, State::Halted));
    assert_eq!(bench.get(Counter::SessionUnknownOrder), 1);
    // The control: no shares are no execution.
    let mut bench = Bench::new();
    bench.accept(1);
    bench.execute(1, 0);
    assert_eq!(bench.core.state(), State::Trading);
}

#[test]
fn a_stop_outlives_the_process_until_somebody_resumes() {
    let mut bench = Bench::new();
    bench.execute(77, 150);
    let left = bench.core.context();
    assert_eq!(left.stopped, Some(StopReason::TradeUnknown));
    let left = Recovery { messages: 0, ..left };
    let mut next = Bench::with(left, 1 << 30);
    assert_eq!(next.core.state(), State::Halted, "nobody has said that it may go on");
    assert_eq!(next.core.take_stops().collect::<Vec<_>>(), [StopReason::TradeUnknown]);
    next.core.on_control(Orders { resume: true, ..Orders::default() }, next.now);
    assert_eq!((next.core.state(), next.core.context().stopped), (State::Trading, None));
    // The kill switch, which an engine is told by a signal too.
    next.core.on_control(Orders { kill: true, ..Orders::default() }, next.now);
    assert_eq!(next.core.context().stopped, Some(StopReason::Killed));
    let killed = Recovery { messages: 0, ..next.core.context() };
    assert_eq!(Bench::with(killed, 1 << 30).core.state(), State::Killed);
    // What the journal could not take is tried again.
    let mut bench = Bench::new();
    bench.core.halt(bench.now);
    assert_eq!(bench.core.context().stopped, None);
}

#[test]
fn refused_logins_are_tried_less_and_less_often() {
    let mut bench = Bench::new();
    bench.core.on_session_lost(bench.now);
    let (start, mut logins, mut last) = (bench.now, 0, bench.now);
    let mut longest = 0;
    // A second between two connections, for ten minutes.
    while bench.now < start + 600_000 * MS {
        bench.core.session_out().clear();
        bench.core.on_session_connected(bench.now);
        if !bench.core.session_out().is_empty() {
            logins += 1;
            longest = longest.max(bench.now - last);
            last = bench.now;
        }
        bench.hear(Packet::LoginRejected(LoginRejectReason::NotAuthorized));
        bench.core.take_reset();
        bench.core.on_session_lost(bench.now);
        bench.now += 1_000 * MS;
    }
    assert!((10..30).contains(&logins), "{logins} logins");
    assert!(longest <= 66_000 * MS, "{longest} ns without a try");
    // A clock that is put back by hours is no reason to wait for hours.
    bench.core.session_out().clear();
    bench.core.on_session_connected(start);
    assert!(!bench.core.session_out().is_empty());
    bench.hear(Packet::LoginRejected(LoginRejectReason::NotAuthorized));
    bench.core.on_session_lost(bench.now);
    // On one connection, the timer tries.
    bench.core.session_out().clear();
    bench.core.on_session_connected(bench.now);
    bench.core.on_tick(bench.now + 70_000 * MS);
    assert!(!bench.core.session_out().is_empty());
}

#[test]
fn a_session_that_was_never_there_is_waited_for_and_another_one_is_none() {
    let fresh = || {
        let mut bench = Bench::new();
        bench.core.on_session_lost(bench.now);
        bench
    };
    // It was in this one: now there is another.
    let mut bench = fresh();
    bench.core.on_session_connected(bench.now);
    bench.hear(Packet::LoginRejected(LoginRejectReason::SessionUnavailable));
    assert!(bench.core.session_rolled());
    // A login into another session than was asked for.
    let mut bench = fresh();
    bench.core.on_session_connected(bench.now);
    let sequence = Alpha::decimal_right(bench.core.context().messages + 1).unwrap();
    let session = Session::new("OTHER").unwrap();
    bench.hear(Packet::LoginAccepted(LoginAccepted { session, sequence }));
    assert!(bench.core.take_reset() && !bench.core.session_rolled());
    assert_eq!(bench.get(Counter::SessionMalformed), 1);
}
