//! The engine's risk limits: read from its counters page, changed through the control page, and the
//! engine's own word on whether it took them.

use abi::control::{ControlPage, LIMIT_NAMES};
use abi::counters::{Counter, CountersPage};
use agent_core::protocol::Response;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tracing::warn;

/// Time limit for the engine's answer: it reads the control page on every turn of its loop.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Changes some limits, or none, and returns all that are in force.
pub async fn change(pages: &Path, changes: &BTreeMap<String, u64>) -> Response {
    try_change(pages, changes).await.unwrap_or_else(Response::Error)
}

async fn try_change(pages: &Path, changes: &BTreeMap<String, u64>) -> Result<Response, String> {
    let not_there = |error| format!("{error}; the engine has not run since the boot");
    let counters = CountersPage::open(&pages.join("counters")).map_err(not_there)?;
    let mut words = counters.limits();
    for (name, value) in changes {
        let at = LIMIT_NAMES.iter().position(|known| known == name);
        let at =
            at.ok_or_else(|| format!("{name}: no limit; there are {}", LIMIT_NAMES.join(", ")))?;
        words[at] = *value;
    }
    if !changes.is_empty() {
        if !counters.is_alive(agent_host::engine_pages::monotonic_ns()) {
            return Err("the engine is not running; its limits stand in its configuration".into());
        }
        let control = ControlPage::open_existing(&pages.join("control")).map_err(not_there)?;
        let answers = |counter| counters.get(counter);
        let before = (answers(Counter::LimitsLoads), answers(Counter::LimitsRefused));
        control.set_limits(&words, &counters.configured_limits());
        let deadline = tokio::time::Instant::now() + ANSWER_WAIT;
        loop {
            if answers(Counter::LimitsRefused) != before.1 {
                return Err("the engine refused them: a value is out of its range".into());
            }
            if answers(Counter::LimitsLoads) != before.0 {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                return Err("the engine did not answer; look at qctl status".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        warn!(?changes, "engine risk limits changed");
    }
    let named = LIMIT_NAMES.into_iter().map(String::from);
    Ok(Response::Limits(named.zip(counters.limits()).collect()))
}
