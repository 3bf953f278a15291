//! `make shell`: this terminal at the shell of a debug machine, which goes on from the snapshot of
//! one that is ready.

use crate::harness::booted::ready;
use crate::harness::checkout::ImageFiles;
use crate::harness::interrupt::Interrupt;
use crate::harness::vm::connect;
use crate::story_process::{StoryProcess, enter};
use anyhow::{Context, Result, bail, ensure};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

/// The key that leaves: Ctrl-], as in telnet.
const LEAVE: u8 = 0x1d;

/// Time for a script from standard input, in which the guest could run.
const SCRIPT: Duration = Duration::from_secs(600);

/// A shell that a person types at: its lines are edited and echoed by the guest's terminal.
const FOR_A_PERSON: &str = "stty sane; export TERM=xterm; PS1='quietcore# '\n";

/// Starts a machine and attaches to it until the person leaves, or this process is interrupted;
/// then it is gone. What comes by a pipe is a script instead, which must succeed.
///
/// # Errors
/// The machine does not start, or the script fails.
pub fn shell() -> Result<()> {
    ImageFiles::build("debug")?;
    let interrupt = Interrupt::catch()?;
    let name = format!("quietcore-shell-{}", std::process::id());
    let mut process = StoryProcess::start_shell(std::env::temp_dir().join(name))?;
    ensure!(process.wait_end(&interrupt)?.success(), "it said why above");
    Ok(())
}

/// The part of [`shell`] in namespaces of its own.
///
/// # Errors
/// As there.
pub fn shell_inside() -> Result<()> {
    enter()?;
    let mut booted = ready(&ImageFiles::find_debug()?)?;
    if std::io::stdin().is_terminal() {
        let directory = booted.vm.directory.clone();
        // One connection at a time.
        drop(booted.shell);
        return attach(&directory);
    }
    let mut script = String::new();
    std::io::stdin().read_to_string(&mut script).context("the script on standard input")?;
    let output = booted.shell.run(&script, SCRIPT)?;
    print!("{}", output.text);
    if output.code != 0 {
        bail!("the script ended with {}", output.code);
    }
    Ok(())
}

/// A terminal that hands on every key as it comes. Dropping it makes it what it was.
struct Raw(Termios);

impl Raw {
    fn new() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("the terminal's modes")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("set the terminal's modes")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Attaches this terminal to the shell of the machine whose files are in `directory`.
///
/// # Errors
/// There is no such machine.
pub fn attach(directory: &Path) -> Result<()> {
    let mut guest = connect(directory, "shell.sock")
        .with_context(|| format!("the machine in {}", directory.display()))?;
    println!("the machine's files are in {}; Ctrl-] leaves\r", directory.display());
    guest.write_all(FOR_A_PERSON.as_bytes())?;
    let raw = Raw::new()?;
    let mut shown = guest.try_clone()?;
    let show = std::thread::spawn(move || std::io::copy(&mut shown, &mut Unbuffered));
    let mut keys = [0; 1024];
    loop {
        let len = match std::io::stdin().read(&mut keys) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.context("the terminal")?,
        };
        let leaves = keys[..len].iter().position(|key| *key == LEAVE);
        guest.write_all(&keys[..leaves.unwrap_or(len)]).context("the machine is gone")?;
        if len == 0 || leaves.is_some() || show.is_finished() {
            break;
        }
    }
    drop(raw);
    println!();
    Ok(())
}

/// Standard output, each piece as it comes.
struct Unbuffered;

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
