//! Deviations of a tuned host, seeded one at a time, that `qctl tune verify` must name.

use crate::harness::booted::Booted;
use Seed::{Done, Seen, Value};
use anyhow::{Result, ensure};
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(60);

/// A way to make a host another one than it is to be.
pub enum Seed {
    /// Another value in a file, which is put back.
    Value(&'static str, &'static str),
    /// Value that only firmware or a boot changes: a copy edited by sed is mounted over the file
    /// that `qctl` reads.
    Seen(&'static str, &'static str),
    /// A command, and what undoes it.
    Done(&'static str, &'static str),
}

impl Seed {
    fn commands(&self) -> (String, String) {
        match self {
            Value(path, value) => (
                format!(
                    "[ -e {path} ] || exit {NOT_THERE}; cat {path} > /run/old && echo {value} > {path}"
                ),
                format!("cat /run/old > {path}"),
            ),
            Seen(path, edit) => (
                format!(
                    "[ -e {path} ] || exit {NOT_THERE}; mkdir -p /run/seen; mount -t tmpfs tmpfs /run/seen && sed '{edit}' {path} > /run/seen/it && mount -o remount,ro /run/seen && mount --bind /run/seen/it {path}"
                ),
                // Whoever mends what he sees there can't: the file system itself is read-only.
                format!("umount {path}; umount /run/seen"),
            ),
            Done(change, restore) => ((*change).into(), (*restore).into()),
        }
    }
}

pub const CMDLINE: &str = "/proc/cmdline";

/// Exit code of a seed whose file this kernel does not have; the seed is left out.
pub const NOT_THERE: i32 = 77;

/// Each with the finding that must name it.
pub const SEEDS: &[(&str, Seed)] = &[
    ("tick", Seen("/sys/devices/system/cpu/nohz_full", "s/.*/3/")),
    ("rcu", Seen(CMDLINE, "s/rcu_nocbs=[^ ]*//")),
    ("managed-irqs", Seen(CMDLINE, "s/isolcpus=managed_irq,/isolcpus=/")),
    ("clock-watchdog", Seen(CMDLINE, "s/tsc=reliable//")),
    ("siblings", Seen("/sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "s/.*/1,3/")),
    ("irqs", Seen("/proc/irq/0/effective_affinity_list", "s/.*/2-3/")),
    ("siblings", Seen("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "s/.*/0,2/")),
    ("swap", Seen("/proc/meminfo", "s/SwapTotal: .*/SwapTotal: 1048572 kB/")),
    ("new-irqs", Value("/proc/irq/default_smp_affinity", "f")),
    ("new-irqs", Value("/proc/irq/default_smp_affinity", "c")),
    ("workqueues", Value("/sys/devices/virtual/workqueue/cpumask", "f")),
    ("receive-steering", Seen("/sys/class/net/lo/queues/rx-0/rps_cpus", "s/.*/4/")),
    (
        "partition",
        Seen(
            "/sys/fs/cgroup/hot.slice/hot-engine.slice/cpuset.cpus.partition",
            "s/.*/isolated invalid/",
        ),
    ),
    (
        "partition",
        Seen("/sys/fs/cgroup/hot.slice/hot-engine.slice/cpuset.cpus.partition", "s/.*/member/"),
    ),
    (
        "partition-cpus",
        Seen("/sys/fs/cgroup/hot.slice/hot-engine.slice/cpuset.cpus.effective", "s/.*/2/"),
    ),
    (
        "clock-source",
        Seen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "s/.*/hpet/"),
    ),
    // Reading soft_watchdog while none is on switches it off by itself (proc_watchdog_common,
    // kernel/watchdog.c), and then watchdog=1 means none.
    (
        "watchdogs",
        Done(
            "[ -e /proc/sys/kernel/soft_watchdog ] || exit 77; echo 1 > /proc/sys/kernel/soft_watchdog && echo 1 > /proc/sys/kernel/watchdog",
            "echo 0 > /proc/sys/kernel/watchdog && echo 0 > /proc/sys/kernel/soft_watchdog",
        ),
    ),
    (
        "machine-checks",
        Value("/sys/devices/system/machinecheck/machinecheck2/check_interval", "300"),
    ),
    (
        "machine-checks",
        Value("/sys/devices/system/machinecheck/machinecheck3/check_interval", "300"),
    ),
    ("timer-migration", Value("/proc/sys/kernel/timer_migration", "0")),
    ("huge-pages", Value("/proc/sys/vm/nr_hugepages", "2")),
    (
        "transparent-huge-pages",
        Done(
            "[ -e /sys/kernel/mm/transparent_hugepage ] || exit 77; echo always > /sys/kernel/mm/transparent_hugepage/enabled",
            "echo never > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    ),
    ("numa-balancing", Seen("/proc/sys/kernel/numa_balancing", "s/.*/1/")),
    ("vm-statistics", Value("/proc/sys/vm/stat_interval", "1")),
    ("dirty-background", Value("/proc/sys/vm/dirty_background_ratio", "10")),
    ("dirty", Value("/proc/sys/vm/dirty_ratio", "20")),
    ("ksm", Value("/sys/kernel/mm/ksm/run", "1")),
    ("receive-buffer", Value("/proc/sys/net/core/rmem_max", "212992")),
    ("receive-backlog", Value("/proc/sys/net/core/netdev_max_backlog", "1000")),
    ("accept-backlog", Value("/proc/sys/net/core/somaxconn", "128")),
    ("io-uring", Value("/proc/sys/kernel/io_uring_disabled", "1")),
    (
        "tasks",
        Done(
            "sleep 300 > /dev/null 2>&1 & echo $! > /run/stray; chrt -f -p 10 $(cat /run/stray)",
            "kill $(cat /run/stray)",
        ),
    ),
    (
        "tasks",
        Done(
            "sleep 300 > /dev/null 2>&1 & echo $! > /run/stray; chrt -r -p 1 $(cat /run/stray)",
            "kill $(cat /run/stray)",
        ),
    ),
    (
        "tasks",
        Done(
            "sleep 300 > /dev/null 2>&1 & echo $! > /run/stray; echo $! > /sys/fs/cgroup/hot.slice/hot-engine.slice/cgroup.procs 2> /dev/null || { mkdir /sys/fs/cgroup/hot.slice/hot-engine.slice/stray && echo $(cat /run/stray) > /sys/fs/cgroup/hot.slice/hot-engine.slice/stray/cgroup.procs; }",
            "kill $(cat /run/stray); sleep 0.2; rmdir /sys/fs/cgroup/hot.slice/hot-engine.slice/stray 2> /dev/null || true",
        ),
    ),
];

pub fn verify(booted: &mut Booted) -> Result<(i32, String)> {
    let output = booted.shell.run("qctl tune verify --quiet", LIMIT)?;
    Ok((output.code, output.text))
}

/// Mis-tunes a booted host in every way, one after the other: how many ways there are, and the
/// names of those that `qctl tune verify` did not find, with what it said.
///
/// # Errors
/// The guest does not answer, or can't be made or unmade so.
pub fn mistune(booted: &mut Booted) -> Result<(usize, Vec<String>)> {
    let (mut missed, mut seeded) = (Vec::new(), 0);
    for (name, seed) in SEEDS {
        let (change, restore) = seed.commands();
        let changed = booted.shell.run(&change, LIMIT)?;
        if changed.code == NOT_THERE {
            continue;
        }
        seeded += 1;
        ensure!(changed.code == 0, "`{change}` ended with {}: {}", changed.code, changed.text);
        let (code, text) = verify(booted)?;
        booted.shell.check(&restore, LIMIT)?;
        let is_named = text.lines().any(|line| line.starts_with(&format!("! {name}: ")));
        if code != 1 || !is_named {
            missed.push(format!("{name} after `{change}`: {text}"));
        }
    }
    Ok((seeded, missed))
}
