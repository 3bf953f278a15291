//! The agent's containers: what is declared, what is to run of it, and the way there.

use super::{Agent, Trial};
use crate::compose::{self, Service};
use crate::containerd::{Containerd, ContainerdError};
use crate::events::Level;
use crate::files::write_whole;
use crate::health::{Look, look};
use crate::limits::{ENGINE_STOP_WAIT, STOP_GRACE};
use crate::plan::{Action, Task, is_over, plan};
use crate::rollout::{Memory, Sight, Verdict, judge};
use crate::status::{Container, Engine};
use crate::supply::Missing;
use crate::tail::Tail;
use crate::volumes;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// What is another, by service.
fn changes(before: &[Service], after: &[Service]) -> Vec<String> {
    let find = |all: &[Service], name: &str| all.iter().find(|one| one.name == name).cloned();
    let names: BTreeSet<&str> =
        before.iter().chain(after).map(|service| service.name.as_str()).collect();
    let line = |name: &str| match (find(before, name), find(after, name)) {
        (None, Some(new)) => format!("+ {name}: {}", new.image),
        (Some(_), None) => format!("- {name}"),
        (Some(old), Some(new)) if old.fingerprint() != new.fingerprint() => {
            format!("~ {name}: {}, made anew", new.image)
        }
        (Some(old), Some(new)) if old.conduct != new.conduct => {
            format!("~ {name}: {}, the container stays", new.image)
        }
        _ => format!("= {name}"),
    };
    names.into_iter().map(line).collect()
}

impl Agent {
    pub(super) async fn reconcile_containers(&mut self) -> Result<()> {
        let mut containerd = match self.containerd.take() {
            Some(containerd) => containerd,
            None => self.connect().await?,
        };
        let result = self.converge(&mut containerd).await;
        self.containerd = Some(containerd);
        result
    }

    async fn connect(&mut self) -> Result<Containerd> {
        let mut containerd = Containerd::connect(&self.paths.containerd).await?;
        self.supply.import_shipped(&mut containerd).await?;
        containerd.adopt().await?;
        let (watcher, wake) = (containerd.watcher(), self.wake.clone());
        tokio::spawn(async move { watcher.watch(|| wake.notify_one()).await });
        Ok(containerd)
    }

    async fn converge(&mut self, containerd: &mut Containerd) -> Result<()> {
        self.observed = containerd.observe().await?;
        if self.judge_trials() {
            self.wanted = self.versions.effective(&self.declared, &self.cores);
        }
        self.bring_images(containerd).await;
        let may_start =
            |service: &Service| containerd.has_image(&service.image) && self.is_its_turn(service);
        let is_unwell = |service: &Service| self.health.of(service) == Some(false);
        let now = self.now();
        let actions =
            plan(&self.wanted, &self.observed, &self.history, &may_start, &is_unwell, now);
        for action in &actions {
            let (Action::Remove(name) | Action::Create(name)) = action;
            // One container that can't be had does not keep the others waiting.
            let done = self.act(containerd, action).await.err().map(|error| error.to_string());
            // That the old one is gone does not say that the new one runs.
            if done.is_some() || matches!(action, Action::Create(_)) {
                self.problem(&format!("container {name}"), done);
            }
        }
        if !actions.is_empty() {
            self.observed = containerd.observe().await?;
        }
        self.look_around();
        if self.wanted.iter().all(|service| self.is_up(service)) {
            let proven = self.versions.proven(&self.cores);
            let services = [self.declared.as_slice(), &self.wanted, &proven];
            self.supply.collect(containerd, &services).await?;
        }
        Ok(())
    }

    /// The images of what is to run, and what keeps them from being here.
    async fn bring_images(&mut self, containerd: &mut Containerd) {
        let missing = self.supply.bring(containerd, &self.wanted).await;
        let images: BTreeSet<String> =
            self.wanted.iter().map(|service| service.image.clone()).collect();
        for image in images {
            let about = format!("image {image}");
            match missing.get(&image) {
                Some(Missing::Refused(why)) => self.problem(&about, Some(why.clone())),
                Some(Missing::Fetching(how_far)) => {
                    self.problems.insert(about, how_far.clone());
                }
                None => self.problem(&about, None),
            }
        }
    }

    async fn act(
        &mut self,
        containerd: &Containerd,
        action: &Action,
    ) -> Result<(), ContainerdError> {
        match action {
            Action::Remove(name) => {
                let (signal, grace) = self.ending(name);
                self.health.forget(name);
                containerd.remove(name, signal, grace).await?;
                self.log.say(Level::Info, &format!("container {name}"), &self.end_of(name));
                Ok(())
            }
            Action::Create(name) => {
                let now = self.now();
                self.history.entry(name.clone()).or_default().note_start(now);
                let service = self
                    .wanted
                    .iter()
                    .find(|service| service.name == *name)
                    .expect("planned from what is wanted");
                volumes::prepare(service).map_err(ContainerdError::Volume)?;
                let tail = self
                    .tails
                    .entry(name.clone())
                    .or_insert_with(|| Tail::new(&self.paths.logs, name));
                let pid = containerd.create(service, tail.log()).await?;
                let fingerprint = service.fingerprint();
                let trial = self.trials.entry(name.clone()).or_default();
                if trial.fingerprint != fingerprint {
                    *trial = Trial { fingerprint, since: now, starts: 0 };
                }
                trial.starts += 1;
                let text = format!(
                    "started from {}, process {pid}, CPUs {}",
                    service.image, service.cpuset
                );
                self.log.say(Level::Info, &format!("container {name}"), &text);
                Ok(())
            }
        }
    }

    /// Containers outlive the agent, but not the host: when it goes down they get their signal and their time,
    /// instead of being killed with whatever is left.
    pub(super) async fn leave(&mut self) {
        let stopping = tokio::process::Command::new("systemctl").arg("is-system-running").output();
        let is_stopping = stopping.await.is_ok_and(|output| output.stdout.starts_with(b"stopping"));
        let Some(containerd) = self.containerd.as_ref().filter(|_| is_stopping) else { return };
        // The engines cancel their orders first, perhaps through a container.
        let start = Instant::now();
        let runs = |engine: Engine| PathBuf::from(format!("/proc/{}", engine.pid)).exists();
        while self.engines().into_iter().any(runs) && start.elapsed() < ENGINE_STOP_WAIT {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut stops = tokio::task::JoinSet::new();
        let names: Vec<String> = self.observed.keys().cloned().collect();
        for name in names {
            let (containerd, (signal, grace)) = (containerd.watcher(), self.ending(&name));
            stops.spawn(async move {
                let stopped = containerd.remove(&name, signal, grace).await;
                info!(container = name, "the host stops: {name}: {stopped:?}");
            });
        }
        stops.join_all().await;
    }

    /// What was seen of a container that is taken away.
    fn end_of(&self, name: &str) -> String {
        match self.observed.get(name).and_then(|observed| observed.task) {
            Some(Task::Stopped(status)) => format!("taken away; it had ended with {status}"),
            Some(Task::Running) => "taken away".into(),
            Some(Task::Created) | None => "taken away; it did not run".into(),
        }
    }

    /// The signal that asks a container to end, and how long it has.
    fn ending(&self, name: &str) -> (u32, Duration) {
        let known = self.wanted.iter().find(|service| service.name == name);
        let conduct =
            known.map(|service| (service.conduct.stop_signal, service.conduct.stop_grace));
        conduct.unwrap_or((nix::libc::SIGTERM as u32, STOP_GRACE))
    }

    /// A file that is refused changes nothing. Says what is another than before, by service.
    pub(super) fn apply(&mut self, text: &str, dry_run: bool) -> Result<Vec<String>> {
        let services = compose::parse(text, &self.cores)?;
        for service in &services {
            self.supply.check(self.containerd.as_ref(), &service.image)?;
        }
        let changes = changes(&self.declared, &services);
        if dry_run {
            return Ok(changes);
        }
        write_whole(&self.paths.applied, text)?;
        self.log.say(Level::Info, "compose", &format!("applied, {} services", services.len()));
        self.declared = services;
        self.versions.declare(&self.declared);
        self.wanted.clone_from(&self.declared);
        self.trials.clear();
        self.supply.changed();
        self.wake.notify_one();
        self.write_versions()?;
        Ok(changes)
    }

    /// What was proved before this agent started.
    pub(super) fn remember(&mut self) {
        let path = &self.paths.versions;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        self.versions = serde_json::from_str(&text).unwrap_or_else(|error| {
            if !text.is_empty() {
                warn!("{}: {error}; versions prove themselves anew", path.display());
            }
            Memory::default()
        });
        self.wanted = self.versions.effective(&self.declared, &self.cores);
    }

    fn write_versions(&self) -> Result<()> {
        let path = &self.paths.versions;
        write_whole(path, &serde_json::to_string_pretty(&self.versions)?)
            .with_context(|| format!("write {}", path.display()))
    }

    fn task(&self, service: &Service) -> Option<Task> {
        let observed = self.observed.get(&service.name)?;
        observed.task.filter(|_| observed.fingerprint.as_ref() == Some(&service.fingerprint()))
    }

    /// Looks at each version on trial; says whether one has failed.
    fn judge_trials(&mut self) -> bool {
        let (now, before) = (self.now(), self.versions.clone());
        let mut failed = false;
        for service in self.wanted.clone() {
            let (name, task) = (&service.name, self.task(&service));
            let fingerprint = service.fingerprint();
            let found = self.observed.get(name).and_then(|observed| observed.fingerprint.as_ref());
            if !self.versions.is_on_trial(&service) || found != Some(&fingerprint) {
                continue;
            }
            // What an earlier agent started began its trial when this one saw it.
            let trial = self.trials.entry(name.clone()).or_default();
            if trial.fingerprint != fingerprint {
                *trial = Trial { fingerprint, since: now, starts: 1 };
            }
            let sight = Sight {
                age: now.saturating_sub(trial.since),
                starts: trial.starts,
                running: task == Some(Task::Running),
                ended: match task {
                    Some(Task::Stopped(status)) => Some(status),
                    _ => None,
                },
                healthy: self.health.of(&service),
            };
            match judge(&service, sight) {
                Verdict::Pending => {}
                Verdict::Proven => {
                    let text = format!("{} has proved itself", service.image);
                    self.log.say(Level::Info, &format!("rollout {name}"), &text);
                    self.versions.prove(&service);
                }
                Verdict::Failed(why) => {
                    // With none before it, it goes on trying.
                    *trial = Trial { fingerprint: service.fingerprint(), since: now, starts: 1 };
                    if self.versions.fail(&service, &why) {
                        failed = true;
                        self.problem(
                            &format!("rollout {name}"),
                            Some(format!(
                                "{} is taken back, since {why}; the version before runs; apply again to try again",
                                service.image
                            )),
                        );
                    }
                }
            }
        }
        if self.versions != before
            && let Err(error) = self.write_versions()
        {
            warn!("{error:#}");
        }
        failed
    }

    /// Whether everything that a service waits for is as it wants it.
    fn is_its_turn(&self, service: &Service) -> bool {
        service.conduct.depends_on.iter().all(|(name, condition)| {
            let other = self.wanted.iter().find(|other| other.name == *name);
            other.is_some_and(|other| match condition {
                compose::Condition::ServiceStarted => self.task(other).is_some(),
                compose::Condition::ServiceHealthy => self.health.of(other) == Some(true),
                compose::Condition::ServiceCompletedSuccessfully => {
                    self.task(other) == Some(Task::Stopped(0))
                }
            })
        })
    }

    /// Starts the looks at health that are due; what they bring comes back to the main loop.
    fn look_around(&mut self) {
        let now = self.now();
        let running: Vec<&Service> = self
            .wanted
            .iter()
            .filter(|service| self.task(service) == Some(Task::Running))
            .collect();
        for (name, fingerprint, health) in self.health.due(&running, now) {
            let looks = self.looks.clone();
            tokio::spawn(async move { looks.send(look(name, fingerprint, health).await).await });
        }
    }

    pub(super) fn note_look(&mut self, look: &Look) {
        let service = self.wanted.iter().find(|service| service.name == look.name);
        let Some(health) = service.and_then(|service| service.conduct.health.clone()) else {
            return;
        };
        let now = self.now();
        if self.health.note(look, &health, now) {
            let about = format!("health of {}", look.name);
            self.problem(&about, look.wrong.clone());
            self.wake.notify_one();
        }
    }

    /// Whether a service runs as it is wanted, and well, or has done what it was to do.
    pub(super) fn is_up(&self, service: &Service) -> bool {
        let task = self.task(service);
        let is_well = service.conduct.health.is_none() || self.health.of(service) == Some(true);
        task == Some(Task::Running) && is_well || task.is_some() && is_over(service, task)
    }

    pub(super) fn container(&self, service: &Service) -> Container {
        let task = self.observed.get(&service.name).and_then(|observed| observed.task);
        let failed = self.versions.failed.get(&service.name);
        let rollout = match failed {
            Some(failed) => Some(format!("taken back: {}", failed.why)),
            None => self.versions.is_on_trial(service).then(|| "on trial".into()),
        };
        Container {
            name: service.name.clone(),
            image: service.image.clone(),
            state: match task {
                Some(Task::Running) => "running".into(),
                Some(Task::Created) => "created".into(),
                Some(Task::Stopped(status)) => format!("stopped ({status})"),
                None => "absent".into(),
            },
            health: service.conduct.health.as_ref().map(|_| match self.health.of(service) {
                None => "starting".into(),
                Some(true) => "healthy".into(),
                Some(false) => "unhealthy".into(),
            }),
            rollout,
            restarts: self.history.get(&service.name).map_or(0, |history| history.restarts),
            cpuset: service.cpuset.clone(),
        }
    }
}
