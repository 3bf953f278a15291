//! A story in a process of its own: the first of a PID namespace, with a directory for its files.
//! What it leaves behind, also when it is killed, ends and is removed with it.

use crate::harness::accel::{Accel, CHOSEN_BEFORE};
use crate::harness::booted::{Booted, Verdict, ready};
use crate::harness::checkout::ImageFiles;
use crate::harness::interrupt::Interrupt;
use crate::harness::snapshot::making_cpu_seconds;
use crate::harness::vm::keeps;
use crate::stories::{STORIES, Start, Story};
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde::{Deserialize, Serialize};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// Where a story's process writes its report, in its directory.
const REPORT: &str = "report.json";

/// The copy of this program that stories run, in the directory of all: who builds it anew
/// meanwhile, as `make run` does, takes nothing away.
pub const PROGRAM: &str = "systest";

/// Where `ip netns` keeps names.
const NETWORKS: &str = "/run/netns";

/// A story's end, from its process to the runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Outcome of the story.
    pub outcome: Outcome,
    /// Text on what was proved, or the reason why not.
    pub text: String,
    /// Of the story's process and of all that it started and waited for.
    pub cpu_seconds: f64,
    /// Of these, until a host that is ready had gone on from its snapshot.
    pub start_cpu_seconds: Option<f64>,
    /// CPU seconds from power-on to ready, of the machine that was saved.
    pub ready_cpu_seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Story that proved its claim.
    Proved,
    /// Story that can't run on this machine.
    Skipped,
    /// Story that failed.
    Failed,
}

/// CPU seconds of this process and of its children that it has waited for, but for a snapshot that
/// others have too.
fn cpu_seconds() -> Result<f64> {
    let of = |who| -> Result<f64> {
        let usage = getrusage(who)?;
        Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
    };
    let all = of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?;
    Ok((all - making_cpu_seconds()).max(0.0))
}

/// Tells one story in this process, and writes its report into `directory`.
///
/// # Errors
/// There is no such story, or the report can't be written. That the story failed stands in the
/// report.
pub fn tell(name: &str, directory: &Path) -> Result<()> {
    enter()?;
    let story = STORIES.iter().find(|story| story.name == name).context("no such story")?;
    let mut report = Report {
        outcome: Outcome::Failed,
        text: String::new(),
        cpu_seconds: 0.0,
        start_cpu_seconds: None,
        ready_cpu_seconds: None,
    };
    let verdict = match story.start {
        Start::Ready(run) => on_ready(run, &mut report),
        Start::Own(run) | Start::Alone(run) | Start::OwnKernel(run) => {
            ImageFiles::find_debug().and_then(|image| run(&image))
        }
    };
    (report.outcome, report.text) = match verdict {
        Ok(Verdict::Proved(what)) => (Outcome::Proved, what),
        Ok(Verdict::Skipped(why)) => (Outcome::Skipped, why),
        Err(error) => (Outcome::Failed, format!("{error:#}")),
    };
    reap();
    report.cpu_seconds = cpu_seconds()?;
    std::fs::write(directory.join(REPORT), serde_json::to_vec(&report)?).context("write the report")
}

/// Prepares the first process of the namespaces: mounts a `/run/netns` of its own, whose names end
/// with it, and unblocks, here and in child processes, the signals that the runner handles itself.
///
/// # Errors
/// The kernel refuses.
pub fn enter() -> Result<()> {
    SigSet::all().thread_unblock()?;
    std::fs::create_dir_all(NETWORKS).with_context(|| format!("make {NETWORKS}"))?;
    let none = None::<&str>;
    mount(Some("tmpfs"), NETWORKS, Some("tmpfs"), MsFlags::empty(), none)
        .with_context(|| format!("a {NETWORKS} of its own"))
}

/// Waits a while for the ends of processes whose parents have ended: their CPU seconds count once
/// they are waited for, and the first process of a PID namespace, which this is, is their parent
/// now.
fn reap() {
    let mut looks = 0;
    while looks < 20 {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                looks += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn on_ready(run: fn(&mut Booted) -> Result<Verdict>, report: &mut Report) -> Result<Verdict> {
    let mut booted = ready(&ImageFiles::find_debug()?)?;
    report.ready_cpu_seconds = booted.ready_cpu_seconds;
    report.start_cpu_seconds = Some(cpu_seconds()? + booted.vm.clock.cpu_seconds());
    let verdict = run(&mut booted);
    if keeps() {
        match &verdict {
            Ok(Verdict::Proved(said) | Verdict::Skipped(said)) => {
                println!("{said}")
            }
            Err(error) => println!("FAILED: {error:#}"),
        }
    }
    if verdict.is_err() {
        show_guest(&mut booted);
    }
    verdict
}

/// Prints the guest's status, events, failed units, tuning and warnings after a failure.
fn show_guest(booted: &mut Booted) {
    let script = "qctl status; qctl events -n 30; systemctl --failed --no-legend; qctl tune verify --quiet; journalctl -b -p warning --no-pager -n 20";
    match booted.shell.run(script, Duration::from_secs(60)) {
        Ok(output) => println!("--- the guest says:\n{}---", output.text),
        Err(error) => println!("--- the guest does not answer: {error:#}"),
    }
}

/// This program as the first process of a PID namespace, with a mount namespace and a directory for
/// temporary files. It ends with the thread that starts it, and all others in there with it.
fn contained(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc"])
        .arg(program)
        .env("TMPDIR", directory);
    command
}

/// A story's process, with its directory.
pub struct StoryProcess {
    child: Child,
    directory: PathBuf,
}

impl StoryProcess {
    /// Starts the process of a story.
    ///
    /// # Errors
    /// util-linux is not there, or the directory can't be made.
    pub fn start(story: &Story, scratch: &Path, accel: &(Accel, String)) -> Result<Self> {
        let directory = scratch.join(story.name);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("make {}", directory.display()))?;
        let child = contained(&scratch.join(PROGRAM), &directory)
            .args(["tell", story.name])
            .arg(&directory)
            .envs(CHOSEN_BEFORE.into_iter().zip([accel.0.name(), &accel.1]))
            // The terminal's Ctrl-C is the runner's to handle.
            .process_group(0)
            .spawn()
            .context("start setpriv and unshare, of util-linux")?;
        Ok(Self { child, directory })
    }

    /// Starts a shell for the terminal of this process; `directory` is removed in the end.
    ///
    /// # Errors
    /// util-linux is not there, or the directory can't be made.
    pub fn start_shell(directory: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("make {}", directory.display()))?;
        let child = contained(&std::env::current_exe()?, &directory).arg("shell-inside").spawn();
        Ok(Self { child: child.context("start setpriv and unshare, of util-linux")?, directory })
    }

    /// Waits for its end; kills it when this process is interrupted.
    ///
    /// # Errors
    /// It was killed.
    pub fn wait_end(&mut self, interrupt: &Interrupt) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if interrupt.is_raised() {
                self.child.kill()?;
                self.child.wait()?;
                bail!("interrupted");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for a story's end.
    ///
    /// # Errors
    /// It ended without a report, or was killed.
    pub fn wait(&mut self, interrupt: &Interrupt) -> Result<Report> {
        self.wait_end(interrupt)?;
        let report = std::fs::read(self.directory.join(REPORT));
        let report = report.context("its process ended without a report; it said why above")?;
        serde_json::from_slice(&report).context("its report")
    }
}

impl Drop for StoryProcess {
    fn drop(&mut self) {
        // The processes of a namespace end a moment after its first one; until then they may still
        // write.
        for _ in 0..50 {
            match std::fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                _ => return,
            }
        }
    }
}
