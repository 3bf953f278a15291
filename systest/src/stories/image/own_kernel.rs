//! Our own kernel (`KERNEL=quietcore` or `rt`): it boots from a stick in a USB port, its tracers
//! judge the hot cores, and the files that its drivers ask for are there.

use crate::harness::booted::{READY_LIMIT, Verdict, boot};
use crate::harness::checkout::{ImageFiles, is_own};
use crate::harness::vm::Machine;
use anyhow::{Result, ensure};
use std::time::Duration;

/// Three looks of the judges at most, and what starting them takes.
const ANSWER: Duration = Duration::from_secs(120);

/// Names of firmware that a driver in the kernel may ask for, and of those that are not there.
const FIRMWARE: &str = r"
names=$(tr '\0' '\n' < /usr/lib/modules/*/modules.builtin.modinfo | sed -n 's/^[^.]*[.]firmware=//p' | sort -u)
for name in $names; do [ -s /usr/lib/firmware/$name ] && echo there || echo missing $name; done | sort | uniq -c
";

/// Somebody runs on a hot core while the judges look, from their third second on.
const NOISE: &str = "systemd-run --quiet --collect bash -c \"sleep 3; exec systemd-run --quiet --collect --slice=hot-engine.slice --property=CPUAffinity=3 bash -c 'for i in 1 2 3 4 5 6; do sleep 0.2; done'\"; ";

/// A service that a disk is to answer soon, as the kernel has it.
const LATENCY: &str = r#"
{ cat /etc/quietcore/compose.yaml; printf '  prompt:\n    image: %s\n    command: ["--pages", "/pages", "--listen", "127.0.0.1:9499"]\n    x-quietcore: {engine_pages: /pages, io_latency: {/dev/sda: 50ms}}\n' $(sed -n 's/ *image: \(.*exporter.*\)/\1/p' /etc/quietcore/compose.yaml); } > /run/prompt.yaml
qctl apply /run/prompt.yaml > /dev/null
until grep -s target /sys/fs/cgroup/quietcore-containers/prompt-*/io.latency; do sleep 0.2; done
qctl apply /etc/quietcore/compose.yaml > /dev/null
"#;

/// Microcode files at the start of the UKI's initrd, uncompressed.
const MICROCODE: [&str; 2] =
    ["kernel/x86/microcode/AuthenticAMD.bin", "kernel/x86/microcode/GenuineIntel.bin"];

fn has_microcode(image: &ImageFiles) -> Result<()> {
    let mut initrd = image.directory.clone().into_os_string();
    initrd.push(".initrd/initrd.cpio.zst");
    let initrd = std::fs::read(initrd)?;
    for name in MICROCODE {
        let found = initrd.windows(name.len()).position(|window| window == name.as_bytes());
        ensure!(found.is_some(), "the initrd has no {name}");
    }
    ensure!(initrd.starts_with(b"070701"), "the initrd does not start with an archive of its own");
    Ok(())
}

/// Proves that our own kernel boots from a USB disk, with its firmware, microcode and noise
/// tracers.
pub fn own_kernel_boots_from_a_stick(image: &ImageFiles) -> Result<Verdict> {
    ensure!(
        is_own(image),
        "this is about our own kernel: make story NAME=own-kernel KERNEL=quietcore (or KERNEL=rt)"
    );
    has_microcode(image)?;
    let mut booted = boot(image, &Machine { usb: true, ..Machine::default() })?;
    booted.shell.wait_status("it trades", READY_LIMIT, |status| status["ready"] == true)?;
    let shell = &mut booted.shell;
    let disk = shell.check("readlink /sys/class/block/sda", ANSWER)?;
    ensure!(disk.contains("/usb"), "the disk is at {disk}");
    let at_boot = shell.check("systemctl show --property=Result --value quietcore-noise-tracers; journalctl -b -u quietcore-noise-tracers -o cat --no-pager", ANSWER)?;
    ensure!(at_boot.starts_with("success"), "at boot the judges found: {at_boot}");
    let latency = shell.check(LATENCY, ANSWER)?;
    ensure!(latency == "8:0 target=50000\n", "io.latency: {latency}");
    let firmware = shell.check(FIRMWARE, ANSWER)?;
    ensure!(!firmware.contains("missing") && firmware.contains("there"), "firmware: {firmware}");
    shell.check("systemctl stop quietcore-engine", ANSWER)?;
    let judge = "qctl tune verify --only-tracers --trace";
    let quiet = shell.run(&format!("{judge} 5"), ANSWER)?;
    ensure!(quiet.code == 0 && quiet.text.contains("CPU 3, in all"), "judged: {}", quiet.text);
    let noisy = shell.run(&format!("{NOISE}{judge} 8"), ANSWER)?;
    ensure!(
        noisy.code == 1 && noisy.text.contains("! noise: CPU 3, thread "),
        "somebody on a hot core is not named: {}",
        noisy.text
    );
    let release = shell.check("uname -rv", ANSWER)?;
    let seen: Vec<_> = quiet.text.lines().filter(|line| line.contains("in all")).collect();
    Ok(Verdict::Proved(format!(
        "{} traded from a disk in a USB port, with {} files of firmware and all microcode; its judges found the hot cores quiet at boot and after ({}), and named who was put there",
        release.trim(),
        firmware.split_whitespace().next().unwrap_or_default(),
        seen.join("; "),
    )))
}
