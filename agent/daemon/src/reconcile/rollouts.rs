//! Trials of new versions: what is seen of each, what becomes of it, and what somebody says about
//! it.

use crate::reconcile::{Agent, Trial};
use agent_core::instance::Instance;
use agent_core::plan::{Task, container_of};
use agent_core::protocol::RolloutStep;
use agent_core::protocol::types::Level;
use agent_core::rollout::{RolloutState, TrialObservation, Verdict, decide};
use agent_host::files::write_whole;
use anyhow::{Context, Result, anyhow, bail};
use tracing::warn;

impl Agent {
    /// Loads the rollout state that an earlier agent wrote; a damaged or missing file gives the
    /// default.
    pub(super) fn remember(&mut self) {
        let path = &self.paths.versions;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        self.versions = serde_json::from_str(&text).unwrap_or_else(|error| {
            if !text.is_empty() {
                warn!("{}: {error}; versions prove themselves anew", path.display());
            }
            RolloutState::default()
        });
        self.versions.refresh(&self.cores);
        self.versions.count(&self.declared);
        self.wanted = self.instances();
    }

    pub(super) fn write_versions(&self) -> Result<()> {
        let path = &self.paths.versions;
        write_whole(path, &serde_json::to_string_pretty(&self.versions)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// Looks at each version on trial.
    pub(super) fn advance_trials(&mut self) {
        let before = self.versions.clone();
        for instance in self.wanted.clone() {
            let found = container_of(&self.observed, &instance);
            let found = found.and_then(|(_, observed)| observed.fingerprint.as_ref());
            let tried = self.trials.get(&instance.service.name).is_some_and(|trial| {
                trial.fingerprint == instance.fingerprint && trial.not_made > 0
            });
            // Once another one is proven, the one before it runs for a moment, and is on no trial.
            let is_declared = self.declared.iter().any(|service| {
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
        if self.versions != before
            && let Err(error) = self.write_versions()
        {
            warn!("{error:#}");
        }
    }

    /// Returns the trial of an instance's version, begun now if there is none. A trial that an
    /// earlier agent began counts from when this agent first saw it.
    pub(super) fn trial_of(&mut self, instance: &Instance) -> &mut Trial {
        let since = self.now();
        let trial = self.trials.entry(instance.service.name.clone()).or_default();
        if trial.fingerprint != instance.fingerprint {
            let fingerprint = instance.fingerprint.clone();
            *trial = Trial { fingerprint, since, ..Trial::default() };
        }
        trial
    }

    pub(super) fn is_on_trial(&self, instance: &Instance) -> bool {
        let proven = self.versions.proven.get(&instance.service.name);
        !self.throwaways.contains_key(&instance.id)
            && proven.is_none_or(|version| version.fingerprint != instance.fingerprint)
    }

    fn observe_trial(&mut self, instance: &Instance) {
        let (name, now) = (&instance.service.name, self.now());
        let trial = self.trial_of(instance).clone();
        let task = self.task(instance);
        let observation = TrialObservation {
            age: now.saturating_sub(trial.since),
            starts: trial.starts,
            running: task == Some(Task::Running),
            ended: match task {
                Some(Task::Stopped(status)) => Some(status),
                _ => None,
            },
            healthy: self.health.of(&instance.id, &instance.fingerprint),
            metrics: self.health.of(&instance.metrics_name(), &instance.fingerprint),
            paused: self.versions.paused.contains(name),
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
                self.trials.insert(name.clone(), anew);
                let Some(declared) = self.declared.iter().find(|service| service.name == *name)
                else {
                    return;
                };
                if self.versions.fail(&declared.clone(), &why) {
                    let image = &instance.service.image;
                    let text = format!(
                        "{image} is taken back, since {why}; the version before runs; apply again to try again"
                    );
                    self.problem(&format!("rollout {name}"), Some(text));
                }
            }
        }
    }

    fn prove(&mut self, instance: &Instance, how: &str) {
        let name = instance.service.name.clone();
        let Some(declared) = self.declared.iter().find(|service| service.name == name) else {
            return;
        };
        self.versions.prove(&declared.clone(), instance.slot);
        let text = format!("{} {how}", instance.service.image);
        self.log.record(Level::Info, &format!("rollout {name}"), &text);
    }

    /// Somebody says what becomes of a trial, or of the version that runs.
    pub(super) fn step_rollout(&mut self, name: &str, step: RolloutStep) -> Result<()> {
        let declared = self.declared.iter().find(|service| service.name == name).cloned();
        let declared = declared.with_context(|| format!("there is no service {name}"))?;
        let fingerprint = declared.fingerprint();
        let on_trial = self
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
                    RolloutStep::Pause => self.versions.paused.insert(name.into()),
                    _ => self.versions.paused.remove(name),
                };
            }
            RolloutStep::Promote => {
                let instance = on_trial.ok_or_else(nothing)?;
                if self.task(&instance) != Some(Task::Running) {
                    bail!("{name}: the version on trial does not run");
                }
                self.prove(&instance, "takes over, by hand");
            }
            RolloutStep::Undo => {
                self.versions.undo(&declared).map_err(anyhow::Error::msg)?;
                let text =
                    format!("{} is taken back by hand; apply again to try again", declared.image);
                self.problem(&format!("rollout {name}"), Some(text));
            }
        }
        self.wanted = self.instances();
        let said = format!("{step:?}").to_lowercase();
        self.log.record(
            Level::Info,
            &format!("rollout {name}"),
            &format!("{said}, asked for by hand"),
        );
        self.wake.notify_one();
        self.write_versions()
    }

    /// Returns the rollout state of an instance's service as text; `None` if nothing is on trial or
    /// taken back.
    pub(super) fn rollout_of(&self, instance: &Instance) -> Option<String> {
        let name = &instance.service.name;
        if let Some(failed) = self.versions.failed.get(name) {
            return Some(format!("taken back: {}", failed.why));
        }
        let beside = if instance.serving { "" } else { ", beside the version before" };
        let paused = if self.versions.paused.contains(name) { ", paused" } else { "" };
        self.is_on_trial(instance).then(|| format!("on trial{beside}{paused}"))
    }
}
