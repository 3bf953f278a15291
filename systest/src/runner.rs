//! Runs stories: each in a process of its own, in PID and mount namespaces, with a directory for its files. What it leaves
//! behind, also when it is killed or interrupted, ends and is removed with them.

use crate::accel;
use crate::checkout::ImageFiles;
use crate::interrupt::Interrupt;
use crate::stories::{Booted, STORIES, Start, Story, Verdict, own, ready};
use crate::vm::keeps;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// CPU seconds that a debug image takes from power-on to ready on the machine on which the stories' limits were measured. A
/// machine that takes longer has as much more for each story.
pub const READY_CPU_SECONDS: f64 = 60.0;

/// What all stories need for temporary files, in bytes: two machines' disks, releases, and an image that is built anew with a
/// cache of its own.
const SPACE: u64 = 8 << 30;
/// With less no machine's disk can be written to, and each story would only wait until its time is over.
const SPACE_LEFT: u64 = 1 << 30;

/// How many stories are told at once: an emulated machine takes one core.
const AT_ONCE: usize = 2;

/// Where a story's process writes its report, in its directory.
const REPORT: &str = "report.json";

/// A story's end, from its process to the runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Report {
    outcome: Outcome,
    text: String,
    /// Of the story's process and of all that it started and waited for.
    cpu_seconds: f64,
    /// Of these, until a host that is ready had gone on from its snapshot.
    start_cpu_seconds: Option<f64>,
    /// CPU seconds from power-on to ready, of the machine that was saved.
    ready_cpu_seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Proved,
    Skipped,
    Failed,
}

/// CPU seconds of this process and of its children that it has waited for.
fn cpu_seconds() -> Result<f64> {
    let of = |who| -> Result<f64> {
        let usage = getrusage(who)?;
        Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
    };
    Ok(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)
}

/// Names of all stories.
pub fn names() -> Vec<&'static str> {
    STORIES.iter().map(|story| story.name).collect()
}

/// Prints them, with the CPU seconds that each may take.
///
/// # Errors
/// None.
pub fn list() -> Result<()> {
    for story in STORIES {
        println!("{:<24} {:>5} CPU s", story.name, story.cpu_seconds_max);
    }
    Ok(())
}

/// Tells one story in this process, and writes its report into `directory`.
///
/// # Errors
/// There is no such story, or the report can't be written. That the story failed stands in the report.
pub fn tell(name: &str, directory: &Path) -> Result<()> {
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

/// Waits a while for the ends of processes whose parents have ended: their CPU seconds count once they are waited for, and the
/// first process of a PID namespace, which this is, is their parent now.
fn reap() {
    for _ in 0..20 {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(50)),
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
            Ok(Verdict::Proved(said) | Verdict::Skipped(said)) => println!("{said}"),
            Err(error) => println!("FAILED: {error:#}"),
        }
    }
    if verdict.is_err() {
        show_guest(&mut booted);
    }
    verdict
}

/// What the guest knows about a failure.
fn show_guest(booted: &mut Booted) {
    let script = "qctl status; qctl events -n 30; systemctl --failed --no-legend; qctl tune verify --quiet; journalctl -b -p warning --no-pager -n 20";
    match booted.shell.run(script, Duration::from_secs(60)) {
        Ok(output) => println!("--- the guest says:\n{}---", output.text),
        Err(error) => println!("--- the guest does not answer: {error:#}"),
    }
}

/// A story's process, with its directory.
struct Telling {
    child: Child,
    directory: PathBuf,
}

impl Telling {
    /// Starts it: the first process of a PID namespace, whose end takes all others with it, and which ends with this one.
    fn start(story: &Story, scratch: &Path) -> Result<Self> {
        let directory = scratch.join(story.name);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("make {}", directory.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc"])
            .arg(std::env::current_exe()?)
            .args(["tell", story.name])
            .arg(&directory)
            .env("TMPDIR", &directory)
            // The terminal's Ctrl-C is the runner's to handle.
            .process_group(0)
            .spawn()
            .context("start setpriv and unshare, of util-linux")?;
        Ok(Self { child, directory })
    }

    /// Waits for its end; kills it when the runner is interrupted.
    fn wait(&mut self, interrupt: &Interrupt) -> Result<Report> {
        while self.child.try_wait()?.is_none() {
            if interrupt.is_raised() {
                self.child.kill()?;
                self.child.wait()?;
                bail!("interrupted");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let report = std::fs::read(self.directory.join(REPORT));
        let report = report.context("its process ended without a report; it said why above")?;
        serde_json::from_slice(&report).context("its report")
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // The processes of a namespace end a moment after its first one; until then they may still write.
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

/// Counts and figures of a run.
#[derive(Default)]
struct Tally {
    passed: u32,
    skipped: u32,
    /// What is said of each that failed.
    failed: Vec<String>,
    figures: Map<String, Value>,
    start_cpu_seconds: f64,
}

impl Tally {
    fn add(&mut self, story: &Story, wall: Duration, report: &Report) {
        let name = story.name;
        let figure = format!("{} s, {:.0} CPU s", wall.as_secs(), report.cpu_seconds);
        self.figures
            .insert(format!("{}_cpu_seconds", name.replace('-', "_")), round(report.cpu_seconds));
        self.figures
            .insert(format!("{}_seconds", name.replace('-', "_")), round(wall.as_secs_f64()));
        if let Some(seconds) = report.ready_cpu_seconds {
            self.figures.insert("ready_cpu_seconds".into(), round(seconds));
        }
        self.start_cpu_seconds =
            self.start_cpu_seconds.max(report.start_cpu_seconds.unwrap_or(0.0));
        let text = &report.text;
        match report.outcome {
            Outcome::Proved => {
                self.passed += 1;
                println!("story {name} ({figure}): {text}");
            }
            Outcome::Skipped => {
                self.skipped += 1;
                println!("story {name}: SKIPPED, {text}");
            }
            Outcome::Failed => self.fail(format!("story {name} ({figure}): FAILED: {text}")),
        }
    }

    fn fail(&mut self, said: String) {
        println!("{said}");
        self.failed.push(said);
    }
}

fn round(seconds: f64) -> Value {
    json!((seconds * 10.0).round() / 10.0)
}

/// The stories whose CPU seconds are over their limits, on a machine that is so much slower than the one of the limits.
fn grown(figures: &Map<String, Value>, slower: f64) -> Vec<String> {
    let limits =
        STORIES.iter().map(|story| (story.name, f64::from(story.cpu_seconds_max) * slower));
    let used = |name: &str| {
        figures.get(&format!("{}_cpu_seconds", name.replace('-', "_"))).and_then(Value::as_f64)
    };
    limits
        .filter_map(|(name, limit)| Some((name, limit, used(name)?)))
        .filter(|(_, limit, used)| used > limit)
        .map(|(name, limit, used)| {
            format!("story {name}: FAILED: it took {used:.0} CPU seconds, at most {limit:.0} are its own")
        })
        .collect()
}

/// Runs the stories whose names begin so, or all.
///
/// # Errors
/// At least one failed, or took more CPU seconds than are its own.
pub fn run(prefix: Option<&str>) -> Result<()> {
    let interrupt = Interrupt::catch()?;
    let wanted: Vec<&Story> =
        STORIES.iter().filter(|story| story.name.starts_with(prefix.unwrap_or_default())).collect();
    ensure!(
        !wanted.is_empty(),
        "no story {}...; there are {}",
        prefix.unwrap_or_default(),
        names().join(", ")
    );
    let scratch = Scratch::new(if prefix.is_none() { SPACE } else { SPACE_LEFT })?;
    let image = ImageFiles::build("debug")?;
    let (accel, why) = accel::choose(&image, &scratch.0)?;
    println!("machine: {}, because {why}", accel.name());
    let is_own = own::is_own(&image);
    let (alone, beside): (Vec<&Story>, Vec<&Story>) = wanted
        .into_iter()
        .filter(|story| !matches!(story.start, Start::OwnKernel(_)) || prefix.is_some() || is_own)
        .partition(|story| matches!(story.start, Start::Alone(_) | Start::OwnKernel(_)));
    let _busy = Busy::start()?;
    let tally = Mutex::new(Tally::default());
    told(&beside, AT_ONCE, &scratch.0, &interrupt, &tally);
    told(&alone, 1, &scratch.0, &interrupt, &tally);
    let mut tally = tally.into_inner().expect("no story panics");
    if interrupt.is_raised() {
        bail!("interrupted; machines and their files are gone");
    }
    let ready = tally.figures.get("ready_cpu_seconds").and_then(Value::as_f64);
    let slower = ready.map_or(1.0, |seconds| (seconds / READY_CPU_SECONDS).max(1.0));
    for said in grown(&tally.figures, slower) {
        tally.fail(said);
    }
    if tally.start_cpu_seconds > 0.0 {
        let seconds = round(tally.start_cpu_seconds);
        tally.figures.insert("story_start_cpu_seconds".into(), seconds);
    }
    if prefix.is_none() {
        write(&mut tally)?;
    }
    let failed = tally.failed.len();
    println!("stories: {} passed, {failed} failed, {} skipped", tally.passed, tally.skipped);
    // Again at the end, where a reader of a long log looks first.
    tally.failed.iter().for_each(|said| println!("{said}"));
    if failed > 0 { bail!("{failed} stories failed") } else { Ok(()) }
}

/// Tells stories, so many at once.
fn told(
    stories: &[&Story],
    at_once: usize,
    scratch: &Path,
    interrupt: &Interrupt,
    tally: &Mutex<Tally>,
) {
    let left = Mutex::new(stories.iter().copied().collect::<VecDeque<_>>());
    let next = || left.lock().expect("no story panics").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let (false, Some(story)) = (interrupt.is_raised(), next()) {
                    let start = Instant::now();
                    let report = ensure_space(SPACE_LEFT)
                        .and_then(|()| Telling::start(story, scratch))
                        .and_then(|mut telling| telling.wait(interrupt));
                    let mut tally = tally.lock().expect("no story panics");
                    match report {
                        Ok(report) => tally.add(story, start.elapsed(), &report),
                        Err(error) => {
                            tally.fail(format!("story {}: FAILED: {error:#}", story.name))
                        }
                    }
                }
            });
        }
    });
}

/// Writes the figures of a whole run. `.ci/run` says when it began, and whether anything was built or fetched before.
fn write(tally: &mut Tally) -> Result<()> {
    let began = std::env::var("CI_BEGAN").ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(began) = began {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let is_cold = std::env::var("CI_COLD").is_ok_and(|text| text == "1");
        let name = if is_cold { "ci_seconds_cold" } else { "ci_seconds_warm" };
        tally.figures.insert(name.into(), json!(now.saturating_sub(began)));
    }
    tally.figures.insert("stories_passed".into(), json!(tally.passed));
    crate::bench::write_figures("stories", std::mem::take(&mut tally.figures))
}

/// Processes that keep as many CPUs busy as `BUSY=` says: the stories must pass beside them, only later.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Result<Self> {
        let count = match std::env::var("BUSY").as_deref() {
            Ok("") | Err(_) => 0,
            Ok(text) => text.parse().with_context(|| format!("BUSY={text}: write a number"))?,
        };
        let start = |_| {
            let mut loops = Command::new("setpriv");
            loops.args(["--pdeathsig", "KILL", "sh", "-c", "while :; do :; done"]).process_group(0);
            loops.spawn().context("start a busy loop")
        };
        (0..count).map(start).collect::<Result<_>>().map(Self)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for busy in &mut self.0 {
            let _ = busy.kill();
            let _ = busy.wait();
        }
    }
}

/// A directory for the files of all stories. Dropping it removes it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(space: u64) -> Result<Self> {
        ensure_space(space)?;
        let scratch =
            Self(std::env::temp_dir().join(format!("quietcore-stories-{}", std::process::id())));
        std::fs::create_dir_all(&scratch.0)
            .with_context(|| format!("make {}", scratch.0.display()))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// # Errors
/// There is less room than that for temporary files.
fn ensure_space(bytes: u64) -> Result<()> {
    let directory = std::env::temp_dir();
    let stat = statvfs(&directory).with_context(|| directory.display().to_string())?;
    let free = stat.blocks_available() * stat.fragment_size();
    ensure!(
        free >= bytes,
        "{} has {} MiB left, {} are needed; make room there, or set TMPDIR to another directory",
        directory.display(),
        free >> 20,
        bytes >> 20
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_that_takes_more_than_its_share_fails_and_a_slow_machine_does_not() {
        let story = &STORIES[0];
        let name = format!("{}_cpu_seconds", story.name.replace('-', "_"));
        let figures = |used: f64| json!({ &name: used }).as_object().unwrap().clone();
        let limit = f64::from(story.cpu_seconds_max);
        assert!(grown(&figures(limit), 1.0).is_empty());
        let grown_by_one = grown(&figures(limit + 1.0), 1.0);
        assert!(grown_by_one[0].contains(story.name), "{grown_by_one:?}");
        assert!(grown(&figures(limit * 1.9), 2.0).is_empty());
    }

    #[test]
    fn names_differ_and_every_story_has_a_limit() {
        let mut names = names();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(STORIES.iter().all(|story| story.cpu_seconds_max > 0));
    }
}
