//! The times of a journal's orders as one self-contained page: how long a datagram waited in the
//! kernel, how long the engine took, and how both went over the run. Reads a journal; measures
//! nothing.

use crate::journal::{OpenError, segments};
use abi::histogram::{BUCKETS, bucket_floor, bucket_of};
use abi::journal::{Kind, Segment, Timing};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The files can't be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No order was timed.
    #[error(
        "{path}: no order was timed in this journal; an engine times the orders that follow from a \
         datagram, but not on an emulated machine"
    )]
    Empty {
        /// Directory of the journal.
        path: PathBuf,
    },
}

/// One stage's times.
struct Stage {
    name: &'static str,
    what: &'static str,
    times: Vec<(u64, u64)>,
}

/// Slices that the run is shown in.
const SLICES: usize = 60;
/// Width and height of a chart in the page, in CSS pixels.
const CHART: (usize, usize) = (960, 180);

/// The page, as HTML.
///
/// # Errors
/// [`ReportError`] names the file, or says that there is nothing to show.
pub fn html(journal: &Path) -> Result<String, ReportError> {
    let stages = read(journal)?;
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>Quietcore: tick to order</title><style>\
         body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;color:#222}\
         table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right}\
         th:first-child,td:first-child{text-align:left}rect{fill:#3b6ea5}\
         .p50{stroke:#3b6ea5}.p99{stroke:#b3541e}polyline{fill:none;stroke-width:2}\
         text{font-size:11px;fill:#555}</style><h1>Tick to order</h1>",
    );
    let orders = stages.iter().map(|stage| stage.times.len()).max().unwrap_or(0);
    let _ = write!(
        page,
        "<p>{orders} orders that followed from a datagram, from {}.",
        journal.display()
    );
    for stage in stages.iter().filter(|stage| !stage.times.is_empty()) {
        let _ = write!(page, "<h2>{}</h2><p>{}{}", stage.name, stage.what, table(&stage.times));
        page.push_str(&histogram(&stage.times));
        page.push_str(
            "<p>Over the run: <b class=p50>median</b> and <b class=p99>99th percentile</b>.",
        );
        page.push_str(&over_time(&stage.times));
    }
    Ok(page)
}

fn read(journal: &Path) -> Result<[Stage; 2], ReportError> {
    let (mut waited, mut took) = (Vec::new(), Vec::new());
    for (_, path) in segments(journal)? {
        let failed = |source| OpenError::Io { action: "read", path: path.clone(), source };
        let bytes = std::fs::read(&path).map_err(failed)?;
        for record in Segment::open(&bytes).into_iter().flatten().map_while(Result::ok) {
            let timing = (record.kind == Kind::Timing).then(|| Timing::from_bytes(record.payload));
            if let Some(Some(timing)) = timing {
                took.push((record.time_ns, timing.loop_to_send_ns));
                if timing.wire_to_loop_ns > 0 {
                    waited.push((record.time_ns, timing.wire_to_loop_ns));
                }
            }
        }
    }
    if took.is_empty() {
        return Err(ReportError::Empty { path: journal.into() });
    }
    Ok([
        Stage {
            name: "Received to loop",
            what: "From the time stamp of the network card or the kernel to the loop's clock.",
            times: waited,
        },
        Stage {
            name: "Loop to order sent",
            what: "From the loop's clock to the order given to the kernel: decoding, book, strategy, \
                   risk, encoding, journal.",
            times: took,
        },
    ])
}

/// The value below which a share of sorted times lies.
fn quantile(sorted: &[u64], per_mille: usize) -> u64 {
    sorted.get((sorted.len() * per_mille / 1000).min(sorted.len() - 1)).copied().unwrap_or(0)
}

fn sorted(times: &[(u64, u64)]) -> Vec<u64> {
    let mut values: Vec<u64> = times.iter().map(|(_, ns)| *ns).collect();
    values.sort_unstable();
    values
}

fn shown(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        _ => format!("{:.1} ms", ns as f64 / 1e6),
    }
}

fn table(times: &[(u64, u64)]) -> String {
    let values = sorted(times);
    let mut row = format!("<td>{}", values.len());
    for per_mille in [500, 900, 990, 999, 1000] {
        let _ = write!(row, "<td>{}", shown(quantile(&values, per_mille)));
    }
    format!("<table><tr><th>orders<th>median<th>90 %<th>99 %<th>99.9 %<th>longest<tr>{row}</table>")
}

fn histogram(times: &[(u64, u64)]) -> String {
    let mut counts = [0usize; BUCKETS];
    times.iter().for_each(|(_, ns)| counts[bucket_of(*ns)] += 1);
    let used = |bucket: &usize| counts[*bucket] > 0;
    let first = (0..BUCKETS).find(used).unwrap_or(0);
    let last = (0..BUCKETS).rev().find(used).unwrap_or(0);
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let (width, height) = CHART;
    let step = width / (last - first + 1).max(1);
    let mut svg = format!("<svg width={width} height={}>", height + 20);
    for (bucket, count) in counts.iter().enumerate().take(last + 1).skip(first) {
        let (x, tall) = ((bucket - first) * step, count * height / most);
        let (y, floor) = (height - tall, shown(bucket_floor(bucket)));
        let _ = write!(
            svg,
            "<rect x={x} y={y} width={} height={tall}><title>from {floor}: {count}</title></rect>",
            step.saturating_sub(1).max(1)
        );
        if (bucket - first).is_multiple_of(8) {
            let _ = write!(svg, "<text x={x} y={}>{floor}</text>", height + 14);
        }
    }
    svg + "</svg>"
}

fn over_time(times: &[(u64, u64)]) -> String {
    let start = times.iter().map(|(at, _)| *at).min().unwrap_or(0);
    let span = times.iter().map(|(at, _)| at - start).max().unwrap_or(0).max(1);
    let mut slices = vec![Vec::new(); SLICES];
    for (at, ns) in times {
        let slice = (u128::from(at - start) * SLICES as u128 / (u128::from(span) + 1)) as usize;
        slices[slice].push(*ns);
    }
    slices.iter_mut().for_each(|slice| slice.sort_unstable());
    let filled = || slices.iter().enumerate().filter(|(_, slice)| !slice.is_empty());
    let top = filled().map(|(_, slice)| quantile(slice, 990)).max().unwrap_or(1).max(1);
    let (width, height) = CHART;
    let mut svg = format!("<svg width={width} height={}>", height + 20);
    for (class, per_mille) in [("p50", 500), ("p99", 990)] {
        let _ = write!(svg, "<polyline class={class} points=\"");
        for (index, slice) in filled() {
            let y = height as u64 - quantile(slice, per_mille) * height as u64 / top;
            let _ = write!(svg, "{},{y} ", index * width / SLICES);
        }
        svg.push_str("\"/>");
    }
    let seconds = span as f64 / 1e9;
    let _ =
        write!(svg, "<text x=0 y=12>{}</text><text x=0 y={}>0 s</text>", shown(top), height + 14);
    let _ = write!(svg, "<text x={} y={}>{seconds:.0} s</text>", width - 40, height + 14);
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!((quantile(&values, 500), quantile(&values, 1000)), (501, 1000));
        assert_eq!(quantile(&[7], 999), 7);
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(
            [shown(999), shown(12_340), shown(12_340_000)],
            ["999 ns", "12.3 µs", "12.3 ms"]
        );
    }
}
