//! `qctl --select … apply --canary`: a file on some of several hosts first, and on the others once it has proved itself there.

use super::client::{Client, Target};
use super::{declare, settle};
use anyhow::{Context, Result, ensure};
use std::str::FromStr;
use std::time::Duration;

/// How many hosts come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
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
    fn of(self, hosts: usize) -> usize {
        match self {
            Self::Count(count) => count.min(hosts),
            Self::Percent(percent) => (hosts * percent).div_ceil(100),
        }
    }
}

/// Applies it to one host after the other, waits each time until it has proved itself, and asks no more hosts once it has
/// not: those run what they ran.
///
/// # Errors
/// It did not prove itself on a host, which is named.
pub fn apply(
    targets: &[(String, Target)],
    wanted: &declare::Apply,
    first: Share,
    bake: Duration,
) -> Result<()> {
    let (count, first) = (targets.len(), first.of(targets.len()));
    for (index, (name, target)) in targets.iter().enumerate() {
        let left = || format!("{name}; {} of {count} hosts were not asked", count - index - 1);
        if index == first {
            let (canaries, rest) = (&targets[..first], count - first);
            check_again(canaries, bake)
                .with_context(|| format!("{rest} of {count} hosts were not asked"))?;
        }
        println!("== {name}");
        let done =
            Client::connect(target).and_then(|mut client| declare::apply(&mut client, wanted));
        done.with_context(left)?;
    }
    Ok(())
}

/// Whether all is still well after a while.
fn check_again(canaries: &[(String, Target)], bake: Duration) -> Result<()> {
    if bake.is_zero() {
        return Ok(());
    }
    println!("{} of them run it; for {} s nobody else is asked", canaries.len(), bake.as_secs());
    std::thread::sleep(bake);
    for (name, target) in canaries {
        let status = Client::connect(target)?.status().with_context(|| name.clone())?;
        let waits = settle::unsettled(&status);
        ensure!(
            waits.is_none(),
            "{name}: after {} s: {}",
            bake.as_secs(),
            waits.unwrap_or_default()
        );
    }
    Ok(())
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
