//! The isolated cpuset partition on the hot cores: `hot.slice` holds their cpuset,
//! `hot-engine.slice` below it is the partition. Nested, because a partition directly below the
//! root breaks as soon as a sibling's cpuset overlaps, and does not heal. systemd 257 has no
//! setting for it.

use crate::events::EventLog;
use abi::hostplan::{CorePlan, HostPlan, PlanError};
use agent_core::limits::RECONCILE_INTERVAL;
use agent_core::protocol::types::Level;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::path::{Path, PathBuf};
use std::{fs, io};
use thiserror::Error;

/// Why there is no partition.
#[derive(Debug, Error)]
pub enum PartitionError {
    /// The kernel's split of cores can't be read.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A cgroup file refused.
    #[error("write {value:?} to {path}")]
    Write {
        /// Path of the cgroup file.
        path: PathBuf,
        /// Value that was written.
        value: String,
        source: io::Error,
    },
    /// The kernel took the words and says no all the same.
    #[error(
        "{path} says {state:?}; see Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.partition"
    )]
    Invalid {
        /// Path of the partition's cgroup file.
        path: PathBuf,
        /// State that the kernel reports in the file.
        state: String,
    },
}

/// Where cgroups are.
pub const CGROUPS: &str = "/sys/fs/cgroup";
const PARENT: &str = "hot.slice";
const PARTITION: &str = "hot.slice/hot-engine.slice";

/// The split that the kernel was booted with.
///
/// # Errors
/// [`PlanError`].
pub fn core_plan() -> Result<CorePlan, PlanError> {
    let read = |name: &str| {
        fs::read_to_string(Path::new("/sys/devices/system/cpu").join(name)).unwrap_or_default()
    };
    CorePlan::from_kernel(&read("online"), &read("nohz_full"))
}

/// Compares the host plan with the split that the kernel was booted with.
///
/// # Errors
/// One line with both, or why the plan can't be read.
pub fn check_plan(path: &Path, booted: &CorePlan) -> Result<(), String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let online = booted.housekeeping().iter().chain(booted.hot().iter()).collect();
    let planned = HostPlan::parse(&text)
        .and_then(|plan| plan.resolve(&online))
        .map_err(|error| error.to_string())?;
    if planned == *booted {
        return Ok(());
    }
    let (hot, booted) = (planned.hot(), booted.hot());
    let booted = if booted.is_empty() { "none".into() } else { booted.to_string() };
    Err(format!(
        "{} makes CPUs {hot} hot, the kernel was booted with {booted}; correct nohz_full=",
        path.display()
    ))
}

/// The file that says whether the partition stands.
pub fn state_file() -> PathBuf {
    Path::new(CGROUPS).join(PARTITION).join("cpuset.cpus.partition")
}

/// Whether the partition stands, with all hot cores in it; `true` on a host without hot cores.
pub fn stands(plan: &CorePlan) -> bool {
    let effective = state_file().with_file_name("cpuset.cpus.effective");
    let is = |path: &Path, wanted: &str| {
        fs::read_to_string(path).is_ok_and(|state| state.trim() == wanted)
    };
    plan.hot().is_empty()
        || is(&state_file(), "isolated") && is(&effective, &plan.hot().to_string())
}

/// Makes the partition again as soon as anybody, the kernel too, changes a file of its cgroups,
/// without waiting for the agent's main loop.
pub fn guard(plan: CorePlan, log: EventLog) {
    if plan.hot().is_empty() {
        return;
    }
    std::thread::spawn(move || {
        loop {
            if let Err(error) = watch(&plan, &log) {
                // There is none yet, or it was removed: the main loop makes it.
                tracing::debug!("watch the hot partition: {error}");
                std::thread::sleep(RECONCILE_INTERVAL);
            }
        }
    });
}

fn watch(plan: &CorePlan, log: &EventLog) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    for slice in [PARENT, PARTITION] {
        inotify.add_watch(&Path::new(CGROUPS).join(slice), AddWatchFlags::IN_MODIFY)?;
    }
    loop {
        if !stands(plan) {
            match apply(plan) {
                Ok(()) => {
                    log.record(Level::Warning, "hot partition", "was changed, and made again")
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        // Also what was written here: that it stands is seen once more.
        inotify.read_events()?;
    }
}

/// Makes the partition, or makes it again. Does nothing on a host without hot cores.
///
/// # Errors
/// [`PartitionError`] names the file.
pub fn apply(plan: &CorePlan) -> Result<(), PartitionError> {
    if plan.hot().is_empty() {
        return Ok(());
    }
    let cpus = plan.hot().to_string();
    let root = Path::new(CGROUPS);
    write(root.join("cgroup.subtree_control"), "+cpuset")?;
    for slice in [PARENT, PARTITION] {
        let directory = root.join(slice);
        let _ = fs::create_dir(&directory);
        write(directory.join("cpuset.cpus"), &cpus)?;
        write(directory.join("cpuset.cpus.exclusive"), &cpus)?;
        if slice == PARENT {
            write(directory.join("cgroup.subtree_control"), "+cpuset")?;
        }
    }
    let path = state_file();
    write(path.clone(), "isolated")?;
    let state = fs::read_to_string(&path).unwrap_or_default().trim().to_string();
    if state == "isolated" { Ok(()) } else { Err(PartitionError::Invalid { path, state }) }
}

fn write(path: PathBuf, value: &str) -> Result<(), PartitionError> {
    let failed = |source| PartitionError::Write { path: path.clone(), value: value.into(), source };
    fs::write(&path, value).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_and_the_kernel_are_compared() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        fs::write(&path, include_str!("../../../image/files/host-plan.toml")).unwrap();
        let booted = |hot| CorePlan::from_kernel("0-3", hot).unwrap();
        assert_eq!(check_plan(&path, &booted("2-3")), Ok(()));
        for hot in ["3", ""] {
            let error = check_plan(&path, &booted(hot)).unwrap_err();
            assert!(error.contains("makes CPUs 2-3 hot"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(check_plan(&path, &booted("2-3")).is_err());
    }
}
