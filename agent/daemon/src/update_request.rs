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
use agent_host::update::{Request, Running, UpdatePaths, ensure_slots, root_device};
use anyhow::{Result, bail, ensure};
use std::path::Path;
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
    ensure_slots(&root_device()?, Path::new("/sys"))?;
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
/// The engines are not flat, or that is not known, and nobody said that this is fine.
pub async fn reboot(shards: &[String], engines: &[Engine], holding: bool) -> Result<()> {
    let reasons = reasons_not_flat(shards, engines);
    ensure!(
        holding || reasons.is_empty(),
        "{}; qctl drain and close it first, or say --holding",
        reasons.join("; ")
    );
    warn!(holding, "restart of the host was asked for: {}", reasons.join("; "));
    systemctl(&["reboot"]).await.map(drop)
}

/// Reasons for which the engines are not flat: no position, no open order, and every engine that
/// has run since the boot runs. What is not known is none.
fn reasons_not_flat(shards: &[String], engines: &[Engine]) -> Vec<String> {
    let mut reasons = Vec::new();
    if shards.is_empty() {
        reasons.push("no engine has run since the boot, so that what it holds is not known".into());
    }
    for shard in shards {
        let name = if shard.is_empty() { "engine".to_owned() } else { format!("engine {shard}") };
        let Some(engine) = engines.iter().find(|engine| engine.shard == *shard) else {
            reasons.push(format!("{name} does not run: what it holds is not known"));
            continue;
        };
        let held = engine.instruments.iter().filter(|instrument| instrument.position != 0);
        let held: Vec<String> = held
            .map(|instrument| format!("{} {}", instrument.position, instrument.symbol))
            .collect();
        if !held.is_empty() {
            reasons.push(format!("{name} holds {}", held.join(", ")));
        }
        match engine.counters.get("orders_open") {
            Some(0) => {}
            Some(open) => reasons.push(format!("{name} has {open} open orders")),
            None => reasons.push(format!("{name} does not say what is open")),
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::status::Instrument;

    fn engine(shard: &str, position: i64, open: i128) -> Engine {
        let instrument = Instrument { symbol: "AAPL".into(), position, ..Instrument::default() };
        Engine {
            shard: shard.into(),
            instruments: vec![instrument],
            counters: [("orders_open".to_owned(), open)].into(),
            ..Engine::default()
        }
    }

    #[test]
    fn only_what_is_known_to_be_flat_is_restarted() {
        let shards = ["a".to_owned(), "b".to_owned()];
        let flat = [engine("a", 0, 0), engine("b", 0, 0)];
        assert_eq!(reasons_not_flat(&shards, &flat), Vec::<String>::new());
        for (engines, reason) in [
            (vec![engine("a", 0, 0), engine("b", -3, 0)], "engine b holds -3 AAPL"),
            (vec![engine("a", 0, 2), engine("b", 0, 0)], "engine a has 2 open orders"),
            (vec![engine("a", 0, 0)], "engine b does not run: what it holds is not known"),
            (
                vec![engine("a", 0, 0), Engine { shard: "b".into(), ..Engine::default() }],
                "engine b does not say what is open",
            ),
        ] {
            assert_eq!(reasons_not_flat(&shards, &engines), [reason]);
        }
        assert_eq!(reasons_not_flat(&[], &[]).len(), 1, "nobody knows");
        assert_eq!(reasons_not_flat(&[String::new()], &[engine("", 0, 0)]), Vec::<String>::new());
    }
}
