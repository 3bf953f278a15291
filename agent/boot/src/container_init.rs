//! The first program of a container that asks for one (`init: true`): starts the real one, passes
//! signals on to it, takes leave of every process that ends, and ends as the real one did. It is
//! the agent's own file, bound into the container.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::process::{Command, ExitCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that are passed on: what asks a program to end or to read something anew.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Runs a program until it ends; its status, or 128 and the signal that ended it.
///
/// # Errors
/// It can't be started.
pub async fn run(program: &[String]) -> Result<ExitCode> {
    let (name, arguments) = program.split_first().context("no program is given")?;
    let (tell, mut heard) = mpsc::channel(16);
    for passed in PASSED_ON {
        let (tell, mut signals) = (tell.clone(), signal(SignalKind::from_raw(passed as i32))?);
        tokio::spawn(async move {
            while signals.recv().await.is_some() && tell.send(passed).await.is_ok() {}
        });
    }
    let mut ended = signal(SignalKind::child())?;
    let child = Command::new(name).args(arguments).spawn();
    let child = Pid::from_raw(child.with_context(|| format!("start {name}"))?.id() as i32);
    loop {
        tokio::select! {
            Some(passed) = heard.recv() => { let _ = kill(child, passed); }
            _ = ended.recv() => if let Some(code) = take_leave(child) {
                return Ok(code);
            },
        }
    }
}

/// Of every process that has ended; says how the program did, if it is among them.
fn take_leave(child: Pid) -> Option<ExitCode> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => break,
            Ok(_) => {}
        }
    }
    code.map(|code| ExitCode::from(code as u8))
}
