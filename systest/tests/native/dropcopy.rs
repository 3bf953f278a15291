//! The FIX drop copy against QuickFIX, over real trading: restarts of the engine, of the drop copy
//! and of the counterparty, and nothing missing in the end. The exchange's own record is the judge.

use crate::pair::ledger::Ledger;
use crate::pair::{Bench, LIMIT, programs};
use abi::counters::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use systest::harness::checkout::root;

const PORT: u16 = 29_600;

/// Builds the counterparty.
fn counterparty() -> PathBuf {
    let program = programs().join("quickfix-counterparty");
    let built = Command::new("g++")
        .args(["-std=c++14", "-O1", "-w", "-o"])
        .arg(&program)
        .arg(root().join("systest/tests/native/quickfix/counterparty.cpp"))
        .args(["-lquickfix", "-lpthread"])
        .output()
        .expect("g++ is missing; make check installs it");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "is libquickfix-dev there? make check installs it: {said}");
    program
}

/// A running program that is killed with the test.
struct Running(Child);

impl Running {
    fn end(&mut self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn drop_copy(bench: &Bench) -> Running {
    let log = std::fs::File::options().create(true).append(true).open(bench.path("dropcopy.log"));
    let child = Command::new(programs().join("quietcore-dropcopy"))
        .arg("--journal")
        .arg(bench.path("journal"))
        .arg("--state")
        .arg(bench.path("state"))
        .args(["--listen", &format!("127.0.0.1:{}", PORT + 9), "--target", "BACKOFFICE"])
        .stdout(Stdio::null())
        .stderr(log.expect("the log"))
        .spawn();
    Running(child.expect("start the drop copy"))
}

/// Starts the counterparty; what it prints is added to `output`.
fn back_office(bench: &Bench, program: &Path, resets: bool) -> Running {
    let directory = bench.path("backoffice");
    std::fs::create_dir_all(&directory).expect("a directory");
    let output = std::fs::File::options().create(true).append(true).open(bench.path("output"));
    let child = Command::new(program)
        .arg((PORT + 9).to_string())
        .arg(&directory)
        .arg(if resets { "Y" } else { "N" })
        .stdout(output.expect("the output"))
        .spawn();
    Running(child.expect("start the counterparty"))
}

/// One line of the counterparty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Report {
    id: String,
    kind: String,
    buys: bool,
    last: i64,
    again: bool,
}

fn reports(bench: &Bench) -> Vec<Report> {
    let output = std::fs::read_to_string(bench.path("output")).unwrap_or_default();
    assert!(!output.contains("REJECT"), "QuickFIX refused a message: {output}");
    let lines = output.lines().filter_map(|line| line.strip_prefix("EXEC "));
    let report = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        Report {
            id: words[0].into(),
            kind: words[1].into(),
            buys: words[3] == "1",
            last: words[4].parse().expect("shares"),
            again: words[7] == "Y",
        }
    };
    lines.map(report).collect()
}

fn wait_reports(bench: &Bench, what: &str, done: impl Fn(&[Report]) -> bool) {
    let start = Instant::now();
    while !done(&reports(bench)) {
        let log = std::fs::read_to_string(bench.path("dropcopy.log")).unwrap_or_default();
        let count = reports(bench).len();
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; {count} reports; {log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_back_office_hears_of_everything_once_whatever_is_restarted() {
    let program = counterparty();
    let mut bench = Bench::new(PORT);
    bench.start_exchange(&["--rate", "400"]);
    bench.start_engine();
    bench.wait_trading();
    let mut copy = drop_copy(&bench);
    let mut office = back_office(&bench, &program, false);
    wait_reports(&bench, "thirty reports as they come", |reports| reports.len() >= 30);
    office.end("-TERM");
    // While nobody listens, everything is killed in turn.
    copy.end("-KILL");
    let before = bench.get(Counter::Executions);
    bench.wait("fills go on", |page| page.get(Counter::Executions) > before + 5);
    copy = drop_copy(&bench);
    bench.end_engine("-KILL");
    bench.start_engine();
    bench.wait_trading();
    copy.end("-KILL");
    let _copy = drop_copy(&bench);
    let heard = reports(&bench).len();
    office = back_office(&bench, &program, false);
    wait_reports(&bench, "what was missed", |reports| reports.len() > heard + 20);
    bench.end_engine("-TERM");
    let ledger = Ledger::read(bench.port + 3);
    let told = |reports: &[Report]| reports.iter().map(|r| r.id.clone()).collect::<BTreeSet<_>>();
    let missing = |reports: &[Report]| {
        let told = told(reports);
        let number = |id: &String| id.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        let told: BTreeSet<u64> = told.iter().filter_map(number).collect();
        let all = ledger.reportable.iter().filter(|(number, _)| !told.contains(number));
        all.map(|(number, message)| format!("{number} {message}")).collect::<Vec<_>>()
    };
    let start = Instant::now();
    while !missing(&reports(&bench)).is_empty() {
        let missing = missing(&reports(&bench));
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {missing:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    office.end("-TERM");
    let all = reports(&bench);
    compare(&all, &ledger);
    assert_eq!(all.len(), ledger.reportable.len(), "a report came twice");
    // A control: without one report, the judgement is another.
    let fill = all.iter().position(|report| report.kind == "F").expect("a fill");
    let without = [&all[..fill], &all[fill + 1..]].concat();
    assert!(std::panic::catch_unwind(|| compare(&without, &ledger)).is_err());
    // Numbers that start anew bring the whole day again, and say so.
    office = back_office(&bench, &program, true);
    let again = |reports: &[Report]| reports.iter().filter(|report| report.again).count();
    wait_reports(&bench, "the day again", |reports| again(reports) >= ledger.reportable.len());
    office.end("-TERM");
    assert_eq!(again(&reports(&bench)), ledger.reportable.len());
}

/// Compares what was reported with the exchange's record.
fn compare(reports: &[Report], ledger: &Ledger) {
    let by_id: BTreeMap<_, _> = reports.iter().map(|report| (&report.id, report)).collect();
    let fills = || by_id.values().filter(|report| report.kind == "F");
    let position: i64 = fills().map(|fill| if fill.buys { fill.last } else { -fill.last }).sum();
    assert_eq!(
        (by_id.len(), fills().count() as u64, position),
        (ledger.reportable.len(), ledger.executions, ledger.position),
        "reports, fills and position against the exchange's"
    );
}
