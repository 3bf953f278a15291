//! A busy loop on each hot core while the housekeeping cores work: containers are pulled, a disk is
//! filled, and the network is used as fast as it goes. Every interrupt that a hot core takes in ten
//! seconds, and every switch to somebody else, is counted by the kernel.

use crate::harness::booted::{Booted, Verdict};
use crate::harness::checkout::is_own;
use crate::measure::load::{FILL_MIB, LIMIT, TEN_SECONDS, WORK, count, give_images, start};
use anyhow::{Result, ensure};

/// The story. A second time of counting is granted: in the first the core may still have had to do
/// with the engine that was stopped there.
pub fn hot_cores_are_quiet_under_load(booted: &mut Booted) -> Result<Verdict> {
    let own = is_own(&booted.image);
    let (_registry, images) = give_images(booted)?;
    let _web = start(booted, WORK, &images)?;
    let mut count = || count(booted, WORK, TEN_SECONDS, LIMIT);
    let first = count()?;
    let (which, count) = match first.findings(own).is_empty() {
        true => ("first", first),
        false => ("second", count()?),
    };
    let findings = count.findings(own);
    ensure!(
        findings.is_empty(),
        "under load: {}; all: {:?}",
        findings.join("; "),
        count.interrupts
    );
    Ok(Verdict::Proved(format!(
        "a loop on each hot core for {:.1} s (the {which} time) took at most {} timer interrupts, none of devices, of other cores only the kernel's own {:?}, and no foreign context switch, beside work that by then had rolled out {} images that were pulled, written {} MiB and fetched {} files",
        count.seconds,
        count.timer(),
        count.senders,
        count.rounds[0],
        count.rounds[1] * FILL_MIB,
        count.rounds[2]
    )))
}
