//! The power goes while versions come and go: what was applied is there afterwards, whole, runs by
//! itself, and the next one takes its place.

use crate::harness::booted::{Booted, Verdict, seed};
use crate::measure::power_cuts::{LONGEST_MS, cuts};
use anyhow::Result;

/// Each is a boot; `make bench AREA=agent` cuts ten times.
const CUTS: u32 = 1;
/// Proves that an applied version survives power cuts and that the next one takes its place.
pub fn what_was_applied_outlives_the_power(booted: &mut Booted) -> Result<Verdict> {
    let seed = seed()?;
    cuts(booted, CUTS, seed)?;
    Ok(Verdict::Proved(format!(
        "power cuts up to {} s after a version of two services was applied: {CUTS}; the host traded again, what was applied ran, well and once, and the next version took its place (seed {seed})",
        LONGEST_MS / 1000
    )))
}
