//! The engine's figures: user-space instructions by callgrind, which are the same in every run, and
//! system calls, page faults and times of the whole engine beside itself over other back ends.

use crate::harness::checkout::{program, root, shared_data};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Passes over the input: the first touch of every page counts for little.
const PASSES: &str = "4";
/// Ticks in pairs, and orders.
const ROUNDS: &str = "2000";

/// Functions of the allocator that a measured function must not call.
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];

/// Measures the engine.
///
/// # Errors
/// A program was not built, a tool is missing, or there is no input.
pub fn engine() -> Result<Map<String, Value>> {
    let input = input()?;
    let input = input.to_str().context("the input's path is no text")?;
    let mut figures = Map::new();
    let mut note = |name: &str, value: f64| {
        println!("{name} {value:.2}");
        figures.insert(name.into(), json!((value * 1000.0).round() / 1000.0));
    };
    for (name, what) in [
        ("parse_instructions_per_message", "parse"),
        ("decode_instructions_per_message", "decode"),
        ("book_instructions_per_message", "book"),
    ] {
        note(name, count(&[what, input, "--passes", PASSES])?.per_unit());
    }
    let path = count(&["path", ROUNDS])?;
    note("tick_to_order_instructions", path.per_unit());
    note("allocations_after_warmup", path.allocations as f64);
    note("risk_instructions_per_order", count(&["risk", ROUNDS])?.per_unit());
    println!("the whole engine over four back ends in turn; this takes a minute");
    let live = run(Command::new(bench()).arg("live").arg(program("quietcore-engine")))?;
    for line in live.lines() {
        let (name, value) = line.split_once(' ').context("a line of the live measurement")?;
        note(name, value.parse().with_context(|| line.to_string())?);
    }
    Ok(figures)
}

fn bench() -> PathBuf {
    program("quietcore-engine-bench")
}

/// `BOOK_INPUT`, or the real morning.
fn input() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BOOK_INPUT").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "BOOK_INPUT={}: there is no such file", path.display());
        return Ok(path);
    }
    let data =
        shared_data().context("no ../shared/data here; give a recording as BOOK_INPUT=FILE")?;
    Ok(data.join("nasdaq-aapl-2012-06-21-open.itch"))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Counts of the measured function under callgrind.
struct Count {
    instructions: u64,
    units: u64,
    allocations: u64,
}

impl Count {
    fn per_unit(&self) -> f64 {
        self.instructions as f64 / self.units as f64
    }
}

/// Runs a measurement under callgrind, which counts from the entry of a `measured_` function to its
/// end.
fn count(arguments: &[&str]) -> Result<Count> {
    let profile = root().join("target").join(format!("callgrind.{}", arguments[0]));
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg("--toggle-collect=*measured_*")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(bench())
        .args(arguments);
    let printed = run(&mut command).context("count instructions with valgrind")?;
    let units = printed.strip_prefix("units ").and_then(|rest| rest.split_whitespace().next());
    let units = units.and_then(|text| text.parse().ok()).context("the number of units")?;
    let (instructions, allocations) = read_profile(&profile)?;
    // The control: a function that was renamed or inlined away would count nothing.
    ensure!(instructions > units, "callgrind saw {instructions} instructions for {units} units");
    Ok(Count { instructions, units, allocations })
}

/// The instructions in a profile, and the calls of the allocator. Names are numbered at their first
/// use: `fn=(12) malloc`, later `cfn=(12)` (Callgrind Format Specification, 3.1).
fn read_profile(path: &Path) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut allocators = std::collections::BTreeSet::new();
    let (mut total, mut allocations, mut calls_allocator) = (None, 0, false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")) {
            total = rest.trim().parse().ok();
        } else if let Some(rest) = line.strip_prefix("cfn=").or(line.strip_prefix("fn=")) {
            let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
            if ALLOCATORS.contains(&name) {
                allocators.insert(number);
            }
            calls_allocator = line.starts_with("cfn=") && allocators.contains(number);
        } else if let Some(rest) = line.strip_prefix("calls=")
            && calls_allocator
        {
            let calls: u64 = rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            allocations += calls;
        }
    }
    Ok((total.context("the profile has no total")?, allocations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_a_total_and_calls() {
        let path = std::env::temp_dir().join(format!("quietcore-profile-{}", std::process::id()));
        let profile = "fn=(1) measured_x\n10 5\ncfn=(2) malloc\ncalls=3 0\n11 9\ncfn=(3) other\n\
                       calls=8 0\n12 1\nfn=(2)\n1 9\nfn=(4) y\ncfn=(2)\ncalls=1 0\n13 2\ntotals: 26\n";
        std::fs::write(&path, profile).unwrap();
        assert_eq!(read_profile(&path).unwrap(), (26, 4));
        std::fs::remove_file(path).unwrap();
    }
}
