//! Limits for guests, in time that their process could run: a machine that has no CPU to give makes
//! a guest late, not wrong.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Clock ticks a second in `/proc/PID/stat` (proc_pid_stat(5)): 100 on every architecture that
/// Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

/// A share of the time for which a guest was kept waiting for a CPU, from which on the machine is
/// said to be slow.
const SLOW_SHARE: f64 = 0.25;

/// The process of a guest. Clones follow it when the guest is powered on anew.
#[derive(Debug, Clone, Default)]
pub struct GuestClock(Arc<AtomicU32>);

impl GuestClock {
    /// Follows the process with this number, or the first of its children: `in-tools` starts QEMU
    /// as a child of its own.
    pub fn follow(&self, parent: u32) {
        self.0.store(parent, Ordering::Relaxed);
    }

    /// The number of the guest's process, if there is one.
    pub fn process(&self) -> Option<u32> {
        let parent = self.0.load(Ordering::Relaxed);
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        children.ok()?.split_whitespace().next()?.parse().ok()
    }

    /// CPU seconds of the guest's process since it was powered on; 0 when there is none.
    pub fn cpu_seconds(&self) -> f64 {
        let Some(pid) = self.process() else { return 0.0 };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, in brackets, come state, and as the twelfth and thirteenth user and
        // system time.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks =
            fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS_PER_SECOND
    }

    /// Time for which the thread that waited longest was ready to run and had no CPU.
    fn kept_waiting(&self) -> Duration {
        let Some(pid) = self.process() else { return Duration::ZERO };
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let waited = |task: &Path| {
            // Time on a CPU, time waiting for one, in nanoseconds
            // (Documentation/scheduler/sched-stats.rst).
            let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
            text.split(' ').nth(1)?.parse().ok()
        };
        Duration::from_nanos(tasks.filter_map(|task| waited(&task.path())).max().unwrap_or(0))
    }

    /// A limit that begins now.
    pub fn deadline(&self, limit: Duration) -> Deadline {
        let waited = self.kept_waiting();
        Deadline { clock: self.clone(), start: Instant::now(), waited, limit }
    }
}

/// A limit for something that a guest does.
#[derive(Debug)]
pub struct Deadline {
    clock: GuestClock,
    start: Instant,
    waited: Duration,
    limit: Duration,
}

impl Deadline {
    fn kept_waiting(&self) -> Duration {
        // Another process, after a power cut, has waited less.
        self.clock.kept_waiting().saturating_sub(self.waited)
    }

    /// Time since it began in which the guest could run.
    pub fn elapsed(&self) -> Duration {
        let wall = self.start.elapsed();
        // Never less than an eighth, so that every limit ends.
        wall.saturating_sub(self.kept_waiting()).max(wall / 8)
    }

    /// Returns the time that is left; zero if the limit has passed.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Whether the guest has had its time.
    pub fn is_over(&self) -> bool {
        self.elapsed() > self.limit
    }

    /// The limit, and whether the machine was slow, for an error.
    pub fn name(&self) -> String {
        let (wall, waited) = (self.start.elapsed(), self.kept_waiting());
        let slow = waited.as_secs_f64() > SLOW_SHARE * wall.as_secs_f64();
        let slow = if slow {
            format!(
                " (slow machine: it had no CPU for {} of {} s)",
                waited.as_secs(),
                wall.as_secs()
            )
        } else {
            String::new()
        };
        format!("{} s{slow}", self.limit.as_secs())
    }
}

/// The limit for something that this machine does, as many times as long as there are processes
/// that want each of its CPUs.
pub fn limit_under_load(limit: Duration) -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Two processes on each CPU, of machines and their servers, are what the limits allow for.
    limit.mul_f64((load / (2 * cpus) as f64).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A process that keeps a CPU busy, below a parent that ends with it, as `in-tools` does.
    fn start() -> (Child, GuestClock) {
        let parent = Command::new("sh").args(["-c", "yes > /dev/null; true"]).spawn().unwrap();
        let clock = GuestClock::default();
        clock.follow(parent.id());
        while clock.process().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (parent, clock)
    }

    fn end((mut parent, clock): (Child, GuestClock)) {
        let child = clock.process().unwrap().to_string();
        assert!(Command::new("kill").arg(child).status().unwrap().success());
        parent.wait().unwrap();
        assert!(clock.cpu_seconds() == 0.0 && clock.kept_waiting().is_zero());
    }

    #[test]
    fn a_guest_that_runs_uses_its_time() {
        let (parent, clock) = start();
        let deadline = clock.deadline(Duration::from_millis(300));
        while clock.cpu_seconds() < 0.1 || !deadline.is_over() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(deadline.left().is_zero());
        end((parent, clock));
    }

    #[test]
    fn a_guest_that_has_no_cpu_has_more_time() {
        let all: Vec<_> = (0..4).map(|_| start()).collect();
        for (_, clock) in &all {
            let child = clock.process().unwrap().to_string();
            let pinned = Command::new("taskset").args(["-pc", "0", &child]).output().unwrap();
            assert!(pinned.status.success());
        }
        // Each runs a quarter of the time.
        let deadline = all[0].1.deadline(Duration::from_millis(500));
        while !deadline.is_over() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (wall, name) = (deadline.start.elapsed(), deadline.name());
        all.into_iter().for_each(end);
        assert!(wall > Duration::from_millis(900), "{wall:?}");
        assert!(name.starts_with("0 s (slow machine: "), "{name}");
    }
}
