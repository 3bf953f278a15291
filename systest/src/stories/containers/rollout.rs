//! A changed service: it proves itself by its health check, or the version before comes back.

use crate::harness::booted::{Booted, Verdict};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// A container's start, and the failures of a health check that count, under TCG beside another
/// machine.
const SEEN: Duration = Duration::from_secs(120);

/// A service `web` that listens on one port and is asked on 9470, and one that waits for it.
fn apply(booted: &mut Booted, command: &str) -> Result<()> {
    let file = format!(
        r#"
  web:
    image: $image
    command: {command}
    restart: always
    volumes: ["/run/quietcore/engine:/pages:ro"]
    x-quietcore: {{http: "http://127.0.0.1:9470/metrics"}}
    healthcheck: {{interval: 1s, timeout: 2s, retries: 3}}
    deploy: {{update_config: {{monitor: 60s}}}}
  after:
    image: $image
    command: ["--pages", "/pages", "--listen", "127.0.0.1:9471"]
    volumes: ["/run/quietcore/engine:/pages:ro"]
    depends_on: {{web: {{condition: service_healthy}}}}
    tmpfs: "/work:size=2m,mode=700"
    shm_size: 4m
    ulimits: {{nofile: 333}}
    deploy:
      resources:
        limits: {{cpus: "0.5", memory: 48m, pids: 7}}
        reservations: {{cpus: "0.25", memory: 16m}}
"#
    );
    let script = format!(
        "image=$(sed -n 's/ *image: \\(.*exporter.*\\)/\\1/p' /etc/quietcore/compose.yaml)\n{{ cat /etc/quietcore/compose.yaml; cat <<END\n{file}END\n}} > /run/web.yaml; qctl apply /run/web.yaml"
    );
    booted.shell.check(&script, ANSWER).map(drop)
}

fn listening(port: u16) -> String {
    format!(r#"["--pages", "/pages", "--listen", "127.0.0.1:{port}"]"#)
}

fn wait(
    booted: &mut Booted,
    what: &str,
    name: &str,
    is: impl Fn(&serde_json::Value) -> bool,
) -> Result<serde_json::Value> {
    let find = |status: &serde_json::Value| {
        let containers = status["containers"].as_array()?;
        containers.iter().find(|container| container["name"] == name).cloned()
    };
    let status = booted.shell.wait_status(what, SEEN, |s| find(s).is_some_and(|c| is(&c)))?;
    find(&status).context("the container is not in the status")
}

fn is_well(container: &serde_json::Value) -> bool {
    container["health"] == "healthy" && container["state"] == "running"
}

/// Script that prints the limits of `after` as the kernel has them: the cgroup's files, the
/// process's limits and mounts.
const AMOUNTS: &str = r#"
cd /sys/fs/cgroup/quietcore-containers/after-*
cat cpu.max cpu.weight memory.max memory.min pids.max
pid=$(head -n 1 cgroup.procs)
sed -n 's/^Max open files *\([0-9]*\) *\([0-9]*\).*/\1 \2/p' /proc/$pid/limits
sed -n 's/.* \/work .* - tmpfs tmpfs .*\(size=[0-9a-z]*\).*/\1/p; s/.* \/dev\/shm .* - tmpfs shm .*\(size=[0-9a-z]*\).*/\1/p' /proc/$pid/mountinfo | sort
"#;
const AMOUNTS_WANTED: &str =
    "50000 100000\n25\n50331648\n16777216\n7\n333 333\nsize=2048k\nsize=4096k\n";

/// Proves that a version is kept if its health check passes, and undone if it fails.
pub fn versions_prove_themselves_or_are_taken_back(booted: &mut Booted) -> Result<Verdict> {
    // Asked where nobody listens, with nothing to go back to: it stays, and who waits for it waits.
    apply(booted, &listening(9479))?;
    crate::harness::booted::wait_problem(booted, "health of web: ", SEEN)?;
    let waits = wait(booted, "who waits for it", "after", |_| true)?;
    ensure!(waits["state"] == "absent", "it did not wait: {waits}");
    apply(booted, &listening(9470))?;
    wait(booted, "a version that proves itself", "web", |web| {
        is_well(web) && web["rollout"].is_null()
    })?;
    wait(booted, "who waits for it", "after", |after| after["state"] == "running")?;
    let amounts = booted.shell.check(AMOUNTS, ANSWER)?;
    ensure!(amounts == AMOUNTS_WANTED, "its limits and reservations are {amounts:?}");
    let mut taken_back = Vec::new();
    for (command, why) in [
        (listening(9479), "taken back: its health check fails"),
        (r#"["--no-such-option"]"#.into(), "taken back: it ended"),
    ] {
        apply(booted, &command)?;
        let web = wait(booted, "the version before", "web", |web| {
            is_well(web) && web["rollout"].as_str().is_some_and(|said| said.starts_with(why))
        })?;
        taken_back.push(web["rollout"].to_string());
    }
    // An agent that starts anew does not try it again, and a killed container comes back as it was.
    let kill = "kill -9 $(systemctl show -p MainPID --value quietcore-agent); kill -9 $(cat /sys/fs/cgroup/quietcore-containers/web-*/cgroup.procs)";
    booted.shell.check(kill, ANSWER)?;
    wait(booted, "the version before, again", "web", |web| {
        is_well(web) && web["rollout"].as_str().is_some_and(|said| said.starts_with("taken back"))
    })?;
    booted.shell.check("qctl apply /etc/quietcore/compose.yaml", ANSWER)?;
    booted.shell.wait_status("ready again", SEEN, |status| status["ready"] == true)?;
    Ok(Verdict::Proved(format!(
        "a version proved itself by its health check, and what waited for it started then, with the limits and reservations that it asked for; two that did not were taken back ({}), also for an agent that was killed",
        taken_back.join(", ")
    )))
}
