//! The counters page as Prometheus text, exposition format 0.0.4.

use abi::counters::{Counter, CountersPage, State, Word};
use abi::histogram::{bucket_floor, bucket_of};
use std::fmt::Write;

/// All metrics of a running engine.
pub fn render(page: &CountersPage) -> String {
    let mut text = String::with_capacity(16 * 1024);
    line(&mut text, "up", "gauge", "1 if the engine's counters page can be read.", "", "1");
    for counter in Counter::ALL {
        let kind = if counter.is_total() { "counter" } else { "gauge" };
        let word = page.get(*counter);
        let value = if counter.is_signed() { (word as i64).to_string() } else { word.to_string() };
        line(&mut text, counter.metric(), kind, counter.help(), "", &value);
    }
    state(&mut text, page);
    instruments(&mut text, page);
    histogram(&mut text, page);
    text
}

/// What is said when there is no engine.
pub fn render_down() -> String {
    let mut text = String::new();
    line(&mut text, "up", "gauge", "1 if the engine's counters page can be read.", "", "0");
    text
}

fn line(text: &mut String, name: &str, kind: &str, help: &str, labels: &str, value: &str) {
    let _ = writeln!(
        text,
        "# HELP quietcore_engine_{name} {help}\n# TYPE quietcore_engine_{name} {kind}"
    );
    let _ = writeln!(text, "quietcore_engine_{name}{labels} {value}");
}

fn state(text: &mut String, page: &CountersPage) {
    let name = page.state().map_or("unknown", State::name);
    let labels = format!("{{state=\"{name}\"}}");
    line(text, "state", "gauge", "1, with what the engine is doing as a label.", &labels, "1");
    let emulated = page.word(Word::Emulated).to_string();
    line(
        text,
        "emulated",
        "gauge",
        "1 if the machine is emulated: its times are no latencies.",
        "",
        &emulated,
    );
}

fn instruments(text: &mut String, page: &CountersPage) {
    let views = page.instruments();
    let mut family =
        |name: &str, help: &str, value: &dyn Fn(&abi::counters::InstrumentView) -> Option<i64>| {
            let _ = writeln!(
                text,
                "# HELP quietcore_engine_{name} {help}\n# TYPE quietcore_engine_{name} gauge"
            );
            for view in &views {
                if let Some(value) = value(view) {
                    let _ = writeln!(
                        text,
                        "quietcore_engine_{name}{{symbol=\"{}\"}} {value}",
                        view.symbol
                    );
                }
            }
        };
    family("bid_ticks", "Best bid in 1/10,000 of the currency.", &|v| {
        v.bid.map(|(price, _)| price.0.into())
    });
    family("ask_ticks", "Best offer in 1/10,000 of the currency.", &|v| {
        v.ask.map(|(price, _)| price.0.into())
    });
    family("instrument_position_shares", "Net position in shares.", &|v| Some(v.position));
    family(
        "instrument_pnl_ticks",
        "Profit and loss marked at the touch, in 1/10,000 of the currency.",
        &|v| Some(v.pnl_ticks),
    );
}

/// Buckets are cumulative; the upper bound is the next bucket's lower one.
fn histogram(text: &mut String, page: &CountersPage) {
    let name = "quietcore_engine_tick_to_order_seconds";
    let _ = writeln!(
        text,
        "# HELP {name} From the turn that took a datagram to the end of the system call that sent its order.\n# TYPE {name} histogram"
    );
    let (mut count, mut sum) = (0, 0u64);
    for (floor, entries) in page.tick_to_order() {
        count += entries;
        sum += floor * entries;
        let upper = bucket_floor(bucket_of(floor) + 1);
        let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {count}", seconds(upper));
    }
    let _ = writeln!(
        text,
        "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {}\n{name}_count {count}",
        seconds(sum)
    );
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_exported_once_and_promtool_could_read_it() {
        let path = std::env::temp_dir().join(format!("quietcore-metrics-{}", std::process::id()));
        let page = CountersPage::create(&path).unwrap();
        page.set(Counter::PnlTicks, -3i64 as u64);
        page.record_tick_to_order(5_000);
        let text = render(&page);
        for counter in Counter::ALL {
            let name = format!("\nquietcore_engine_{} ", counter.metric());
            assert_eq!(text.matches(&name).count(), 1, "{name}");
        }
        assert!(text.contains("quietcore_engine_pnl_ticks -3\n"));
        assert!(text.contains("quietcore_engine_tick_to_order_seconds_count 1\n"));
        assert!(text.lines().all(|l| l.starts_with("# ") || l.split(' ').count() == 2), "{text}");
        std::fs::remove_file(path).unwrap();
    }
}
