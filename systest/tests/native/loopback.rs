//! The engine against the exchange on loopback, as processes: real sockets, real journal files,
//! real kills. Each test has groups and ports of its own. Waits are for conditions, with a
//! deadline.

use crate::pair::ledger::Ledger;
use crate::pair::{Bench, programs};
use abi::control::{ControlPage, Orders};
use abi::counters::{Counter, State};
use abi::journal::{Header, Kind, Record, Segment, encode_record};
use std::process::Command;
use std::time::Duration;
use systest::harness::checkout::shared_data;

#[test]
fn a_recording_is_traded_and_its_bbo_is_the_reference() {
    let Some(data) = shared_data() else {
        println!("SKIPPED: no ../shared/data on this machine");
        return;
    };
    let recording = data.join("nasdaq-aapl-2012-06-21-open.itch");
    let reference = std::fs::read_to_string(data.join("nasdaq-aapl-2012-06-21-open.bbo.csv"))
        .expect("the reference");
    let messages =
        abi::itch::Framed::new(&std::fs::read(&recording).expect("the recording")).count() as u64;
    let mut bench = Bench::new(32100);
    bench.start_exchange(&[
        "--replay",
        &recording.display().to_string(),
        "--speed",
        "10000",
        "--wait-for-login",
    ]);
    bench.start_engine();
    bench
        .wait("the whole recording is applied", |page| page.get(Counter::FeedMessages) == messages);
    assert!(bench.get(Counter::Executions) > 0, "no fill");
    assert_eq!(bench.get(Counter::BookUnknownOrder) + bench.get(Counter::BookRefused), 0);
    bench.end_engine("-TERM");
    assert_eq!(bench.replay(), reference);
}

#[test]
fn loss_duplication_and_reordering_leave_no_hole() {
    let mut bench = Bench::new(32200);
    let faults = [
        "--rate",
        "3000",
        "--seed",
        "5",
        "--loss-ppm",
        "20000",
        "--duplicate-ppm",
        "20000",
        "--reorder-ppm",
        "20000",
    ];
    bench.start_exchange(&faults);
    bench.start_engine();
    bench.wait("gaps were filled by the request server", |page| {
        page.get(Counter::FeedRequests) >= 3
            && page.get(Counter::FeedMessages) > 20_000
            && page.get(Counter::FeedReordered) > 0
    });
    bench.wait_trading();
    bench.end_engine("-TERM");
    assert_eq!(
        bench.get(Counter::FeedMessages) + 1,
        bench.get(Counter::FeedSequence),
        "each message once"
    );
    assert_eq!(
        bench.get(Counter::BookUnknownOrder) + bench.get(Counter::BookRefused),
        0,
        "a hole would show in the book"
    );
    assert_eq!(bench.get(Counter::FeedMessagesMalformed), 0);
    bench.replay();
}

#[test]
fn an_engine_that_comes_too_late_for_the_request_server_takes_a_snapshot() {
    let mut bench = Bench::new(31_700);
    let path = bench.path("engine.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    let server = "[feed.snapshot]\nserver = \"127.0.0.1:31704\"\nusername = \"quiet\"\n\
                  password = \"core\"\ngap_age_max_ms = 200\n\n[orders]";
    std::fs::write(&path, config.replace("[orders]", server)).expect("write the configuration");
    let window = ["--rate", "2000", "--request-window", "50", "--snapshots", "127.0.0.1:31704"];
    bench.start_exchange(&window);
    bench.start_engine();
    bench.wait("it trades behind a snapshot", |page| {
        page.get(Counter::SnapshotsLoaded) > 0
            && page.state() == Some(State::Trading)
            && page.get(Counter::Executions) > 5
    });
    bench.end_engine("-TERM");
    assert_eq!(bench.get(Counter::BookUnknownOrder) + bench.get(Counter::BookRefused), 0);
    assert_eq!(bench.get(Counter::SnapshotsFailed), 0);
    bench.replay();
}

#[test]
fn a_lost_connection_is_resumed_where_it_broke() {
    let mut bench = Bench::new(32300);
    bench.start_exchange(&["--rate", "300", "--disconnect-every", "4"]);
    bench.start_engine();
    bench.wait("three logins and trading again", |page| {
        page.get(Counter::SessionConnects) >= 3
            && page.state() == Some(State::Trading)
            && page.get(Counter::Executions) > 0
    });
    assert_eq!(bench.get(Counter::SessionMalformed) + bench.get(Counter::SessionUnknownOrder), 0);
    bench.end_engine("-TERM");
    bench.replay();
}

#[test]
fn a_connection_that_takes_another_ones_place_hears_how_that_one_ended() {
    let mut bench = Bench::new(33200);
    bench.start_exchange(&["--rate", "50"]);
    bench.start_engine();
    // An order may be filled before the login: then there was nothing to cancel, and it is tried
    // again.
    for _ in 0..20 {
        bench.wait("an order is open", |page| page.get(Counter::OrdersOpen) > 0);
        bench.signal_engine("-STOP");
        let ledger = Ledger::read(bench.port + 3);
        let open: Vec<_> = ledger.open.iter().filter(|(_, open)| **open > 0).collect();
        assert!(open.is_empty(), "open after its connection was replaced: {open:?}");
        bench.signal_engine("-CONT");
        if ledger.disconnected > 0 {
            return;
        }
        let logins = bench.get(Counter::SessionConnects);
        bench.wait("the engine is back", |page| page.get(Counter::SessionConnects) > logins);
    }
    panic!("no order was open in twenty tries");
}

#[test]
fn a_killed_engine_finds_its_position_again_and_stays_killed() {
    let mut bench = Bench::new(32400);
    bench.start_exchange(&["--rate", "500"]);
    bench.start_engine();
    bench.wait("ten fills", |page| page.get(Counter::Executions) >= 10);
    let control =
        ControlPage::open(&bench.path("pages").join("control")).expect("the control page");
    control.set(Orders { kill: true, ..Orders::default() });
    bench.wait("everything is cancelled", |page| {
        page.state() == Some(State::Killed) && page.get(Counter::OrdersOpen) == 0
    });
    let (position, fills) = (bench.get(Counter::Position), bench.get(Counter::Executions));
    bench.end_engine("-KILL");
    bench.start_engine();
    bench.wait("the session is heard again", |page| {
        page.get(Counter::Executions) == fills && page.get(Counter::TradingAllowed) == 0
    });
    bench.wait("the position is the old one", |page| page.get(Counter::Position) == position);
    assert_eq!(bench.page().and_then(|page| page.state()), Some(State::Killed));
    control.set(Orders::default());
    bench.wait("it trades on", |page| page.get(Counter::Executions) > fills);
    assert_eq!(bench.get(Counter::OrdersRejected), 0, "an order number was used twice");
}

#[test]
fn risk_limits_reload_without_a_restart() {
    let mut bench = Bench::new(31_900);
    bench.start_exchange(&["--rate", "500"]);
    bench.start_engine();
    bench.wait_trading();
    let page = bench.page().expect("a page");
    let control = ControlPage::open_existing(&bench.path("pages").join("control")).expect("a page");
    let configured = page.configured_limits();
    assert_eq!((page.limits(), configured[0]), (configured, 1_000));
    let mut words = configured;
    words[0] = 50;
    // Those that were made for another configuration are not taken.
    let mut other = configured;
    other[1] += 1;
    control.set_limits(&words, &other);
    control.set_limits(&words, &configured);
    bench.wait("the limits are in force", |page| page.limits()[0] == 50);
    bench.wait("quotes of 100 shares are refused", |p| p.get(Counter::RefusedShares) > 0);
    words[0] = 0;
    control.set_limits(&words, &configured);
    bench.wait("a set out of range is refused", |page| page.get(Counter::LimitsRefused) == 1);
    assert_eq!((bench.get(Counter::LimitsLoads), page.limits()[0]), (1, 50));
    bench.end_engine("-TERM");
    bench.replay();
}

#[test]
fn the_kill_signal_cancels_everything_when_there_is_no_agent() {
    let mut bench = Bench::new(32_800);
    bench.start_exchange(&["--rate", "500"]);
    bench.start_engine();
    bench.wait("it fills", |page| page.get(Counter::Executions) > 0);
    let pid = bench.engine.as_ref().expect("the engine").id().to_string();
    assert!(Command::new("kill").args(["-USR1", &pid]).status().is_ok_and(|sent| sent.success()));
    bench.wait("everything is cancelled", |page| {
        page.state() == Some(State::Killed) && page.get(Counter::OrdersOpen) == 0
    });
    bench.end_engine("-TERM");
    bench.replay();
}

#[test]
fn another_session_of_the_exchange_ends_the_process_for_a_fresh_start() {
    let mut bench = Bench::new(32500);
    bench.start_exchange(&["--rate", "100"]);
    bench.start_engine();
    bench.wait_trading();
    if let Some(mut exchange) = bench.exchange.take() {
        exchange.kill().expect("kill the exchange");
        exchange.wait().expect("the exchange ends");
    }
    std::thread::sleep(Duration::from_millis(1100));
    bench.start_exchange(&["--rate", "100"]);
    let status = bench.engine.take().expect("the engine").wait().expect("it ends by itself");
    assert_eq!(status.code(), Some(4));
    bench.start_engine();
    bench.wait_trading();
}

#[test]
fn bad_input_is_one_line_with_the_remedy() {
    let bench = Bench::new(32600);
    let good = std::fs::read_to_string(bench.path("engine.toml")).expect("the configuration");
    let check = |text: &str| {
        let path = bench.path("bad.toml");
        std::fs::write(&path, text).expect("write the configuration");
        let output = Command::new(programs().join("quietcore-engine"))
            .args(["--check-config", "--config"])
            .arg(&path)
            .output();
        let output = output.expect("check the configuration");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(&good).0, Some(0));
    for (from, to, names) in [
        ("version = 1", "version = 9", "version = 9"),
        ("[risk]", "[risk]\nnonsense = 1", "nonsense"),
        ("order_shares_max = 1000", "order_shares_max = 0", "order_shares_max"),
        ("\"AAPL\"", "\"TOOLONGSYMBOL\"", "book.symbols"),
        ("239.192.", "10.192.", "feed.line_a"),
        ("segments = 4", "segments = 1", "journal.segments"),
    ] {
        let (code, error) = check(&good.replace(from, to));
        assert_eq!(code, Some(2), "{to}");
        assert!(error.contains(names) && error.trim().lines().count() == 1, "{to}: {error}");
    }
    let preflight = Command::new(programs().join("quietcore-engine"))
        .args(["--preflight", "--config"])
        .arg(bench.path("engine.toml"))
        .output();
    let preflight = preflight.expect("check this host");
    let findings = String::from_utf8_lossy(&preflight.stderr).into_owned();
    let isolated = std::fs::read_to_string("/sys/devices/system/cpu/nohz_full")
        .is_ok_and(|list| list.trim().parse::<u32>().is_ok());
    assert!(isolated || preflight.status.code() == Some(3), "{findings}");
    assert!(
        isolated || findings.contains("isolation: ") && findings.contains("boot with nohz_full="),
        "{findings}"
    );
    let missing = Command::new(programs().join("quietcore-exchange"))
        .args(["--replay", "/nonexistent.itch"])
        .output();
    let missing = missing.expect("start the exchange");
    assert!(
        !missing.status.success()
            && String::from_utf8_lossy(&missing.stderr).contains("/nonexistent.itch")
    );
}

/// Why the journal can't be replayed.
fn replay_error(bench: &Bench) -> String {
    let replay = Command::new(programs().join("quietcore-engine"))
        .arg("replay")
        .arg(bench.path("journal"))
        .output()
        .expect("replay");
    assert!(!replay.status.success(), "the journal is whole");
    String::from_utf8_lossy(&replay.stderr).into_owned()
}

#[test]
fn a_replay_names_the_first_record_that_differs() {
    let mut bench = Bench::new(32_850);
    bench.start_exchange(&["--rate", "200"]);
    bench.start_engine();
    bench.wait("orders are on the disk", |page| {
        page.get(Counter::OrdersSent) > 5 && page.get(Counter::JournalDurable) > 200
    });
    bench.end_engine("-TERM");
    bench.replay();
    let path = bench.path("journal").join("00000000.qcj");
    let mut bytes = std::fs::read(&path).expect("the first segment");
    let header = Header::decode(&bytes).expect("its header");
    // Another quantity in an order that was sent, with a checksum that fits.
    let mut segment = Segment::open(&bytes).expect("its records");
    let sent = loop {
        let at = segment.offset();
        let record = segment.next().expect("an order was sent").expect("a whole record");
        if record.kind == Kind::SessionSent && record.payload.get(3) == Some(&b'O') {
            break (at, record.sequence, record.time_ns, record.payload.to_vec());
        }
    };
    let (at, sequence, time_ns, mut payload) = sent;
    payload[12] ^= 1;
    let changed = Record { kind: Kind::SessionSent, sequence, time_ns, payload: &payload };
    encode_record(&changed, header.mark(), &mut bytes[at..]);
    std::fs::write(&path, bytes).expect("change it");
    let error = replay_error(&bench);
    let named = format!("record {sequence}: the replay says");
    assert!(error.contains(&named), "{named}: {error}");
}

#[test]
fn a_damaged_journal_is_named_by_file_and_byte() {
    let mut bench = Bench::new(32700);
    bench.start_exchange(&["--rate", "200"]);
    bench.start_engine();
    bench.wait("orders were sent", |page| {
        page.get(Counter::OrdersSent) > 0 && page.get(Counter::JournalDurable) > 100
    });
    bench.end_engine("-TERM");
    bench.replay();
    let config = std::fs::read_to_string(bench.path("engine.toml")).expect("the configuration");
    std::fs::write(bench.path("other.toml"), config.replace("segment_mib = 16", "segment_mib = 8"))
        .expect("write another");
    let other = Command::new(programs().join("quietcore-engine"))
        .arg("--config")
        .arg(bench.path("other.toml"))
        .output();
    let error = String::from_utf8_lossy(&other.expect("start").stderr).into_owned();
    assert!(error.contains("segment of 16 MiB; move the old journal away"), "{error}");
    let path = bench.path("journal").join("00000000.qcj");
    let mut bytes = std::fs::read(&path).expect("the first segment");
    bytes[4096 + 40] ^= 1;
    std::fs::write(&path, bytes).expect("damage it");
    let error = replay_error(&bench);
    assert!(error.contains("00000000.qcj") && error.contains("byte 4096"), "{error}");
}
