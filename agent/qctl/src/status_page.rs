//! Status as a page for a terminal: market, engine, histogram, cores, containers.

use crate::table::Column::{Number, Text};
use crate::table::table;
use agent_core::status::{Container, Engine, Status};
use std::fmt::Write;

/// The page, in lines of at most 78 characters.
pub fn page(status: &Status, colour: bool) -> String {
    let mut text = String::new();
    let bold =
        |words: &str| if colour { format!("\x1b[1m{words}\x1b[0m") } else { words.to_string() };
    let readiness = if status.ready { "trading" } else { "not ready" };
    let on_trial = if status.update.on_trial { ", on trial" } else { "" };
    let sealed = if status.sealed { "" } else { ", data not sealed (no TPM)" };
    let title = bold("Quietcore");
    let _ = writeln!(text, "{title}  {}  {readiness}{on_trial}{sealed}", status.version);
    status.engines.iter().for_each(|engine| show_engine(&mut text, engine, &bold));
    if status.engines.is_empty() {
        let _ = writeln!(text, "\nengine: not running");
    }
    let headed = |table: String| {
        let (head, rows) = table.split_once('\n').unwrap_or_default();
        format!("\n{}\n{rows}", bold(head))
    };
    text.push_str(&headed(cores(status)));
    text.push_str(&headed(containers(status)));
    if let Some(desired) = &status.desired {
        let _ = writeln!(text, "\ndesired state: {}", desired.text());
    }
    if status.staged {
        let _ = writeln!(text, "\na compose file is staged: the next boot runs it");
    }
    for problem in &status.problems {
        let _ = writeln!(text, "! {problem}");
    }
    text
}

/// Table of cores: what they are for, and what disturbs them.
pub fn cores(status: &Status) -> String {
    let columns = [
        Number("CORE"),
        Text("ROLE"),
        Number("TIMER IRQ/S"),
        Number("FOREIGN SWITCH/S"),
        Number("(SINCE START)"),
    ];
    let engine_cpus: Vec<_> = status.engines.iter().filter_map(|engine| engine.cpu).collect();
    let rows = status.cores.iter().map(|core| {
        let role = match (core.hot, engine_cpus.contains(&core.cpu)) {
            (true, true) => "hot, engine",
            (true, false) => "hot, journal",
            (false, _) => "housekeeping",
        };
        let of_hot = |count: u64| if core.hot { count.to_string() } else { "-".into() };
        let (per_second, total) = (of_hot(core.foreign_per_second), of_hot(core.foreign_switches));
        let timer = core.timer_per_second.to_string();
        vec![core.cpu.to_string(), role.into(), timer, per_second, total]
    });
    table(&columns, rows)
}

/// Table of containers: how each is, where it runs and of which image.
pub fn containers(status: &Status) -> String {
    let columns =
        [Text("CONTAINER"), Text("STATE"), Number("RESTARTS"), Text("CPUS"), Text("IMAGE")];
    let rows = status.containers.iter().map(|container| {
        let health = container.health.as_ref().filter(|_| container.state == "running");
        let state = health.unwrap_or(&container.state).clone();
        let rollout = container.rollout.as_ref().map_or(String::new(), |said| format!(" ({said})"));
        let Container { name, restarts, cpuset, image, .. } = container;
        vec![name.clone(), state, restarts.to_string(), cpuset.clone(), format!("{image}{rollout}")]
    });
    table(&columns, rows)
}

fn price(ticks: u32) -> String {
    abi::field::Price(ticks).to_string()
}

fn money(ticks: i128) -> String {
    let sign = if ticks < 0 { "-" } else { "" };
    let ticks = ticks.unsigned_abs();
    format!("{sign}{}.{:02}", ticks / 10_000, ticks % 10_000 / 100)
}

fn show_engine(text: &mut String, engine: &Engine, bold: &dyn Fn(&str) -> String) {
    let _ = writeln!(
        text,
        "\n{}",
        bold("SYMBOL         BID (SHARES)        ASK (SHARES)   SPREAD  POSITION      P&L")
    );
    for instrument in &engine.instruments {
        let side = |side: Option<(u32, u32)>| {
            side.map_or("-".into(), |(ticks, shares)| format!("{} ({shares})", price(ticks)))
        };
        let spread = match (instrument.bid, instrument.ask) {
            (Some((bid, _)), Some((ask, _))) if ask >= bid => price(ask - bid),
            (Some((bid, _)), Some((ask, _))) => format!("-{}", price(bid - ask)),
            _ => "-".into(),
        };
        let (bid, ask) = (side(instrument.bid), side(instrument.ask));
        let pnl = money(instrument.pnl_ticks.into());
        let _ = writeln!(
            text,
            "{:<8} {bid:>18}  {ask:>18}  {spread:>7}  {:>8}  {pnl:>7}",
            instrument.symbol, instrument.position
        );
    }
    let count = |name: &str| engine.counter(name);
    let name = format!("engine {}", engine.shard);
    let _ = writeln!(text, "\n{} {}", bold(name.trim_end()), engine.state);
    let _ = writeln!(
        text,
        "  feed messages {:<10} gaps {:<6} orders sent {:<8} replaced {:<8}\n  fills {:<8} shares {:<10} open {:<5} rejects {:<6} refused by risk {}\n  position {:<8} P&L {}",
        count("feed_messages_total"),
        count("feed_gaps_total"),
        count("orders_sent_total"),
        count("replaces_sent_total"),
        count("executions_total"),
        count("shares_filled_total"),
        count("orders_open"),
        count("orders_rejected_total"),
        count("risk_rejected_total"),
        count("position_shares"),
        money(count("pnl_ticks")),
    );
    histogram(text, engine, bold);
}

/// One row per power of two, with a bar.
fn histogram(text: &mut String, engine: &Engine, bold: &dyn Fn(&str) -> String) {
    let mut rows: std::collections::BTreeMap<u32, u64> = std::collections::BTreeMap::new();
    for (floor, count) in &engine.tick_to_order_ns {
        *rows.entry((*floor).max(1).ilog2()).or_default() += count;
    }
    let Some(most) = rows.values().max().copied() else { return };
    let note = if engine.emulated { " (emulated CPU: shape only, not a latency)" } else { "" };
    let _ = writeln!(text, "\n{}{note}", bold("tick to order"));
    for (power, count) in &rows {
        let bar = "#".repeat((count * 40 / most) as usize);
        let _ = writeln!(text, "  from {:>9}  {count:>7}  {bar}", duration(1 << power));
    }
}

fn duration(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{} µs", nanos / 1_000),
        _ => format!("{} ms", nanos / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::status::{Core, Instrument};

    #[test]
    fn an_emulated_machine_is_named_and_lines_fit() {
        let engine = Engine {
            state: "trading".into(),
            emulated: true,
            cpu: Some(2),
            instruments: vec![Instrument {
                symbol: "AAPL".into(),
                bid: Some((5_853_300, 18)),
                ask: Some((5_859_100, 200)),
                position: -100,
                pnl_ticks: -12_345_600,
            }],
            tick_to_order_ns: vec![(5_000, 3), (9_000, 1)],
            ..Engine::default()
        };
        let cores =
            vec![Core { cpu: 0, ..Core::default() }, Core { cpu: 2, hot: true, ..Core::default() }];
        let status = Status { engines: vec![engine], cores, ready: true, ..Status::default() };
        let text = page(&status, false);
        assert!(
            text.contains("585.33 (18)") && text.contains("-1234.56") && text.contains("0.58"),
            "{text}"
        );
        assert!(text.contains("emulated CPU") && text.contains("hot, engine"));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
