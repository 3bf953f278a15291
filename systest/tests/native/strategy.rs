//! A strategy of one's own, in a crate outside the workspace: built into the engine, traded with,
//! replayed.

use crate::pair::{Bench, programs};
use abi::counters::Counter;
use std::path::{Path, PathBuf};
use std::process::Command;
use systest::harness::checkout::{root, shared_data};

/// The engine with the strategy of `examples/pegged`.
fn engine() -> PathBuf {
    let built = Command::new(root().join("image/strategy"))
        .arg(root().join("examples/pegged"))
        .output()
        .expect("start image/strategy");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "image/strategy: {said}");
    String::from_utf8_lossy(&built.stdout).trim().into()
}

/// The bench's configuration with another `[strategy]` table in the place of its own.
fn with_strategy(bench: &Bench) -> impl Fn(&str) -> String + use<> {
    let config = std::fs::read_to_string(bench.path("engine.toml")).expect("the configuration");
    let start = config.find("[strategy]").expect("a strategy");
    let end = start + config[start..].find("[journal]").expect("what follows the strategy");
    move |table| format!("{}{table}\n{}", &config[..start], &config[end..])
}

#[test]
fn a_crate_of_ones_own_trades_and_replays() {
    let engine = engine();
    let mut bench = Bench::new(30_500);
    let path = bench.path("engine.toml");
    let with = with_strategy(&bench);
    let own = std::fs::read_to_string(root().join("examples/pegged/strategy.toml"))
        .expect("the example's own table");
    std::fs::write(&path, with(&own)).expect("write the configuration");
    bench.start_exchange(&["--rate", "500"]);
    bench.start(&engine);
    bench.wait("it follows the best bid", |page| page.get(Counter::ReplacesSent) > 5);
    bench.end_engine("-TERM");
    let replay = Command::new(&engine).arg("replay").arg(bench.path("journal")).output();
    let replay = replay.expect("replay");
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    backtest(&engine);
    // Mistakes are refused by name.
    for (table, word) in [
        (own.replace("behind_ticks", "behind"), "behind"),
        (own.replace("\"pegged\"", "\"peged\""), "maker, taker, pegged"),
    ] {
        std::fs::write(&path, with(&table)).expect("write the configuration");
        let check = Command::new(&engine).args(["--check-config", "--config"]).arg(&path).output();
        let check = check.expect("check");
        let said = String::from_utf8_lossy(&check.stderr);
        assert_eq!((check.status.code(), said.contains(word)), (Some(2), true), "{said}");
    }
}

/// The same crate over a recorded day, twice: it trades, and the same comes out.
fn backtest(engine: &Path) {
    let Some(data) = shared_data() else {
        println!("SKIPPED: no ../shared/data on this machine");
        return;
    };
    let once = || {
        let output = Command::new(engine.with_file_name("quietcore-backtest"))
            .arg(data.join("nasdaq-aapl-2012-06-21-open.itch"))
            .arg("--config")
            .arg(root().join("engine/config/demo.toml"))
            .arg("--strategy")
            .arg(root().join("examples/pegged/strategy.toml"))
            .output()
            .expect("start the backtest");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (first, again) = (once(), once());
    assert_eq!(first, again);
    let numbers = |name: &str| {
        let line = first.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    assert_eq!(numbers("feed_messages_total"), 45_061, "{first}");
    assert_eq!(numbers("bbo_changes"), 13_802, "{first}");
    assert!(numbers("replaces_sent_total") > 100, "{first}");
}

/// The other reference strategy takes liquidity: it trades at once, and every byte comes out again.
#[test]
fn the_taker_trades_and_replays() {
    let mut bench = Bench::new(30_600);
    let path = bench.path("engine.toml");
    let taker = "[strategy]\nname = \"taker\"\nshares = 100\nimbalance_pct = 60\nhold_ns = 200000000\n\
                 patience_ns = 100000000\n\n";
    std::fs::write(&path, with_strategy(&bench)(taker)).expect("write the configuration");
    bench.start_exchange(&["--rate", "500"]);
    bench.start_engine();
    bench.wait("it has bought and sold", |page| page.get(Counter::Executions) > 5);
    let page = bench.page().expect("a page");
    if page.word(abi::counters::Word::Emulated) == 0 {
        let (khz, ppb) = (page.get(Counter::TscKhz), page.get(Counter::TscErrorPpb) as i64);
        assert!(khz > 100_000 && ppb.abs() < 1_000_000, "{khz} kHz, {ppb} ppb");
    }
    bench.end_engine("-TERM");
    bench.replay();
    let page = bench.path("report.html");
    let report = Command::new(programs().join("quietcore-engine"))
        .args(["report", "--output"])
        .args([&page, &bench.path("journal")])
        .output()
        .expect("report");
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    let page = std::fs::read_to_string(page).expect("the report");
    let words = ["Received to loop", "Loop to order sent", "<polyline", "median"];
    assert!(words.iter().all(|word| page.contains(word)), "{page}");
}
