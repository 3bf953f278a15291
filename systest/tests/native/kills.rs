//! The real engine is killed with `SIGKILL` again and again while it trades with the real exchange.
//! In the end the exchange's own record of the session is the judge. `KILLS=n` makes it longer.

use crate::pair::Bench;
use crate::pair::ledger::Ledger;
use abi::counters::{Counter, State};
use abi::journal::{Kind, Segment};
use abi::ouch::UserRefNum;
use abi::ouch::inbound::Message as Inbound;
use abi::soup::Packet;
use std::collections::BTreeSet;
use std::time::Duration;

/// The numbers of all orders that the journal says were sent.
fn numbers_recorded(bench: &Bench) -> BTreeSet<UserRefNum> {
    let mut numbers = BTreeSet::new();
    for index in 0..4 {
        let path = bench.path("journal").join(format!("{index:08}.qcj"));
        let Ok(bytes) = std::fs::read(path) else { continue };
        let records = Segment::open(&bytes).into_iter().flatten().map_while(Result::ok);
        for record in records.filter(|record| record.kind == Kind::SessionSent) {
            let mut rest = record.payload;
            while let Ok(Some((packet, len))) = Packet::decode(rest) {
                rest = &rest[len..];
                let Packet::Unsequenced(message) = packet else { continue };
                match Inbound::decode(message) {
                    Ok((Inbound::EnterOrder(m), _)) => numbers.insert(m.user_ref_num),
                    Ok((Inbound::ReplaceOrder(m), _)) => numbers.insert(m.user_ref_num),
                    _ => false,
                };
            }
        }
    }
    numbers
}

/// The table of the server that has the books' state.
fn snapshots(bench: &Bench) -> String {
    format!(
        "[feed.snapshot]\nserver = \"127.0.0.1:{}\"\nusername = \"quiet\"\npassword = \"core\"\n\
         gap_age_max_ms = 100\n",
        bench.port + 4
    )
}

#[test]
fn killed_again_and_again_the_engine_loses_and_invents_nothing() {
    let kills: u64 = std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let mut bench = Bench::new(29_300);
    // Under this policy no order may be at the exchange that the journal does not have.
    let config = std::fs::read_to_string(bench.path("engine.toml")).expect("the configuration");
    let config = config
        .replace("durability = \"async\"", "durability = \"durable-before-send\"")
        .replace("requote_interval_ns = 50000000", "requote_interval_ns = 1000000")
        .replace("segment_mib = 16", "segment_mib = 4")
        .replace("[orders]", &format!("{}\n[orders]", snapshots(&bench)));
    std::fs::write(bench.path("engine.toml"), config).expect("write the configuration");
    // A day's messages, asked for again at every start, would make each start longer than the one
    // before.
    let server = format!("127.0.0.1:{}", bench.port + 4);
    bench.start_exchange(&["--rate", "500", "--request-window", "50", "--snapshots", &server]);
    let (mut traded, mut heard, mut recorded) = (0, 0, BTreeSet::new());
    for kill in 0..kills {
        bench.start_engine();
        // Two of three die while they trade, at any instant of it; the others while they start.
        if kill % 3 != 0 {
            bench.wait_trading();
            traded += 1;
        }
        std::thread::sleep(Duration::from_millis(kill * 7 % 60));
        heard = heard.max(bench.get(Counter::SessionMessagesIn));
        bench.end_engine("-KILL");
        // The ring keeps the last four runs.
        recorded.extend(numbers_recorded(&bench));
    }
    bench.start_engine();
    // Each run hears the session from its first message. Once this one has heard what another had,
    // and has orders of its own, whose ends come behind everything else, it knows its position,
    // however long this machine takes for that.
    bench.wait("the session is heard again", |page| {
        page.get(Counter::SessionMessagesIn) >= heard && page.get(Counter::OrdersSent) > 0
    });
    std::thread::sleep(Duration::from_millis(200));
    // Who is told to end waits two seconds for its orders' ends, and a busy disk may keep their
    // cancels longer than that.
    bench.signal_engine("-USR1");
    bench.wait("every order has ended", |page| {
        page.state() == Some(State::Killed) && page.get(Counter::OrdersOpen) == 0
    });
    bench.end_engine("-TERM");
    let ours = bench.get(Counter::Position) as i64;
    let ledger = Ledger::read(bench.port + 3);
    assert_eq!(ours, ledger.position, "the engine's position against the exchange's");
    assert!(ledger.reused.is_empty(), "numbers used twice: {:?}", ledger.reused);
    let open: Vec<_> = ledger.open.iter().filter(|(_, open)| **open > 0).collect();
    assert!(open.is_empty(), "open at the exchange after the end: {open:?}");
    recorded.extend(numbers_recorded(&bench));
    let invented: Vec<_> = ledger.sides.keys().filter(|n| !recorded.contains(n)).collect();
    assert!(invented.is_empty(), "orders without a record: {invented:?}");
    assert!(ledger.executions > 0 && traded > kills / 2, "too little happened: {ledger:?}");
    eprintln!(
        "{kills} kills, {} orders, {} executions, position {ours}",
        ledger.sides.len(),
        ledger.executions
    );
}
