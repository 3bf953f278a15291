//! Noise counts of each core since boot, from `/proc/interrupts` and the scheduler's debug file.
//! Counts, not times: they mean the same on an emulated machine.

use agent_core::protocol::types::CoreCounts;
use std::collections::BTreeMap;

/// Reads `/proc/interrupts` into counts per core.
pub fn parse_interrupts(text: &str) -> BTreeMap<u32, CoreCounts> {
    let mut lines = text.lines();
    let cpus: Vec<u32> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|w| w.strip_prefix("CPU")?.parse().ok())
        .collect();
    let mut counts: BTreeMap<u32, CoreCounts> =
        cpus.iter().map(|cpu| (*cpu, CoreCounts::default())).collect();
    for line in lines {
        let Some((name, rest)) = line.trim_start().split_once(':') else { continue };
        for (cpu, word) in cpus.iter().zip(rest.split_whitespace()) {
            let (Ok(number), Some(core)) = (word.parse::<u64>(), counts.get_mut(cpu)) else {
                break;
            };
            match name {
                "LOC" => core.timer += number,
                "RES" | "CAL" | "TLB" => core.ipi += number,
                _ if name.bytes().all(|byte| byte.is_ascii_digit()) => core.device += number,
                _ => {}
            }
        }
    }
    counts
}

/// Reads the context switches of each core out of `/sys/kernel/debug/sched/debug`.
pub fn parse_switches(text: &str) -> BTreeMap<u32, u64> {
    let mut switches = BTreeMap::new();
    let mut cpu = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("cpu#") {
            cpu = rest.split([',', ' ']).next().and_then(|number| number.parse().ok());
        }
        let number = line.trim_start().strip_prefix(".nr_switches").and_then(|rest| {
            let (_, number) = rest.split_once(':')?;
            number.trim().parse().ok()
        });
        if let (Some(cpu), Some(number)) = (cpu, number) {
            switches.entry(cpu).or_insert(number);
        }
    }
    switches
}

/// Counts of every core now.
pub fn sample() -> BTreeMap<u32, CoreCounts> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut counts = parse_interrupts(&read("/proc/interrupts"));
    for (cpu, switches) in parse_switches(&read("/sys/kernel/debug/sched/debug")) {
        counts.entry(cpu).or_default().switches = switches;
    }
    counts
}

/// Context switches of a process's threads since they started, by the core that each last ran on.
pub fn switches_of(pid: i32) -> BTreeMap<u32, u64> {
    let mut switches = BTreeMap::new();
    let tasks = procfs::process::Process::new(pid).and_then(|process| process.tasks());
    for task in tasks.into_iter().flatten().flatten() {
        let (Ok(stat), Ok(status)) = (task.stat(), task.status()) else { continue };
        let cpu = stat.processor.and_then(|cpu| u32::try_from(cpu).ok()).unwrap_or(0);
        let own = status.voluntary_ctxt_switches.unwrap_or(0)
            + status.nonvoluntary_ctxt_switches.unwrap_or(0);
        *switches.entry(cpu).or_default() += own;
    }
    switches
}

/// Returns the number of foreign context switches on a core: those to anything but the engine or
/// the idle task.
///
/// On the core of the spinning thread there is no idling: each of its own switches is the way back
/// from somebody else. On another core, every switch to a task is followed by one to the idle task,
/// so half of all switches went to tasks, and the engine's own threads account for their share.
pub fn foreign_switches(switches: u64, own: u64, spinning: bool) -> u64 {
    let to_tasks = if spinning { switches } else { switches / 2 };
    to_tasks.saturating_sub(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_summed_by_kind() {
        let text = "            CPU0       CPU2\n  0:         44          1   IO-APIC   2-edge      timer\n 24:  5 6  PCI-MSI 1-edge virtio0\nLOC:  100 7   Local timer interrupts\nRES: 1 2 Rescheduling interrupts\nCAL: 3 4 Function call interrupts\nERR: 9\n";
        let counts = parse_interrupts(text);
        assert_eq!(counts[&0], CoreCounts { timer: 100, ipi: 4, device: 49, switches: 0 });
        assert_eq!(counts[&2], CoreCounts { timer: 7, ipi: 6, device: 7, switches: 0 });
    }

    #[test]
    fn only_others_are_foreign() {
        assert_eq!(foreign_switches(0, 0, true), 0);
        assert_eq!(foreign_switches(2, 1, true), 1, "to somebody and back");
        assert_eq!(foreign_switches(20, 10, false), 0, "ten turns of the engine's own thread");
        assert_eq!(foreign_switches(24, 10, false), 2);
    }

    #[test]
    fn switches_are_read_per_core() {
        let text = "Sched Debug Version: v0.11\ncpu#0, 2249.998 MHz\n  .nr_running                    : 1\n  .nr_switches                   : 1234\ncfs_rq[0]:/\n\ncpu#2, 2249.998 MHz\n  .nr_switches                   : 5\n";
        assert_eq!(parse_switches(text), [(0, 1234), (2, 5)].into());
    }
}
