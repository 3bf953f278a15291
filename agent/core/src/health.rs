//! Health of containers: schedule of probes and what their results mean. No probe is made here.

use crate::compose::healthcheck::Health;
use crate::limits::PROBE_STARTING;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Health of one name: result, failures in a row and time of the next probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// Of the service that was looked at: another version starts from nothing.
    fingerprint: String,
    /// When it was first seen to run.
    since: Duration,
    /// The next look.
    due: Duration,
    /// A look is under way.
    looking: bool,
    failures: u32,
    healthy: Option<bool>,
}

/// Health by name: of instances, and of what else is looked at.
#[derive(Debug, Default)]
pub struct HealthTable {
    known: BTreeMap<String, Known>,
}

/// Subject of probes: a version of an instance, or its metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Its name in the book.
    pub name: String,
    /// The version: another one starts from nothing.
    pub fingerprint: String,
    /// Health check: probe, intervals and retries.
    pub health: Health,
}

/// Result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// Name of the subject.
    pub name: String,
    /// The version that was looked at.
    pub fingerprint: String,
    /// Failure in one line; none if the probe passed.
    pub wrong: Option<String>,
}

impl HealthTable {
    /// Returns true if this version is healthy, false if not, none before its first result.
    pub fn of(&self, name: &str, fingerprint: &str) -> Option<bool> {
        let known = self.known.get(name)?;
        known.healthy.filter(|_| known.fingerprint == fingerprint)
    }

    /// Those that are to be looked at now, of all that there are; they are noted as being looked
    /// at.
    pub fn due(&mut self, subjects: Vec<Subject>, now: Duration) -> Vec<Subject> {
        self.known.retain(|name, _| subjects.iter().any(|subject| subject.name == *name));
        let mut is_due = |subject: &Subject| {
            let known = self.known.entry(subject.name.clone()).or_default();
            if known.fingerprint != subject.fingerprint {
                let fingerprint = subject.fingerprint.clone();
                *known = Known { fingerprint, since: now, due: now, ..Known::default() };
            }
            let due = !known.looking && known.due <= now;
            known.looking |= due;
            due
        };
        subjects.into_iter().filter(|subject| is_due(subject)).collect()
    }

    /// Forgets the health of a name, because its container was started anew.
    pub fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// Takes what a look brought; says whether its health is another one now.
    pub fn note(&mut self, look: &ProbeResult, health: &Health, now: Duration) -> bool {
        let Some(known) = self.known.get_mut(&look.name) else { return false };
        if known.fingerprint != look.fingerprint {
            return false;
        }
        known.looking = false;
        let before = known.healthy;
        if look.wrong.is_none() {
            (known.failures, known.healthy) = (0, Some(true));
        } else if known.healthy.is_some() || now >= known.since + health.start_period {
            known.failures += 1;
            if known.failures >= health.retries {
                known.healthy = Some(false);
            }
        }
        let starting = known.healthy.is_none();
        let soon = health.start_interval.unwrap_or(PROBE_STARTING).min(health.interval);
        let pause = if starting { soon } else { health.interval };
        known.due = now + pause;
        known.healthy != before
    }
}

/// Unix socket of the probe worker: one JSON [`crate::compose::probe::Probe`] a line in, one
/// [`ProbeAnswer`] out.
pub const PROBE_SOCKET: &str = "/run/quietcore/probe/probe.sock";

/// Answer of the probe worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// Failure in one line; none if the probe passed.
    pub wrong: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::Service;
    use abi::hostplan::CorePlan;

    fn service(lines: &str) -> Service {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let text = format!("services:\n  a:\n    image: x\n{lines}");
        crate::compose::parse(&text, &cores).unwrap().remove(0)
    }

    #[test]
    fn failures_count_in_a_row_and_after_the_start() {
        let service = service(
            "    x-quietcore: {tcp: 1}\n    healthcheck: {interval: 10s, retries: 2, start_period: 5s}\n",
        );
        let health = service.policy.health.clone().unwrap();
        let second = Duration::from_secs(1);
        let mut book = HealthTable::default();
        let look = |book: &mut HealthTable, now: u32, wrong: Option<&str>| {
            let (name, fingerprint) = ("a".to_owned(), service.fingerprint());
            let subject = Subject { name, fingerprint, health: health.clone() };
            let due = book.due(vec![subject], second * now);
            let (name, fingerprint) = ("a".to_owned(), service.fingerprint());
            let look = ProbeResult { name, fingerprint, wrong: wrong.map(Into::into) };
            let changed = book.note(&look, &health, second * now);
            (due.len(), book.of("a", &service.fingerprint()), changed)
        };
        assert_eq!(look(&mut book, 0, Some("x")), (1, None, false));
        // Until it has been well once it is looked at each second.
        assert_eq!(look(&mut book, 1, Some("x")), (1, None, false));
        assert_eq!(look(&mut book, 2, None), (1, Some(true), true));
        assert_eq!(look(&mut book, 11, Some("x")), (0, Some(true), false));
        assert_eq!(look(&mut book, 21, Some("x")), (1, Some(false), true));
        assert_eq!(look(&mut book, 31, None), (1, Some(true), true));
        // Another version is not known yet.
        book.forget("a");
        assert_eq!(book.of("a", &service.fingerprint()), None);
        // In the start nothing counts.
        for now in 0..5 {
            assert_eq!(look(&mut book, now, Some("x")).1, None);
        }
        look(&mut book, 5, Some("x"));
        assert_eq!(look(&mut book, 6, Some("x")).1, Some(false));
    }
}
