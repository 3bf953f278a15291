//! A day of one order and its reports, and the same day over restarts of either side.

use super::*;
use abi::field::{Alpha, Symbol};
use abi::ouch::outbound::{BrokenTrade, Canceled, Rejected};
use abi::ouch::{Capacity, CrossType, Display, Price, TimeInForce};

fn accepted(user_ref_num: u32, quantity: u32, price: u64) -> Message {
    Message::Accepted(Accepted {
        timestamp: 0,
        user_ref_num,
        side: Side::Buy,
        quantity,
        symbol: Symbol::new("AAPL").unwrap(),
        price: Price(price),
        time_in_force: TimeInForce::Day,
        display: Display::Visible,
        order_ref: 900 + u64::from(user_ref_num),
        capacity: Capacity::Principal,
        intermarket_sweep: b'N',
        cross_type: CrossType::Continuous,
        order_state: OrderState::Live,
        cl_ord_id: Alpha::BLANK,
    })
}

fn executed(user_ref_num: u32, quantity: u32, price: u64, match_number: u64) -> Message {
    let (timestamp, liquidity_flag, price) = (0, b'A', Price(price));
    Message::Executed(Executed {
        timestamp,
        user_ref_num,
        quantity,
        price,
        liquidity_flag,
        match_number,
    })
}

fn a_day() -> Vec<Message> {
    vec![
        accepted(1, 100, 5_850_000),
        executed(1, 30, 5_850_000, 71),
        executed(1, 20, 5_849_900, 72),
        Message::Replaced(Replaced {
            timestamp: 0,
            orig_user_ref_num: 1,
            user_ref_num: 2,
            side: Side::Buy,
            quantity: 50,
            symbol: Symbol::new("AAPL").unwrap(),
            price: Price(5_840_000),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            order_ref: 950,
            capacity: Capacity::Principal,
            intermarket_sweep: b'N',
            cross_type: CrossType::Continuous,
            order_state: OrderState::Live,
            cl_ord_id: Alpha::BLANK,
        }),
        Message::BrokenTrade(BrokenTrade {
            timestamp: 0,
            user_ref_num: 1,
            match_number: 72,
            reason: b'E',
            cl_ord_id: Alpha::BLANK,
        }),
        Message::Canceled(Canceled { timestamp: 0, user_ref_num: 2, quantity: 10, reason: b'U' }),
        executed(2, 40, 5_840_000, 73),
        Message::Rejected(Rejected {
            timestamp: 0,
            user_ref_num: 3,
            reason: 0x17,
            cl_ord_id: Alpha::BLANK,
        }),
    ]
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_with(&[], &mut bytes);
    bytes
}

fn run(reports: &mut Reports, messages: &[Message]) -> Vec<Fields> {
    let session = Session::new("DAY").unwrap();
    let numbered = (1..).zip(messages);
    numbered.filter_map(|(n, m)| reports.on_message(session, n, &bytes(m), 5)).collect()
}

#[test]
fn every_answer_is_a_report_with_the_order_as_it_is() {
    let reports = run(&mut Reports::default(), &a_day());
    let shown: Vec<String> = reports
        .iter()
        .map(|report| {
            let tags = [17, 150, 39, 11, 38, 151, 14, 6];
            tags.map(|tag| report.get(tag).unwrap_or("-")).join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "DAY-1 0 0 1 100 100 0 0.000000",
            "DAY-2 F 1 1 100 70 30 585.000000",
            "DAY-3 F 1 1 100 50 50 584.996000",
            "DAY-4 5 1 2 100 50 50 584.996000",
            "DAY-5 H 1 1 100 50 30 585.000000",
            "DAY-6 D 1 2 70 40 30 585.000000",
            "DAY-7 F 2 2 70 0 70 584.428571",
            "DAY-8 8 8 3 0 0 0 0.000000",
        ]
    );
}

#[test]
fn a_restarted_engine_hears_everything_again_and_nothing_is_reported_twice() {
    let mut reports = Reports::default();
    assert_eq!(run(&mut reports, &a_day()).len(), 8);
    assert_eq!(run(&mut reports, &a_day()), []);
    let session = Session::new("NEXT").unwrap();
    assert!(reports.on_message(session, 1, &bytes(&accepted(1, 5, 10)), 5).is_some());
}

/// The journal was overwritten before it was read; the engine hears its session again.
#[test]
fn what_was_missed_is_reported_when_it_is_heard_again() {
    let (mut reports, session) = (Reports::default(), Session::new("DAY").unwrap());
    let day = a_day();
    assert!(reports.on_message(session, 1, &bytes(&day[0]), 5).is_some());
    assert!(reports.on_message(session, 8, &bytes(&day[7]), 5).is_some());
    assert_eq!(run(&mut reports, &day).len(), 6);
}

#[test]
fn a_restarted_drop_copy_goes_on_where_the_last_one_was() {
    for cut in 0..8 {
        let (mut whole, mut first) = (Reports::default(), Reports::default());
        let all = run(&mut whole, &a_day());
        let before = run(&mut first, &a_day()[..cut]);
        let mut second = Reports::default();
        before.iter().for_each(|report| {
            second.restore(&Fields::parse(&report.to_text()).unwrap());
        });
        assert_eq!(run(&mut second, &a_day()), all[cut..], "restarted after {cut}");
    }
}
