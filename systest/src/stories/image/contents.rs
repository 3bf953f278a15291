//! Contents of the image: a boot to readiness within its bars, no way into production, and a
//! changed byte of the root.

use crate::harness::booted::{Booted, READY_LIMIT, Verdict};
use crate::harness::checkout::{ImageFiles, root_partition};
use crate::harness::vm::{Machine, Vm};
use crate::measure::bars::{GUEST_FIGURES, is_met};
use anyhow::{Context, Result, ensure};

use std::time::Duration;

/// Bytes of the root that no boot can do without: the wrong disk shows fewer.
const READ_AT_LEAST: f64 = 20_000_000.0;

/// Proves that the image boots to ready, without failed units and with its figures within their
/// bars.
pub fn boots_to_ready(booted: &mut Booted) -> Result<Verdict> {
    booted.shell.wait_status("the host is ready", READY_LIMIT, |status| status["ready"] == true)?;
    let failed =
        booted.shell.check("systemctl --failed --no-legend --plain", Duration::from_secs(60))?;
    ensure!(failed.trim().is_empty(), "failed units: {failed}");
    let root = booted.shell.check(
        "findmnt -no FSTYPE,OPTIONS / || grep ' / ' /proc/mounts",
        Duration::from_secs(60),
    )?;
    ensure!(root.contains("erofs") && root.contains("ro"), "the root is {root}");
    booted
        .shell
        .check("test -d /var/log/journal/$(cat /etc/machine-id)", Duration::from_secs(60))
        .context("the journal is not on the data partition")?;
    let mut counts = Vec::new();
    for (name, script) in GUEST_FIGURES {
        let count = booted.shell.check(script, Duration::from_secs(60))?;
        let count: f64 = count.trim().parse().with_context(|| format!("{name}: {count}"))?;
        ensure!(
            is_met(name, count) == Some(true),
            "{name} is {count}; see its bar in measure/bars.rs"
        );
        let least = if *name == "bytes_read_to_ready" { READ_AT_LEAST } else { 1.0 };
        ensure!(count >= least, "{name} is {count}: that is not what was to be counted");
        counts.push(format!("{name} {count}"));
    }
    let analyze =
        booted.shell.run("systemd-analyze time | head -n 1", Duration::from_secs(120))?.text;
    Ok(Verdict::Proved(format!(
        "verity root, no failed unit, engine and both containers up; {}; {}",
        counts.join(", "),
        analyze.trim()
    )))
}

/// The story: the netboot UKI, with no disk anywhere.
pub fn boots_without_a_disk(image: &ImageFiles) -> Result<Verdict> {
    let file = |name: &str| Some(image.directory.join(name));
    let machine = Machine {
        kernel: file("netboot.efi"),
        diskless: true,
        secure_boot: true,
        ..Machine::default()
    };
    let unsigned = Machine { kernel: file("netboot.unsigned.efi"), ..machine.clone() };
    let mut vm = Vm::start(image, &unsigned)?;
    // The firmware refuses it, and there is nothing else. The control is the same machine with the
    // signed file.
    vm.wait_for("No bootable option", READY_LIMIT).context("without its signature")?;
    ensure!(!vm.console().contains("EFI stub"), "it was started without its signature");
    drop(vm);
    let mut booted = crate::harness::booted::boot(image, &machine)?;
    booted.shell.wait_status("the host trades", READY_LIMIT, |status| status["ready"] == true)?;
    let mounts = "grep -E ' (/|/var) ' /proc/mounts; ls /sys/block";
    let mounts = booted.shell.check(mounts, Duration::from_secs(60))?;
    ensure!(mounts.contains("/ erofs") && mounts.contains("/var tmpfs"), "mounted: {mounts}");
    ensure!(!mounts.contains("vda"), "there is a disk: {mounts}");
    let failed =
        booted.shell.check("systemctl --failed --no-legend --plain", Duration::from_secs(60))?;
    ensure!(failed.trim().is_empty(), "failed units: {failed}");
    let refused = booted.shell.run("qctl update http://10.0.2.2:1/", Duration::from_secs(60))?;
    let why = "not from a slot of its disk";
    ensure!(refused.code == 1 && refused.text.contains(why), "update: {refused:?}");
    let len = image.len_of(|name| name == "netboot.efi")?;
    Ok(Verdict::Proved(format!(
        "one file of {} MB trades without a disk, with Secure Boot on, and takes no update; without its signature it is refused",
        len / 1_000_000
    )))
}

/// The story: the first block of the root, in a place that no file system reads for itself.
pub fn flipped_byte_is_caught(image: &ImageFiles) -> Result<Verdict> {
    let start = root_partition(&image.disk())?.start;
    let machine = Machine { flip: Some(start + 100), ..Machine::default() };
    let mut vm = Vm::start(image, &machine)?;
    let words = "is corrupted";
    vm.wait_for(words, READY_LIMIT)?;
    for _ in 0..600 {
        if vm.has_ended() {
            let console = vm.console();
            ensure!(
                !console.contains("quietcore: ready"),
                "the host became ready with a changed root"
            );
            return Ok(Verdict::Proved("one changed byte of the root: dm-verity names the block, the kernel panics and restarts".into()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("dm-verity saw the changed byte, but the machine goes on")
}

/// Programs that a production root must not have.
const WAYS_IN: [&str; 11] = [
    "bin/bash",
    "bin/dash",
    "bin/sh",
    "bin/apt",
    "bin/dpkg",
    "bin/perl",
    "bin/gcc",
    "bin/cc",
    "sbin/sshd",
    "sbin/agetty",
    "bin/python3",
];

/// The story: the production root, unpacked.
pub fn production_has_no_way_in(_: &ImageFiles) -> Result<Verdict> {
    let image = ImageFiles::build("production")?;
    let mut sizes = Vec::new();
    for (name, file) in
        [("uki_bytes", "uki.efi"), ("netboot_bytes", "netboot.efi"), ("root_bytes", "root-x86-64.")]
    {
        let len =
            image.len_of(|found| found == file || found.contains(file) && file.ends_with('.'))?;
        ensure!(
            is_met(name, len as f64) == Some(true),
            "{name} is {len}; see its bar in measure/bars.rs"
        );
        sizes.push(format!("{name} {len}"));
    }
    let initrd =
        crate::harness::checkout::root().join("target/image/production.initrd/initrd.cpio.zst");
    let len = initrd.metadata().context("the initrd")?.len();
    ensure!(is_met("initrd_bytes", len as f64) == Some(true), "initrd_bytes is {len}");
    sizes.push(format!("initrd_bytes {len}"));
    let script = "fsck.erofs --extract=/tmp/root /image/quietcore_*.root-x86-64.*.raw > /dev/null; cd /tmp/root/usr; find bin sbin -type f -o -type l | sort; find /tmp/root -name 'getty@*' -o -name 'debug-console*' -o -name 'quietcore-view*'; test -x /tmp/root/usr/bin/quietcore-engine";
    let output =
        image.in_tools(&[(&image.directory, "/image")]).args(["sh", "-euc", script]).output()?;
    ensure!(
        output.status.success(),
        "unpack the production root: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let files: Vec<&str> = text.lines().collect();
    let found: Vec<&&str> = files
        .iter()
        .filter(|file| {
            WAYS_IN.contains(file)
                || file.contains("debug-console")
                || file.contains("quietcore-view")
        })
        .collect();
    ensure!(found.is_empty(), "the production root has {found:?}");
    ensure!(files.contains(&"bin/quietcore-engine"), "the list of files is not one");
    Ok(Verdict::Proved(format!(
        "{} programs, among them no shell, package manager, compiler, ssh or getty; {}",
        files.len(),
        sizes.join(", ")
    )))
}
