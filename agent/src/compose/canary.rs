//! How a changed service takes the place of the one before: after it or beside it, and how one that runs beside it is
//! judged: for how long, and by which of its metrics.

use super::health::http_parts;
use super::schema::{RawCanary, RawDeploy};
use super::{Order, units};
use crate::limits::CANARY_CHECKS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A trial beside the version before.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// How long it has to hold before it takes over.
    pub bake: Duration,
    /// Between two looks at its metrics.
    pub interval: Duration,
    /// Whether somebody has to say that it takes over.
    pub by_hand: bool,
    /// Where its metrics are: a port of the loopback and a path.
    pub metrics: Option<(u16, String)>,
    /// What they must be.
    pub checks: Vec<Check>,
}

/// How a metric is compared with its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

const RELATIONS: [(&str, Relation); 4] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("<", Relation::Less),
    (">", Relation::More),
];

/// What one metric must be: `NAME{label="value"} <= 5`. Every sample of that name that has these labels must hold, and
/// there must be one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    name: String,
    labels: BTreeMap<String, String>,
    relation: Relation,
    bound: f64,
}

type Refusal = (&'static str, String, String);

/// The canary of a service, if it has one.
///
/// # Errors
/// The key and what is wrong with it: key, value, remedy.
pub fn read(raw: Option<&RawCanary>) -> Result<Option<Canary>, Refusal> {
    let Some(raw) = raw else { return Ok(None) };
    let time = |key: &'static str, given: &Option<super::schema::Scalar>, default: u64| match given
    {
        None => Ok(Duration::from_secs(default)),
        Some(text) => units::duration(&text.text())
            .filter(|time| (Duration::from_secs(1)..=Duration::from_secs(86400)).contains(time))
            .ok_or_else(|| (key, text.text(), "1s to 24h, as in 5m".to_owned())),
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

/// Whether a changed service runs beside the old one, or after it.
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

impl Check {
    fn parse(text: &str) -> Option<Self> {
        // A label's value may have what looks like a relation.
        let (metric, rest) = match text.rfind('}') {
            Some(at) => text.split_at(at + 1),
            None => text.split_at(text.find(['<', '>'])?),
        };
        let rest = rest.trim();
        let (sign, relation) = RELATIONS.iter().find(|(sign, _)| rest.starts_with(sign))?;
        let bound: f64 = rest[sign.len()..].trim().parse().ok()?;
        let (name, labels) = split_labels(metric.trim())?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let good = bound.is_finite() && !name.is_empty() && name.chars().all(word);
        good.then(|| Self { name: name.into(), labels, relation: *relation, bound })
    }

    /// Looks at a text of metrics (Prometheus text exposition format, version 0.0.4).
    ///
    /// # Errors
    /// One line: which sample does not hold, or that there is none.
    pub fn judge(&self, text: &str) -> Result<(), String> {
        let mut found = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let at = line.rfind('}').map_or_else(|| line.find(' '), |at| Some(at + 1));
            let Some((metric, value)) = at.map(|at| line.split_at(at)) else { continue };
            let Some((name, labels)) = split_labels(metric.trim()) else { continue };
            let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
            if name != self.name || !self.labels.iter().all(has) {
                continue;
            }
            found = true;
            let value = value.split_whitespace().next().and_then(|v| v.parse::<f64>().ok());
            let value = value.ok_or_else(|| format!("{line:?} has no value"))?;
            if !self.holds(value) {
                let (sign, _) =
                    RELATIONS.iter().find(|(_, it)| *it == self.relation).expect("all are listed");
                return Err(format!(
                    "{metric} is {value}, which is not {sign} {}",
                    self.bound,
                    metric = metric.trim()
                ));
            }
        }
        if found { Ok(()) } else { Err(format!("there is no metric {}", self.name)) }
    }

    fn holds(&self, value: f64) -> bool {
        match self.relation {
            Relation::Less => value < self.bound,
            Relation::AtMost => value <= self.bound,
            Relation::More => value > self.bound,
            Relation::AtLeast => value >= self.bound,
        }
    }
}

/// `name{a="b",c="d"}`.
fn split_labels(metric: &str) -> Option<(&str, BTreeMap<String, String>)> {
    let Some((name, rest)) = metric.split_once('{') else { return Some((metric, BTreeMap::new())) };
    let mut rest = rest.strip_suffix('}')?.trim_end_matches(',');
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        labels.insert(label.trim_start_matches(',').trim().into(), value);
        rest = after[end + 1..].trim_start_matches([',', ' ']);
    }
    Some((name.trim(), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x y\nerrors_total 3\nlatency{quantile=\"0.5\",path=\"/a}b\"} 0.1\nlatency{quantile=\"0.99\"} 0.7 1700000000\nempty{} NaN\n";

    fn judged(check: &str) -> Result<(), String> {
        Check::parse(check).unwrap().judge(TEXT)
    }

    #[test]
    fn every_sample_with_the_labels_must_hold() {
        assert_eq!(judged("errors_total <= 3"), Ok(()));
        assert_eq!(judged("errors_total<4"), Ok(()));
        assert_eq!(
            judged("errors_total <= 0").unwrap_err(),
            "errors_total is 3, which is not <= 0"
        );
        assert_eq!(judged("latency{quantile=\"0.5\"} < 0.2"), Ok(()));
        assert_eq!(judged("latency{path=\"/a}b\"} > 0"), Ok(()));
        assert!(judged("latency < 0.5").unwrap_err().contains("0.99"));
        assert!(judged("latency{quantile=\"0.9\"} < 1").unwrap_err().contains("no metric"));
        // What is no number holds for nothing.
        assert!(judged("empty >= 0").is_err());
        for bad in ["", "errors_total", "errors_total < x", "a b < 1", "a{b} < 1", "a < inf"] {
            assert!(Check::parse(bad).is_none(), "{bad}");
        }
    }
}
