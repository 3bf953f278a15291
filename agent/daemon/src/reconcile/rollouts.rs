//! Trials of new versions: what is seen of each, what becomes of it, and what somebody says about
//! it.

use crate::reconcile::Agent;
use agent_core::compose::Service;
use agent_core::instance::Instance;
use agent_core::plan::{Task, container_of};
use agent_core::protocol::RolloutStep;
use agent_core::protocol::types::Level;
use agent_core::rollout::{RolloutState, TrialObservation, Verdict, decide};
use agent_host::files::write_private;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::warn;

/// Version of a service that is to prove itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Trial {
    fingerprint: String,
    since: Duration,
    pub(super) starts: u32,
    pub(super) not_made: u32,
}

/// Declared services, their versions, and the trials of new ones.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    /// Services of the compose file in force.
    pub services: Vec<Service>,
    /// Proven, failed and paused versions.
    pub versions: RolloutState,
    /// Trials by service.
    pub trials: BTreeMap<String, Trial>,
    /// Time at which a compose file that was applied on trial is taken back.
    pub try_until: Option<Duration>,
}

impl Rollouts {
    /// Declared service of this name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// Number of an instance's version.
    pub fn generation_of(&self, instance: &Instance) -> u64 {
        self.versions.generation_of(&instance.service.name, &instance.fingerprint)
    }

    /// Returns the trial of an instance's version, begun now if there is none. A trial that an
    /// earlier agent began counts from when this agent first saw it.
    pub fn trial_of(&mut self, instance: &Instance, now: Duration) -> &mut Trial {
        let trial = self.trials.entry(instance.service.name.clone()).or_default();
        if trial.fingerprint != instance.fingerprint {
            let fingerprint = instance.fingerprint.clone();
            *trial = Trial { fingerprint, since: now, ..Trial::default() };
        }
        trial
    }
}

impl Agent {
    /// Loads the rollout state that an earlier agent wrote; a damaged or missing file gives the
    /// default.
    pub(super) fn remember(&mut self) {
        let path = &self.paths.versions;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        self.rollouts.versions = serde_json::from_str(&text).unwrap_or_else(|error| {
            if !text.is_empty() {
                warn!("{}: {error}; versions prove themselves anew", path.display());
            }
            RolloutState::default()
        });
        self.rollouts.versions.refresh(&self.cores);
        self.rollouts.versions.count(&self.rollouts.services);
        self.table.wanted = self.instances();
    }

    pub(super) fn write_versions(&self) -> Result<()> {
        let path = &self.paths.versions;
        write_private(path, &serde_json::to_string_pretty(&self.rollouts.versions)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// Looks at each version on trial.
    pub(super) fn advance_trials(&mut self) {
        let before = self.rollouts.versions.clone();
        for instance in self.table.wanted.clone() {
            let found = container_of(&self.table.observed, &instance);
            let found = found.and_then(|(_, observed)| observed.fingerprint.as_ref());
            let tried = self.rollouts.trials.get(&instance.service.name).is_some_and(|trial| {
                trial.fingerprint == instance.fingerprint && trial.not_made > 0
            });
            // Once another one is proven, the one before it runs for a moment, and is on no trial.
            let is_declared = self.rollouts.services.iter().any(|service| {
                service.name == instance.service.name
                    && service.fingerprint() == instance.fingerprint
            });
            if is_declared
                && self.is_on_trial(&instance)
                && (tried || found == Some(&instance.fingerprint))
            {
                self.observe_trial(&instance);
            }
        }
        if self.rollouts.versions != before
            && let Err(error) = self.write_versions()
        {
            warn!("{error:#}");
        }
    }

    pub(super) fn is_on_trial(&self, instance: &Instance) -> bool {
        let proven = self.rollouts.versions.proven.get(&instance.service.name);
        !self.debug_containers.contains_key(&instance.id)
            && proven.is_none_or(|version| version.fingerprint != instance.fingerprint)
    }

    fn observe_trial(&mut self, instance: &Instance) {
        let (name, now) = (&instance.service.name, self.now());
        let trial = self.rollouts.trial_of(instance, now).clone();
        let task = self.table.task(instance);
        let observation = TrialObservation {
            age: now.saturating_sub(trial.since),
            starts: trial.starts,
            running: task == Some(Task::Running),
            ended: match task {
                Some(Task::Stopped(status)) => Some(status),
                _ => None,
            },
            out_of_memory: self.table.is_out_of_memory(instance),
            healthy: self.table.health.of(&instance.id, &instance.fingerprint),
            metrics: self.table.health.of(&instance.metrics_name(), &instance.fingerprint),
            paused: self.rollouts.versions.paused.contains(name),
            serving: instance.serving,
            not_made: trial.not_made,
        };
        match decide(&instance.service, observation) {
            Verdict::Pending => {}
            Verdict::Proven => self.prove(instance, "has proved itself"),
            Verdict::Failed(why) => {
                // With none before it, it goes on trying.
                let fingerprint = instance.fingerprint.clone();
                let anew = Trial { fingerprint, since: now, starts: 1, not_made: 0 };
                self.rollouts.trials.insert(name.clone(), anew);
                let Some(declared) = self.rollouts.service(name) else {
                    return;
                };
                if self.rollouts.versions.fail(&declared.clone(), &why) {
                    let image = &instance.service.image;
                    let text = format!(
                        "{image} is taken back, since {why}; the version before runs; apply again to try again"
                    );
                    self.problems.set(&format!("rollout {name}"), Some(text));
                }
            }
        }
    }

    fn prove(&mut self, instance: &Instance, how: &str) {
        let name = instance.service.name.clone();
        let Some(declared) = self.rollouts.service(&name) else {
            return;
        };
        self.rollouts.versions.prove(&declared.clone(), instance.slot);
        let text = format!("{} {how}", instance.service.image);
        self.log.record(Level::Info, &format!("rollout {name}"), &text);
    }

    /// Somebody says what becomes of a trial, or of the version that runs.
    pub(super) fn step_rollout(&mut self, name: &str, step: RolloutStep) -> Result<()> {
        let declared = self.rollouts.service(name).cloned();
        let declared = declared.with_context(|| format!("there is no service {name}"))?;
        let fingerprint = declared.fingerprint();
        let on_trial = self
            .table
            .wanted
            .iter()
            .find(|it| it.fingerprint == fingerprint && it.service.name == name)
            .filter(|it| self.is_on_trial(it))
            .cloned();
        let nothing = || anyhow!("{name}: no version is on trial");
        match step {
            RolloutStep::Pause | RolloutStep::Resume => {
                on_trial.ok_or_else(nothing)?;
                match step {
                    RolloutStep::Pause => self.rollouts.versions.paused.insert(name.into()),
                    _ => self.rollouts.versions.paused.remove(name),
                };
            }
            RolloutStep::Promote => {
                let instance = on_trial.ok_or_else(nothing)?;
                if self.table.task(&instance) != Some(Task::Running) {
                    bail!("{name}: the version on trial does not run");
                }
                self.prove(&instance, "takes over, by hand");
            }
            RolloutStep::Undo => {
                self.rollouts.versions.undo(&declared).map_err(anyhow::Error::msg)?;
                let text =
                    format!("{} is taken back by hand; apply again to try again", declared.image);
                self.problems.set(&format!("rollout {name}"), Some(text));
            }
        }
        self.table.wanted = self.instances();
        let said = format!("{step:?}").to_lowercase();
        self.log.record(
            Level::Info,
            &format!("rollout {name}"),
            &format!("{said}, asked for by hand"),
        );
        self.link.wake.notify_one();
        self.write_versions()
    }

    /// Returns the rollout state of an instance's service as text; `None` if nothing is on trial or
    /// taken back.
    pub(super) fn rollout_of(&self, instance: &Instance) -> Option<String> {
        let name = &instance.service.name;
        if let Some(failed) = self.rollouts.versions.failed.get(name) {
            return Some(format!("taken back: {}", failed.why));
        }
        let beside = if instance.serving { "" } else { ", beside the version before" };
        let paused = if self.rollouts.versions.paused.contains(name) { ", paused" } else { "" };
        self.is_on_trial(instance).then(|| format!("on trial{beside}{paused}"))
    }
}
