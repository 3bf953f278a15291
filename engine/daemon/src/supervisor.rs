//! The parent of a configuration's shards: starts a process for each, passes signals on, starts
//! again what died. Sleeps otherwise, so that it costs no hot core anything.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// Before a shard that ended is started again: as the service manager does with an engine without
/// shards.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// Consequence of one shard's end for all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Restart of the shard that ended.
    Again,
    /// No start can help: all end with this code.
    Hopeless(u8),
}

fn fate(status: ExitStatus, hopeless: &[u8]) -> Fate {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.filter(|code| hopeless.contains(code)).map_or(Fate::Again, Fate::Hopeless)
}

struct Shard<'a> {
    name: &'a str,
    child: Option<Child>,
    start_at: Instant,
}

impl Shard<'_> {
    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // One that has just ended is reaped next.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
    }
}

/// Runs the shards until a signal ends them, or one ends with a code of `hopeless`. Returns the
/// exit code.
///
/// # Errors
/// A process that can't be started, or signals that can't be read.
pub fn supervise(program: &Path, config: &Path, names: &[&str], hopeless: &[u8]) -> io::Result<u8> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGCHLD] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let now = Instant::now();
    let mut shards: Vec<_> =
        names.iter().map(|name| Shard { name, child: None, start_at: now }).collect();
    let (mut stopping, mut code) = (false, 0);
    loop {
        for shard in shards.iter_mut().filter(|shard| !stopping && shard.child.is_none()) {
            if shard.start_at <= Instant::now() {
                let mut command = Command::new(program);
                command.arg("--config").arg(config).args(["--shard", shard.name]);
                shard.child = Some(command.spawn()?);
                info!(shard = shard.name, "shard {} starts", shard.name);
            }
        }
        if stopping && shards.iter().all(|shard| shard.child.is_none()) {
            return Ok(code);
        }
        wait(&signals, shards.iter().filter(|shard| !stopping && shard.child.is_none()))?;
        while let Some(signal) = signals.read_signal()? {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGUSR1) => shards.iter().for_each(|s| s.signal(Signal::SIGUSR1)),
                Ok(Signal::SIGTERM | Signal::SIGINT) => {
                    stopping = true;
                    shards.iter().for_each(|shard| shard.signal(Signal::SIGTERM));
                }
                _ => {}
            }
        }
        for shard in &mut shards {
            let Some(status) = shard.child.as_mut().and_then(|c| c.try_wait().transpose()) else {
                continue;
            };
            let status = status?;
            shard.child = None;
            shard.start_at = Instant::now() + RESTART_DELAY;
            if stopping {
                continue;
            }
            match fate(status, hopeless) {
                Fate::Again => {
                    let signal = status.signal();
                    warn!(shard = shard.name, ?signal, "shard {} ended: {status}", shard.name);
                }
                Fate::Hopeless(why) => {
                    error!(shard = shard.name, "shard {} ended: {status}; all stop", shard.name);
                    (stopping, code) = (true, why);
                }
            }
        }
        if code != 0 {
            shards.iter().for_each(|shard| shard.signal(Signal::SIGTERM));
        }
    }
}

/// Sleeps until a signal comes or the next shard is to be started.
fn wait<'a>(signals: &SignalFd, waiting: impl Iterator<Item = &'a Shard<'a>>) -> io::Result<()> {
    let next = waiting.map(|shard| shard.start_at).min();
    let timeout = next.map_or(PollTimeout::NONE, |at| {
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
