//! Stop conditions of trading: each reason leads to its state, working orders are cancelled,
//! nothing new is sent, and trading resumes only where the reason can be cleared. Rejects are
//! tested where orders are.

mod bench;

use abi::control::Orders;
use abi::counters::{Counter, State};
use abi::field::Side;
use abi::itch::Message;
use abi::journal::{Recovery, StopReason};
use abi::mold::{END_OF_SESSION, Header};
use abi::ouch::outbound::{self, BrokenTrade};
use bench::{Bench, MS, add, session};
use engine_core::pipeline::Line;

/// The reasons that the core has given since the last call.
fn stops(bench: &mut Bench) -> Vec<StopReason> {
    bench.core.take_stops().collect()
}

/// A change of both instruments' touch, on which the strategy would act.
fn tempt(bench: &mut Bench) -> String {
    bench.sent();
    bench.add(1, Side::Buy, 1_000_100);
    bench.add(2, Side::Buy, 1_000_100);
    bench.sent()
}

#[test]
fn a_loss_that_reaches_its_limit_stops_trading_until_it_is_resumed() {
    let mut bench = Bench::with(Recovery::default(), 1);
    bench.accept(1);
    bench.execute(1, 10);
    bench.sent();
    bench.core.on_tick(bench.now);
    assert_eq!((bench.core.state(), stops(&mut bench)), (State::Trading, vec![]));
    // Ten shares at 100.00 can be sold for 99.89 each: 1.10 are lost.
    bench.add(1, Side::Buy, 998_900);
    bench.delete(1, 1);
    bench.sent();
    bench.core.on_tick(bench.now);
    assert_eq!((bench.core.state(), stops(&mut bench)), (State::Halted, vec![StopReason::Loss]));
    assert!(bench.sent().starts_with(['X', 'C']), "working orders are cancelled");
    assert_eq!(tempt(&mut bench), "");
    bench.core.on_control(Orders { resume: true, ..Orders::default() }, bench.now);
    assert_eq!(bench.core.state(), State::Trading);
}

#[test]
fn a_broken_trade_that_is_not_known_stops_trading() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.execute(1, 10);
    let broken = |match_number| {
        outbound::Message::BrokenTrade(BrokenTrade {
            timestamp: 1,
            user_ref_num: 1,
            match_number,
            reason: b'E',
            cl_ord_id: abi::field::Alpha::BLANK,
        })
    };
    bench.answer(broken(1));
    assert_eq!((bench.core.state(), stops(&mut bench)), (State::Trading, vec![]));
    assert_eq!(
        bench.core.order_entry().orders.position(engine_core::market::InstrumentId(0)).shares,
        0
    );
    bench.answer(broken(77));
    assert_eq!(stops(&mut bench), [StopReason::TradeUnknown]);
    assert_eq!((bench.core.state(), tempt(&mut bench).as_str()), (State::Halted, ""));
}

#[test]
fn a_silent_agent_stops_trading_while_it_is_silent() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.accept(2);
    bench.sent();
    bench.core.on_control(Orders { agent_silent: true, ..Orders::default() }, bench.now);
    assert_eq!(bench.core.state(), State::Killed);
    assert!(bench.sent().starts_with(['X', 'C']), "working orders are cancelled");
    assert_eq!(tempt(&mut bench), "");
    bench.core.on_control(Orders::default(), bench.now);
    assert_eq!(bench.core.state(), State::Trading);
}

#[test]
fn an_exchange_that_has_fewer_messages_than_the_journal_is_not_traded_with() {
    let recovery =
        Recovery { session: session().0, messages: 100, user_ref_max: 40, stopped: None };
    let mut bench = Bench::with(recovery, 1 << 30);
    assert_eq!(stops(&mut bench), [StopReason::ExchangeForgot]);
    assert_eq!((bench.core.state(), tempt(&mut bench).as_str()), (State::Halted, ""));
    // The control: as many messages as the journal has, the account's answer among them.
    let recovery = Recovery { messages: 1, ..recovery };
    assert_eq!(Bench::with(recovery, 1 << 30).core.state(), State::Trading);
}

#[test]
fn a_failed_journal_is_not_resumed() {
    let mut bench = Bench::new();
    bench.core.halt(bench.now);
    assert_eq!(stops(&mut bench), [StopReason::Journal]);
    bench.core.on_control(Orders { resume: true, ..Orders::default() }, bench.now);
    assert_eq!((bench.core.state(), tempt(&mut bench).as_str()), (State::Halted, ""));
}

#[test]
fn after_the_end_of_the_feeds_session_nothing_goes_out() {
    let mut bench = Bench::new();
    bench.end_order(1);
    bench.sent();
    let end = Header { session: session(), sequence: bench.next, count: END_OF_SESSION };
    bench.now += MS;
    bench.core.on_feed(Line::A, &end.to_bytes(), bench.now);
    let late = Message::AddOrder(add(1, 500, Side::Buy, 1_000_100));
    let (orders, before) = (bench.core.market().orders_count(), bench.get(Counter::OrdersSent));
    bench.say(&late);
    assert_eq!((bench.sent().as_str(), bench.get(Counter::OrdersSent)), ("", before));
    assert_eq!(bench.core.market().orders_count(), orders + 1, "the book is kept");
}
