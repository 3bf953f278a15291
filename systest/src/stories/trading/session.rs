//! The engine trades: a real recording state for state, and the kill switch.

use crate::harness::booted::{Booted, Verdict, recording};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);

fn engine(status: &serde_json::Value, counter: &str) -> i64 {
    status["engines"][0]["counters"][counter].as_i64().unwrap_or(0)
}

/// Proves that the kill switch cancels every order and holds across a restart until resumed.
pub fn kill_switch_cancels_everything(booted: &mut Booted) -> Result<Verdict> {
    booted.shell.wait_status("orders are open", Duration::from_secs(120), |status| {
        engine(status, "orders_open") > 0
    })?;
    booted.shell.check("qctl kill", ANSWER)?;
    let killed = booted.shell.wait_status("no order is open", ANSWER, |status| {
        status["engines"][0]["state"] == "killed" && engine(status, "orders_open") == 0
    })?;
    let sent = engine(&killed, "orders_sent_total");
    booted.shell.check("systemctl restart quietcore-engine", ANSWER)?;
    booted.shell.wait_status("a restarted engine stays killed", ANSWER, |status| {
        status["engines"][0]["state"] == "killed"
    })?;
    booted.shell.check("qctl resume", ANSWER)?;
    booted.shell.wait_status("it trades again", Duration::from_secs(120), |status| {
        status["engines"][0]["state"] == "trading" && engine(status, "orders_sent_total") > 0
    })?;
    // The restarted engine fills the next file of its journal; the agent keeps the one before.
    let kept =
        "for i in $(seq 30); do ls /var/lib/quietcore/agent/journal/*.qcj && break; sleep 1; done";
    let kept = booted.shell.check(kept, ANSWER)?;
    ensure!(kept.contains(".qcj"), "the agent has kept no file of the journal: {kept}");
    booted
        .shell
        .check("qctl limits order_shares_max=900 | grep -q 'order_shares_max .* 900'", ANSWER)?;
    Ok(Verdict::Proved(format!(
        "after {sent} orders `qctl kill` cancelled all, a restart did not lift it, `qctl resume` did; \
         the agent kept the earlier run's journal; a risk limit was changed in force"
    )))
}

/// The recording at so many percent of its speed: 30 minutes in one.
const SPEED: u32 = 3000;

/// Proves that a recording is traded, with each best bid and offer equal to the reference file's.
pub fn recording_is_traded_state_for_state(booted: &mut Booted) -> Result<Verdict> {
    let Some((itch, expected)) = recording() else {
        return Ok(Verdict::Skipped("no recording in ../shared/data on this machine".into()));
    };
    let expected = std::fs::read(&expected)?;
    let states = expected.iter().filter(|byte| **byte == b'\n').count() - 1;
    let messages = abi::itch::Framed::new(&std::fs::read(&itch)?).count();
    booted.shell.check(
        &format!(
            "ls /run/quietcore/demo/capture.itch; sed 's/--wait-for-login/--wait-for-login\\n      - --speed={SPEED}/' /etc/quietcore/compose.yaml > /run/fast.yaml; qctl apply /run/fast.yaml"
        ),
        ANSWER,
    )?;
    // Another session of the exchange: the engine ends, systemd starts it anew.
    let done =
        |status: &serde_json::Value| engine(status, "feed_messages_total") as usize == messages;
    let status = booted.shell.wait_status(
        "the whole recording is applied",
        Duration::from_secs(600),
        done,
    )?;
    let (fills, orders) =
        (engine(&status, "executions_total"), engine(&status, "orders_sent_total"));
    ensure!(orders > 0 && fills > 0, "{orders} orders and {fills} fills: the engine did not trade");
    let replay = booted.shell.check(
        "systemctl kill --signal=STOP quietcore-engine; sleep 1; quietcore-engine replay /var/lib/quietcore/journal --bbo /run/bbo.csv; code=$?; systemctl kill --signal=CONT quietcore-engine; sha256sum < /run/bbo.csv; exit $code",
        Duration::from_secs(300),
    )?;
    let found = replay
        .lines()
        .last()
        .context("the guest's digest")?
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_string();
    let wanted: String =
        Sha256::digest(&expected).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        found == wanted,
        "the engine's best bids and offers differ from the reference file: {replay}"
    );
    Ok(Verdict::Proved(format!(
        "{messages} recorded messages, {orders} orders, {fills} fills; {states} best bids and offers equal the reference file state for state; {}",
        replay.lines().next().unwrap_or_default()
    )))
}
