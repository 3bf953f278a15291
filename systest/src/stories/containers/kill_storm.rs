//! Everybody is killed while versions come and go and a container writes: what is declared runs
//! again, nothing is left over, no line is lost or doubled. On this machine, with the image's
//! containerd and journald; `make bench AREA=agent` does it a thousand times, and `KILLS=n` and
//! `LINES=n` as often as one likes.

use crate::harness::booted::{Verdict, seed};
use crate::harness::checkout::ImageFiles;
use crate::measure::kill_storm::{kills, lines};
use anyhow::{Result, ensure};

const KILLS: u32 = 40;
const LINES: u64 = 300_000;

/// Proves that killing agent, containerd, shims and tailer loses no container and no line.
pub fn nothing_is_lost_when_everybody_is_killed(image: &ImageFiles) -> Result<Verdict> {
    let seed = seed()?;
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = given("KILLS").and_then(|count| count.try_into().ok()).unwrap_or(KILLS);
    let killed = kills(image, count, seed)?;
    let lines = lines(image, given("LINES").unwrap_or(LINES), seed)?;
    ensure!(lines.lost == 0 && lines.doubled == 0, "seed {seed}: {lines:?}");
    ensure!(lines.kills > 0, "nobody was killed while lines were written");
    let slowest = killed.converged_seconds.last().copied().unwrap_or_default();
    Ok(Verdict::Proved(format!(
        "after {} kills of agent, containerd, shims and tailer everything declared ran, at the latest {slowest:.1} s after containerd answered, and nothing was left over; of {} lines none was lost or doubled in {} kills (seed {seed})",
        killed.kills, lines.written, lines.kills
    )))
}
