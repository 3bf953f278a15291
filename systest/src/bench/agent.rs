//! The agent's figures, on this machine: what becomes of containers and of their lines while
//! everybody is killed, how fast versions come and go, what the agent costs at rest. And in a
//! guest, what the hot cores see of rollouts.

use crate::harness::booted::ready;
use crate::harness::checkout::ImageFiles;
use crate::harness::native_host::Rig;
use crate::measure::compose_comparison::control;
use crate::measure::compose_generated::compare_generated;
use crate::measure::kill_storm::{CONVERGE_LIMIT, all_run, compose, has_settled, kills, lines};
use crate::measure::{busy_agent, hostile_worker, load, power_cuts};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Generated compose projects.
const GENERATED: u64 = 10_000;

/// Files of the layer that is unpacked while the agent is asked.
const FILES: usize = 400_000;

/// Resident bytes and CPU time in percent of a core of the agent while nothing happens, with two
/// containers.
fn rest(image: &ImageFiles) -> Result<(u64, f64)> {
    let mut rig = Rig::start(image, &compose(0))?;
    rig.wait("all run", CONVERGE_LIMIT, has_settled)?;
    let pid = rig.agent_pid()?;
    let ticks = || -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(") ").context("a process's state")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let (before, start) = (ticks()?, Instant::now());
    std::thread::sleep(Duration::from_secs(30));
    let used = (ticks()? - before) as f64
        / nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    let percent = used * 100.0 / start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    Ok((resident.context("its resident memory")? * 1024, percent))
}

/// Seconds from applying until a version runs beside the one before, and from the verdict on a bad
/// one until the one before runs.
fn rollouts(image: &ImageFiles) -> Result<(f64, f64)> {
    let mut rig = Rig::start(image, &compose(0))?;
    rig.wait("all run", CONVERGE_LIMIT, has_settled)?;
    let start = Instant::now();
    rig.apply(&compose(1))?;
    rig.wait("it runs beside", CONVERGE_LIMIT, |status| {
        status["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|it| it["name"] == "beside.green" && it["state"] == "running")
    })?;
    let beside = start.elapsed().as_secs_f64();
    rig.wait("all settle", CONVERGE_LIMIT, has_settled)?;
    rig.apply(&compose(1).replace("[\"plain\", \"20\", \"0\"]", "[\"fail\"]"))?;
    rig.wait("the verdict", CONVERGE_LIMIT, |status| status.to_string().contains("taken back"))?;
    rig.wait("the one before", CONVERGE_LIMIT, all_run)?;
    let log = std::fs::read_to_string(rig.file("quietcore-agent.log"))?;
    Ok((beside, verdict_to_start(&log).with_context(|| log.clone())?))
}

/// Seconds from the verdict on `plain` until the agent has started the one before. Whoever asks
/// hears of both at once.
fn verdict_to_start(log: &str) -> Option<f64> {
    let mut lines = log.lines();
    let verdict =
        lines.find(|line| line.contains("rollout plain: ") && line.contains("taken back"))?;
    let start = lines.find(|line| line.contains("container plain: started"))?;
    // 2026-11-27T01:25:15.381819Z, of one day.
    let second = |line: &str| {
        let (_, time) = line.split_once('T')?;
        let numbers: Vec<f64> =
            time.split_once('Z')?.0.split(':').filter_map(|number| number.parse().ok()).collect();
        let &[hours, minutes, seconds] = &numbers[..] else { return None };
        Some(hours * 3600.0 + minutes * 60.0 + seconds)
    };
    Some((second(start)? - second(verdict)?).rem_euclid(86_400.0))
}

/// Measures the area.
///
/// # Errors
/// Something could not be measured, or does not hold.
pub fn agent(
    kill_count: u32,
    cut_count: u32,
    rollout_count: u64,
    line_count: u64,
) -> Result<Map<String, Value>> {
    let image = ImageFiles::build("debug")?;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    println!("seed {seed}");
    let mut figures = Map::new();
    // Each when it is known: all of them take long.
    let mut note = |name: &str, value: Value| {
        println!("{name} {value}");
        figures.insert(name.into(), value);
    };
    let (resident, percent) = rest(&image)?;
    note("agent_resident_bytes", json!(resident));
    note("agent_idle_cpu_percent", json!(percent));
    let (beside, back) = rollouts(&image)?;
    note("apply_to_canary_seconds", json!(beside));
    note("verdict_to_version_before_seconds", json!(back));
    control()?;
    let generated = compare_generated(&image, seed, GENERATED)?;
    note("compose_generated", json!(GENERATED));
    note("compose_values_compared", json!(generated.values));
    note("compose_different", json!(generated.different.len()));
    generated.different.iter().take(5).for_each(|it| println!("{it}"));
    let answers = busy_agent::answers(&image, FILES)?;
    note("status_answer_ms_max", json!(answers.slowest.as_millis() as u64));
    note("status_answers", json!(answers.count));
    let tries = hostile_worker::tries(&image)?;
    note("hostile_worker_tries", json!(tries.count));
    note("hostile_worker_succeeded", json!(tries.succeeded.len()));
    tries.succeeded.iter().for_each(|it| println!("{it}"));
    let killed = kills(&image, kill_count, seed)?;
    let at = |share: f64| {
        let all = &killed.converged_seconds;
        all[((all.len() - 1) as f64 * share) as usize]
    };
    note("kills", json!(killed.kills));
    note("converged_seconds_p50", json!(at(0.5)));
    note("converged_seconds_p99", json!(at(0.99)));
    note("strays_ended", json!(killed.strays));
    let foreign = load::rollouts(&image, rollout_count)?;
    ensure!(foreign == 0, "{foreign} foreign context switches on the hot cores");
    note("rollouts_with_pulls", json!(rollout_count));
    note("hot_core_foreign_switches", json!(foreign));
    power_cuts::cuts(&mut ready(&image)?, cut_count, seed)?;
    note("power_cuts", json!(cut_count));
    let lines = lines(&image, line_count, seed)?;
    for (name, value) in [
        ("lines_written", lines.written),
        ("lines_lost", lines.lost),
        ("lines_doubled", lines.doubled),
        ("kills_while_lines_were_written", lines.kills.into()),
    ] {
        note(name, json!(value));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_timed_from_the_verdict_on() {
        let line =
            |time: &str, text: &str| format!("\x1b[2m2026-11-27T{time}Z\x1b[0m INFO {text}\n");
        let before = line("23:59:58.000000", "container plain: started from x");
        let verdict = line("23:59:59.900000", "rollout plain: x is taken back, since it ended");
        let after = line("00:00:00.075000", "container plain: started from x");
        let seconds = verdict_to_start(&[&*before, &verdict, &after].concat()).unwrap();
        assert!((seconds - 0.175).abs() < 1e-6, "{seconds}");
        assert_eq!(verdict_to_start(&[before, verdict].concat()), None);
    }
}
