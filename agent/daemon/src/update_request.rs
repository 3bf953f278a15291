//! The agent's side of updates: starts the units, knows how it went, restarts the host.

use agent_core::limits::UPDATE_END_WAIT;
use agent_core::status::Engine;
use agent_core::update_progress::{Progress, Stage};
use agent_core::web_url;
use agent_host::systemd::systemctl;
use agent_host::update::history::{History, boot_id};
use agent_host::update::progress_files::{
    read_progress, report_failure, request_file, write_progress,
};
use agent_host::update::{Request, Running, UpdatePaths};
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Installing requires fetching, so that it is what is started.
const UNIT: &str = "quietcore-install.service";

/// Draws the conclusions from what runs; once, when the agent starts.
pub fn record_boot_outcome(paths: &UpdatePaths) {
    let recorded = || -> Result<()> {
        let mut history = History::read(&paths.history)?;
        let running = Running::read(&paths.os_release)?.version;
        if history.record_boot(running, paths.is_on_trial(), &boot_id()?) {
            history.write(&paths.history)?;
            let failed: Vec<_> = history.failed().map(|version| version.to_string()).collect();
            info!(%running, "version {running} runs; failed on this host: {}", failed.join(" "));
        }
        Ok(())
    };
    if let Err(error) = recorded() {
        warn!("updates: {error:#}");
    }
}

/// Waits for the last update's units, which end a moment after they said how it went.
///
/// A start while their job is there would be merged into it, and its release never asked for.
///
/// # Errors
/// They still have work to do.
async fn wait_until_idle() -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < UPDATE_END_WAIT {
        let job = systemctl(&["show", "--property=Job", "--value", UNIT]).await?;
        if matches!(job.trim(), "" | "0") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("an update is under way; qctl update says how far it is; ask again once it has ended")
}

/// Asks for a release; how it goes stands in the status.
///
/// # Errors
/// It can't even be tried.
pub async fn start(paths: &UpdatePaths, url: &str) -> Result<()> {
    web_url::check_url(url)?;
    ensure!(
        !paths.is_on_trial(),
        "the version that runs has not proved itself yet; wait until qctl status says so"
    );
    wait_until_idle().await?;
    request_file(paths).write(&Request { url: url.into() })?;
    info!(url, "update from {url}");
    let detail = format!("{url} was asked for");
    let asked = Progress { stage: Stage::Fetching, version: None, detail };
    write_progress(&asked, &paths.asking)?;
    let paths = paths.clone();
    tokio::spawn(async move {
        // Ends with the units, which say themselves how it went, unless they were not started at
        // all.
        let ended = systemctl(&["start", UNIT]).await.map(drop);
        if read_progress(&paths) == asked
            && let Err(error) = report_failure(&paths.asking, ended)
        {
            warn!("update: {error:#}");
        }
    });
    Ok(())
}

/// Restarts the host. Its orders are cancelled by the engine's end; a position stays where it is.
///
/// # Errors
/// The engines hold a position, and nobody said that this is fine.
pub async fn reboot(engines: &[Engine], holding: bool) -> Result<()> {
    let held = |engine: &Engine| {
        let instruments = engine.instruments.iter().filter(|instrument| instrument.position != 0);
        let text = |i: &agent_core::status::Instrument| format!("{} {}", i.position, i.symbol);
        instruments.map(text).collect::<Vec<_>>()
    };
    let held: Vec<String> = engines.iter().flat_map(held).collect();
    ensure!(
        holding || held.is_empty(),
        "the engine holds {}; close it first, or say --holding",
        held.join(", ")
    );
    warn!("restart of the host was asked for");
    systemctl(&["reboot"]).await.map(drop)
}
