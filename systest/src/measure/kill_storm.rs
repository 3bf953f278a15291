//! Kills of agent, containerd and tailer at random moments, and what must be whole afterwards.

use crate::harness::checkout::ImageFiles;
use crate::harness::native_host::{IMAGE, Rig, Victim};
use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Containers that should run do so again within this, or something is broken.
pub const CONVERGE_LIMIT: Duration = Duration::from_secs(60);

/// A file with two services: one that takes the place of the one before, one that starts beside it.
pub fn compose(version: u64) -> String {
    format!(
        "services:
  plain:
    image: {IMAGE}
    command: [\"plain\", \"20\", \"0\"]
    environment: {{VERSION: {version}}}
    ulimits: {{nofile: 1024}}
    restart: always
    stop_signal: SIGKILL
    deploy: {{update_config: {{monitor: 1s}}}}
  beside:
    image: {IMAGE}
    command: [\"beside\", \"20\", \"0\"]
    environment: {{VERSION: {version}}}
    ulimits: {{nofile: 1024}}
    restart: always
    stop_signal: SIGKILL
    deploy: {{update_config: {{monitor: 1s, order: start-first}}}}
"
    )
}

pub const SERVICES: [&str; 2] = ["plain", "beside"];

/// Whether a container of each service runs.
pub fn all_run(status: &Value) -> bool {
    SERVICES.iter().all(|service| {
        status["containers"].as_array().into_iter().flatten().any(|container| {
            let name = container["name"].as_str().unwrap_or_default();
            name.strip_suffix(".green").unwrap_or(name) == *service
                && container["state"] == "running"
        })
    })
}

pub fn has_settled(status: &Value) -> bool {
    let containers = status["containers"].as_array().into_iter().flatten();
    let settled =
        |container: &Value| container["state"] == "running" && container["rollout"].is_null();
    all_run(status)
        && containers.clone().count() == SERVICES.len()
        && containers.clone().all(settled)
}

pub fn containerd_answers(status: &Value) -> bool {
    let problems = status["problems"].as_array().into_iter().flatten();
    !problems.filter_map(Value::as_str).any(|problem| problem.starts_with("containers:"))
}

/// Counts and convergence times of a run of kills.
pub struct Kills {
    pub kills: u32,
    /// Seconds from when containerd answered until all ran, in order.
    pub converged_seconds: Vec<f64>,
    /// Times that the agent found and ended a program whose shim was lost during the start.
    pub strays: usize,
}

/// Kills agent, containerd, shims and tailer at random while versions come and go; nothing may be
/// left over.
///
/// # Errors
/// Something does not run again, or is left.
pub fn kills(image: &ImageFiles, count: u32, seed: u64) -> Result<Kills> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut rig = Rig::start(image, &compose(0))?;
    rig.wait("all run at first", CONVERGE_LIMIT, has_settled)?;
    let (mut done, mut converged_seconds, mut version) = (0, Vec::new(), 0);
    while done < count {
        if random.next_u32() % 3 == 0 {
            version += 1;
            // The agent may have been killed a moment ago.
            let _ = rig.apply(&compose(version));
        }
        std::thread::sleep(Duration::from_millis(u64::from(random.next_u32() % 400)));
        let victim = Victim::ALL[random.next_u32() as usize % Victim::ALL.len()];
        done += u32::from(rig.kill(victim, random.next_u32() as usize)?);
        // Half of them come while the last one is not over.
        if random.next_u32() % 2 == 0 {
            let took = converge(&mut rig);
            let took = took.with_context(|| format!("seed {seed}, after {done} kills"))?;
            converged_seconds.push(took.as_secs_f64());
        }
    }
    let start = Instant::now();
    while rig.apply(&compose(version + 1)).is_err() {
        ensure!(start.elapsed() < CONVERGE_LIMIT, "the agent does not come back: {}", rig.said());
    }
    rig.wait("all settle at the end", CONVERGE_LIMIT, has_settled)?;
    let left = left_over(&rig, SERVICES.len())?;
    ensure!(left.is_empty(), "seed {seed}, after {done} kills: {left}");
    converged_seconds.sort_by(f64::total_cmp);
    let log = std::fs::read_to_string(rig.file("quietcore-agent.log"))?;
    let strays = log.matches("; they are ended").count();
    Ok(Kills { kills: done, converged_seconds, strays })
}

/// Waits until everything declared runs, by what the agent says and by what the kernel has; how
/// long that took from when containerd answered.
pub fn converge(rig: &mut Rig) -> Result<Duration> {
    rig.wait("containerd answers", CONVERGE_LIMIT, containerd_answers)?;
    let start = Instant::now();
    loop {
        rig.wait("all run again", CONVERGE_LIMIT, all_run)?;
        // What the agent says may be a second old.
        let processes = rig.processes()?;
        let run = |service: &&str| {
            let line = format!("/lines {service} ");
            processes.values().any(|process| process.starts_with(&line))
        };
        if SERVICES.iter().all(run) {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < CONVERGE_LIMIT, "a program does not run: {}", rig.said());
    }
}

/// Waits up to 20 s until shims, programs, snapshots and outputs are as many as the containers
/// need; returns the differences, empty if none.
pub fn left_over(rig: &Rig, containers: usize) -> Result<String> {
    let count = |what: &str| -> Result<usize> {
        let all = rig.processes()?;
        Ok(all.values().filter(|line| line.contains(what)).count())
    };
    let snapshots = rig.file("var/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let start = Instant::now();
    loop {
        // Of the image there is one layer; what is removed goes a moment later.
        let found = [
            ("shims", count("containerd-shim")?, containers),
            ("programs", count("/lines ")?, containers),
            ("snapshots", std::fs::read_dir(&snapshots)?.count(), containers + 1),
            ("outputs", rig.outputs()?.len(), containers),
        ];
        let wrong: Vec<String> = found
            .iter()
            .filter(|(_, found, wanted)| found != wanted)
            .map(|(what, found, wanted)| format!("{found} {what}, {wanted} are needed"))
            .collect();
        if wrong.is_empty() {
            return Ok(String::new());
        }
        if start.elapsed() > Duration::from_secs(20) {
            let processes = rig.processes()?;
            let shown = processes.iter().map(|(pid, line)| format!("{pid} {}", cut(line)));
            let all: Vec<String> = shown.collect();
            let (wrong, all) = (wrong.join(", "), all.join("\n"));
            return Ok(format!("{wrong}\n{all}\n{}\n{}", rig.state(), rig.said()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The first words of a command line.
pub fn cut(line: &str) -> String {
    line.lines().next().unwrap_or_default().chars().take(100).collect()
}

/// Counts of a container's lines in the journal of systemd, and of the kills meanwhile.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    pub written: u64,
    pub lost: u64,
    pub doubled: u64,
    pub kills: u32,
}

/// Microseconds that a container rests after each thousand lines: with it, at most ten thousand a
/// second. A container that writes more than journald takes is ahead by more than 256 MiB in the
/// end, and loses the older half of that, since the disk is bounded: with at most 25,000 a second,
/// on a machine that had other work, a quarter of 10⁷ was lost so.
pub const REST_MICROS: u64 = 100_000;

/// Has a container write so many lines while agent, containerd and tailer are killed, and counts
/// them in the journal.
///
/// # Errors
/// They do not come to their end.
pub fn lines(image: &ImageFiles, count: u64, seed: u64) -> Result<Lines> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let compose = format!(
        "services:\n  flood:\n    image: {IMAGE}\n    command: [\"flood\", \"{count}\", \"{REST_MICROS}\"]\n    ulimits: {{nofile: 1024}}\n    restart: \"no\"\n"
    );
    let mut rig = Rig::start(image, &compose)?;
    rig.wait("it writes", CONVERGE_LIMIT, |status| status["containers"][0]["state"] == "running")?;
    let victims = [Victim::Agent, Victim::Containerd, Victim::Tailer, Victim::Tailer];
    let (start, mut kills) = (Instant::now(), 0);
    // At half of its rate it would have ended; a kill each second or so.
    let limit = Duration::from_secs(120 + count / 5_000);
    while !has_ended(&rig, count)? {
        std::thread::sleep(Duration::from_millis(200 + u64::from(random.next_u32() % 1000)));
        let victim = victims[random.next_u32() as usize % victims.len()];
        kills += u32::from(rig.kill(victim, 0)?);
        ensure!(
            start.elapsed() < limit,
            "not in the journal after {} s: {}",
            limit.as_secs(),
            rig.said()
        );
    }
    let mut seen = Seen::new(count);
    each_line(&rig, "CONTAINER_NAME=flood", |line| seen.take(line))?;
    Ok(Lines { written: count, lost: count - seen.found, doubled: seen.doubled, kills })
}

/// Record of the numbered lines that were found, once or more often.
pub struct Seen {
    numbers: Vec<bool>,
    found: u64,
    doubled: u64,
}

impl Seen {
    fn new(count: u64) -> Self {
        Self { numbers: vec![false; count as usize], found: 0, doubled: 0 }
    }

    fn take(&mut self, line: &str) {
        let number = line.strip_prefix("flood ").and_then(|rest| rest.get(..10)?.parse().ok());
        match number.and_then(|number: usize| self.numbers.get_mut(number)) {
            Some(true) => self.doubled += 1,
            Some(seen) => {
                *seen = true;
                self.found += 1;
            }
            None => {}
        }
    }
}

/// Whether the tailer has read what the container wrote: each tenth of the lines went to standard
/// error.
pub fn has_ended(rig: &Rig, count: u64) -> Result<bool> {
    let Some(stem) = rig.outputs()?.pop() else { return Ok(false) };
    let line = "flood 0000000000 of a container that has much to say\n".len() as u64;
    let text =
        std::fs::read_to_string(rig.file("tail").join(format!("{stem}.place"))).unwrap_or_default();
    let places: Vec<u64> = text.split_whitespace().filter_map(|place| place.parse().ok()).collect();
    Ok(places == [line * (count - count / 10), line * (count / 10)])
}

pub fn each_line(rig: &Rig, matched: &str, mut take: impl FnMut(&str)) -> Result<()> {
    let mut journal = rig.command(&format!(
        "SYSTEMD_COLORS=0 journalctl -q --no-pager -D /rig/log -o cat {matched}"
    ));
    let mut child = journal.stdout(Stdio::piped()).spawn().context("start journalctl")?;
    for line in BufReader::new(child.stdout.take().context("its output")?).lines() {
        take(&line?);
    }
    ensure!(child.wait()?.success(), "journalctl failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_that_is_lost_or_doubled_is_noticed() {
        let mut seen = Seen::new(3);
        for number in [0, 2, 2] {
            seen.take(&format!("flood {number:010} of a container"));
        }
        seen.take("something else");
        assert_eq!((seen.found, seen.doubled), (2, 1));
    }

    #[test]
    fn what_does_not_run_or_is_on_trial_has_not_settled() {
        let status = |plain: &str, rollout: Value, beside: &str| {
            json!({ "containers": [
                { "name": "plain", "state": plain, "rollout": null },
                { "name": beside, "state": "running", "rollout": rollout },
            ]})
        };
        assert!(has_settled(&status("running", Value::Null, "beside.green")));
        assert!(!has_settled(&status("absent", Value::Null, "beside")));
        assert!(!has_settled(&status("running", json!("on trial"), "beside")));
        assert!(!all_run(&status("running", Value::Null, "plain.green")));
    }
}
