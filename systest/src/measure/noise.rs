//! Timer interrupts and foreign context switches on hot cores, with a control that lacks the
//! isolation words.

use crate::harness::booted::{Booted, READY_LIMIT, boot};
use crate::harness::checkout::ImageFiles;
use crate::harness::shell::Shell;
use crate::harness::vm::Machine;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// Timer interrupts and context switches in ten seconds, on the cores from 2 on and on the
/// housekeeping cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noise {
    /// Timer interrupts on the engine's core.
    pub timer: u64,
    /// Timer interrupts on CPU 0.
    pub timer_housekeeping: u64,
    /// Context switches on the engine's core to anything but the engine, by name.
    pub foreign: BTreeMap<String, u64>,
    /// Context switches on the other hot cores to anything but the engine's workers and the
    /// kernel's threads of that very core, which finish the engine's own disk writes.
    pub foreign_spare: BTreeMap<String, u64>,
    /// Context switches on CPUs 0 and 1.
    pub switches_housekeeping: u64,
}

impl Noise {
    /// Foreign context switches in all.
    pub fn foreign_count(&self) -> u64 {
        self.foreign.values().sum()
    }

    pub fn intruders(&self) -> String {
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

pub const MEASURE: &str = r#"
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
pub fn counted_switch(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.trim().splitn(3, ' ');
    Some((words.next()?, words.next()?, words.next()?))
}

/// The CPU of the engine's main thread: the first hot one.
pub const ENGINE_CPU: &str = "2";

/// Whether a kernel thread is bound to this core: `kworker/3:1H`, `ksoftirqd/3`, `migration/3`.
pub fn is_thread_of(name: &str, cpu: &str) -> bool {
    let Some((_, rest)) = name.split_once('/') else { return false };
    rest == cpu || rest.strip_prefix(cpu).is_some_and(|rest| rest.starts_with(':'))
}

pub const START_LIMIT: Duration = Duration::from_secs(60);

/// Starts the engine on CPU 2 of a host that has no hot cores.
pub const START_ANYWAY: &str = r#"
systemctl stop quietcore-engine
sed -e 's/contract = "enforce"/contract = "report"\ncpu = 2/' -e 's#/var/lib/quietcore/journal#/var/lib/quietcore/control#' /etc/quietcore/engine.toml > /run/control.toml
mkdir -p /run/quietcore/engine
(taskset -p f $$ > /dev/null; exec quietcore-engine --config /run/control.toml > /run/control.log 2>&1) &
echo $! > /run/control.pid
disown
"#;

/// The same image without the addon that makes cores hot.
pub fn control() -> Machine {
    let commands = "mdel $esp ::/loader/addons/cores.addon.efi".to_owned();
    Machine { esp: Some(commands), network: true, ..Machine::default() }
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

/// The quiet cores' figures, and their control's.
///
/// # Errors
/// A guest does not answer.
pub fn quiet_figures(
    image: &ImageFiles,
    booted: &mut Booted,
    figures: &mut serde_json::Map<String, serde_json::Value>,
) -> Result<()> {
    let noise = measure(&mut booted.shell)?;
    let (control, _) = control_noise(image)?;
    for (name, value) in [
        ("hot_core_timer_irqs_per_10s", noise.timer),
        ("hot_core_foreign_switches_per_10s", noise.foreign_count()),
        ("hot_core_timer_irqs_per_10s_control", control.timer),
        ("hot_core_foreign_switches_per_10s_control", control.foreign_count()),
    ] {
        figures.insert(name.into(), value.into());
    }
    Ok(())
}
