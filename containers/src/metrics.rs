//! The counters page as Prometheus text, exposition format 0.0.4.

use abi::counters::{Counter, CountersPage, InstrumentView, State, Word};
use abi::histogram::{bucket_floor, bucket_of};
use std::fmt::Write;

/// The pages of running engines, by the names of their shards; an engine without shards has none.
pub type Pages = [(String, CountersPage)];

/// All metrics of the running engines. A shard's name is a label; `up` is 0 if there is no engine.
pub fn render(pages: &Pages) -> String {
    let mut text = String::with_capacity(16 * 1024);
    let up = u64::from(!pages.is_empty()).to_string();
    head(&mut text, "up", "gauge", "1 if the engine's counters page can be read.");
    let _ = writeln!(text, "quietcore_engine_up {up}");
    if pages.is_empty() {
        return text;
    }
    for counter in Counter::ALL {
        let kind = if counter.is_total() { "counter" } else { "gauge" };
        family(&mut text, pages, (counter.metric(), kind, counter.help()), |page| {
            let word = page.get(*counter);
            let signed = (word as i64).to_string();
            vec![(String::new(), if counter.is_signed() { signed } else { word.to_string() })]
        });
    }
    let help = "1, with what the engine is doing as a label.";
    family(&mut text, pages, ("state", "gauge", help), |page| {
        let name = page.state().map_or("unknown", State::name);
        vec![(format!("state=\"{name}\""), "1".into())]
    });
    let help = "1 if the machine is emulated: its times are no latencies.";
    family(&mut text, pages, ("emulated", "gauge", help), |page| {
        vec![(String::new(), page.word(Word::Emulated).to_string())]
    });
    instruments(&mut text, pages);
    histogram(&mut text, pages);
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        text,
        "# HELP quietcore_engine_{name} {help}\n# TYPE quietcore_engine_{name} {kind}"
    );
}

/// Labels with the shard's before them, in braces; nothing if there are none.
fn labels(shard: &str, others: &str) -> String {
    let own = if shard.is_empty() { String::new() } else { format!("shard=\"{shard}\"") };
    let both: Vec<_> = [own.as_str(), others].into_iter().filter(|text| !text.is_empty()).collect();
    if both.is_empty() { String::new() } else { format!("{{{}}}", both.join(",")) }
}

/// One metric of every engine: its samples are labels and values.
fn family(
    text: &mut String,
    pages: &Pages,
    (name, kind, help): (&str, &str, &str),
    samples: impl Fn(&CountersPage) -> Vec<(String, String)>,
) {
    head(text, name, kind, help);
    for (shard, page) in pages {
        for (others, value) in samples(page) {
            let _ = writeln!(text, "quietcore_engine_{name}{} {value}", labels(shard, &others));
        }
    }
}

fn instruments(text: &mut String, pages: &Pages) {
    type Value = fn(&InstrumentView) -> Option<i64>;
    let metrics: [(&str, &str, Value); 4] = [
        ("bid_ticks", "Best bid in 1/10,000 of the currency.", |v| {
            v.bid.map(|(price, _)| price.0.into())
        }),
        ("ask_ticks", "Best offer in 1/10,000 of the currency.", |v| {
            v.ask.map(|(price, _)| price.0.into())
        }),
        ("instrument_position_shares", "Net position in shares.", |v| Some(v.position)),
        (
            "instrument_pnl_ticks",
            "Profit and loss marked at the touch, in 1/10,000 of the currency.",
            |v| Some(v.pnl_ticks),
        ),
    ];
    for (name, help, value) in metrics {
        family(text, pages, (name, "gauge", help), |page| {
            let views = page.instruments().into_iter();
            let sample = |view: InstrumentView| {
                Some((format!("symbol=\"{}\"", view.symbol), value(&view)?.to_string()))
            };
            views.filter_map(sample).collect()
        });
    }
}

/// Buckets are cumulative; the upper bound is the next bucket's lower one.
fn histogram(text: &mut String, pages: &Pages) {
    let help =
        "From the turn that took a datagram to the end of the system call that sent its order.";
    head(text, "tick_to_order_seconds", "histogram", help);
    let name = "quietcore_engine_tick_to_order_seconds";
    for (shard, page) in pages {
        let (mut count, mut sum) = (0, 0u64);
        let mut bucket = |bound: &str, count: u64| {
            let own = labels(shard, &format!("le=\"{bound}\""));
            let _ = writeln!(text, "{name}_bucket{own} {count}");
        };
        for (floor, entries) in page.tick_to_order() {
            count += entries;
            sum += floor * entries;
            bucket(&seconds(bucket_floor(bucket_of(floor) + 1)), count);
        }
        bucket("+Inf", count);
        let own = labels(shard, "");
        let _ = writeln!(text, "{name}_sum{own} {}\n{name}_count{own} {count}", seconds(sum));
    }
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_exported_once_and_promtool_could_read_it() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let page = CountersPage::create(&path).unwrap();
        page.set(Counter::PnlTicks, -3i64 as u64);
        page.record_tick_to_order(5_000);
        let text = render(&[(String::new(), page)]);
        for counter in Counter::ALL {
            let name = format!("\nquietcore_engine_{} ", counter.metric());
            assert_eq!(text.matches(&name).count(), 1, "{name}");
        }
        assert!(text.contains("quietcore_engine_pnl_ticks -3\n"));
        assert!(text.contains("quietcore_engine_tick_to_order_seconds_count 1\n"));
        assert!(text.lines().all(|l| l.starts_with("# ") || l.split(' ').count() == 2), "{text}");
        let shards = ["a", "b"].map(|name| (name.to_owned(), CountersPage::open(&path).unwrap()));
        let text = render(&shards);
        assert_eq!(text.matches("# TYPE quietcore_engine_pnl_ticks ").count(), 1);
        assert!(text.contains("quietcore_engine_pnl_ticks{shard=\"b\"} -3\n"));
        assert!(text.contains("tick_to_order_seconds_bucket{shard=\"a\",le=\"+Inf\"} 1\n"));
        assert_eq!(render(&[]).lines().last(), Some("quietcore_engine_up 0"));
    }
}
