//! Power cuts at random moments of an apply, and what must hold after the next boot.

use crate::harness::booted::{Booted, READY_LIMIT, ready_machine};
use crate::harness::shell::Shell;
use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use std::time::Duration;

/// A rollout takes some ten seconds on an emulated machine: the power goes at any time of it, or of
/// what follows.
pub const LONGEST_MS: u64 = 15_000;

pub const ANSWER: Duration = Duration::from_secs(60);

pub const SERVICES: [&str; 2] = ["after", "beside"];

/// Declares version `number` of two services: one takes the place of the one before, one starts
/// beside it.
pub fn apply(booted: &mut Booted, number: u32) -> Result<()> {
    let service = |name: &str, port: u32, more: &str, order: &str| {
        format!(
            "  {name}:\n    image: $image\n    command: [\"--pages\", \"/pages\", \"--listen\", \"127.0.0.1:{port}\"]\n    environment: {{NUMBER: {number}}}\n    restart: always\n    healthcheck: {{interval: 1s}}\n    x-quietcore: {{engine_pages: /pages, http: \"http://127.0.0.1:{port}/metrics\"{more}}}\n    deploy: {{update_config: {{monitor: 120s, order: {order}}}}}\n"
        )
    };
    let services = service(SERVICES[0], 9470, "", "stop-first")
        + &service(SERVICES[1], 9471, ", ports: {9471: 9481}", "start-first");
    let script = format!(
        "image=$(sed -n 's/ *image: \\(.*exporter.*\\)/\\1/p' /etc/quietcore/compose.yaml)\n{{ cat /etc/quietcore/compose.yaml; cat <<END\n{services}END\n}} > /run/cut.yaml; qctl apply /run/cut.yaml"
    );
    booted.shell.check(&script, ANSWER).map(drop)
}

/// Each service has one container, which is well and proven, nothing is wrong, and the engine
/// trades.
pub fn has_settled(status: &Value) -> bool {
    let containers = status["containers"].as_array().into_iter().flatten();
    let of = |service: &str| {
        let mut own = containers.clone().filter(|it| {
            let name = it["name"].as_str().unwrap_or_default();
            name.strip_suffix(".green").unwrap_or(name) == service
        });
        let is_well =
            own.next().is_some_and(|it| it["health"] == "healthy" && it["rollout"].is_null());
        is_well && own.next().is_none()
    };
    let is_quiet = status["problems"].as_array().is_some_and(Vec::is_empty);
    SERVICES.iter().all(|service| of(service)) && is_quiet && status["ready"] == true
}

/// Cuts the power so often, at random times after a version was applied.
///
/// # Errors
/// What was applied is not there, does not run again, or something is left over.
pub fn cuts(booted: &mut Booted, count: u32, seed: u64) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (image, machine) = (booted.image.clone(), ready_machine()?);
    for number in 1..=count {
        apply(booted, number)?;
        let after = random.next_u64() % LONGEST_MS;
        std::thread::sleep(Duration::from_millis(after));
        booted.vm.cut_power(&image, &machine)?;
        booted.shell = Shell::connect(&mut booted.vm, READY_LIMIT)?;
        let told = format!("seed {seed}: cut {number}, {after} ms after it was applied");
        booted
            .shell
            .wait_status("what was applied runs", READY_LIMIT, has_settled)
            .context(told.clone())?;
        let kept = "grep -c NUMBER /var/lib/quietcore/agent/compose.yaml; grep NUMBER /var/lib/quietcore/agent/compose.yaml | sort -u | tr -dc '0-9\\n'; ls /sys/fs/cgroup/quietcore-containers | grep -c -e after -e beside";
        let kept = booted.shell.check(kept, ANSWER)?;
        ensure!(kept == format!("2\n{number}\n2\n"), "{told}: {kept:?}");
    }
    apply(booted, count + 1)?;
    booted.shell.wait_status("the next version runs", READY_LIMIT, has_settled)?;
    Ok(())
}
