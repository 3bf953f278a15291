//! Machines that are booted once: saved when they are ready, with memory, disk, firmware variables
//! and TPM, and gone on from as often as wanted. A snapshot is made once for an image and a kind of
//! machine.

use crate::harness::accel;
use crate::harness::checkout::{ImageFiles, root};
use crate::harness::machine::arguments;
use crate::harness::qmp::Qmp;
use crate::harness::shell::Shell;
use crate::harness::vm::{Machine, Vm};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time that a guest may take from power-on to a host that is ready and at rest.
const READY_LIMIT: Duration = Duration::from_secs(600);

/// The files of a machine that a snapshot has, besides its memory and the disk.
const FILES: [&str; 3] = ["vars.fd", "serial.log", "capture.img"];

/// CPU seconds from power-on to ready.
const READY_CPU_SECONDS: &str = "ready_cpu_seconds";

/// CPU milliseconds that this process has spent on making snapshots: no story's own.
static MAKING_CPU_MS: AtomicU64 = AtomicU64::new(0);

/// CPU seconds of the machines that this process has booted to be saved.
pub fn making_cpu_seconds() -> f64 {
    Duration::from_millis(MAKING_CPU_MS.load(Ordering::Relaxed)).as_secs_f64()
}

/// Snapshot of a booted machine, resumed by stories.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its files: `state` is QEMU's migration stream, `disk.qcow2` lies over the image's disk.
    pub directory: PathBuf,
}

impl Snapshot {
    /// The snapshot of this machine with this image, made now if there is none.
    ///
    /// # Errors
    /// The machine does not become ready, or can't be saved.
    pub fn of(image: &ImageFiles, machine: &Machine) -> Result<Self> {
        ensure!(
            machine.esp.is_none() && !machine.tpm,
            "a machine with a changed disk or a TPM can't be saved"
        );
        let all = root().join("target/snapshots");
        std::fs::create_dir_all(&all).with_context(|| format!("make {}", all.display()))?;
        let variant = image.directory.file_name().context("the image's name")?.to_string_lossy();
        let directory = all.join(format!("{variant}-{}", identity(image, machine)?));
        // Others wait here for the one who makes it.
        let lock = File::create(directory.with_extension("lock"))?;
        let _turn = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context("wait for a snapshot")?;
        if !directory.join("state").exists() {
            remove_older(&all, &format!("{variant}-"), &directory);
            make(image, machine, &directory)?;
        }
        Ok(Self { directory })
    }

    /// CPU seconds that QEMU took from power-on to ready.
    ///
    /// # Errors
    /// It can't be read.
    pub fn ready_cpu_seconds(&self) -> Result<f64> {
        let text = std::fs::read_to_string(self.directory.join(READY_CPU_SECONDS))?;
        text.trim().parse().context(READY_CPU_SECONDS)
    }

    /// Resumes a machine from the instant in which it was saved, on a disk of its own.
    ///
    /// # Errors
    /// QEMU or one of its files can't be had, or QEMU refuses the memory.
    pub fn resume(&self, image: &ImageFiles, machine: &Machine) -> Result<Vm> {
        let unpack = |directory: &Path| self.unpack(image, directory);
        let mut vm = Vm::start_incoming(image, machine, self.directory.clone(), unpack)?;
        self.load(&mut vm)?;
        Ok(vm)
    }

    /// Puts a machine's files into its directory.
    fn unpack(&self, image: &ImageFiles, directory: &Path) -> Result<()> {
        for name in FILES {
            let from = self.directory.join(name);
            if from.exists() {
                std::fs::copy(&from, directory.join(name))
                    .with_context(|| format!("copy {name}"))?;
            }
        }
        let binds: [(&Path, &str); 3] =
            [(directory, "/vm"), (&self.directory, "/snapshot"), (&image.directory, "/image")];
        let made = image
            .in_tools(&binds)
            .args(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/snapshot/disk.qcow2"])
            .args(["-F", "qcow2", "/vm/disk.qcow2"])
            .status()?;
        ensure!(made.success(), "make a disk over the snapshot's");
        Ok(())
    }

    /// Loads the memory of a machine that QEMU was started for with `-incoming defer`, and lets it
    /// go on.
    fn load(&self, vm: &mut Vm) -> Result<()> {
        let mut qmp = Qmp::connect(vm)?;
        qmp.execute("migrate-set-capabilities", mapped())?;
        qmp.execute("migrate-incoming", json!({ "uri": "file:/snapshot/state" }))?;
        qmp.wait("query-status", "status", &["paused", "running"])
            .with_context(|| format!("load {}: {}", self.directory.display(), vm.console_end()))?;
        qmp.execute("cont", json!({}))?;
        Ok(())
    }
}

/// Memory at its own place in the file, so that pages of zeroes take none and saving twice does not
/// grow it.
fn mapped() -> serde_json::Value {
    json!({ "capabilities": [{ "capability": "mapped-ram", "state": true }] })
}

/// A hash of all that a saved machine depends on: image, tools, accelerator, devices and the
/// recording's bytes. The API's port on this machine, and what a restart of the guest is, may
/// differ.
fn identity(image: &ImageFiles, machine: &Machine) -> Result<String> {
    let machine = Machine { api: None, reboots: false, ..machine.clone() };
    let inputs = std::fs::read(image.directory.join("inputs")).context("the image's inputs")?;
    let (accel, _) = accel::choose(image)?;
    let mut hash = Sha256::new();
    hash.update(&inputs);
    hash.update(format!("{machine:?} {:?} {:?}", accel.options(), arguments(&machine)));
    hash.update(image.tools.as_os_str().as_encoded_bytes());
    if let Some(capture) = &machine.capture {
        hash.update(std::fs::read(capture).with_context(|| capture.display().to_string())?);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Removes the snapshots of the same kind whose image or machine is no more.
fn remove_older(all: &Path, prefix: &str, except: &Path) {
    for path in std::fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hash = name.strip_prefix(prefix).unwrap_or_default();
        let is_snapshot = hash.len() >= 16 && hash.bytes().take(16).all(|b| b.is_ascii_hexdigit());
        if is_snapshot && path.is_dir() && path != except {
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_file(path.with_extension("lock"));
        }
    }
}

/// Boots a machine until it is ready and at rest, and saves it.
fn make(image: &ImageFiles, machine: &Machine, directory: &Path) -> Result<()> {
    let partial = directory.with_extension("partial");
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial)?;
    let mut vm = Vm::start_in(partial.clone(), image, machine)?;
    let mut shell = Shell::connect(&mut vm, READY_LIMIT)?;
    vm.wait_for("quietcore: ready", READY_LIMIT)?;
    let cpu = vm.clock.cpu_seconds();
    // The boot's own verdict, and no job that is left of it.
    shell.check("systemctl is-system-running --wait; sync", READY_LIMIT)?;
    drop(shell);
    let mut qmp = Qmp::connect(&mut vm)?;
    qmp.execute("stop", json!({}))?;
    qmp.execute("migrate-set-capabilities", mapped())?;
    qmp.execute("migrate", json!({ "uri": "file:/vm/state" }))?;
    let end = qmp.wait("query-migrate", "status", &["completed", "failed"])?;
    ensure!(end == "completed", "the machine can't be saved: {}", vm.console_end());
    let cost = Duration::from_secs_f64(vm.clock.cpu_seconds());
    MAKING_CPU_MS.fetch_add(cost.as_millis() as u64, Ordering::Relaxed);
    qmp.execute("quit", json!({}))?;
    vm.leave()?;
    std::fs::write(partial.join(READY_CPU_SECONDS), format!("{cpu:.1}\n"))?;
    std::fs::rename(&partial, directory).with_context(|| directory.display().to_string())
}
