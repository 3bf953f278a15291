//! A damaged data partition: repaired without asking where that can be done, and else the host
//! restarts instead of waiting for somebody at its console.

use crate::harness::booted::{READY_LIMIT, Verdict, boot};
use crate::harness::checkout::ImageFiles;
use crate::harness::vm::{Machine, Vm};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Makes the disk what the first boot makes of it: slots and a data partition. `$start` is its
/// first byte.
const PARTITION: &str = "disk=/vm/changed.raw; truncate -s 6G $disk; \
    systemd-repart --definitions=/slots --dry-run=no --seed=random $disk > /dev/null 2>&1; \
    start=$(($(sfdisk -d $disk | sed -n '/quietcore-var/s/.*start= *\\([0-9]*\\),.*/\\1/p') * 512)); ";

/// Bitmaps and group descriptors are full of nonsense.
const DAMAGED: &str = "dd if=/dev/urandom of=$disk bs=4096 seek=$((start / 4096 + 1)) count=300 conv=notrunc status=none";

/// Nothing is a file system any more.
const ERASED: &str =
    "dd if=/dev/zero of=$disk bs=1M seek=$((start / 1048576)) count=1200 conv=notrunc status=none";

fn machine(commands: &str) -> Machine {
    Machine { esp: Some(format!("{PARTITION}{commands}")), ..Machine::default() }
}

/// Proves that a damaged data partition is repaired, or else makes the host restart.
pub fn damaged_data_never_hangs_a_host(image: &ImageFiles) -> Result<Verdict> {
    let mut booted = boot(image, &machine(DAMAGED))?;
    booted.shell.wait_status("the host is ready", READY_LIMIT, |status| status["ready"] == true)?;
    let limit = Duration::from_secs(60);
    let said =
        booted.shell.check("journalctl -b --no-pager -u 'systemd-fsck@*' | tail -n 40", limit)?;
    ensure!(said.contains("FILE SYSTEM WAS MODIFIED") || said.contains("FIXED"), "fsck: {said}");
    drop(booted);
    // Zeroes are no file system: there is nothing to repair.
    let mut vm = Vm::start(image, &machine(ERASED))?;
    vm.wait_for("this host can not start; it restarts", READY_LIMIT)?;
    let deadline = vm.clock.deadline(READY_LIMIT);
    while !vm.has_ended() {
        ensure!(!deadline.is_over(), "it does not restart:\n{}", vm.console_end());
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(!vm.console().contains("quietcore: ready"), "it became ready without data");
    Ok(Verdict::Proved(
        "a damaged file system is repaired at boot and the host trades; where none can be found the host restarts"
            .into(),
    ))
}
