//! The ways onto a disk: a stick that installs, a netboot UKI that was told a disk, and `qctl
//! flash`.

use crate::harness::booted::{READY_LIMIT, Verdict};
use crate::harness::checkout::{ImageFiles, program};
use crate::harness::shell::Shell;
use crate::harness::vm::{Machine, Vm};
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Host configuration that orders an installation onto `/dev/vda`.
const ORDER: &str = "version = 1\n[install]\ndisk = \"/dev/vda\"\n";

/// A file that only looks like an image, and the disk that the host runs from.
const FLASH_OWN: &str = "truncate -s 2M /run/image.raw; printf 'EFI PART' | dd of=/run/image.raw bs=512 seek=1 conv=notrunc 2> /dev/null; \
    qctl flash --yes /run/image.raw /dev/vda";

const LIMIT: Duration = Duration::from_secs(60);

/// Proves that a stick installs the image, and that disks in use or with partitions are left as
/// they are.
pub fn disk_is_installed(image: &ImageFiles) -> Result<Verdict> {
    let stick = Some(image.directory.join("installer.raw"));
    let machine = Machine { empty_disk: true, stick, ..Machine::default() };
    let mut vm = Vm::start(image, &machine)?;
    let question = "install on which disk?";
    vm.wait_for(question, READY_LIMIT)?;
    let mut console = vm.connect("serial.sock")?;
    let mut shown = console.try_clone()?;
    // What is shown is read from the log; here it would only fill up.
    std::thread::spawn(move || std::io::copy(&mut shown, &mut std::io::sink()));
    console.write_all(b"/dev/vdx\n")?;
    vm.wait_for("/dev/vdx: there is no such disk; there are /dev/vda (6144 MiB)", READY_LIMIT)?;
    // Before it is asked again nobody reads the console, and what is typed is lost.
    vm.wait_for_times(2, question, READY_LIMIT)?;
    console.write_all(b"/dev/vda\n")?;
    vm.wait_for("empty; all of it is lost: type its name again", READY_LIMIT)?;
    console.write_all(b"/dev/vda\n")?;
    vm.wait_for("quietcore: installed", READY_LIMIT * 2)?;
    let deadline = vm.clock.deadline(READY_LIMIT);
    while !vm.has_ended() {
        ensure!(!deadline.is_over(), "it does not restart: {}", vm.console_end());
        std::thread::sleep(Duration::from_millis(200));
    }
    // The stick is pulled out.
    let disk = Machine::default();
    vm.cut_power(image, &disk)?;
    let mut shell = Shell::connect(&mut vm, READY_LIMIT)?;
    shell.check("qctl ready --timeout 300 && qctl tune verify --quiet", READY_LIMIT)?;
    let own = shell.run(FLASH_OWN, LIMIT)?;
    let is_refused = own.code == 1 && own.text.contains("in use") && own.text.contains("(root)");
    ensure!(is_refused, "the disk that it runs from is not refused: {}", own.text);
    let part = shell.run("qctl flash --yes /run/image.raw /dev/vda2", LIMIT)?;
    let is_refused = part.code == 1 && part.text.contains("name the whole disk, /dev/vda");
    ensure!(is_refused, "a partition is not refused: {}", part.text);
    shell.check("sync", LIMIT)?;
    drop(shell);
    // Told to install where something is already.
    let netboot = Machine {
        kernel: Some(image.directory.join("netboot.efi")),
        files: vec![("host.toml", ORDER.into())],
        fw_cfg: vec![("quietcore.host", "host.toml")],
        ..Machine::default()
    };
    std::fs::write(vm.directory.join("host.toml"), ORDER)?;
    vm.cut_power(image, &netboot)?;
    let mut shell = Shell::connect(&mut vm, READY_LIMIT)?;
    vm.wait_for("it is kept: boot from it", READY_LIMIT)?;
    let engine = shell.run("systemctl is-active quietcore-engine containerd", LIMIT)?.text;
    ensure!(!engine.lines().any(|line| line == "active"), "it trades uninstalled: {engine}");
    let entries = "mkdir -p /run/esp && mount -o ro /dev/vda1 /run/esp && ls /run/esp/EFI/Linux";
    let kept = shell.check(entries, LIMIT)?;
    ensure!(kept.contains("quietcore_"), "what was there is gone: {kept}");
    Ok(Verdict::Proved(
        "a stick asks, installs and the disk boots, tuned and trading; a wrong name, the disk that runs and one with \
         partitions are refused, and what was there is kept"
            .into(),
    ))
}

/// A loop device, for as long as this lives.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path, len: u64) -> Result<Self> {
        std::fs::File::create(file)?.set_len(len)?;
        let output =
            Command::new("losetup").args(["--find", "--show", "--partscan"]).arg(file).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(String::from_utf8(output.stdout)?.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// `qctl flash` with these arguments: its exit code, and what it said.
fn flash(image: &Path, disk: &Path) -> Result<(i32, String)> {
    let qctl = program("qctl");
    let output = Command::new(qctl).args(["flash", "--yes"]).arg(image).arg(disk).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned()))
}

/// The story: on this machine's own loop devices.
pub fn flash_writes_and_refuses(image: &ImageFiles) -> Result<Verdict> {
    let directory = std::env::temp_dir().join(format!("quietcore-flash-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let told = flash_in(image, &directory);
    let _ = std::fs::remove_dir_all(&directory);
    told
}

fn flash_in(image: &ImageFiles, directory: &Path) -> Result<Verdict> {
    let (file, disk) = (directory.join("disk"), image.disk());
    let device = Loop::over(&file, 4 << 30)?;
    let (code, said) = flash(&disk, &device.0)?;
    ensure!(code == 0, "{said}");
    let len = disk.metadata()?.len().to_string();
    let same = Command::new("cmp").arg("-n").arg(len).arg(&disk).arg(&file).output()?;
    ensure!(
        same.status.success(),
        "it is not on the disk: {}",
        String::from_utf8_lossy(&same.stdout)
    );
    let (code, said) = flash(&disk, &device.0)?;
    ensure!(code == 0 && said.contains(", 2 MiB were other"), "a second time: {said}");
    let small = Loop::over(&directory.join("small"), 1 << 30)?;
    let refusals = [
        (disk.as_path(), small.0.as_path(), "take a larger disk"),
        (disk.as_path(), file.as_path(), "is no disk"),
        (Path::new("/dev/null"), device.0.as_path(), "no disk image"),
        (disk.as_path(), Path::new("/dev/nowhere"), "there is no such disk"),
    ];
    let mut refused = Vec::new();
    for (image, disk, why) in refusals {
        let (code, said) = flash(image, disk)?;
        ensure!(code == 1 && said.contains(why), "not refused with {why:?}: {said}");
        ensure!(said.lines().count() == 1, "more than a line: {said}");
        refused.push(why);
    }
    let mounted = directory.join("mounted");
    std::fs::create_dir(&mounted)?;
    let script = "mkfs.ext4 -q \"$1\" && mount \"$1\" \"$2\"";
    let used =
        Command::new("sh").args(["-c", script, "sh"]).arg(&device.0).arg(&mounted).output()?;
    ensure!(used.status.success(), "mount: {}", String::from_utf8_lossy(&used.stderr));
    let in_use = flash(&disk, &device.0);
    Command::new("umount").arg(&mounted).status().context("umount")?;
    let (code, said) = in_use?;
    ensure!(code == 1 && said.contains("is mounted at"), "a mounted disk is not refused: {said}");
    Ok(Verdict::Proved(format!(
        "an image is written and read back, a second time only its start is written; refused: {}; a mounted disk",
        refused.join(", ")
    )))
}
