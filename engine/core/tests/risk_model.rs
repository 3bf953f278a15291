//! A second, slow risk model, written apart from the engine's, judges random orders: none that it
//! forbids may leave, and none that it allows may be refused. `SEED=n INTENTS=n cargo test -p
//! engine-core --test risk_model` repeats a run or makes it longer.
#![allow(clippy::disallowed_methods, reason = "a test reads its seed and its recording")]

mod model;

use abi::counters::State;
use engine_core::settings::RiskLimits;
use model::{Outcome, run, stop_and_resume};

/// The model's rules, by name.
const RULES: [&str; 16] = [
    "collar",
    "duplicate",
    "gross",
    "halted",
    "lot",
    "net",
    "notional",
    "open-orders",
    "position",
    "rate",
    "restricted",
    "self-trade",
    "shares",
    "short-sale",
    "stale",
    "tick",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn limits() -> RiskLimits {
    RiskLimits {
        order_shares_max: 900,
        lot_shares: 5,
        order_notional_max: 70_000,
        price_collar_bps: 80,
        position_shares_max: 1_500,
        orders_open_max: 12,
        gross_notional_max: 150_000,
        net_notional_max: 120_000,
        messages_per_second_max: 400,
        duplicate_window_ns: 50_000_000,
        feed_age_max_ns: 45_000_000,
        rejects_in_a_row_max: 1_000_000,
        loss_max: 1 << 40,
    }
}

#[test]
fn the_model_and_the_engine_agree_on_every_order() {
    let (seed, intents) = (number("SEED", 1), number("INTENTS", 10_000_000));
    eprintln!("SEED={seed} INTENTS={intents}");
    let Outcome { sent, refused, disagreement } = run(seed, intents, limits(), limits());
    assert_eq!(disagreement, None);
    assert!(sent > intents / 200, "{sent} of {intents} orders passed: too few to mean anything");
    let seen: Vec<_> = refused.keys().copied().collect();
    assert_eq!(seen, RULES, "rules that refused something");
}

/// The control: an engine with one limit left open must be caught by the model.
#[test]
fn the_model_catches_an_engine_that_leaves_a_limit_open() {
    let strict = limits();
    let open: [(&str, RiskLimits); 11] = [
        ("order_shares_max", RiskLimits { order_shares_max: 999_999, ..strict }),
        ("lot_shares", RiskLimits { lot_shares: 1, ..strict }),
        ("order_notional_max", RiskLimits { order_notional_max: 1 << 40, ..strict }),
        ("price_collar_bps", RiskLimits { price_collar_bps: 9_999, ..strict }),
        ("position_shares_max", RiskLimits { position_shares_max: 1 << 30, ..strict }),
        ("orders_open_max", RiskLimits { orders_open_max: 4_096, ..strict }),
        ("gross_notional_max", RiskLimits { gross_notional_max: 1 << 40, ..strict }),
        ("net_notional_max", RiskLimits { net_notional_max: 1 << 40, ..strict }),
        ("messages_per_second_max", RiskLimits { messages_per_second_max: 1_000_000, ..strict }),
        ("duplicate_window_ns", RiskLimits { duplicate_window_ns: 0, ..strict }),
        ("feed_age_max_ns", RiskLimits { feed_age_max_ns: 3_600_000_000_000, ..strict }),
    ];
    for (name, loose) in open {
        let outcome = run(1, 400_000, loose, strict);
        assert!(outcome.disagreement.is_some(), "{name}: the model let everything pass");
    }
}

#[test]
fn rejects_in_a_row_stop_trading_until_an_operator_resumes_it() {
    let limits = RiskLimits { rejects_in_a_row_max: 3, ..limits() };
    let expected = [State::Halted, State::Halted, State::Trading];
    assert_eq!(stop_and_resume(limits), (expected, 0));
}
