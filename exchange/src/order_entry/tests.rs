//! Order entry against a market whose background never acts.

use crate::order_entry::*;
use crate::synthetic_market::FlowMarket;
use abi::field::Side;
use abi::ouch::{CrossType, Display};

fn order(user_ref_num: UserRefNum, side: Side, price: u64, quantity: u32) -> Inbound {
    Inbound::EnterOrder(EnterOrder {
        user_ref_num,
        side: side.into(),
        quantity,
        symbol: Symbol::new("AAA").unwrap(),
        price: abi::ouch::Price(price),
        time_in_force: TimeInForce::Day,
        display: Display::Visible,
        capacity: Capacity::Principal,
        intermarket_sweep: b'N',
        cross_type: CrossType::Continuous,
        cl_ord_id: Alpha::BLANK,
    })
}

/// A market whose background we never let act: only our own orders are in it.
struct Bench(FlowMarket, Account, Vec<Event>);

impl Bench {
    fn new() -> Self {
        Self(FlowMarket::new(&[Symbol::new("AAA").unwrap()], 1, 1), Account::new(), Vec::new())
    }

    fn send(&mut self, message: Inbound) -> String {
        let answers = self.1.on_message(&message, &mut self.0, 7, &mut self.2);
        answers.iter().map(short).collect::<Vec<_>>().join(" ")
    }
}

fn short(answer: &Outbound) -> String {
    match answer {
        Outbound::Accepted(m) => format!("A{}", m.user_ref_num),
        Outbound::Replaced(m) => {
            format!("U{}>{}:{}", m.orig_user_ref_num, m.user_ref_num, m.quantity)
        }
        Outbound::Executed(m) => {
            format!("E{}:{}{}", m.user_ref_num, m.quantity, char::from(m.liquidity_flag))
        }
        Outbound::Canceled(m) => {
            format!("C{}:{}{}", m.user_ref_num, m.quantity, char::from(m.reason))
        }
        Outbound::Rejected(m) => format!("J{}:{:#x}", m.user_ref_num, m.reason),
        Outbound::AccountQueryResponse(m) => format!("Q{}", m.next_user_ref_num),
        Outbound::MassCancelResponse(m) => format!("X{}", m.user_ref_num),
        other => format!("{other:?}"),
    }
}

#[test]
fn an_order_lives_trades_and_ends() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(order(1, Side::Buy, 10_000, 100)), "A1");
    assert_eq!(bench.send(order(2, Side::Sell, 10_000, 40)), "A2 E1:40A E2:40R");
    let cancel = CancelOrder { user_ref_num: 1, quantity: 10 };
    assert_eq!(bench.send(Inbound::CancelOrder(cancel)), "C1:50U");
    assert_eq!(bench.send(order(3, Side::Sell, 9_000, 30)), "A3 E1:10A E3:10R");
    assert_eq!(bench.1.live_count(), 1);
    let mut events = Vec::new();
    let answers = bench.1.on_disconnect(&mut bench.0, 8, &mut events);
    assert_eq!(answers.iter().map(short).collect::<Vec<_>>(), ["C3:20S"]);
}

#[test]
fn a_replacement_counts_what_was_executed() {
    let mut bench = Bench::new();
    bench.send(order(1, Side::Buy, 10_000, 100));
    bench.send(order(2, Side::Sell, 10_000, 40));
    let replace = |orig_user_ref_num, user_ref_num, quantity| {
        Inbound::ReplaceOrder(ReplaceOrder {
            orig_user_ref_num,
            user_ref_num,
            quantity,
            price: abi::ouch::Price(9_000),
            time_in_force: TimeInForce::Day,
            display: Display::Visible,
            intermarket_sweep: b'N',
            cl_ord_id: Alpha::BLANK,
        })
    };
    assert_eq!(bench.send(replace(1, 3, 120)), "U1>3:80");
    assert_eq!(bench.send(replace(1, 4, 120)), "", "order 1 is gone");
    assert_eq!(bench.send(replace(3, 5, 40)), "C3:80U");
}

#[test]
fn numbers_are_used_once_and_nonsense_is_rejected() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(order(5, Side::Buy, 10_000, 100)), "A5");
    assert_eq!(bench.send(order(5, Side::Buy, 10_000, 100)), "");
    assert_eq!(bench.send(order(6, Side::Buy, 0, 100)), "J6:0x1d");
    assert_eq!(bench.send(order(7, Side::Buy, 10_000, 1_000_000)), "J7:0x13");
    assert_eq!(bench.send(Inbound::AccountQuery(abi::ouch::inbound::AccountQuery {})), "Q8");
    let all = MassCancel { user_ref_num: 8, firm: Alpha::BLANK, symbol: Symbol::BLANK };
    assert_eq!(bench.send(Inbound::MassCancel(all)), "X8 C5:100U");
}
