//! Answers of the agent while it has much to do: an image of very many files is unpacked, six
//! containers that ignore SIGTERM are stopped, and its disk is full.

use crate::harness::checkout::ImageFiles;
use crate::harness::many_files;
use crate::harness::native_host::{IMAGE, Rig};
use crate::measure::kill_storm::CONVERGE_LIMIT;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Services whose program, the first of its PID namespace, ignores SIGTERM.
const STUBBORN: usize = 6;
/// Seconds that each of them is given to end.
const GRACE_SECONDS: u64 = 10;
const MANY: &str = "test/many-files:1";

/// Answers to `qctl status` while the agent was busy.
#[derive(Debug, Default)]
pub struct Answers {
    /// Number of answers.
    pub count: u32,
    /// Time of the slowest, qctl's own start included.
    pub slowest: Duration,
    /// Time until six containers that ignore SIGTERM were gone.
    pub stopped: Duration,
    /// Time until the image was unpacked.
    pub unpacked: Duration,
}

impl Answers {
    fn ask(&mut self, rig: &Rig) -> Result<Value> {
        let start = Instant::now();
        let status = rig.status()?;
        self.slowest = self.slowest.max(start.elapsed());
        self.count += 1;
        std::thread::sleep(Duration::from_millis(50));
        Ok(status)
    }
}

fn compose(stubborn: usize) -> String {
    // This machine may allow fewer open files than a host.
    let common = format!("    image: {IMAGE}\n    ulimits: {{nofile: 1024}}\n");
    let mut text = format!("services:\n  steady:\n{common}    stop_signal: SIGKILL\n");
    for number in 0..stubborn {
        let _ =
            write!(text, "  stubborn-{number}:\n{common}    stop_grace_period: {GRACE_SECONDS}s\n");
    }
    text
}

fn running(status: &Value) -> usize {
    let containers = status["containers"].as_array().into_iter().flatten();
    containers.filter(|container| container["state"] == "running").count()
}

/// Keeps the agent busy and asks for its status meanwhile.
///
/// # Errors
/// It does not answer, or does not get its work done.
pub fn answers(image: &ImageFiles, files: usize) -> Result<Answers> {
    let mut rig = Rig::start(image, &compose(STUBBORN))?;
    let all = STUBBORN + 1;
    rig.wait("all run", CONVERGE_LIMIT, |status| running(status) == all)?;
    let archive = rig.file("many-files.tar");
    many_files::write_archive(&archive, MANY, files)?;
    // The agent sees other paths than this process.
    let mut load = rig.inside(
        "exec -a qctl /programs/quietcore-agent --socket /rig/agent.sock image load /rig/many-files.tar",
    )?;
    let mut answers = Answers::default();
    let is_loaded = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let loading = scope.spawn(|| {
            let output = load.output();
            is_loaded.store(true, Ordering::Release);
            (output, start.elapsed())
        });
        // The containers go while the image comes.
        rig.apply(&compose(0))?;
        let begin = Instant::now();
        let has_gone = |rig: &Rig| -> Result<bool> { Ok(!rig.state().contains("stubborn")) };
        while !has_gone(&rig)? {
            answers.ask(&rig)?;
            ensure!(begin.elapsed() < CONVERGE_LIMIT * 4, "they do not go: {}", rig.said());
        }
        answers.stopped = begin.elapsed();
        while !is_loaded.load(Ordering::Acquire) {
            answers.ask(&rig)?;
        }
        let (output, unpacked) = loading.join().expect("it does not panic");
        let output = output.context("start qctl")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "load the image: {said}");
        answers.unpacked = unpacked;
        Ok(())
    })?;
    // One after the other they would take six times as long.
    let graces = answers.stopped.as_secs_f64() / GRACE_SECONDS as f64;
    ensure!(graces < STUBBORN as f64 / 2.0, "six containers took {graces:.1} graces to stop");
    full_disk(&rig, &mut answers)?;
    Ok(answers)
}

/// On a full disk the agent answers, changes nothing and says why; what runs stays.
fn full_disk(rig: &Rig, answers: &mut Answers) -> Result<()> {
    let fill = "mount -t tmpfs -o size=64k tmpfs /rig/state; cat /dev/zero > /rig/state/fill || :";
    ensure!(rig.inside(fill)?.status()?.success(), "fill the disk");
    let refused = rig.apply(&compose(1));
    let refused = refused.err().context("a change without a record")?.to_string();
    ensure!(refused.contains("nothing is changed"), "{refused}");
    for _ in 0..20 {
        ensure!(running(&answers.ask(rig)?) == 1, "on a full disk what ran does not run");
    }
    ensure!(rig.inside("umount /rig/state")?.status()?.success(), "take the full disk away");
    Ok(())
}
