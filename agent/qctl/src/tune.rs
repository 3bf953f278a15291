//! Whether a host is tuned: every value of `kernel-config/tuning.toml` compared with what is in
//! force, and every task with where it may run. Reads; changes nothing. The root of the file
//! systems is an argument.

/// A host's own words of the kernel's command line, as an addon of the UKI.
pub mod addon;
/// Queues of network cards.
pub mod nics;
/// The kernel's own judges of noise.
pub mod noise_tracers;
#[cfg(test)]
mod tests;

use abi::hostplan::{CorePlan, CpuSet, HostPlan};
use agent_core::versioned;
use anyhow::{Context, Result, ensure};
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Files that one pattern can match: the interrupts of the largest hosts.
const MATCHES_MAX: usize = 16_384;

/// Cgroup prefix of the units that may run on a hot core: the engine, and the spinning programs of
/// the noise tracers.
const OWN_UNITS: &str = "/hot.slice/hot-engine.slice/quietcore-";

/// `PF_KTHREAD` of `include/linux/sched.h`.
const KERNEL_THREAD: u32 = 0x0020_0000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "version")]
    _version: u32,
    value: Vec<Value>,
}

/// One value of the plan. Exactly one of the keys from `equals` to `mask_within` is there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Name of the value.
    pub name: String,
    path: String,
    equals: Option<String>,
    one_of: Option<Vec<String>>,
    word: Option<String>,
    line: Option<String>,
    selected: Option<String>,
    at_least: Option<u64>,
    at_most: Option<u64>,
    cpus: Option<Set>,
    cpus_within: Option<Set>,
    mask_within: Option<Set>,
    /// Parts of names: a directory that has such a name beside the file is passed over.
    #[serde(default)]
    unless_named: Vec<String>,
    #[serde(default)]
    optional: bool,
    /// Why it must be so.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Set {
    Hot,
    Housekeeping,
}

/// Result of comparing one value, or of checking one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The value's name, or `tasks`.
    pub name: String,
    /// The file, or the task.
    pub at: String,
    /// Expected value, set or range, in words.
    pub expected: String,
    /// Text found, or the error of reading the file.
    pub found: String,
    /// Whether that is as it must be.
    pub is_met: bool,
    /// Why it must be so.
    pub why: String,
}

/// Tuning plan of a host: expected values, and its hot and housekeeping cores.
pub struct Plan {
    values: Vec<Value>,
    hot_text: String,
    cores: CorePlan,
}

/// A mask as the kernel writes it: hexadecimal, 32 CPUs a group, the last group first.
fn parse_mask(text: &str) -> Option<CpuSet> {
    let mut cpus = Vec::new();
    for (group, digits) in text.trim().rsplit(',').enumerate() {
        let bits = u64::from_str_radix(digits.trim_start_matches("0x"), 16).ok()?;
        let first = group as u32 * 32;
        cpus.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| first + bit));
    }
    Some(cpus.into_iter().collect())
}

fn parse_list(text: &str) -> Option<CpuSet> {
    CpuSet::parse(text, abi::hostplan::CPUS_MAX - 1).ok()
}

impl Value {
    fn check(&self) -> Result<()> {
        let given = [
            self.equals.is_some(),
            self.one_of.is_some(),
            self.word.is_some(),
            self.line.is_some(),
            self.selected.is_some(),
            self.at_least.is_some(),
            self.at_most.is_some(),
            self.cpus.is_some(),
            self.cpus_within.is_some(),
            self.mask_within.is_some(),
        ];
        let count = given.into_iter().filter(|given| *given).count();
        ensure!(count == 1, "{}: {count} expectations; give one", self.name);
        ensure!(self.path.starts_with('/'), "{}: {} is no whole path", self.name, self.path);
        Ok(())
    }

    /// Whether a file is one of those that are passed over.
    fn is_passed_over(&self, path: &Path) -> bool {
        let beside = path.parent().map(std::fs::read_dir).into_iter().flatten().flatten().flatten();
        let names = beside.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let passes = |name: &String| self.unless_named.iter().any(|part| name.contains(part));
        !self.unless_named.is_empty() && names.into_iter().any(|name| passes(&name))
    }

    /// Returns the expectation in words, and true if the file's text meets it.
    fn compare(&self, plan: &Plan, text: &str) -> (String, bool) {
        let text = text.trim();
        let number = || text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let set = |set| plan.set(set);
        match self {
            Self { equals: Some(wanted), .. } => {
                (if wanted.is_empty() { "nothing".into() } else { wanted.clone() }, text == wanted)
            }
            Self { one_of: Some(wanted), .. } => {
                (wanted.join(" or "), wanted.iter().any(|wanted| wanted == text))
            }
            Self { word: Some(wanted), .. } => {
                let wanted = wanted.replace("{hot}", &plan.hot_text);
                let is_there = text.split_whitespace().any(|word| word == wanted);
                (wanted, is_there)
            }
            Self { line: Some(wanted), .. } => {
                let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
                (wanted.clone(), text.lines().any(|line| words(line) == *wanted))
            }
            Self { selected: Some(wanted), .. } => {
                let wanted = format!("[{wanted}]");
                let is_there = text.split_whitespace().any(|word| word == wanted);
                (wanted, is_there)
            }
            Self { at_least: Some(least), .. } => {
                (format!("at least {least}"), number().is_some_and(|found| found >= *least))
            }
            Self { at_most: Some(most), .. } => {
                (format!("at most {most}"), number().is_some_and(|found| found <= *most))
            }
            Self { cpus: Some(wanted), .. } => {
                let wanted = set(*wanted);
                (format!("CPUs {wanted}"), parse_list(text).as_ref() == Some(wanted))
            }
            Self { cpus_within: Some(wanted), .. } => within(set(*wanted), parse_list(text)),
            Self { mask_within: Some(wanted), .. } => within(set(*wanted), parse_mask(text)),
            _ => ("an expectation".into(), false),
        }
    }
}

fn within(wanted: &CpuSet, found: Option<CpuSet>) -> (String, bool) {
    let is_met = found.is_some_and(|found| found.difference(wanted).is_empty());
    (format!("only CPUs {wanted}"), is_met)
}

impl Plan {
    /// Reads the list of values, and the plan of the cores, for a host with these CPUs.
    ///
    /// # Errors
    /// A text that is not of its schema, or cores that the host does not have.
    pub fn new(tuning: &str, host_plan: &str, online: &str) -> Result<Self> {
        let file: File = versioned::parse(tuning).context("tuning.toml")?;
        file.value.iter().try_for_each(Value::check).context("tuning.toml")?;
        let plan = HostPlan::parse(host_plan)?;
        let online = parse_list(online).context("the host's CPUs")?;
        Ok(Self {
            values: file.value,
            hot_text: plan.hot_text().to_owned(),
            cores: plan.resolve(&online)?,
        })
    }

    /// Has words of the kernel's command line compared too, which this host was given.
    pub fn add_words<'a>(&mut self, words: impl Iterator<Item = &'a str>) {
        self.values.extend(words.map(|word| Value {
            name: "host-word".into(),
            path: "/proc/cmdline".into(),
            word: Some(word.into()),
            why: "[kernel] of this host's configuration; qctl tune addon makes the addon".into(),
            ..Value::default()
        }));
    }

    /// The hot cores.
    pub fn hot(&self) -> &CpuSet {
        self.cores.hot()
    }

    fn set(&self, set: Set) -> &CpuSet {
        match set {
            Set::Hot => self.cores.hot(),
            Set::Housekeeping => self.cores.housekeeping(),
        }
    }

    /// The files that a value is about.
    fn files(&self, root: &Path, value: &Value) -> Vec<PathBuf> {
        let mut found = vec![root.to_path_buf()];
        for part in value.path.trim_start_matches('/').split('/') {
            let mut next = Vec::new();
            for directory in &found {
                if part.contains("{hot}") {
                    let name = |cpu: u32| directory.join(part.replace("{hot}", &cpu.to_string()));
                    next.extend(self.cores.hot().iter().map(name));
                } else if part == "*" {
                    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
                    let paths = entries.map(|entry| entry.path());
                    next.extend(paths.filter(|path| path.is_dir()).take(MATCHES_MAX));
                } else {
                    next.push(directory.join(part));
                }
            }
            next.sort();
            found = next;
        }
        let many = value.path.contains('*');
        let is_meant = |path: &PathBuf| !value.is_passed_over(path) && (!many || path.exists());
        found.into_iter().filter(is_meant).collect()
    }

    /// Compares every value below `root`.
    pub fn compare(&self, root: &Path) -> Vec<Line> {
        let mut lines = Vec::new();
        for value in &self.values {
            for path in self.files(root, value) {
                let text = std::fs::read_to_string(&path);
                if text.is_err() && value.optional {
                    continue;
                }
                let (expected, is_met) = self.compare_value(value, &text);
                let at = path.strip_prefix(root).unwrap_or(&path);
                lines.push(Line {
                    name: value.name.clone(),
                    at: Path::new("/").join(at).display().to_string(),
                    expected,
                    found: text.map_or_else(|error| error.to_string(), |text| text.trim().into()),
                    is_met,
                    why: value.why.clone(),
                });
            }
        }
        lines
    }

    fn compare_value(&self, value: &Value, text: &std::io::Result<String>) -> (String, bool) {
        let (expected, is_met) = value.compare(self, text.as_deref().unwrap_or_default());
        (expected, is_met && text.is_ok())
    }

    /// Whether a task of such a kind may run where it may. `realtime` is its scheduling class.
    pub fn check_task(
        &self,
        cgroup: &str,
        allowed: &CpuSet,
        realtime: bool,
    ) -> Option<&'static str> {
        let is_engine = cgroup.starts_with(OWN_UNITS);
        if !is_engine && !allowed.intersection(self.cores.hot()).is_empty() {
            return Some("only the engine may run on a hot core");
        }
        (realtime && !is_engine).then_some("a realtime task starves the housekeeping cores")
    }

    /// The tasks of this host that may run where they must not.
    pub fn stray_tasks(&self) -> Vec<Line> {
        let processes = procfs::process::all_processes().into_iter().flatten().flatten();
        processes.filter_map(|process| self.stray(&process)).collect()
    }

    fn stray(&self, process: &Process) -> Option<Line> {
        let stat = process.stat().ok()?;
        if stat.flags & KERNEL_THREAD != 0 {
            return None;
        }
        let status = process.status().ok()?;
        let ranges = status.cpus_allowed_list?;
        let allowed: CpuSet = ranges.into_iter().flat_map(|(from, to)| from..=to).collect();
        // SCHED_FIFO, SCHED_RR, SCHED_DEADLINE.
        let realtime = matches!(stat.policy, Some(1 | 2 | 6));
        let path = format!("/proc/{}/cgroup", process.pid);
        let cgroup = std::fs::read_to_string(path).ok()?;
        let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
        let why = self.check_task(cgroup, &allowed, realtime)?;
        Some(Line {
            name: "tasks".into(),
            at: format!("{} ({})", stat.comm, process.pid),
            expected: format!("only CPUs {}, no realtime class", self.cores.housekeeping()),
            found: format!("CPUs {allowed}{}", if realtime { ", realtime" } else { "" }),
            is_met: false,
            why: why.into(),
        })
    }
}

/// This host's plan: the image's list, and the cores and kernel words that this host was told, or
/// the image's.
///
/// # Errors
/// As [`Plan::new`], or a file can't be read.
pub fn of_this_host() -> Result<Plan> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    let own = agent_host::credentials::HostPaths::default().plan();
    let shipped = Path::new("/usr/share/quietcore/host-plan.toml");
    let cores = read(if own.exists() { &own } else { shipped })?;
    let tuning = read(Path::new("/usr/share/quietcore/tuning.toml"))?;
    let mut plan = Plan::new(&tuning, &cores, &read(Path::new("/sys/devices/system/cpu/online"))?)?;
    let words =
        std::fs::read_to_string(agent_host::credentials::HostPaths::default().kernel_words());
    plan.add_words(words.unwrap_or_default().split_whitespace());
    Ok(plan)
}
