//! Arguments of `qctl apply`.

use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Number or percentage of hosts to apply to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Number of hosts, at least 1.
    Count(usize),
    /// So many of a hundred, and at least one.
    Percent(usize),
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, is_percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        match (number.parse(), is_percent) {
            (Ok(percent @ 1..=100), true) => Ok(Self::Percent(percent)),
            (Ok(count @ 1..), false) => Ok(Self::Count(count)),
            _ => Err("a number of hosts, or a share as in 10%".into()),
        }
    }
}

impl Share {
    /// Number of hosts, of all that there are.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Self::Count(count) => count.min(hosts),
            Self::Percent(percent) => (hosts * percent).div_ceil(100),
        }
    }
}

#[derive(Debug, Args)]
pub struct Apply {
    /// Compose file to apply.
    pub file: PathBuf,
    /// A profile whose services are wanted too; * for all.
    #[arg(long)]
    pub profile: Vec<String>,
    /// Say whether the file would be accepted, and what would be another than now; change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Take it back after this time, as in 60s, unless qctl keep is heard before.
    #[arg(long = "try", value_parser = duration, conflicts_with = "dry_run")]
    pub try_for: Option<Duration>,
    /// Check it now and run it from the next boot on. What is applied before that takes its place.
    #[arg(long, conflicts_with_all = ["dry_run", "try_for"])]
    pub staged: bool,
    /// Wait until all of it runs and has proved itself, for this time at most; exit code 1 if it
    /// does not. An update's trial takes a minute if its file says nothing else.
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, require_equals = true, default_missing_value = "5m",
          conflicts_with_all = ["dry_run", "staged", "try_for"])]
    pub wait: Option<Duration>,
    /// Of several hosts, so many first, as 2 or 10%; the others once it has proved itself there.
    /// Who comes after one where it did not is not asked.
    #[arg(long, requires = "wait", value_name = "HOSTS")]
    pub canary: Option<Share>,
    /// Look at the first ones again after this time, before the others are asked.
    #[arg(long, requires = "canary", value_name = "TIME", value_parser = duration)]
    pub bake: Option<Duration>,
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    match number.parse::<u64>() {
        Ok(number @ 1..=86_400) if seconds > 0 => Ok(Duration::from_secs(number * seconds)),
        _ => Err("a time, as in 60s, 5m, 1h or 30d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_count_or_some_of_a_hundred_and_at_least_one() {
        let of = |text: &str, hosts| text.parse::<Share>().unwrap().of(hosts);
        assert_eq!((of("2", 5), of("9", 5), of("10%", 5), of("50%", 5)), (2, 5, 1, 3));
        for text in ["0", "0%", "101%", "x", "-1", ""] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
