//! `qctl config`: what a compose file means here, without an agent.

use crate::compose_file::in_file;
use crate::compose_project::{Surroundings, resolve};
use abi::hostplan::CorePlan;
use agent_core::compose::probe::Probe;
use agent_core::compose::{Condition, Restart, Service, parse};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Prints the services of a file, for a host on which all of so many CPUs are for housekeeping.
pub fn show(file: &Path, profiles: &[String], cpus: u32) -> Result<()> {
    let text = resolve(file, &Surroundings::of(file, profiles)?)?;
    let present = format!("0-{}", cpus.saturating_sub(1));
    let cores = CorePlan::from_kernel(&present, "").map_err(anyhow::Error::msg)?;
    let services = parse(&text, &cores).map_err(|error| in_file(file, &error.into()))?;
    let services: serde_json::Map<String, Value> =
        services.iter().map(|service| (service.name.clone(), meaning(service))).collect();
    println!("{}", serde_json::to_string_pretty(&json!({ "services": services }))?);
    Ok(())
}

fn meaning(service: &Service) -> Value {
    let policy = &service.policy;
    let mut value = json!(service);
    value["restart"] = match policy.restart {
        Restart::No => json!("no"),
        Restart::Always => json!("always"),
        Restart::OnFailure => json!("on-failure"),
    };
    value["stop_signal"] = json!(policy.stop_signal);
    value["stop_grace_seconds"] = json!(policy.stop_grace.as_secs_f64());
    let condition = |condition: &Condition| match condition {
        Condition::ServiceStarted => "service_started",
        Condition::ServiceHealthy => "service_healthy",
        Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
    };
    let depends = policy.depends_on.iter();
    let depends = depends.map(|(name, it)| (name.clone(), json!(condition(it))));
    value["depends_on"] = Value::Object(depends.collect());
    value["health"] = policy.health.as_ref().map_or(Value::Null, |health| {
        json!({
            "probe": match &health.probe {
                Probe::Http { port, path, .. } => format!("http://127.0.0.1:{port}{path}"),
                Probe::Metrics { port, path, .. } => format!("metrics at port {port}{path}"),
                Probe::Tcp { port } => format!("tcp port {port}"),
                Probe::File { path, max_age } => format!("{path}, at most {} s old", max_age.as_secs()),
            },
            "interval_seconds": health.interval.as_secs_f64(),
            "timeout_seconds": health.timeout.as_secs_f64(),
            "retries": health.retries,
            "start_period_seconds": health.start_period.as_secs_f64(),
        })
    });
    value
}
