//! Versions of services. A changed service is on trial until it has proved itself; one that does
//! not is not tried again, and the version before it runs. Pure: what is seen comes in, verdicts
//! come out; what is remembered is plain data.

use crate::compose::{self, FailureAction, Order, Restart, Service};
use crate::instance::{Instance, Slot};
use abi::hostplan::CorePlan;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A version that has proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of the service.
    pub fingerprint: String,
    /// YAML source of the service, for its return after a failure or undo.
    pub source: String,
    /// Where it runs.
    #[serde(default)]
    pub slot: Slot,
    /// Generation of the version.
    #[serde(default)]
    pub generation: u64,
}

/// Generation of a service: counts its declared changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Of the service.
    pub fingerprint: String,
    /// 1 for the first.
    pub number: u64,
}

/// A version that has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Of the service.
    pub fingerprint: String,
    /// Reason of the failure.
    pub why: String,
}

/// Rollout state by service, kept over restarts of the agent and of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutState {
    /// The last version that proved itself.
    pub proven: BTreeMap<String, Version>,
    /// A version that did not, and is still declared.
    pub failed: BTreeMap<String, Failed>,
    /// The one that had proved itself before the last one did.
    #[serde(default)]
    pub before: BTreeMap<String, Version>,
    /// Trials that somebody holds: they go on until somebody lets them.
    #[serde(default)]
    pub paused: BTreeSet<String>,
    /// Generation of each declared service.
    #[serde(default)]
    pub generations: BTreeMap<String, Generation>,
}

/// Observation of a service on trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrialObservation {
    /// Time since its trial began.
    pub age: Duration,
    /// Starts in the trial: the first, and one for each time that it ended by itself.
    pub starts: u32,
    /// Whether it runs.
    pub running: bool,
    /// With which status it ended.
    pub ended: Option<u32>,
    /// True if the kernel killed a process of it for want of memory.
    pub out_of_memory: bool,
    /// Result of its health check; none without a check or before its first result.
    pub healthy: Option<bool>,
    /// Result of its metrics checks; none without checks or before their first result.
    pub metrics: Option<bool>,
    /// Somebody holds it.
    pub paused: bool,
    /// There is none beside it: others rely on it already.
    pub serving: bool,
    /// Failures in a row to make its container.
    pub not_made: u32,
}

/// Verdict on a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Time will tell.
    Pending,
    /// Trial passed: the version takes over.
    Proven,
    /// Trial failed, with the reason.
    Failed(String),
}

impl RolloutState {
    /// Returns the instances to run: the declared services, with the last proven version in place
    /// of a failed one, and beside one on trial with `start-first`.
    pub fn instances(&self, declared: &[Service], cores: &CorePlan) -> Vec<Instance> {
        let mut all = Vec::new();
        for service in declared {
            let name = &service.name;
            let slot = self.proven.get(name).map_or(Slot::Blue, |version| version.slot);
            // What an earlier release accepted and this one does not can't come back.
            let before = self.proven.get(name).filter(|_| self.is_on_trial(service));
            let before = before.and_then(|it| compose::parse_one(name, &it.source, cores).ok());
            let beside = service.policy.order == Order::StartFirst;
            match before {
                Some(before) if self.has_failed(service) => {
                    all.push(Instance::new(&before, slot, true));
                }
                Some(before) if beside => {
                    all.push(Instance::new(&before, slot, true));
                    all.push(Instance::new(service, slot.other(), false));
                }
                _ => all.push(Instance::new(service, slot, true)),
            }
        }
        all
    }

    fn has_failed(&self, service: &Service) -> bool {
        let failed = self.failed.get(&service.name);
        failed.is_some_and(|failed| failed.fingerprint == service.fingerprint())
    }

    /// Every version that can come back.
    pub fn proven(&self, cores: &CorePlan) -> Vec<Service> {
        let read = |(name, version): (&String, &Version)| {
            compose::parse_one(name, &version.source, cores).ok()
        };
        self.proven.iter().chain(&self.before).filter_map(read).collect()
    }

    /// Whether a service is still to prove itself.
    pub fn is_on_trial(&self, service: &Service) -> bool {
        let fingerprint = service.fingerprint();
        let proven = self.proven.get(&service.name);
        proven.is_none_or(|version| version.fingerprint != fingerprint)
    }

    /// Records that a version has proved itself in this slot; the proven one before is kept for
    /// undo.
    pub fn prove(&mut self, service: &Service, slot: Slot) {
        let (fingerprint, source) = (service.fingerprint(), service.source.clone());
        let generation = self.generation_of(&service.name, &fingerprint);
        let version = Version { fingerprint, source, slot, generation };
        if let Some(before) = self.proven.insert(service.name.clone(), version) {
            self.before.insert(service.name.clone(), before);
        }
        self.paused.remove(&service.name);
    }

    /// Somebody takes a declared version back, which is on trial or has proved itself.
    ///
    /// # Errors
    /// There is none to go back to.
    pub fn undo(&mut self, service: &Service) -> Result<(), String> {
        let name = &service.name;
        if self.has_failed(service) {
            return Err(format!("{name}: the version before runs already"));
        }
        if !self.is_on_trial(service) {
            let nothing = || format!("{name}: there is no version before this one");
            let slot = self.proven.get(name).map_or(Slot::Blue, |version| version.slot);
            let before = self.before.remove(name).ok_or_else(nothing)?;
            // It takes the place of the one that runs.
            self.proven.insert(name.clone(), Version { slot, ..before });
        } else if !self.proven.contains_key(name) {
            return Err(format!("{name}: there is no version before this one"));
        }
        let failed = Failed { fingerprint: service.fingerprint(), why: "undone by hand".into() };
        self.failed.insert(name.clone(), failed);
        self.paused.remove(name);
        Ok(())
    }

    /// The number of a service's version: of what is declared, or of one before it.
    pub fn generation_of(&self, name: &str, fingerprint: &str) -> u64 {
        let declared = self.generations.get(name).map(|it| (&it.fingerprint, it.number));
        let earlier = [&self.proven, &self.before].into_iter().filter_map(|all| all.get(name));
        let mut known =
            declared.into_iter().chain(earlier.map(|it| (&it.fingerprint, it.generation)));
        known.find(|(known, _)| *known == fingerprint).map_or(1, |(_, number)| number)
    }

    /// Another release of the OS may give a version another fingerprint.
    pub fn refresh(&mut self, cores: &CorePlan) {
        for (name, version) in self.proven.iter_mut().chain(&mut self.before) {
            if let Ok(service) = compose::parse_one(name, &version.source, cores) {
                version.fingerprint = service.fingerprint();
            }
        }
    }

    /// Records that a version failed; returns true if the proven one comes back in its place.
    pub fn fail(&mut self, service: &Service, why: &str) -> bool {
        let is_left = service.policy.failure_action == FailureAction::Continue;
        if is_left || !self.proven.contains_key(&service.name) {
            return false;
        }
        let failed = Failed { fingerprint: service.fingerprint(), why: why.into() };
        self.failed.insert(service.name.clone(), failed);
        true
    }

    /// Somebody declared these anew: what failed may try again, and what is not declared any more
    /// is forgotten.
    pub fn declare(&mut self, declared: &[Service]) {
        self.failed.clear();
        let generations = &self.generations;
        self.paused.retain(|name| {
            let same = |service: &&Service| {
                let before = generations.get(name);
                service.name == *name
                    && before.is_some_and(|it| it.fingerprint == service.fingerprint())
            };
            declared.iter().any(|service| same(&service))
        });
        let is_declared = |name: &str| declared.iter().any(|service| service.name == name);
        self.proven.retain(|name, _| is_declared(name));
        self.before.retain(|name, _| is_declared(name));
        self.count(declared);
    }

    /// Counts what is declared and was not before.
    pub fn count(&mut self, declared: &[Service]) {
        for service in declared {
            // Another runtime policy makes no other version: what comes back has the last one.
            if let Some(proven) = self.proven.get_mut(&service.name)
                && proven.fingerprint == service.fingerprint()
            {
                proven.source.clone_from(&service.source);
            }
            let (fingerprint, number) = (service.fingerprint(), 0);
            let generation = self.generations.entry(service.name.clone());
            let generation =
                generation.or_insert(Generation { fingerprint: String::new(), number });
            if generation.fingerprint != fingerprint {
                *generation = Generation { fingerprint, number: generation.number + 1 };
            }
        }
    }
}

/// A version that containerd can't make so often in a row is a bad one: once may be containerd's
/// own fault.
const NOT_MADE_MAX: u32 = 3;

/// Judges a service on trial by what is seen of it.
pub fn decide(service: &Service, observation: TrialObservation) -> Verdict {
    if observation.metrics == Some(false) {
        return Verdict::Failed("its metrics are not as they must be".into());
    }
    if observation.not_made >= NOT_MADE_MAX {
        return Verdict::Failed("it can't be made".into());
    }
    let verdict = decide_unattended(service, observation);
    // Where there is none beside it, nobody could say that it is better.
    let canary = service.policy.canary.as_ref().filter(|_| !observation.serving);
    match (&verdict, canary) {
        (Verdict::Failed(_) | Verdict::Pending, _) => verdict,
        (Verdict::Proven, _) if observation.paused => Verdict::Pending,
        (Verdict::Proven, Some(canary)) => {
            let is_done = observation.age >= canary.bake && !canary.by_hand;
            match observation.metrics {
                None if canary.metrics.is_some() => Verdict::Pending,
                _ if is_done => Verdict::Proven,
                _ => Verdict::Pending,
            }
        }
        (Verdict::Proven, None) => verdict,
    }
}

fn decide_unattended(service: &Service, observation: TrialObservation) -> Verdict {
    let policy = &service.policy;
    let why = if observation.out_of_memory { ", out of memory" } else { "" };
    if policy.restart != Restart::Always
        && let Some(status) = observation.ended
    {
        return match status {
            0 => Verdict::Proven,
            status => Verdict::Failed(format!("it ended with {status}{why}")),
        };
    }
    if observation.starts > 1 || observation.ended.is_some() {
        let status = observation.ended.map_or(String::new(), |status| format!(" with {status}"));
        return Verdict::Failed(format!("it ended{status} instead of running{why}"));
    }
    let Some(health) = &policy.health else {
        return match observation.running && observation.age >= policy.monitor {
            true => Verdict::Proven,
            false => Verdict::Pending,
        };
    };
    let patience = policy.monitor.max(health.start_period + health.interval * health.retries);
    match observation.healthy {
        Some(true) if observation.running => Verdict::Proven,
        Some(false) => Verdict::Failed("its health check fails".into()),
        _ if observation.age >= patience => {
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

    fn observation(seconds: u64) -> TrialObservation {
        let age = Duration::from_secs(seconds);
        TrialObservation { age, starts: 1, running: true, ..TrialObservation::default() }
    }

    #[test]
    fn a_version_that_fails_is_replaced_by_the_one_before_until_somebody_declares_anew() {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let (old, new) = (service("x:1", ""), service("x:2", ""));
        let mut memory = RolloutState::default();
        // Nothing to go back to.
        assert!(!memory.fail(&old, "so"));
        memory.prove(&old, Slot::Blue);
        assert!(memory.is_on_trial(&new) && !memory.is_on_trial(&old));
        let effective = |memory: &RolloutState, one: &Service| {
            memory.instances(std::slice::from_ref(one), &cores).remove(0).service
        };
        assert_eq!(effective(&memory, &new), new);
        assert!(memory.fail(&new, "it ended"));
        assert_eq!(effective(&memory, &new), old);
        // A third one is tried, and after another declaration the second as well.
        let third = service("x:3", "");
        assert_eq!(effective(&memory, &third), third);
        let text = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<RolloutState>(&text).unwrap(), memory);
        memory.declare(std::slice::from_ref(&new));
        assert_eq!(effective(&memory, &new), new);
        memory.declare(&[]);
        assert!(memory.proven.is_empty() && memory.failed.is_empty());
        // Numbers go on, so that nobody takes one generation's output for another's.
        assert_eq!(memory.generation_of("a", &new.fingerprint()), 1);
        memory.declare(std::slice::from_ref(&third));
        assert_eq!(memory.generation_of("a", &third.fingerprint()), 2);
    }

    const BESIDE: &str = "    deploy: {update_config: {order: start-first, monitor: 5s}}\n";

    fn ids(memory: &RolloutState, service: &Service) -> Vec<(String, String, bool)> {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let all = memory.instances(std::slice::from_ref(service), &cores);
        all.into_iter().map(|it| (it.id, it.service.image, it.serving)).collect()
    }

    fn one(id: &str, image: &str, serving: bool) -> (String, String, bool) {
        (id.into(), image.into(), serving)
    }

    #[test]
    fn a_version_beside_takes_over_or_leaves_and_the_one_before_runs_all_along() {
        let versions = ["x:1", "x:2", "x:3"].map(|image| service(image, BESIDE));
        let [first, second, third] = &versions;
        let mut memory = RolloutState::default();
        assert_eq!(ids(&memory, first), [one("a", "x:1", true)]);
        memory.prove(first, Slot::Blue);
        let both = [one("a", "x:1", true), one("a.green", "x:2", false)];
        assert_eq!(ids(&memory, second), both);
        memory.prove(second, Slot::Green);
        assert_eq!(ids(&memory, second), [one("a.green", "x:2", true)]);
        // The next one comes beside that.
        let both = [one("a.green", "x:2", true), one("a", "x:3", false)];
        assert_eq!(ids(&memory, third), both);
        assert!(memory.fail(third, "so"));
        assert_eq!(ids(&memory, third), [one("a.green", "x:2", true)]);
        assert!(memory.undo(third).unwrap_err().contains("already"));
        // What has proved itself can be undone once: to the one before.
        memory.declare(std::slice::from_ref(second));
        memory.undo(second).unwrap();
        assert_eq!(ids(&memory, second), [one("a.green", "x:1", true)]);
        let mut fresh = RolloutState::default();
        assert!(fresh.undo(first).unwrap_err().contains("no version before"));
    }

    #[test]
    fn a_canary_bakes_and_its_metrics_are_looked_at() {
        let canary = |more: &str| {
            service(
                "x",
                &format!(
                    "    x-quietcore: {{ports: {{1: 2}}, canary: {{bake: 60s{more}}}}}\n    deploy: {{update_config: {{monitor: 5s}}}}\n"
                ),
            )
        };
        let plain = canary("");
        assert_eq!(decide(&plain, observation(59)), Verdict::Pending);
        assert_eq!(decide(&plain, observation(60)), Verdict::Proven);
        assert_eq!(
            decide(&plain, TrialObservation { paused: true, ..observation(90) }),
            Verdict::Pending
        );
        assert_eq!(decide(&canary(", promote: manual"), observation(900)), Verdict::Pending);
        let measured =
            canary(", metrics: \"http://127.0.0.1:1/m\", checks: [\"errors_total <= 0\"]");
        assert_eq!(decide(&measured, observation(90)), Verdict::Pending);
        let says = |metrics| {
            decide(&measured, TrialObservation { metrics: Some(metrics), ..observation(90) })
        };
        assert_eq!(says(true), Verdict::Proven);
        assert!(matches!(says(false), Verdict::Failed(_)));
        // The first version has none beside it.
        let first = TrialObservation { serving: true, ..observation(60) };
        assert_eq!(decide(&measured, first), Verdict::Proven);
        let bad = TrialObservation { running: false, not_made: 3, ..observation(1) };
        assert_eq!(decide(&plain, bad), Verdict::Failed("it can't be made".into()));
        // A pause holds nobody up who fails.
        let ended = TrialObservation { paused: true, starts: 2, ..observation(9) };
        assert!(matches!(decide(&plain, ended), Verdict::Failed(_)));
    }

    #[test]
    fn who_says_continue_stays() {
        let update = "    deploy: {update_config: {failure_action: continue}}\n";
        let mut memory = RolloutState::default();
        memory.prove(&service("x:1", ""), Slot::Blue);
        assert!(!memory.fail(&service("x:2", update), "so") && memory.failed.is_empty());
    }

    #[test]
    fn without_a_health_check_it_has_to_run_for_a_while() {
        let service = service("x", "    deploy: {update_config: {monitor: 20s}}\n");
        assert_eq!(decide(&service, observation(19)), Verdict::Pending);
        assert_eq!(decide(&service, observation(20)), Verdict::Proven);
        assert_eq!(
            decide(&service, TrialObservation { running: false, ..observation(90) }),
            Verdict::Pending
        );
        let again = decide(&service, TrialObservation { starts: 2, ..observation(3) });
        assert!(matches!(again, Verdict::Failed(_)));
    }

    #[test]
    fn with_one_it_proves_itself_by_it_and_not_by_time() {
        let service = service(
            "x",
            "    x-quietcore: {tcp: 1}\n    healthcheck: {interval: 5s, retries: 8, start_period: 1s}\n",
        );
        assert_eq!(
            decide(&service, TrialObservation { healthy: Some(true), ..observation(1) }),
            Verdict::Proven
        );
        let down = TrialObservation { healthy: Some(false), ..observation(1) };
        assert_eq!(decide(&service, down), Verdict::Failed("its health check fails".into()));
        assert_eq!(decide(&service, observation(40)), Verdict::Pending);
        assert_eq!(
            decide(&service, observation(41)),
            Verdict::Failed("it is not healthy after 41 s".into())
        );
    }

    #[test]
    fn a_task_that_is_to_end_proves_itself_by_its_end() {
        let task = service("x", "").source.replace("always", "\"no\"");
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let task = compose::parse_one("a", &task, &cores).unwrap();
        let ended =
            |status| TrialObservation { running: false, ended: Some(status), ..observation(1) };
        assert_eq!(decide(&task, ended(0)), Verdict::Proven);
        assert_eq!(decide(&task, ended(3)), Verdict::Failed("it ended with 3".into()));
        let hungry = TrialObservation { out_of_memory: true, ..ended(137) };
        let why = "it ended with 137, out of memory";
        assert_eq!(decide(&task, hungry), Verdict::Failed(why.into()));
    }
}
