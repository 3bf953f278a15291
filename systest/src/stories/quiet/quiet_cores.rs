//! The hot cores are quiet: nothing but the engine runs on them, and the timer does not tick.
//! Counted by the kernel's own scheduler trace and by its interrupt counters, over ten seconds,
//! while the engine trades. The control boots the same image without the isolation words and must
//! fail the same check.

use crate::harness::booted::{Booted, Verdict};
use crate::harness::checkout::ImageFiles;
use crate::measure::load;
use crate::measure::noise::{Noise, START_LIMIT, control_noise, measure};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Timer interrupts on the engine's core in ten seconds of trading, at most. Traced, they are TCP's
/// own timers, which the engine's sends start on its core (kernel 6.12 moves them away from idle
/// cores only): 0 to 8 were seen.
const TIMER_MAX: u64 = 25;

/// Least timer interrupts of the control core in ten seconds; with fewer the check proves nothing.
const TIMER_CONTROL_MIN: u64 = 1000;

fn check(noise: &Noise) -> Result<()> {
    ensure!(
        noise.timer <= TIMER_MAX,
        "{} timer interrupts on the engine's core in 10 s, at most {TIMER_MAX} are quiet",
        noise.timer
    );
    let foreign = noise.foreign_count();
    ensure!(
        foreign == 0,
        "{foreign} context switches to others on the engine's core in 10 s: {}",
        noise.intruders()
    );
    let spare = &noise.foreign_spare;
    ensure!(spare.is_empty(), "on the other hot cores there ran {spare:?}");
    Ok(())
}

/// Proves that hot cores have no foreign context switch and few timer interrupts in ten seconds of
/// trading.
pub fn hot_cores_are_quiet(booted: &mut Booted) -> Result<Verdict> {
    let partition = booted.shell.check(
        "cat /sys/fs/cgroup/hot.slice/hot-engine.slice/cpuset.cpus.partition",
        Duration::from_secs(20),
    )?;
    ensure!(partition.trim() == "isolated", "the cpuset partition says {:?}", partition.trim());
    let noise = measure(&mut booted.shell)?;
    ensure!(
        noise.switches_housekeeping > 0,
        "the trace saw no context switch at all: it measures nothing"
    );
    check(&noise)?;
    Ok(Verdict::Proved(format!(
        "in 10 s of trading the engine's core took {} timer interrupts and no foreign context switch, the other hot core ran only its journal writes; housekeeping took {} and {}",
        noise.timer, noise.timer_housekeeping, noise.switches_housekeeping
    )))
}

/// Proves, as the control, that the same check fails without the isolation words.
pub fn without_isolation_they_are_not(image: &ImageFiles) -> Result<Verdict> {
    let (noise, mut booted) = control_noise(image)?;
    let quiet = check(&noise).is_ok();
    ensure!(!quiet, "without the isolation words the cores are as quiet: the check tells nothing");
    ensure!(
        noise.timer >= TIMER_CONTROL_MIN,
        "only {} timer interrupts without isolation; the count is not worth a limit of {TIMER_MAX}",
        noise.timer
    );
    booted.shell.check("kill $(cat /run/control.pid)", START_LIMIT)?;
    let busy = load::control(&mut booted)?;
    Ok(Verdict::Proved(format!(
        "without the isolation words the same check fails: {} timer interrupts and {} foreign context switches ({}); a busy loop took {busy}",
        noise.timer,
        noise.foreign_count(),
        noise.intruders()
    )))
}
