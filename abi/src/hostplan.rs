//! The host plan: which cores are hot, and how a host says so. Reads no file; takes texts.
//!
//! ```toml
//! version = 1
//! [cores]
//! hot = "2-N"        # CPU list as the kernel writes it; N is the last CPU
//! ```

use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use thiserror::Error;

/// CPUs that a plan can name: the kernel's own default limit on x86-64 (`CONFIG_NR_CPUS`).
pub const CPUS_MAX: u32 = 8192;

/// Why a host plan or CPU list is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The text is not TOML of the plan's schema.
    #[error("host plan: {0}")]
    Schema(String),
    /// The plan is of another version.
    #[error("host plan: version {0} is not known; this program reads version 1")]
    Version(u32),
    /// A CPU list can't be read.
    #[error("CPU list {list:?}: {why}; write it as in \"2-3,6-N\"")]
    List {
        /// CPU list as it was written.
        list: String,
        /// Error in the list.
        why: &'static str,
    },
    /// The plan names CPUs that the host does not have.
    #[error(
        "the plan makes CPUs {hot} hot, but the host has CPUs {online}; give it more CPUs or another plan"
    )]
    Missing {
        /// CPUs of the plan.
        hot: CpuSet,
        /// CPUs of the host.
        online: CpuSet,
    },
    /// Missing number of the host's CPUs, needed because `hot` does not end with N.
    #[error(
        "hot = {hot:?} does not go to the last CPU (N): say how many CPUs the host has, --cpus"
    )]
    Open {
        /// The plan's text.
        hot: String,
    },
    /// Nothing is left for everything else.
    #[error("the plan makes every CPU hot ({hot}); leave at least CPU 0 for housekeeping")]
    NoHousekeeping {
        /// CPUs of the plan.
        hot: CpuSet,
    },
}

/// A set of CPU numbers below [`CPUS_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// Reads a list as the kernel and compose files write it: `0-1,4`. `N` stands for `last`.
    /// Empty text, and the kernel's `(null)`, are the empty set.
    ///
    /// # Errors
    /// [`PlanError::List`] says what can't be read.
    pub fn parse(list: &str, last: u32) -> Result<Self, PlanError> {
        let text = list.trim();
        if text.is_empty() || text == "(null)" {
            return Ok(Self::default());
        }
        let bad = |why| PlanError::List { list: list.into(), why };
        let number = |text: &str| match text {
            "N" => Ok(last),
            _ => text.parse::<u32>().map_err(|_| bad("not a number")),
        };
        let mut set = BTreeSet::new();
        for part in text.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (number(from)?, number(to)?);
            if to >= CPUS_MAX {
                return Err(bad("a CPU number above 8191"));
            }
            if from > to {
                return Err(bad("a range that ends before it starts"));
            }
            set.extend(from..=to);
        }
        Ok(Self(set))
    }

    /// The CPUs, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of CPUs in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `cpu` is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// CPUs in both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// CPUs in `self` that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match runs.last_mut() {
                Some((_, end)) if *end + 1 == cpu => *end = cpu,
                _ => runs.push((cpu, cpu)),
            }
        }
        let texts = runs.iter().map(|(from, to)| match from == to {
            true => from.to_string(),
            false => format!("{from}-{to}"),
        });
        f.write_str(&texts.collect::<Vec<_>>().join(","))
    }
}

/// A host plan as written: it may name the last CPU without knowing its number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPlan {
    version: u32,
    cores: Cores,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cores {
    hot: String,
}

impl HostPlan {
    /// Reads a plan.
    ///
    /// # Errors
    /// [`PlanError`] with the line of an unknown key or a wrong value.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let schema = |error: toml::de::Error| PlanError::Schema(error.to_string());
        let plan: Self = toml::from_str(text).map_err(schema)?;
        if plan.version != 1 {
            return Err(PlanError::Version(plan.version));
        }
        CpuSet::parse(&plan.cores.hot, CPUS_MAX - 1)?;
        Ok(plan)
    }

    /// The hot cores as the plan writes them: `2-N`.
    pub fn hot_text(&self) -> &str {
        &self.cores.hot
    }

    /// All other CPUs, as the kernel reads them: `0-1`. A plan that names the last CPU suits a host
    /// of any size; for another one `cpus` says how many there are.
    ///
    /// # Errors
    /// [`PlanError::Open`] without that, [`PlanError::Missing`] or [`PlanError::NoHousekeeping`]
    /// with it.
    pub fn housekeeping_text(&self, cpus: Option<u32>) -> Result<String, PlanError> {
        if cpus.is_none() && !self.cores.hot.trim().ends_with("-N") {
            return Err(PlanError::Open { hot: self.cores.hot.clone() });
        }
        let online: CpuSet = (0..cpus.unwrap_or(CPUS_MAX)).collect();
        Ok(self.resolve(&online)?.housekeeping().to_string())
    }

    /// The plan on a host with these CPUs.
    ///
    /// # Errors
    /// [`PlanError::Missing`] or [`PlanError::NoHousekeeping`] if they do not suit it.
    pub fn resolve(&self, online: &CpuSet) -> Result<CorePlan, PlanError> {
        let last = online.iter().last().unwrap_or(0);
        CorePlan::new(online, CpuSet::parse(&self.cores.hot, last)?)
    }
}

/// A split of the host's CPUs. Holding one proves that the sets are disjoint, that together they
/// are the host's CPUs, and that housekeeping is not empty. The hot set may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorePlan {
    hot: CpuSet,
    housekeeping: CpuSet,
}

impl CorePlan {
    /// Splits `online` into `hot` and the rest.
    ///
    /// # Errors
    /// [`PlanError::Missing`] or [`PlanError::NoHousekeeping`].
    pub fn new(online: &CpuSet, hot: CpuSet) -> Result<Self, PlanError> {
        if !hot.difference(online).is_empty() {
            return Err(PlanError::Missing { hot, online: online.clone() });
        }
        let housekeeping = online.difference(&hot);
        if housekeeping.is_empty() {
            return Err(PlanError::NoHousekeeping { hot });
        }
        Ok(Self { hot, housekeeping })
    }

    /// The split that the running kernel was booted with: the texts of
    /// `/sys/devices/system/cpu/online` and `/sys/devices/system/cpu/nohz_full`.
    ///
    /// # Errors
    /// [`PlanError`] if the texts can't be read or leave no housekeeping CPU.
    pub fn from_kernel(online: &str, nohz_full: &str) -> Result<Self, PlanError> {
        let online = CpuSet::parse(online, CPUS_MAX - 1)?;
        let hot = CpuSet::parse(nohz_full, CPUS_MAX - 1)?;
        Self::new(&online, hot.intersection(&online))
    }

    /// A host whose CPUs are not known: none is hot.
    pub fn without_hot() -> Self {
        Self { hot: CpuSet::default(), housekeeping: CpuSet::default() }
    }

    /// CPUs of the engine.
    pub fn hot(&self) -> &CpuSet {
        &self.hot
    }

    /// CPUs of everything else.
    pub fn housekeeping(&self) -> &CpuSet {
        &self.housekeeping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_and_show_as_the_kernel_writes_them() {
        let set = CpuSet::parse("7,0-2,N\n", 9).unwrap();
        assert_eq!(set.to_string(), "0-2,7,9");
        assert_eq!(CpuSet::parse("(null)", 3).unwrap().len(), 0);
        for bad in ["a", "3-1", "1,,2", "-1", "9000"] {
            assert!(CpuSet::parse(bad, 3).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plan_fits_the_host_or_says_why_not() {
        let plan = HostPlan::parse("version = 1\n[cores]\nhot = \"2-N\"\n").unwrap();
        let online = |list| CpuSet::parse(list, 0).unwrap();
        let split = plan.resolve(&online("0-3")).unwrap();
        assert_eq!(
            (split.hot().to_string(), split.housekeeping().to_string()),
            ("2-3".into(), "0-1".into())
        );
        assert!(plan.resolve(&online("0-1")).is_err());
        let all = HostPlan::parse("version = 1\n[cores]\nhot = \"0-N\"\n").unwrap();
        assert!(matches!(all.resolve(&online("0-3")), Err(PlanError::NoHousekeeping { .. })));
    }

    #[test]
    fn unknown_keys_and_versions_are_refused() {
        assert!(matches!(
            HostPlan::parse("version = 2\n[cores]\nhot = \"1\"\n"),
            Err(PlanError::Version(2))
        ));
        let error =
            HostPlan::parse("version = 1\n[cores]\nhot = \"1\"\nwarm = \"0\"\n").unwrap_err();
        assert!(error.to_string().contains("warm"), "{error}");
    }

    #[test]
    fn the_kernel_names_the_split() {
        let plan = CorePlan::from_kernel("0-3\n", "2-3\n").unwrap();
        assert_eq!(plan.hot().to_string(), "2-3");
        assert!(CorePlan::from_kernel("0-3", "(null)").unwrap().hot().is_empty());
        assert_eq!(CorePlan::from_kernel("0-1", "1-63").unwrap().hot().to_string(), "1");
    }
}
