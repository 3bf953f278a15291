//! Containers: one that is killed comes back; one that wants a hot core is refused, by the agent
//! and, should the agent be passed by, by the kernel.

use crate::harness::booted::{Booted, Verdict};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);

/// Proves that a killed container comes back, and that containers run on when the agent is killed.
pub fn killed_container_comes_back(booted: &mut Booted) -> Result<Verdict> {
    let pid = "cat /sys/fs/cgroup/quietcore-containers/exporter-*/cgroup.procs | head -n 1";
    let before = booted.shell.check(pid, ANSWER)?.trim().to_string();
    ensure!(!before.is_empty(), "the exporter has no process");
    booted.shell.check(&format!("kill -9 {before}"), ANSWER)?;
    let status =
        booted.shell.wait_status("the exporter runs again", Duration::from_secs(90), |status| {
            let exporter = container(status, "exporter");
            exporter.is_some_and(|c| c["state"] == "running" && c["restarts"].as_u64() >= Some(1))
        })?;
    let after = booted.shell.check(pid, ANSWER)?.trim().to_string();
    ensure!(before != after, "the exporter still has process {before}");
    let metrics = booted.shell.check("exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; grep '^quietcore_engine_up' <&3", ANSWER)?;
    ensure!(metrics.trim() == "quietcore_engine_up 1", "the exporter answers {metrics:?}");
    booted.shell.check("kill -9 $(systemctl show -p MainPID --value quietcore-agent)", ANSWER)?;
    booted.shell.wait_status("the agent is back", Duration::from_secs(90), |status| {
        status["ready"] == true
    })?;
    let kept = booted.shell.check(pid, ANSWER)?.trim().to_string();
    ensure!(kept == after, "a killed agent's container went from process {after} to {kept:?}");
    let stray = "cd /sys/fs/cgroup/quietcore-containers; mkdir lost-1; sleep 300 & pid=$!; echo $pid > lost-1/cgroup.procs; wait $pid; echo $?
        until qctl events | grep -q '1 processes were left of lost-1; they are ended'; do sleep 0.1; done
        while [ -d lost-1 ]; do sleep 0.1; done; cd /";
    let stray = booted.shell.check(stray, ANSWER)?;
    ensure!(stray.ends_with("137\n"), "a program that no container knows: {stray}");
    let logs = booted.shell.check("qctl logs exchange", ANSWER)?;
    ensure!(!logs.is_empty(), "qctl logs says nothing of the exchange");
    let fields = "journalctl -q -n 1 -o json CONTAINER_NAME=exchange | grep -o '\"\\(IMAGE_NAME\\|QUIETCORE_IMAGE_DIGEST\\|QUIETCORE_GENERATION\\|QUIETCORE_STREAM\\)\":\"[^\"]*' | sort";
    let fields = booted.shell.check(fields, ANSWER)?;
    ensure!(
        fields.lines().count() == 4 && fields.contains("sha256:"),
        "a line of the exchange has the fields {fields:?}"
    );
    let events = booted.shell.check("qctl events", ANSWER)?;
    ensure!(
        events.contains(" container exporter: taken away; it had ended with 137")
            || events.contains(" container exporter: taken away; it did not run"),
        "qctl events says: {events}"
    );
    let restarts = container(&status, "exporter")
        .and_then(|c| c["restarts"].as_u64())
        .context("the exporter's restarts")?;
    Ok(Verdict::Proved(format!(
        "the exporter was killed and came back ({restarts} restart), serving the engine's counters"
    )))
}

/// Number of times that the partition is broken; the main loop alone would repair two a second.
const BREAKS: u32 = 40;

/// Breaks it in four ways in turn, and waits each time until it stands; the guest's seconds in
/// which it did not, and the events that tell of it. Between two breaks the thread that repairs
/// comes to its end: what it writes after the partition stands would repair the next break unseen.
const BREAK: &str = r#"
cd /sys/fs/cgroup/hot.slice
stands() { [ "$(< hot-engine.slice/cpuset.cpus.partition)" = isolated ] && [ "$(< hot-engine.slice/cpuset.cpus.effective)" = 2-3 ]; }
waited=0
for i in {1..40}; do
    IFS=' ' read -r from rest < /proc/uptime
    case $((i % 4)) in
        0) echo member > hot-engine.slice/cpuset.cpus.partition ;;
        1) echo 3 > hot-engine.slice/cpuset.cpus ;;
        2) echo root > hot-engine.slice/cpuset.cpus.partition ;;
        3) echo 2 > hot-engine.slice/cpuset.cpus.exclusive ;;
    esac
    until stands; do :; done
    IFS=' ' read -r to rest < /proc/uptime
    waited=$((waited + 10#${to/./} - 10#${from/./}))
    sleep 0.1
done
told=$(qctl events -n 1000 | grep -c 'hot partition: was changed, and made again')
echo "$((waited / 100)).$(printf %02d $((waited % 100))) $told"
"#;

fn container<'a>(status: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    status["containers"].as_array()?.iter().find(|container| container["name"] == name)
}

/// Proves that agent and kernel refuse a hot core to containers, and that a broken partition is
/// repaired.
pub fn hot_core_is_refused(booted: &mut Booted) -> Result<Verdict> {
    let declare = "sed 's/cpuset: \"0-1\"/cpuset: \"2\"/' /etc/quietcore/compose.yaml > /run/hot.yaml; qctl apply /run/hot.yaml";
    let refused = booted.shell.run(declare, ANSWER)?;
    ensure!(refused.code == 1, "qctl apply ended with {}: {}", refused.code, refused.text);
    ensure!(
        refused.text.contains("CPU 2 is hot"),
        "the refusal does not name the core: {}",
        refused.text
    );
    let status = booted.shell.status()?;
    ensure!(
        container(&status, "exchange").is_some_and(|c| c["cpuset"] == "0-1"),
        "the refused file changed something"
    );
    // Whoever breaks the partition finds it whole again before the agent's main loop comes round.
    let repaired = booted.shell.check(BREAK, ANSWER)?;
    let (seconds, told) = repaired.trim().split_once(' ').context("no count of repairs")?;
    let seconds: f64 = seconds.parse()?;
    ensure!(
        seconds < f64::from(BREAKS) / 4.0 && told.parse::<u32>()? >= BREAKS / 2,
        "{BREAKS} breaks took {seconds} s of the guest's to repair, {told} are told"
    );
    // Past the agent: a cgroup that names a hot core gets none of it, a task can't be put there.
    let kernel = booted.shell.run(
        "mkdir -p /sys/fs/cgroup/intruder; echo 2 > /sys/fs/cgroup/intruder/cpuset.cpus; cat /sys/fs/cgroup/intruder/cpuset.cpus.effective; rmdir /sys/fs/cgroup/intruder; taskset -pc 2 $$ 2>&1; echo taskset=$?",
        ANSWER,
    )?;
    let effective = kernel.text.lines().next().unwrap_or_default().trim().to_string();
    ensure!(effective == "0-1", "a cgroup that asks for CPU 2 gets {effective:?}");
    ensure!(kernel.text.contains("taskset=1"), "a task was put on the hot core: {}", kernel.text);
    Ok(Verdict::Proved(format!(
        "the agent refuses cpuset 2 by name; the kernel gives such a cgroup CPUs 0-1 and refuses the affinity; a partition that was broken {BREAKS} times stood again in time, and {told} events tell of it"
    )))
}
