//! Each row of the table "What is done about bad input" in docs/engine.md that the core decides:
//! the counter and the reaction. The rows about disks and clocks are tested where those are.

mod bench;

use abi::counters::{Counter, State};
use abi::field::Side;
use abi::itch::{Message, OrderExecuted};
use abi::mold::Session;
use abi::ouch::outbound::{self, CancelReject};
use abi::soup::Packet;
use bench::{Bench, MS, add, bytes, datagram, session, timestamp};
use engine_core::market::InstrumentId;
use engine_core::pipeline::{Line, Verdict};
use engine_core::settings::RiskLimits;

#[test]
fn what_is_no_datagram_of_the_session_is_skipped_and_another_session_ends_the_process() {
    let mut bench = Bench::new();
    for bytes in [&b"GET / HTTP/1.1"[..], &[0; 20], &[0xff; 1_472]] {
        assert_eq!(bench.core.on_feed(Line::B, bytes, bench.now), Verdict::Dropped);
    }
    let foreign = datagram(Session::new("NEXT").unwrap(), 1, &[b"x"]);
    bench.core.on_feed(Line::A, &foreign, bench.now);
    assert_eq!(bench.get(Counter::FeedPacketsMalformed), 4);
    assert!(!bench.core.session_rolled());
    bench.core.on_feed(Line::A, &foreign, bench.now + 5_001 * MS);
    assert!(bench.core.session_rolled());
}

#[test]
fn a_message_of_an_unknown_type_is_skipped() {
    let mut bench = Bench::new();
    bench.sent();
    let known = bytes(&Message::AddOrder(add(1, 77, Side::Buy, 1_000_100)));
    bench.give(&[b"?no such type", &known]);
    assert_eq!(
        (bench.get(Counter::FeedMessagesMalformed), bench.get(Counter::BooksUnsound)),
        (1, 0)
    );
    assert!(bench.core.market().resting(77).is_some());
}

#[test]
fn a_book_message_of_a_wrong_length_takes_every_instrument_out() {
    let mut bench = Bench::new();
    assert_eq!(bench.sent(), "QOO");
    bench.accept(1);
    let long = [bytes(&Message::AddOrder(add(1, 77, Side::Buy, 1_000_100))), vec![0]].concat();
    bench.give(&[&long]);
    assert_eq!(
        (bench.get(Counter::FeedMessagesMalformed), bench.get(Counter::BooksUnsound)),
        (1, 2)
    );
    assert!(bench.is_unsound(0) && bench.is_unsound(1));
    assert_eq!(bench.sent(), "XX", "orders are cancelled");
}

#[test]
fn an_impossible_reference_takes_its_instrument_out_and_leaves_the_book_as_it_was() {
    type Break = fn(&mut Bench);
    let breaks: [(&str, Counter, Break); 5] = [
        ("unknown", Counter::BookUnknownOrder, |bench| bench.delete(1, 999)),
        ("doubled", Counter::BookRefused, |bench| {
            bench.say(&Message::AddOrder(add(1, 1, Side::Buy, 999_900)));
        }),
        ("another instrument's", Counter::BookRefused, |bench| bench.delete(1, 3)),
        ("more shares than there are", Counter::BookRefused, |bench| {
            bench.say(&Message::OrderExecuted(OrderExecuted {
                stock_locate: 1,
                tracking_number: 0,
                timestamp: timestamp(),
                order_ref: 1,
                executed_shares: 101,
                match_number: 5,
            }));
        }),
        ("full table", Counter::BookRefused, |bench| {
            // Prices of which each is a level of its own: the levels run out before the orders do.
            for number in 0..2_000 {
                if bench.get(Counter::BookRefused) == 0 {
                    bench.add(1, Side::Buy, 10_000 + number * 100);
                }
            }
        }),
    ];
    for (what, counter, act) in breaks {
        let mut bench = Bench::new();
        assert_eq!(bench.sent(), "QOO");
        bench.accept(1);
        let before = bench.core.market().bbo(InstrumentId(0));
        act(&mut bench);
        assert_eq!((bench.get(counter), bench.get(Counter::BooksUnsound)), (1, 1), "{what}");
        assert_eq!(bench.core.market().bbo(InstrumentId(0)), before, "{what}");
        assert!(bench.is_unsound(0) && !bench.is_unsound(1), "{what}");
        assert_eq!(bench.sent(), "X", "{what}: its orders are cancelled");
    }
}

#[test]
fn an_unsound_instrument_is_not_traded_and_others_are() {
    let mut bench = Bench::new();
    bench.delete(1, 999);
    bench.end_order(1);
    bench.end_order(2);
    bench.sent();
    bench.add(1, Side::Buy, 1_000_100);
    assert_eq!((bench.sent().as_str(), bench.get(Counter::RefusedUnsound)), ("", 1));
    bench.add(2, Side::Buy, 1_000_100);
    assert_eq!(bench.sent(), "O");
}

#[test]
fn a_crossed_book_is_no_reference() {
    let mut bench = Bench::new();
    // The order in MSFT is gone, so that the strategy wants another.
    bench.end_order(2);
    bench.sent();
    let refused = bench.get(Counter::RefusedNoReference);
    bench.add(2, Side::Buy, 1_000_300);
    assert_eq!(bench.sent(), "");
    assert_eq!(bench.get(Counter::RefusedNoReference), refused + 1);
}

#[test]
fn a_locked_book_is_no_reference() {
    let mut bench = Bench::new();
    bench.end_order(2);
    bench.sent();
    let refused = bench.get(Counter::RefusedNoReference);
    bench.add(2, Side::Buy, 1_000_200);
    assert_eq!((bench.sent().as_str(), bench.get(Counter::RefusedNoReference)), ("", refused + 1));
}

#[test]
fn in_a_gap_no_strategy_is_called_and_then_what_is_missing_is_asked_for() {
    let mut bench = Bench::new();
    bench.sent();
    let skipped = bytes(&Message::AddOrder(add(1, 60, Side::Buy, 1_000_050)));
    let held = bytes(&Message::AddOrder(add(2, 61, Side::Buy, 1_000_050)));
    let (first, second) = (bench.next, bench.next + 1);
    bench.core.on_feed(Line::A, &datagram(session(), second, &[&held]), bench.now);
    assert_eq!((bench.get(Counter::FeedGaps), bench.core.take_request()), (1, None));
    bench.core.on_tick(bench.now + 10 * MS);
    let request = bench.core.take_request().expect("a request");
    assert_eq!((request.sequence, request.count), (first, 1));
    assert_eq!(bench.sent(), "");
    let answer = datagram(session(), first, &[&skipped]);
    bench.core.on_feed(Line::Replay, &answer, bench.now + 11 * MS);
    assert!(bench.core.market().resting(60).is_some() && bench.core.market().resting(61).is_some());
}

#[test]
fn a_silent_feed_lets_no_order_out() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.sent();
    bench.now += 2_000 * MS;
    // The feed is silent; an answer of the exchange calls the strategy.
    bench.execute(1, 10);
    assert_eq!((bench.sent().as_str(), bench.get(Counter::RefusedStale)), ("", 1));
}

#[test]
fn an_exchange_that_answers_nonsense_changes_nothing() {
    let mut bench = Bench::new();
    bench.core.on_session_bytes(b"\0\0garbage", bench.now);
    assert!(bench.core.take_reset());
    assert_eq!(bench.get(Counter::SessionMalformed), 1);
    let mut bench = Bench::new();
    bench.hear(Packet::Sequenced(b"no OUCH"));
    assert!(bench.core.take_reset());
    assert_eq!(bench.get(Counter::SessionMalformed), 1);
    let mut bench = Bench::new();
    let reject = |user_ref_num| CancelReject { timestamp: 1, user_ref_num };
    bench.answer(outbound::Message::CancelReject(reject(500)));
    assert_eq!(bench.get(Counter::SessionUnknownOrder), 1);
    bench.accept(1);
    bench.answer(outbound::Message::CancelReject(reject(1)));
    assert_eq!(bench.get(Counter::OrderNonsense), 1);
    assert_eq!(
        (bench.core.state(), bench.core.order_entry().orders.open_count()),
        (State::Trading, 2)
    );
    assert!(!bench.core.take_reset());
}

#[test]
fn limits_out_of_range_are_refused() {
    let mut bench = Bench::new();
    let before = *bench.core.order_entry().risk.limits();
    bench.core.on_limits(&[0; RiskLimits::WORDS]);
    assert_eq!(bench.get(Counter::LimitsRefused), 1);
    assert_eq!(*bench.core.order_entry().risk.limits(), before);
}
