//! `qctl --select … apply --canary`: a file on some of several hosts first, and on the others once
//! it has proved itself there.

use crate::apply_args::{self, Share};
use crate::client::Client;
use crate::hosts::Target;
use crate::{apply, wait};
use agent_core::status::Status;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Applies it to one host after the other, waits each time until it has proved itself, and asks no
/// more hosts once it has not: those run what they ran.
///
/// # Errors
/// It did not prove itself on a host, which is named.
pub fn apply(
    targets: &[(String, Target)],
    wanted: &apply_args::Apply,
    first: Share,
    bake: Duration,
) -> Result<()> {
    let (count, first) = (targets.len(), first.of(targets.len()));
    let mut canaries = Vec::new();
    for (index, (name, target)) in targets.iter().enumerate() {
        println!("== {name}");
        let ask = || -> Result<Canary<'_>> {
            let mut client = Client::connect(target)?;
            apply::apply(&mut client, wanted)?;
            Ok(Canary { name, target, restarts: restarts(&client.status()?) })
        };
        let left = |index: usize| format!("{} of {count} hosts were not asked", count - index - 1);
        canaries.push(ask().with_context(|| format!("{name}; {}", left(index)))?);
        if index + 1 == first {
            check_again(&canaries, bake).with_context(|| left(index))?;
        }
    }
    Ok(())
}

/// A host that runs it.
struct Canary<'a> {
    name: &'a str,
    target: &'a Target,
    /// Sum of its containers' restarts, counted once the file was applied.
    restarts: u32,
}

fn restarts(status: &Status) -> u32 {
    status.containers.iter().map(|container| container.restarts).sum()
}

/// Whether all is still well after a while, and was meanwhile.
fn check_again(canaries: &[Canary<'_>], bake: Duration) -> Result<()> {
    if bake.is_zero() {
        return Ok(());
    }
    println!("{} of them run it; for {} s nobody else is asked", canaries.len(), bake.as_secs());
    std::thread::sleep(bake);
    for Canary { name, target, restarts: before } in canaries {
        let status = Client::connect(target)?.status().with_context(|| (*name).to_owned())?;
        let more = restarts(&status).saturating_sub(*before);
        let waits = wait::unsettled(&status);
        let waits = waits.or((more > 0).then(|| format!("{more} restarts of containers")));
        ensure!(
            waits.is_none(),
            "{name}: after {} s: {}; it keeps the file",
            bake.as_secs(),
            waits.unwrap_or_default()
        );
    }
    Ok(())
}
