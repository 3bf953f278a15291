//! The checks before the start: what the engine expects of its host, what it found, and the remedy.

use crate::arena::HUGE_PAGE_LEN;
use crate::config::Config;
use crate::host_cpu;
use crate::limits::{ARENA_LEN, RECEIVE_BUFFER};
use nix::sys::resource::{Resource, getrlimit};
use procfs::Current;
use std::fmt;
use std::fs::read_to_string;

/// One check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Setting or property that was checked.
    pub what: &'static str,
    /// State that was found.
    pub found: String,
    /// Remedy for the operator.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.found, self.remedy)
    }
}

fn finding(
    what: &'static str,
    found: impl fmt::Display,
    remedy: impl fmt::Display,
) -> Option<Finding> {
    Some(Finding { what, found: found.to_string(), remedy: remedy.to_string() })
}

/// Runs every check. Empty means that the host keeps the contract.
pub fn findings(config: &Config) -> Vec<Finding> {
    let checks = [
        kernel(),
        isolation(config),
        shard(config),
        sqpoll(config),
        partition(),
        huge_pages(),
        memory_lock(),
        io_uring(),
        receive_buffer(),
        swap(),
        clock(),
        journal_directory(config),
    ];
    checks.into_iter().flatten().collect()
}

/// The CPU of the hot thread: the configured one, or the first hot one.
pub fn hot_cpu(config: &Config) -> Option<u32> {
    let plan = host_cpu::core_plan().ok()?;
    config.host.cpu.or_else(|| plan.hot().iter().next())
}

fn kernel() -> Option<Finding> {
    let version = procfs::sys::kernel::Version::current().ok()?;
    // DEFER_TASKRUN and multishot receive: Linux 6.1.
    let old = (version.major, version.minor) < (6, 1);
    old.then(|| {
        finding("kernel", format!("{}.{}", version.major, version.minor), "boot 6.1 or newer")
    })
    .flatten()
}

fn isolation(config: &Config) -> Option<Finding> {
    let plan = match host_cpu::core_plan() {
        Ok(plan) => plan,
        Err(error) => {
            return finding("cores", error, "check nohz_full= on the kernel command line");
        }
    };
    if plan.hot().is_empty() {
        let remedy = "boot with nohz_full=, rcu_nocbs= and irqaffinity= for the hot cores";
        return finding("isolation", "the kernel was booted without hot cores", remedy);
    }
    let cpu = config.host.cpu?;
    let remedy = format!("set host.cpu to one of {}, or leave it out", plan.hot());
    (!plan.hot().contains(cpu))
        .then(|| finding("host.cpu", format!("{cpu} is not a hot core"), remedy))
        .flatten()
}

/// Every shard has a hot CPU of its own, and the journals' workers have one.
fn shard(config: &Config) -> Option<Finding> {
    let workers = config.host.journal_cpus.as_ref()?;
    let remedy = "make one more CPU hot than there are shards, or give fewer shards";
    workers
        .is_empty()
        .then(|| finding("host.journal_cpus", "no hot CPU is left for the journals", remedy))
        .flatten()
}

/// The kernel's submitting thread spins: on a core that is nobody else's.
fn sqpoll(config: &Config) -> Option<Finding> {
    let (plan, cpu) = (host_cpu::core_plan().ok()?, config.host.sqpoll_cpu?);
    let fits = plan.hot().contains(cpu) && hot_cpu(config) != Some(cpu);
    let remedy = format!("set it to one of {} that no hot thread has, or leave it out", plan.hot());
    (!fits)
        .then(|| finding("host.sqpoll_cpu", format!("{cpu} is no spare hot core"), remedy))
        .flatten()
}

/// The cgroup above the engine's own must be an isolated partition, or others may run on its cores.
fn partition() -> Option<Finding> {
    let remedy = "start quietcore-hot-partition.service and run the engine in hot-engine.slice";
    let own = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim();
    for ancestor in std::path::Path::new(path.trim_start_matches('/')).ancestors() {
        let file =
            std::path::Path::new("/sys/fs/cgroup").join(ancestor).join("cpuset.cpus.partition");
        match read_to_string(&file).as_deref().map(str::trim) {
            Ok("isolated") => return None,
            Ok(state) if state.contains("invalid") => {
                return finding(
                    "cpuset partition",
                    format!("{} says {state}", file.display()),
                    remedy,
                );
            }
            _ => {}
        }
    }
    finding("cpuset partition", format!("no cgroup above {path} is isolated"), remedy)
}

fn huge_pages() -> Option<Finding> {
    let need = (ARENA_LEN / HUGE_PAGE_LEN) as u64;
    let free = procfs::Meminfo::current().ok()?.hugepages_free.unwrap_or(0);
    let remedy = format!("set vm.nr_hugepages to at least {need} more, at boot");
    (free < need)
        .then(|| finding("huge pages", format!("{free} of 2 MiB free, {need} needed"), remedy))
        .flatten()
}

fn memory_lock() -> Option<Finding> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    let short = soft != nix::sys::resource::RLIM_INFINITY && !nix::unistd::geteuid().is_root();
    short
        .then(|| finding("RLIMIT_MEMLOCK", format!("{soft} bytes"), "set LimitMEMLOCK=infinity"))
        .flatten()
}

fn io_uring() -> Option<Finding> {
    let value = read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let disabled = !matches!(value.trim(), "" | "0");
    disabled
        .then(|| {
            finding(
                "io_uring",
                format!("kernel.io_uring_disabled = {}", value.trim()),
                "set it to 0",
            )
        })
        .flatten()
}

fn receive_buffer() -> Option<Finding> {
    let value = read_to_string("/proc/sys/net/core/rmem_max").ok()?;
    let max: usize = value.trim().parse().ok()?;
    let remedy = format!("set it to {RECEIVE_BUFFER}");
    (max < RECEIVE_BUFFER).then(|| finding("net.core.rmem_max", max, remedy)).flatten()
}

fn swap() -> Option<Finding> {
    let total = procfs::Meminfo::current().ok()?.swap_total;
    (total > 0).then(|| finding("swap", format!("{total} bytes"), "switch it off")).flatten()
}

fn clock() -> Option<Finding> {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = read_to_string(path).ok()?;
    let good = matches!(source.trim(), "tsc" | "kvm-clock");
    let remedy = "boot with tsc=reliable on a CPU with an invariant TSC";
    (!good).then(|| finding("clock source", source.trim(), remedy)).flatten()
}

fn journal_directory(config: &Config) -> Option<Finding> {
    let directory = &config.journal.directory;
    if let Err(error) = std::fs::create_dir_all(directory) {
        return finding(
            "journal.directory",
            format!("{}: {error}", directory.display()),
            "give a directory that can be made",
        );
    }
    let need = config.journal.segments as u64 * (config.journal.segment_mib << 20);
    let present: u64 = (0..config.journal.segments)
        .filter_map(|index| crate::journal::segment_path(directory, index).metadata().ok())
        .map(|metadata| metadata.len())
        .sum();
    let space = nix::sys::statvfs::statvfs(directory).ok()?;
    let free = space.blocks_available() as u64 * space.fragment_size() as u64;
    let found = format!(
        "{} has {} MiB free, {} needed",
        directory.display(),
        free >> 20,
        need.saturating_sub(present) >> 20
    );
    (free + present < need)
        .then(|| finding("journal.directory", found, "free space or keep fewer segments"))
        .flatten()
}
