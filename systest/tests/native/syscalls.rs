//! The engine's own count of its system calls against strace's, while it trades: they agree, and
//! there are no others than `io_uring_enter`.

use crate::pair::Bench;
use abi::counters::{Counter, Word};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// Calls by name, from the table that `strace -c` writes.
fn parse(table: &str) -> BTreeMap<String, u64> {
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter_map(|words| {
            let calls = words.get(3)?.parse().ok()?;
            let name = words.last().filter(|name| **name != "total")?;
            Some(((*name).to_owned(), calls))
        })
        .collect()
}

/// Counts the system calls of a trading engine, by strace and by the engine's own counter. `work`
/// waits for it to have traded for a while.
fn count(bench: &Bench, work: impl Fn(&Bench)) -> (BTreeMap<String, u64>, u64) {
    let page = bench.page().expect("a page");
    let table = bench.path("strace");
    let pid = page.word(Word::Pid).to_string();
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-o"])
        .arg(&table)
        .args(["-p", &pid])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is missing; make check installs it");
    let attached = format!("TracerPid:\t{}\n", strace.id());
    let status = format!("/proc/{pid}/status");
    bench.wait("strace is attached", |_| {
        std::fs::read_to_string(&status).is_ok_and(|text| text.contains(&attached))
    });
    let before = page.get(Counter::Syscalls);
    work(bench);
    let own = page.get(Counter::Syscalls) - before;
    let ended = Command::new("kill").args(["-INT", &strace.id().to_string()]).status();
    assert!(ended.is_ok_and(|status| status.success()));
    strace.wait().expect("strace ends");
    (parse(&std::fs::read_to_string(table).expect("strace's table")), own)
}

fn more_orders(bench: &Bench, count: u64) {
    let before = bench.get(Counter::OrdersAccepted);
    bench.wait("it trades for a while", |page| page.get(Counter::OrdersAccepted) > before + count);
}

#[test]
fn the_engine_and_strace_count_the_same() {
    let mut bench = Bench::new(29_750);
    bench.start_exchange(&["--rate", "300"]);
    bench.start_engine();
    bench.wait("it fills", |page| page.get(Counter::Executions) > 5);
    let (mut counted, own) = count(&bench, |bench| {
        let before = bench.get(Counter::Syscalls);
        more_orders(bench, 100);
        bench.wait("many calls", |page| page.get(Counter::Syscalls) > before + 2_000);
    });
    let enters = counted.remove("io_uring_enter").unwrap_or(0);
    // What happened while strace came and went, and what the page does not show yet, is on one side
    // only.
    assert!(enters.abs_diff(own) <= own / 20, "strace {enters}, the engine {own}");
    assert!(counted.is_empty(), "other system calls: {counted:?}");
    eprintln!("strace {enters} io_uring_enter, the engine {own}, nothing else");
}

#[test]
fn a_thread_of_the_kernels_makes_all_system_calls() {
    let mut bench = Bench::new(29_800);
    let path = bench.path("engine.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    let polled = config.replace("[host]", "[host]\ncpu = 1\nsqpoll_cpu = 0");
    assert_ne!(polled, config);
    std::fs::write(&path, polled).expect("write the configuration");
    bench.start_exchange(&["--rate", "300"]);
    bench.start_engine();
    bench.wait("it fills", |page| page.get(Counter::Executions) > 5);
    let (counted, own) = count(&bench, |bench| more_orders(bench, 50));
    assert_eq!((counted, own), (BTreeMap::new(), 0));
    bench.end_engine("-TERM");
    bench.replay();
}
