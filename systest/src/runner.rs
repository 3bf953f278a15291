//! Runs stories, two at a time, and counts: what each proved, what it cost, and whether that is
//! more than its share.

use crate::harness::accel;
use crate::harness::checkout::{self, ImageFiles};
use crate::harness::interrupt::Interrupt;
use crate::stories::{STORIES, Start, Story};
use crate::story_process::{Outcome, PROGRAM, Report, StoryProcess};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// CPU seconds that a debug image takes from power-on to ready on the machine on which the stories'
/// limits were measured. A machine that takes longer has as much more for each story.
pub const READY_CPU_SECONDS: f64 = 34.0;

/// Bytes of temporary files that all stories need: two machines' disks, releases, and an image that
/// is built anew with a cache of its own.
const SPACE: u64 = 8 << 30;
/// With less no machine's disk can be written to, and each story would only wait until its time is
/// over.
const SPACE_LEFT: u64 = 1 << 30;

/// Number of stories that run at once: an emulated machine takes one core.
const LANES: usize = 2;

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

/// Counts and figures of a run.
#[derive(Default)]
struct Tally {
    passed: u32,
    skipped: u32,
    /// Messages of the stories that failed.
    failed: Vec<String>,
    figures: Map<String, Value>,
    start_cpu_seconds: f64,
}

impl Tally {
    fn add(&mut self, story: &Story, wall: Duration, report: &Report) {
        let name = story.name;
        let figure = format!("{} s, {:.0} CPU s", wall.as_secs(), report.cpu_seconds);
        let prefix = figure_prefix(name);
        self.figures.insert(format!("{prefix}_cpu_seconds"), round(report.cpu_seconds));
        self.figures.insert(format!("{prefix}_seconds"), round(wall.as_secs_f64()));
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

/// Returns the prefix of a story's figure names: `story_` and the name, with underscores for
/// hyphens.
fn figure_prefix(name: &str) -> String {
    format!("story_{}", name.replace('-', "_"))
}

fn round(seconds: f64) -> Value {
    json!((seconds * 10.0).round() / 10.0)
}

/// The stories whose CPU seconds are over their limits, on a machine that is so much slower than
/// the one of the limits.
fn grown(figures: &Map<String, Value>, slower: f64) -> Vec<String> {
    let limits =
        STORIES.iter().map(|story| (story.name, f64::from(story.cpu_seconds_max) * slower));
    let used = |name: &str| {
        figures.get(&format!("{}_cpu_seconds", figure_prefix(name))).and_then(Value::as_f64)
    };
    limits
        .filter_map(|(name, limit)| Some((name, limit, used(name)?)))
        .filter(|(_, limit, used)| used > limit)
        .map(|(name, limit, used)| {
            format!("story {name}: FAILED: it took {used:.0} CPU seconds, at most {limit:.0} are its own")
        })
        .collect()
}

/// The story of that name, or those whose names begin so.
fn named(prefix: &str) -> Vec<&'static Story> {
    let is_whole = STORIES.iter().any(|story| story.name == prefix);
    let is_wanted = |name: &str| name == prefix || !is_whole && name.starts_with(prefix);
    STORIES.iter().filter(|story| is_wanted(story.name)).collect()
}

/// Runs the stories that are [`named`] so, or all.
///
/// # Errors
/// At least one failed, or took more CPU seconds than are its own.
pub fn run(prefix: Option<&str>) -> Result<()> {
    let wanted = named(prefix.unwrap_or_default());
    ensure!(
        !wanted.is_empty(),
        "no story {}...; there are {}",
        prefix.unwrap_or_default(),
        names().join(", ")
    );
    let scratch = Scratch::new(if prefix.is_none() { SPACE } else { SPACE_LEFT })?;
    let image = ImageFiles::build("debug")?;
    let accel = accel::choose(&image)?;
    println!("machine: {}, because {}", accel.0.name(), accel.1);
    let interrupt = Interrupt::catch()?;
    let is_own = checkout::is_own(&image);
    let (alone, beside): (Vec<&Story>, Vec<&Story>) = wanted
        .into_iter()
        .filter(|story| !matches!(story.start, Start::OwnKernel(_)) || prefix.is_some() || is_own)
        .partition(|story| matches!(story.start, Start::Alone(_) | Start::OwnKernel(_)));
    let _busy = Busy::start()?;
    let tally = Mutex::new(Tally::default());
    let tell = |story: &Story| StoryProcess::start(story, &scratch.0, &accel);
    told(&beside, LANES, &tell, &interrupt, &tally);
    told(&alone, 1, &tell, &interrupt, &tally);
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
    tell: &(dyn Fn(&Story) -> Result<StoryProcess> + Sync),
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
                        .and_then(|()| tell(story))
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

/// Writes the figures of a whole run. `.ci/run` says when it began, and whether anything was built
/// or fetched before.
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

/// Processes that keep as many CPUs busy as `BUSY=` says: the stories must pass beside them, only
/// later.
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
        std::fs::copy("/proc/self/exe", scratch.0.join(PROGRAM)).context("copy this program")?;
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
        let name = format!("{}_cpu_seconds", figure_prefix(story.name));
        let figures = |used: f64| json!({ &name: used }).as_object().unwrap().clone();
        let limit = f64::from(story.cpu_seconds_max);
        assert!(grown(&figures(limit), 1.0).is_empty());
        let grown_by_one = grown(&figures(limit + 1.0), 1.0);
        assert!(grown_by_one[0].contains(story.name), "{grown_by_one:?}");
        assert!(grown(&figures(limit * 1.9), 2.0).is_empty());
    }

    #[test]
    fn a_name_is_one_story_and_a_beginning_all_that_have_it() {
        let names = |prefix| named(prefix).iter().map(|story| story.name).collect::<Vec<_>>();
        assert_eq!(names("quiet-cores"), ["quiet-cores"]);
        assert_eq!(names("quiet-c"), ["quiet-cores-control", "quiet-cores"]);
        assert_eq!(names("").len(), STORIES.len());
        assert!(names("no-such").is_empty());
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
