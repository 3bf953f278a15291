//! Instruments over several hot threads: two shards of one configuration against one exchange.

use crate::pair::{Bench, LIMIT, programs};
use abi::counters::{Counter, CountersPage, State, Word};
use std::process::Command;
use std::time::{Duration, Instant};

fn page(bench: &Bench, shard: &str) -> Option<CountersPage> {
    CountersPage::open(&bench.path("pages").join(shard).join("counters")).ok()
}

fn wait(bench: &Bench, shard: &str, what: &str, done: impl Fn(&CountersPage) -> bool) {
    let start = Instant::now();
    while !page(bench, shard).is_some_and(|page| done(&page)) {
        let log = std::fs::read_to_string(bench.path("engine.log")).unwrap_or_default();
        assert!(start.elapsed() < LIMIT, "shard {shard} not within {LIMIT:?}: {what}; {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fills(bench: &Bench, shard: &str) -> u64 {
    page(bench, shard).map_or(0, |page| page.get(Counter::Executions))
}

#[test]
fn shards_trade_side_by_side_and_one_that_dies_takes_no_other_with_it() {
    let mut bench = Bench::new(29_900);
    let path = bench.path("engine.toml");
    let mut config = std::fs::read_to_string(&path).expect("the configuration");
    for line in ["symbols = [\"AAPL\"]\n", "username = \"quiet\"\n", "password = \"core\"\n"] {
        config = config.replace(line, "");
    }
    for (name, symbol) in [("left", "AAPL"), ("right", "MSFT")] {
        config += &format!(
            "[[shard]]\nname = \"{name}\"\nsymbols = [\"{symbol}\"]\nusername = \"{name}\"\npassword = \"core\"\n"
        );
    }
    std::fs::write(&path, config).expect("write the configuration");
    bench.start_exchange(&[
        "--rate",
        "500",
        "--symbols",
        "AAPL,MSFT",
        "--logins",
        "left:core,right:core",
    ]);
    bench.start_engine();
    for shard in ["left", "right"] {
        wait(&bench, shard, "it fills", |page| page.get(Counter::Executions) > 5);
        let symbols: Vec<_> = page(&bench, shard).expect("a page").instruments();
        assert_eq!(symbols.len(), 1, "each has its own instruments");
    }
    let victim = page(&bench, "left").expect("a page").word(Word::Pid);
    let other = page(&bench, "right").expect("a page").word(Word::Pid);
    assert_ne!(victim, other);
    let killed = Command::new("kill").args(["-KILL", &victim.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let before = fills(&bench, "right");
    wait(&bench, "right", "the other goes on", |page| page.get(Counter::Executions) > before + 3);
    wait(&bench, "left", "it is back", |page| {
        page.word(Word::Pid) != victim
            && page.state() == Some(State::Trading)
            && page.get(Counter::Executions) > 5
    });
    assert_eq!(page(&bench, "right").expect("a page").word(Word::Pid), other);
    let engine = bench.engine.as_ref().expect("the engine").id().to_string();
    // The kill switch by signal reaches every shard.
    let sent = Command::new("kill").args(["-USR1", &engine]).status();
    assert!(sent.is_ok_and(|status| status.success()));
    for shard in ["left", "right"] {
        wait(&bench, shard, "it is killed", |page| {
            page.state() == Some(State::Killed) && page.get(Counter::OrdersOpen) == 0
        });
    }
    bench.end_engine("-TERM");
    for shard in ["left", "right"] {
        let pid = page(&bench, shard).expect("a page").word(Word::Pid);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{shard} outlived all");
        let replay = Command::new(programs().join("quietcore-engine"))
            .arg("replay")
            .arg(bench.path("journal").join(shard))
            .output()
            .expect("replay");
        assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    }
}
