//! `make run`: builds the image, boots it, and shows the engine trading until Ctrl-C. The guest has
//! a network and an API, and `target/run/qctl` asks it.

use crate::boot_progress::{BOOTING, BootProgress};
use crate::harness::checkout::{ImageFiles, program, root};
use crate::harness::guest_clock::Deadline;
use crate::harness::http::free_port;
use crate::harness::interrupt::Interrupt;
use crate::harness::operator::{API, API_FILE, AUTHORITY, Workstation};
use crate::harness::vm::{Machine, Vm};
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time from QEMU's start to a host that is ready, in which the guest could run: twenty times what
/// it takes.
const READY_LIMIT: Duration = Duration::from_secs(900);

/// Bytes of a recording: with its messages unpacked it must fit into the exchange's container.
const CAPTURE_MAX: usize = 48 << 20;

/// Runs the demonstration. `seconds` ends it by itself.
///
/// # Errors
/// The image can't be built, or the guest does not come up.
pub fn run(seconds: Option<u64>) -> Result<()> {
    let begin = Instant::now();
    let _turn = take_turn()?;
    let mut machine = Machine::from_environment()?;
    machine.capture = capture()?;
    let own = machine.credentials.iter().any(|file| file.ends_with(API));
    ensure!(
        !own,
        "CREDENTIALS: leave {API} out; the machine gets one whose certificates {QCTL} has"
    );
    let image = ImageFiles::build("demo")?;
    let built = begin.elapsed();
    let interrupted = Interrupt::catch()?;
    let workstation = open_desk()?;
    give_api(&mut machine, &workstation)?;
    let mut vm = Vm::start(&image, &machine)?;
    println!(
        "boot: {} CPUs, {} MiB, {} ({})",
        machine.cpus,
        machine.memory_mib,
        vm.accel.name(),
        vm.accel_reason
    );
    match &machine.capture {
        Some(path) => println!("market: the recording {}", path.display()),
        None => println!("market: background flow; CAPTURE=file.itch plays a recording"),
    }
    let mut view = vm.connect("view.sock")?;
    view.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut screen = Screen::new();
    let mut boot = BootProgress::default();
    let deadline = vm.clock.deadline(READY_LIMIT);
    let end = seconds.map(Duration::from_secs);
    let mut ready = None;
    let mut buffer = [0; 16384];
    while !interrupted.is_raised()
        && end.is_none_or(|end| ready.is_none_or(|at: Instant| at.elapsed() < end))
    {
        match view.read(&mut buffer) {
            Ok(len) if len > 0 => screen.show(&buffer[..len], &boot)?,
            Ok(_) => std::thread::sleep(Duration::from_millis(200)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("the guest's live view"),
        }
        if ready.is_none() && !screen.has_page {
            boot.update(&vm.console(), screen.units.take(), vm.started.elapsed())?;
        }
        if ready.is_none() && vm.console().contains("quietcore: ready") {
            ready = Some(Instant::now());
            screen.footer = format!(
                "built in {} s, trading {} s after power-on, {} s in all; {QCTL} get asks it from another terminal; Ctrl-C ends it",
                built.as_secs(),
                vm.started.elapsed().as_secs(),
                begin.elapsed().as_secs()
            );
        }
        if vm.has_ended() {
            bail!("the machine ended by itself ({}); the console:\n{}", boot.text(), vm.console());
        }
        if ready.is_none() && deadline.is_over() {
            bail!("{}", not_ready(&machine, &vm, &deadline, &boot));
        }
    }
    println!("\n{}\nended", screen.footer);
    Ok(())
}

/// Why a boot did not come to its end, as far as can be seen from outside, and what to do.
fn not_ready(machine: &Machine, vm: &Vm, deadline: &Deadline, boot: &BootProgress) -> String {
    format!(
        "the host was not ready after {}; it came as far as: {}. It has {} CPUs, {} MiB and {}. \
         On a busy machine end what else runs; MEM=4096 gives it more memory, ACCEL=tcg emulates where KVM does not work. \
         The end of the console:\n{}",
        deadline.name(),
        boot.text(),
        machine.cpus,
        machine.memory_mib,
        vm.accel.name(),
        vm.console_end()
    )
}

/// Where a terminal beside this one finds what asks the guest, below the checkout's root.
const DESK: &str = "target/run";
const QCTL: &str = "target/run/qctl";

/// One demonstration of a checkout at a time, since each has its files in [`DESK`]. Dropping it
/// gives the turn to another.
fn take_turn() -> Result<Flock<File>> {
    let path = root().join("target/run.lock");
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| anyhow!("another make run of this checkout is running: end it first"))
}

/// Certificates for the guest and for an admin, and a qctl that knows both. They are gone when the
/// guest is.
fn open_desk() -> Result<Workstation> {
    let directory = root().join(DESK);
    // Of one whose power was cut.
    if directory.exists() {
        std::fs::remove_dir_all(&directory)
            .with_context(|| format!("remove {}", directory.display()))?;
    }
    let workstation = Workstation::new(&directory, free_port()?)?;
    workstation.add(AUTHORITY, "vm", "admin")?;
    let (qctl, file) = (program("qctl"), root().join(QCTL));
    let script = format!(
        "#!/bin/sh\nQCTL_HOSTS='{}' exec '{}' --on vm \"$@\"\n",
        workstation.hosts().display(),
        qctl.display()
    );
    std::fs::write(&file, script).with_context(|| format!("write {}", file.display()))?;
    std::fs::set_permissions(&file, Permissions::from_mode(0o755))?;
    let id = |name| std::env::var(name).ok().and_then(|id| id.parse().ok());
    // It belongs to whoever called sudo.
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) {
        let authority = std::fs::read_dir(workstation.file(AUTHORITY))?;
        let files = authority.chain(std::fs::read_dir(&directory)?);
        for path in files.map(|entry| entry.map(|entry| entry.path())).chain([Ok(directory)]) {
            std::os::unix::fs::chown(path?, Some(uid), Some(gid))?;
        }
    }
    Ok(workstation)
}

/// The guest on a network, with its API behind a port of the desk's.
fn give_api(machine: &mut Machine, workstation: &Workstation) -> Result<()> {
    machine.network = true;
    machine.api = Some(workstation.port);
    machine.files.push((API_FILE, workstation.credential()?));
    machine.fw_cfg.push((API, API_FILE));
    Ok(())
}

fn capture() -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os("CAPTURE").filter(|path| !path.is_empty()).map(PathBuf::from)
    else {
        return Ok(None);
    };
    let bytes = std::fs::read(&path).with_context(|| format!("CAPTURE={}", path.display()))?;
    ensure!(
        bytes.len() <= CAPTURE_MAX,
        "CAPTURE={}: {} bytes; the demonstration's exchange holds {CAPTURE_MAX}",
        path.display(),
        bytes.len()
    );
    let demo = std::fs::read_to_string(root().join("engine/config/demo.toml"))
        .context("read engine/config/demo.toml")?;
    let mut traded = false;
    for (number, frame) in abi::itch::Framed::new(&bytes).enumerate() {
        let decoded = frame.and_then(abi::itch::Message::decode);
        let message = decoded.with_context(|| {
            format!(
                "CAPTURE={}: message {} is not length-prefixed ITCH 5.0",
                path.display(),
                number + 1
            )
        })?;
        if let abi::itch::Message::StockDirectory(directory) = message {
            traded |= demo.contains(&format!("\"{}\"", directory.stock));
        }
    }
    ensure!(
        traded,
        "CAPTURE={}: no Stock Directory message for a symbol that engine/config/demo.toml trades; name its symbol in book.symbols there",
        path.display()
    );
    Ok(Some(path))
}

/// The guest's pages on our terminal; in a pipe, each page as plain lines.
struct Screen {
    terminal: bool,
    pending: Vec<u8>,
    footer: String,
    /// Whether the host has shown a page of its own.
    has_page: bool,
    /// Last page about the units of the guest's boot.
    units: Option<String>,
}

/// Terminal sequence that ends a page of the guest: clear what is below.
const PAGE_END: &[u8] = b"\x1b[J";

impl Screen {
    fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let footer = "booting; Ctrl-C ends it".into();
        Self { terminal, pending: Vec::new(), footer, has_page: false, units: None }
    }

    fn show(&mut self, bytes: &[u8], boot: &BootProgress) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        while let Some(at) =
            self.pending.windows(PAGE_END.len()).position(|window| window == PAGE_END)
        {
            let page: Vec<u8> = self.pending.drain(..at + PAGE_END.len()).collect();
            let text = plain(&page);
            if text.starts_with(BOOTING) {
                self.units = Some(text);
                continue;
            }
            if !std::mem::replace(&mut self.has_page, true) {
                boot.end()?;
            }
            let mut out = std::io::stdout();
            if self.terminal {
                out.write_all(if page.starts_with(b"\x1b[H") { b"\x1b[2J" } else { b"" })?;
                out.write_all(&page)?;
                write!(out, "\r\n{}", self.footer)?;
            } else {
                writeln!(out, "{text}\n{}", self.footer)?;
            }
            out.flush()?;
        }
        Ok(())
    }
}

/// Text without terminal sequences.
fn plain(page: &[u8]) -> String {
    let text = String::from_utf8_lossy(page).replace('\r', "");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        out.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).map_or(after.len(), |at| at + 1);
        rest = &after[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn a_pipe_gets_plain_text() {
        assert_eq!(plain(b"\x1b[H\x1b[1mBold\x1b[0m text\x1b[K\r\nline\x1b[J"), "Bold text\nline");
    }
}
