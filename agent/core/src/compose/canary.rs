//! Canary and update order of a service: a changed version starts after the old one stops or runs
//! beside it, for how long it is on trial, and which metrics it must keep.

use crate::compose::loopback_url::http_parts;
use crate::compose::metric_check::Check;
use crate::compose::schema::{RawCanary, RawDeploy};
use crate::compose::{Order, units};
use crate::limits::CANARY_CHECKS_MAX;
use std::time::Duration;

/// A trial beside the version before.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// Time that the trial lasts at least before promotion (`bake`, 1 s to 24 h, 60 s by default).
    pub bake: Duration,
    /// Between two looks at its metrics.
    pub interval: Duration,
    /// Manual promotion: the new version waits for `qctl rollout promote`.
    pub by_hand: bool,
    /// Where its metrics are: a port of the loopback and a path.
    pub metrics: Option<(u16, String)>,
    /// Checks that its metrics must pass.
    pub checks: Vec<Check>,
}

type Refusal = (&'static str, String, String);

/// The canary of a service, if it has one.
///
/// # Errors
/// The key and what is wrong with it: key, value, remedy.
pub fn read(raw: Option<&RawCanary>) -> Result<Option<Canary>, Refusal> {
    let Some(raw) = raw else { return Ok(None) };
    let time = |key: &'static str, given: &Option<crate::compose::scalar::Scalar>, default: u64| {
        match given {
            None => Ok(Duration::from_secs(default)),
            Some(text) => units::duration(&text.text())
                .filter(|time| (Duration::from_secs(1)..=Duration::from_secs(86400)).contains(time))
                .ok_or_else(|| (key, text.text(), "1s to 24h, as in 5m".to_owned())),
        }
    };
    let by_hand = match raw.promote.as_deref() {
        None | Some("auto") => false,
        Some("manual") => true,
        Some(other) => {
            return Err(("x-quietcore.canary.promote", other.into(), "auto or manual".into()));
        }
    };
    if raw.checks.is_empty() != raw.metrics.is_none() {
        let remedy = "metrics and checks belong together".to_owned();
        return Err(("x-quietcore.canary", format!("{} checks", raw.checks.len()), remedy));
    }
    if raw.checks.len() > CANARY_CHECKS_MAX {
        let (found, most) = (raw.checks.len().to_string(), format!("at most {CANARY_CHECKS_MAX}"));
        return Err(("x-quietcore.canary.checks", found, most));
    }
    let check = |text: &String| {
        let remedy = "METRIC{label=\"value\"} <= 5, with <, <=, >= or >";
        Check::parse(text)
            .ok_or_else(|| ("x-quietcore.canary.checks", text.clone(), remedy.to_owned()))
    };
    Ok(Some(Canary {
        bake: time("x-quietcore.canary.bake", &raw.bake, 60)?,
        interval: time("x-quietcore.canary.interval", &raw.interval, 5)?,
        by_hand,
        metrics: raw.metrics.as_deref().map(http_parts).transpose()?,
        checks: raw.checks.iter().map(check).collect::<Result<_, _>>()?,
    }))
}

/// Order of an update (`update_config.order`): the new version beside the old one, or after it.
///
/// # Errors
/// `deploy` asks for what a single host does not have: key, value, remedy.
pub fn order(deploy: Option<&RawDeploy>, is_canary: bool) -> Result<Order, Refusal> {
    if let Some(replicas) = deploy.and_then(|deploy| deploy.replicas).filter(|n| *n != 1) {
        let remedy = "1: a service is one container of this host".to_owned();
        return Err(("deploy.replicas", replicas.to_string(), remedy));
    }
    let update = deploy.and_then(|deploy| deploy.update_config.as_ref());
    let rollback = deploy.and_then(|deploy| deploy.rollback_config.as_ref());
    for (key, config) in [("deploy.update_config", update), ("deploy.rollback_config", rollback)] {
        let parallelism = config.and_then(|config| config.parallelism);
        if let Some(parallelism) = parallelism.filter(|n| *n > 1) {
            return Err((key, format!("parallelism: {parallelism}"), "parallelism: 1".into()));
        }
    }
    let default = if is_canary { Order::StartFirst } else { Order::StopFirst };
    let order = update.and_then(|update| update.order).unwrap_or(default);
    if is_canary && order == Order::StopFirst {
        let remedy = "start-first: a canary runs beside the version before".to_owned();
        return Err(("deploy.update_config.order", "stop-first".into(), remedy));
    }
    let another = rollback.is_some_and(|back| {
        let differs = back.order.is_some_and(|back| back != order);
        differs || back.monitor.is_some() || back.failure_action.is_some()
    });
    if another {
        let remedy = "the order of update_config: what comes back has proved itself".to_owned();
        return Err(("deploy.rollback_config", "another way back".into(), remedy));
    }
    Ok(order)
}
