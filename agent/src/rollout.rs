//! Versions of services. A changed service is on trial until it has proved itself; one that does not is not tried again,
//! and the version before it runs. Pure: what is seen comes in, verdicts come out; what is remembered is plain data.

use crate::compose::{self, FailureAction, Restart, Service};
use abi::hostplan::CorePlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A version that has proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of the service.
    pub fingerprint: String,
    /// What it was read from.
    pub source: String,
}

/// A version that has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Of the service.
    pub fingerprint: String,
    /// Why.
    pub why: String,
}

/// What is remembered over restarts of the agent and of the host, by service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The last version that proved itself.
    pub proven: BTreeMap<String, Version>,
    /// A version that did not, and is still declared.
    pub failed: BTreeMap<String, Failed>,
}

/// What is seen of a service on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// How long ago its trial began.
    pub age: Duration,
    /// How often it was started in it.
    pub starts: u32,
    /// Whether it runs.
    pub running: bool,
    /// With which status it ended.
    pub ended: Option<u32>,
    /// What its health check says, if it has one and it has said something.
    pub healthy: Option<bool>,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Time will tell.
    Pending,
    /// It is what runs from now on.
    Proven,
    /// It is not.
    Failed(String),
}

impl Memory {
    /// What is to run: what is declared, with the last proven version in the place of one that failed.
    pub fn effective(&self, declared: &[Service], cores: &CorePlan) -> Vec<Service> {
        let one = |service: &Service| {
            let has_failed = self
                .failed
                .get(&service.name)
                .is_some_and(|failed| failed.fingerprint == service.fingerprint());
            let before = self.proven.get(&service.name).filter(|_| has_failed);
            // What an earlier release accepted and this one does not can't come back.
            let before = before
                .and_then(|version| compose::parse_one(&service.name, &version.source, cores).ok());
            before.unwrap_or_else(|| service.clone())
        };
        declared.iter().map(one).collect()
    }

    /// Every version that can come back.
    pub fn proven(&self, cores: &CorePlan) -> Vec<Service> {
        let read = |(name, version): (&String, &Version)| {
            compose::parse_one(name, &version.source, cores).ok()
        };
        self.proven.iter().filter_map(read).collect()
    }

    /// Whether a service is still to prove itself.
    pub fn is_on_trial(&self, service: &Service) -> bool {
        let fingerprint = service.fingerprint();
        let proven = self.proven.get(&service.name);
        proven.is_none_or(|version| version.fingerprint != fingerprint)
    }

    /// It has proved itself.
    pub fn prove(&mut self, service: &Service) {
        let version =
            Version { fingerprint: service.fingerprint(), source: service.source.clone() };
        self.proven.insert(service.name.clone(), version);
    }

    /// It has not; says whether another version comes back.
    pub fn fail(&mut self, service: &Service, why: &str) -> bool {
        let is_left = service.conduct.failure_action == FailureAction::Continue;
        if is_left || !self.proven.contains_key(&service.name) {
            return false;
        }
        let failed = Failed { fingerprint: service.fingerprint(), why: why.into() };
        self.failed.insert(service.name.clone(), failed);
        true
    }

    /// Somebody declared these anew: what failed may try again, and what is not declared any more is forgotten.
    pub fn declare(&mut self, declared: &[Service]) {
        self.failed.clear();
        self.proven.retain(|name, _| declared.iter().any(|service| service.name == *name));
    }
}

/// Judges a service on trial by what is seen of it.
pub fn judge(service: &Service, sight: Sight) -> Verdict {
    let conduct = &service.conduct;
    if conduct.restart != Restart::Always
        && let Some(status) = sight.ended
    {
        return match status {
            0 => Verdict::Proven,
            status => Verdict::Failed(format!("it ended with {status}")),
        };
    }
    if sight.starts > 1 || sight.ended.is_some() {
        let status = sight.ended.map_or(String::new(), |status| format!(" with {status}"));
        return Verdict::Failed(format!("it ended{status} instead of running"));
    }
    let Some(health) = &conduct.health else {
        return match sight.running && sight.age >= conduct.monitor {
            true => Verdict::Proven,
            false => Verdict::Pending,
        };
    };
    let patience = conduct.monitor.max(health.start_period + health.interval * health.retries);
    match sight.healthy {
        Some(true) if sight.running => Verdict::Proven,
        Some(false) => Verdict::Failed("its health check fails".into()),
        _ if sight.age >= patience => {
            Verdict::Failed(format!("it is not healthy after {} s", patience.as_secs()))
        }
        _ => Verdict::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(image: &str, lines: &str) -> Service {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let text = format!("services:\n  a:\n    image: {image}\n    restart: always\n{lines}");
        compose::parse(&text, &cores).unwrap().remove(0)
    }

    fn sight(seconds: u64) -> Sight {
        let age = Duration::from_secs(seconds);
        Sight { age, starts: 1, running: true, ended: None, healthy: None }
    }

    #[test]
    fn a_version_that_fails_is_replaced_by_the_one_before_until_somebody_declares_anew() {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let (old, new) = (service("x:1", ""), service("x:2", ""));
        let mut memory = Memory::default();
        // Nothing to go back to.
        assert!(!memory.fail(&old, "so"));
        memory.prove(&old);
        assert!(memory.is_on_trial(&new) && !memory.is_on_trial(&old));
        let effective = |memory: &Memory, one: &Service| {
            memory.effective(std::slice::from_ref(one), &cores).remove(0)
        };
        assert_eq!(effective(&memory, &new), new);
        assert!(memory.fail(&new, "it ended"));
        assert_eq!(effective(&memory, &new), old);
        // A third one is tried, and after another declaration the second as well.
        let third = service("x:3", "");
        assert_eq!(effective(&memory, &third), third);
        let text = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), memory);
        memory.declare(std::slice::from_ref(&new));
        assert_eq!(effective(&memory, &new), new);
        memory.declare(&[]);
        assert_eq!(memory, Memory::default());
    }

    #[test]
    fn who_says_continue_stays() {
        let update = "    deploy: {update_config: {failure_action: continue}}\n";
        let mut memory = Memory::default();
        memory.prove(&service("x:1", ""));
        assert!(!memory.fail(&service("x:2", update), "so") && memory.failed.is_empty());
    }

    #[test]
    fn without_a_health_check_it_has_to_run_for_a_while() {
        let service = service("x", "    deploy: {update_config: {monitor: 20s}}\n");
        assert_eq!(judge(&service, sight(19)), Verdict::Pending);
        assert_eq!(judge(&service, sight(20)), Verdict::Proven);
        assert_eq!(judge(&service, Sight { running: false, ..sight(90) }), Verdict::Pending);
        let again = judge(&service, Sight { starts: 2, ..sight(3) });
        assert!(matches!(again, Verdict::Failed(_)));
    }

    #[test]
    fn with_one_it_proves_itself_by_it_and_not_by_time() {
        let service = service(
            "x",
            "    x-quietcore: {tcp: 1}\n    healthcheck: {interval: 5s, retries: 8, start_period: 1s}\n",
        );
        assert_eq!(judge(&service, Sight { healthy: Some(true), ..sight(1) }), Verdict::Proven);
        let down = Sight { healthy: Some(false), ..sight(1) };
        assert_eq!(judge(&service, down), Verdict::Failed("its health check fails".into()));
        assert_eq!(judge(&service, sight(40)), Verdict::Pending);
        assert_eq!(
            judge(&service, sight(41)),
            Verdict::Failed("it is not healthy after 41 s".into())
        );
    }

    #[test]
    fn a_task_that_is_to_end_proves_itself_by_its_end() {
        let task = service("x", "").source.replace("always", "\"no\"");
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let task = compose::parse_one("a", &task, &cores).unwrap();
        let ended = |status| Sight { running: false, ended: Some(status), ..sight(1) };
        assert_eq!(judge(&task, ended(0)), Verdict::Proven);
        assert_eq!(judge(&task, ended(3)), Verdict::Failed("it ended with 3".into()));
    }
}
