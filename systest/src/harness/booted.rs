//! Guests that are booted or resumed to a shell, ready for a story or a measurement.

use crate::harness::checkout::{ImageFiles, shared_data};
use crate::harness::http::free_port;
use crate::harness::shell::Shell;
use crate::harness::snapshot::Snapshot;
use crate::harness::vm::{Machine, Vm};
use anyhow::Result;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A story's end.
pub enum Verdict {
    /// Success, with a line on what was proved.
    Proved(String),
    /// Why it could not be told.
    Skipped(String),
}

/// A guest of the debug image, with its shell.
pub struct Booted {
    /// Image that the guest was booted from.
    pub image: ImageFiles,
    /// Its shell. It goes before the machine, which may be left (`KEEP=1`) for another one.
    pub shell: Shell,
    /// Virtual machine of the guest.
    pub vm: Vm,
    /// A port of this machine's loopback, behind which the guest's API is once it has one; 0 where
    /// there is no network.
    pub api: u16,
    /// CPU seconds from power-on to ready of the machine that was saved, if it goes on from a
    /// snapshot.
    pub ready_cpu_seconds: Option<f64>,
}

/// Time that a guest may take to be ready: five times what it takes on an idle machine under TCG.
pub const READY_LIMIT: Duration = Duration::from_secs(300);

/// Where systemd finds credentials that a running host is given, as if they had come from the ESP.
pub const CREDENTIALS: &str = "/run/credstore";

/// Time for what needs no container's start.
pub const ANSWER: Duration = Duration::from_secs(60);

/// Where chance begins: `SEED`, or the time.
pub fn seed() -> Result<u64> {
    Ok(match std::env::var("SEED") {
        Ok(seed) if !seed.is_empty() => seed.parse()?,
        _ => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    })
}

/// Waits until the status names this problem.
pub fn wait_problem(booted: &mut Booted, text: &str, limit: Duration) -> Result<serde_json::Value> {
    booted.shell.wait_status(text, limit, |status| {
        let problems = status["problems"].as_array().into_iter().flatten();
        problems.filter_map(|problem| problem.as_str()).any(|problem| problem.contains(text))
    })
}

/// Gives a running host a credential, and starts again who reads it.
///
/// # Errors
/// The units do not start.
pub fn give_credential(booted: &mut Booted, name: &str, text: &str, units: &str) -> Result<()> {
    let script = format!(
        "mkdir -p -m 700 {CREDENTIALS}; cat > {CREDENTIALS}/{name} <<'END'\n{text}\nEND\nsystemctl restart {units}"
    );
    booted.shell.check(&script, ANSWER).map(drop)
}

/// Boots the debug image up to a shell.
///
/// # Errors
/// It does not get there.
pub fn boot(image: &ImageFiles, machine: &Machine) -> Result<Booted> {
    let mut vm = Vm::start(image, machine)?;
    let shell = Shell::connect(&mut vm, READY_LIMIT)?;
    let api = machine.api.unwrap_or_default();
    Ok(Booted { image: image.clone(), vm, shell, api, ready_cpu_seconds: None })
}

/// The machine of the snapshot that stories go on from: a host that trades, with a network, and a
/// recording if this machine has one.
///
/// # Errors
/// No port is free for its API.
pub fn ready_machine() -> Result<Machine> {
    let api = Some(free_port()?);
    Ok(Machine { capture: capture(), network: true, api, ..Machine::default() })
}

/// Goes on from the snapshot of [`ready_machine`] with a machine that differs from it in nothing
/// that was saved.
///
/// # Errors
/// There is no snapshot and none can be made, or the guest does not answer.
pub fn ready_with(image: &ImageFiles, machine: &Machine) -> Result<Booted> {
    let snapshot = Snapshot::of(image, machine)?;
    // Making it takes a minute, in which somebody else may have taken a port that was free.
    let api = machine.api.map(|_| free_port()).transpose()?;
    let machine = &Machine { api, ..machine.clone() };
    let mut vm = snapshot.resume(image, machine)?;
    let shell = Shell::resume(&mut vm)?;
    let ready_cpu_seconds = Some(snapshot.ready_cpu_seconds()?);
    let api = machine.api.unwrap_or_default();
    Ok(Booted { image: image.clone(), vm, shell, api, ready_cpu_seconds })
}

/// [`ready_with`] the machine as it is.
///
/// # Errors
/// As there.
pub fn ready(image: &ImageFiles) -> Result<Booted> {
    ready_with(image, &ready_machine()?)
}

pub fn recording() -> Option<(PathBuf, PathBuf)> {
    let data = shared_data()?;
    let name = "nasdaq-aapl-2012-06-21-open";
    let files = (data.join(format!("{name}.itch")), data.join(format!("{name}.bbo.csv")));
    (files.0.exists() && files.1.exists()).then_some(files)
}

/// The recording that a ready machine has as a disk.
pub fn capture() -> Option<PathBuf> {
    recording().map(|(itch, _)| itch)
}
