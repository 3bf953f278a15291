//! A booted host is tuned as the list says, and what is changed on it is named.

use super::{Booted, Verdict};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// What makes the host another one, how the finding is called, and what makes it good again.
const CHANGES: &[(&str, &str, &str)] = &[
    (
        "echo 1 > /proc/sys/vm/stat_interval",
        "vm-statistics",
        "echo 60 > /proc/sys/vm/stat_interval",
    ),
    ("echo 20 > /proc/sys/vm/dirty_ratio", "dirty", "echo 10 > /proc/sys/vm/dirty_ratio"),
    ("echo 2 > /proc/sys/vm/nr_hugepages", "huge-pages", "echo 8 > /proc/sys/vm/nr_hugepages"),
    (
        "echo f > /proc/irq/default_smp_affinity",
        "new-irqs",
        "echo 3 > /proc/irq/default_smp_affinity",
    ),
    (
        "echo always > /sys/kernel/mm/transparent_hugepage/enabled",
        "transparent-huge-pages",
        "echo never > /sys/kernel/mm/transparent_hugepage/enabled",
    ),
    (
        "sleep 300 > /dev/null 2>&1 & echo $! > /run/stray; chrt -f -p 10 $(cat /run/stray)",
        "tasks",
        "kill $(cat /run/stray)",
    ),
];

fn verify(booted: &mut Booted) -> Result<(i32, String)> {
    let output = booted.shell.run("qctl tune verify --quiet", LIMIT)?;
    Ok((output.code, output.text))
}

/// The story.
pub fn host_is_tuned(booted: &mut Booted) -> Result<Verdict> {
    let (code, text) = verify(booted)?;
    ensure!(code == 0, "a host that was just booted is not tuned: {text}");
    let count = text.split_whitespace().find_map(|word| word.parse::<u32>().ok());
    let count = count.context("no count of values")?;
    ensure!(count >= 24, "only {count} values were compared");
    let mut named = Vec::new();
    for (change, name, restore) in CHANGES {
        let changed = booted.shell.run(change, LIMIT)?;
        ensure!(changed.code == 0, "`{change}` ended with {}: {}", changed.code, changed.text);
        let (code, text) = verify(booted)?;
        booted.shell.check(restore, LIMIT)?;
        let is_named = text.lines().any(|line| line.starts_with(&format!("! {name}: ")));
        ensure!(code == 1 && is_named, "{name} is not named after `{change}`: {text}");
        named.push(*name);
    }
    let (code, text) = verify(booted)?;
    ensure!(code == 0, "it is not as it was: {text}");
    Ok(Verdict::Proved(format!(
        "{count} values are as they are to be; changed and named: {}",
        named.join(", ")
    )))
}
