//! A virtual machine: QEMU from the tools root, a disk of its own over the image, sockets to the
//! guest.

use crate::harness::accel::{self, Accel};
use crate::harness::checkout::{ImageFiles, keys, root};
use crate::harness::guest_clock::{GuestClock, limit_under_load};
use crate::harness::lan;
use crate::harness::machine::{arguments, name_of};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use crate::harness::machine::Machine;
/// A running machine. Dropping it ends QEMU and removes its files.
pub struct Vm {
    qemu: Child,
    /// Its files and sockets.
    pub directory: PathBuf,
    /// When QEMU was started.
    pub started: Instant,
    /// Accelerator that QEMU runs with.
    pub accel: Accel,
    /// Why it runs so.
    pub accel_reason: String,
    /// Limits for what it does.
    pub clock: GuestClock,
    /// Snapshot that the disk is based on; `None` for the image alone.
    snapshot: Option<PathBuf>,
}

/// The data disk: room for slots, journal and containers. It is sparse.
const DISK_SIZE: &str = "6G";

impl Vm {
    /// Starts a machine with an image.
    ///
    /// # Errors
    /// QEMU or one of its files can't be had.
    pub fn start(image: &ImageFiles, machine: &Machine) -> Result<Self> {
        let directory = temporary()?;
        Self::start_in(directory, image, machine)
    }

    /// [`Self::start`], with the machine's files in this directory.
    ///
    /// # Errors
    /// QEMU or one of its files can't be had.
    pub fn start_in(directory: PathBuf, image: &ImageFiles, machine: &Machine) -> Result<Self> {
        let (accel, accel_reason) = accel::choose(image)?;
        prepare(image, machine, &directory)?;
        Self::power_on(image, machine, directory, (accel, accel_reason), None)
    }

    /// Starts QEMU for a machine whose memory is loaded next: its files, put into a new directory
    /// by `unpack`, lie over a snapshot's.
    ///
    /// # Errors
    /// QEMU or one of its files can't be had.
    pub fn start_incoming(
        image: &ImageFiles,
        machine: &Machine,
        snapshot: PathBuf,
        unpack: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let directory = temporary()?;
        let accel = accel::choose(image)?;
        unpack(&directory)?;
        Self::power_on(image, machine, directory, accel, Some(snapshot))
    }

    fn power_on(
        image: &ImageFiles,
        machine: &Machine,
        directory: PathBuf,
        (accel, accel_reason): (Accel, String),
        snapshot: Option<PathBuf>,
    ) -> Result<Self> {
        let incoming = if snapshot.is_some() { &["-incoming", "defer"][..] } else { &[] };
        let qemu = power_on(image, machine, &directory, snapshot.as_deref(), accel, incoming)?;
        let clock = GuestClock::default();
        clock.follow(qemu.id());
        let started = Instant::now();
        Ok(Self { qemu, directory, started, accel, accel_reason, clock, snapshot })
    }

    /// Cuts the power and switches it on again, with the same disk, firmware variables and TPM.
    ///
    /// # Errors
    /// QEMU can't be started.
    pub fn cut_power(&mut self, image: &ImageFiles, machine: &Machine) -> Result<()> {
        self.kill();
        // What the console showed was before; and the sockets of a QEMU that is not quite gone
        // would take us in.
        for name in ["serial.log", "serial.sock", "shell.sock", "view.sock", "qmp.sock"] {
            match std::fs::remove_file(self.directory.join(name)) {
                // A QEMU that had the time took its sockets with it.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {name}"));
                }
                _ => {}
            }
        }
        place_kernel(machine, &self.directory)?;
        let snapshot = self.snapshot.as_deref();
        self.qemu = power_on(image, machine, &self.directory, snapshot, self.accel, &[])?;
        self.clock.follow(self.qemu.id());
        self.started = Instant::now();
        Ok(())
    }

    /// Kills QEMU, and waits until it is dead: the first process of a PID namespace is once all
    /// others in there are, the TPM's among them, who would still take its socket away.
    fn kill(&mut self) {
        let pid = self.clock.process();
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let lives = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        let start = Instant::now();
        while pid.is_some_and(lives) && start.elapsed() < limit_under_load(DEATH_LIMIT) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until QEMU, which was told to end, has ended, and leaves its files where they are.
    ///
    /// # Errors
    /// Its end can't be waited for.
    pub fn leave(mut self) -> Result<()> {
        self.qemu.wait().context("wait for QEMU's end")?;
        self.directory = PathBuf::new();
        Ok(())
    }

    /// Returns the guest's serial output, followed by QEMU's own output.
    pub fn console(&self) -> String {
        let read = |name: &str| std::fs::read(self.directory.join(name)).unwrap_or_default();
        let bytes = [read("serial.log"), read("qemu.log")].concat();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// The console's last lines.
    pub fn console_end(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Whether QEMU has ended.
    pub fn has_ended(&mut self) -> bool {
        self.qemu.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits until the console shows `text`; returns the time since the start.
    ///
    /// # Errors
    /// QEMU ended or the limit passed first; the error shows the console's end.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<Duration> {
        self.wait_for_times(1, text, limit)
    }

    /// [`Self::wait_for`], until it was shown so often.
    ///
    /// # Errors
    /// It was not.
    pub fn wait_for_times(
        &mut self,
        times: usize,
        text: &str,
        limit: Duration,
    ) -> Result<Duration> {
        let deadline = self.clock.deadline(limit);
        loop {
            if self.console().matches(text).count() >= times {
                return Ok(self.started.elapsed());
            }
            let ended = self.has_ended();
            if ended || deadline.is_over() {
                let why = if ended { "QEMU ended".into() } else { deadline.name() + " are over" };
                bail!("{why} before the console showed {text:?}; its end:\n{}", self.console_end());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Connects to one of the guest's sockets.
    ///
    /// # Errors
    /// QEMU did not make it.
    pub fn connect(&mut self, name: &str) -> Result<UnixStream> {
        let deadline = self.clock.deadline(SOCKET_LIMIT);
        while !deadline.is_over() {
            if let Ok(stream) = connect(&self.directory, name) {
                return Ok(stream);
            }
            ensure!(!self.has_ended(), "QEMU ended:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no socket {name} in {} after {}", self.directory.display(), deadline.name())
    }
}

/// Time for the end of a process that was killed.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// Time for QEMU's start.
const SOCKET_LIMIT: Duration = Duration::from_secs(30);

/// Connects to a socket of a machine, by its directory's descriptor: a path of more than 107 bytes
/// is no socket's (unix(7)).
///
/// # Errors
/// Nobody listens there.
pub fn connect(directory: &Path, name: &str) -> std::io::Result<UnixStream> {
    let directory = File::open(directory)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// The TPM in the background, then QEMU in the place of the shell.
const WITH_TPM: &str = "mkdir -p /vm/tpm; rm -f /vm/tpm.sock
    swtpm socket --tpm2 --tpmstate dir=/vm/tpm --ctrl type=unixio,path=/vm/tpm.sock --terminate --daemon
    exec \"$@\" -chardev socket,id=tpm,path=/vm/tpm.sock -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0";

fn power_on(
    image: &ImageFiles,
    machine: &Machine,
    directory: &Path,
    snapshot: Option<&Path>,
    accel: Accel,
    more: &[&str],
) -> Result<Child> {
    let mut binds = vec![(directory, "/vm"), (image.directory.as_path(), "/image")];
    binds.extend(snapshot.map(|snapshot| (snapshot, "/snapshot")));
    let mut command = image.in_tools(&binds);
    if machine.tpm {
        command.args(["sh", "-euc", WITH_TPM, "with-tpm"]);
    }
    command.arg("qemu-system-x86_64").args(accel.options()).args(arguments(machine)).args(more);
    if let Some(name) = &machine.lan {
        command = lan::in_namespace(name, command);
    }
    // It ends with the thread that starts it, whatever ends that.
    let mut lived = Command::new("setpriv");
    lived.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    let mut command = lived;
    let log = File::create(directory.join("qemu.log"))?;
    // A group of its own: the terminal's Ctrl-C is ours to handle.
    let command =
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("start QEMU")
}

/// The UKI and the stick to boot from, where QEMU finds them.
fn place_kernel(machine: &Machine, directory: &Path) -> Result<()> {
    for (file, name) in [(&machine.kernel, "kernel.efi"), (&machine.stick, "stick.raw")] {
        if let Some(file) = file {
            std::fs::copy(file, directory.join(name))
                .with_context(|| format!("copy {}", file.display()))?;
        }
    }
    Ok(())
}

/// Whether this is a story's process, and leaves its machines when they are not needed any more
/// (`KEEP=1`).
pub fn keeps() -> bool {
    std::process::id() == 1 && std::env::var("KEEP").is_ok_and(|text| text == "1")
}

impl Drop for Vm {
    fn drop(&mut self) {
        if keeps() && self.directory.is_dir() && !self.has_ended() {
            let directory = self.directory.display();
            println!(
                "the machine is left: make shell AT={directory} from another terminal; Ctrl-C ends it"
            );
            while !self.has_ended() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        // in-tools passes the end of its parent on to QEMU (unshare --kill-child).
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A directory for one machine's files.
fn temporary() -> Result<PathBuf> {
    let unique = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let name = format!("quietcore-vm-{}-{unique}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory)
}

/// Our keys into the firmware's variables: platform key, key-exchange key, and the one that signs.
const ENROL: &str = "; virt-fw-vars --inplace /vm/vars.fd --secure-boot --set-pk $(cat /keys/owner) /keys/PK.crt \
    --add-kek $(cat /keys/owner) /keys/KEK.crt --add-db $(cat /keys/owner) /keys/db.crt 2> /dev/null";

fn prepare(image: &ImageFiles, machine: &Machine, directory: &Path) -> Result<()> {
    for (name, content) in &machine.files {
        std::fs::write(directory.join(name), content)?;
    }
    for file in &machine.credentials {
        std::fs::copy(file, directory.join(name_of(file)))
            .with_context(|| format!("copy {}", file.display()))?;
    }
    let mut script = String::from("cp /usr/share/OVMF/OVMF_VARS_4M.fd /vm/vars.fd");
    if machine.secure_boot {
        script += ENROL;
    }
    let mut disk = "/image/disk.raw";
    if let Some(commands) = &machine.esp {
        disk = "/vm/changed.raw";
        script += &format!(
            "; cp --sparse=always /image/disk.raw {disk}; esp='-i {disk}@@1M'; {commands}"
        );
    }
    let backing = if machine.empty_disk { String::new() } else { format!("-b {disk} -F raw") };
    script += &format!("; qemu-img create -q -f qcow2 {backing} /vm/disk.qcow2 {DISK_SIZE}");
    if let Some(offset) = machine.flip {
        script += &format!("; qemu-io -c 'write -q -P 0x5a {offset} 1' /vm/disk.qcow2");
    }
    let slots = root().join("systemd/base/repart.d");
    let binds: [(&Path, &str); 4] =
        [(directory, "/vm"), (&image.directory, "/image"), (&keys(), "/keys"), (&slots, "/slots")];
    let status =
        image.in_tools(&binds).args(["sh", "-euc", &script]).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "make the machine's disk");
    if let Some(capture) = &machine.capture {
        let mut bytes =
            std::fs::read(capture).with_context(|| format!("read {}", capture.display()))?;
        // A zero length ends the recording; a disk has whole sectors.
        bytes.resize((bytes.len() + 2).next_multiple_of(512), 0);
        std::fs::write(directory.join("capture.img"), bytes)?;
    }
    place_kernel(machine, directory)
}
