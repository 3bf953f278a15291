//! The hot cores are quiet: nothing but the engine runs on them, and the timer does not tick. Counted by
//! the kernel's own scheduler trace and by its interrupt counters, over ten seconds, while the engine
//! trades. The control boots the same image without the isolation words and must fail the same check.

use super::{Booted, READY_LIMIT, Verdict, boot, loaded};
use crate::checkout::ImageFiles;
use crate::shell::Shell;
use crate::vm::Machine;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::time::Duration;

/// Timer interrupts on the engine's core in ten seconds of trading, at most. Traced, they are TCP's own
/// timers, which the engine's sends start on its core (kernel 6.12 moves them away from idle cores only):
/// 0 to 8 were seen.
const TIMER_MAX: u64 = 25;

/// What a control core must show at least, for the check to be able to tell.
const TIMER_CONTROL_MIN: u64 = 1000;

/// What ten seconds on the cores from 2 on brought, and on the housekeeping cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noise {
    /// Timer interrupts on the engine's core.
    pub timer: u64,
    /// Timer interrupts on CPU 0.
    pub timer_housekeeping: u64,
    /// Context switches on the engine's core to anything but the engine, by name.
    pub foreign: BTreeMap<String, u64>,
    /// Context switches on the other hot cores to anything but the engine's workers and the kernel's
    /// threads of that very core, which finish the engine's own disk writes.
    pub foreign_spare: BTreeMap<String, u64>,
    /// Context switches on CPUs 0 and 1.
    pub switches_housekeeping: u64,
}

impl Noise {
    /// Foreign context switches in all.
    pub fn foreign_count(&self) -> u64 {
        self.foreign.values().sum()
    }

    fn intruders(&self) -> String {
        let mut names: Vec<_> = self.foreign.iter().collect();
        names.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        names
            .iter()
            .take(5)
            .map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

const MEASURE: &str = r#"
cd /sys/kernel/tracing
echo 0 > tracing_on; echo > trace; echo 16384 > buffer_size_kb
echo 1 > events/sched/sched_switch/enable
grep LOC /proc/interrupts
echo 1 > tracing_on; sleep 10; echo 0 > tracing_on
grep LOC /proc/interrupts
echo 0 > events/sched/sched_switch/enable
grep -c '\[00[01]\].*sched_switch' trace || :
sed -n 's/.*\[00\([2-9]\)\].*sched_switch.*next_comm=\(.*\) next_pid=.*/\1 \2/p' trace | sort | uniq -c
"#;

/// Counts for ten seconds. The engine's main thread runs on CPU 2.
///
/// # Errors
/// The guest does not answer as expected.
pub fn measure(shell: &mut Shell) -> Result<Noise> {
    let text = shell.check(MEASURE, Duration::from_secs(120))?;
    let mut lines = text.lines();
    let mut timers = || -> Result<Vec<u64>> {
        let line = lines.next().context("the guest's interrupt counters")?;
        Ok(line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect())
    };
    let (before, after) = (timers()?, timers()?);
    let grown = |cpu: usize| -> Result<u64> {
        Ok(after.get(cpu).context("a CPU's counter")?
            - before.get(cpu).context("a CPU's counter")?)
    };
    let switches_housekeeping =
        lines.next().and_then(|line| line.trim().parse().ok()).context("the guest's trace")?;
    let (mut foreign, mut foreign_spare) = (BTreeMap::new(), BTreeMap::new());
    for line in lines {
        let Some((count, cpu, name)) = counted_switch(line) else { continue };
        let engine = name.starts_with("quietcore-engin") || name.starts_with("swapper");
        let own = name.starts_with("iou-wrk-") || is_thread_of(name, cpu);
        let map = if cpu == ENGINE_CPU { &mut foreign } else { &mut foreign_spare };
        if !engine && (cpu == ENGINE_CPU || !own) {
            map.insert(name.to_string(), count.parse().context("a count of the trace")?);
        }
    }
    let (timer, timer_housekeeping) = (grown(2)?, grown(0)?);
    Ok(Noise { timer, timer_housekeeping, foreign, foreign_spare, switches_housekeeping })
}

/// A line of counted switches: how many, on which CPU, to whom.
pub(super) fn counted_switch(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.trim().splitn(3, ' ');
    Some((words.next()?, words.next()?, words.next()?))
}

/// The CPU of the engine's main thread: the first hot one.
const ENGINE_CPU: &str = "2";

/// Whether a kernel thread is bound to this core: `kworker/3:1H`, `ksoftirqd/3`, `migration/3`.
fn is_thread_of(name: &str, cpu: &str) -> bool {
    let Some((_, rest)) = name.split_once('/') else { return false };
    rest == cpu || rest.strip_prefix(cpu).is_some_and(|rest| rest.starts_with(':'))
}

fn judge(noise: &Noise) -> Result<()> {
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

/// The story.
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
    judge(&noise)?;
    Ok(Verdict::Proved(format!(
        "in 10 s of trading the engine's core took {} timer interrupts and no foreign context switch, the other hot core ran only its journal writes; housekeeping took {} and {}",
        noise.timer, noise.timer_housekeeping, noise.switches_housekeeping
    )))
}

/// The same image without the addon that makes cores hot.
fn control() -> Machine {
    let commands = "mdel $esp ::/loader/addons/cores.addon.efi".to_owned();
    Machine { esp: Some(commands), network: true, ..Machine::default() }
}

const START_LIMIT: Duration = Duration::from_secs(60);

/// Starts the engine on CPU 2 of a host that has no hot cores.
const START_ANYWAY: &str = r#"
systemctl stop quietcore-engine
sed -e 's/contract = "enforce"/contract = "report"\ncpu = 2/' -e 's#/var/lib/quietcore/journal#/var/lib/quietcore/control#' /etc/quietcore/engine.toml > /run/control.toml
mkdir -p /run/quietcore/engine
(taskset -p f $$ > /dev/null; exec quietcore-engine --config /run/control.toml > /run/control.log 2>&1) &
echo $! > /run/control.pid
disown
"#;

/// The control.
pub fn without_isolation_they_are_not(image: &ImageFiles) -> Result<Verdict> {
    let (noise, mut booted) = control_noise(image)?;
    let quiet = judge(&noise).is_ok();
    ensure!(!quiet, "without the isolation words the cores are as quiet: the check tells nothing");
    ensure!(
        noise.timer >= TIMER_CONTROL_MIN,
        "only {} timer interrupts without isolation; the count is not worth a limit of {TIMER_MAX}",
        noise.timer
    );
    booted.shell.check("kill $(cat /run/control.pid)", START_LIMIT)?;
    let busy = loaded::control(&mut booted)?;
    Ok(Verdict::Proved(format!(
        "without the isolation words the same check fails: {} timer interrupts and {} foreign context switches ({}); a busy loop took {busy}",
        noise.timer,
        noise.foreign_count(),
        noise.intruders()
    )))
}

/// The control's figures, and the host that they are of.
///
/// # Errors
/// It does not boot or the engine does not start.
pub fn control_noise(image: &ImageFiles) -> Result<(Noise, Booted)> {
    let machine = control();
    let mut booted = boot(image, &machine)?;
    booted
        .shell
        .check("until systemctl is-active quietcore-agent; do sleep 1; done", READY_LIMIT)?;
    booted.shell.check(START_ANYWAY, START_LIMIT)?;
    booted.shell.wait_status("the engine trades without isolation", READY_LIMIT, |status| {
        status["engines"][0]["state"] == "trading"
    })?;
    Ok((measure(&mut booted.shell)?, booted))
}
