//! The agent's containers: what is declared, what is to run of it, and the way there.

use crate::containerd::{Containerd, ContainerdError};
use crate::image_manager::Missing;
use crate::reconcile::Agent;
use crate::reconcile::probe_client::probe;
use crate::{orphan_cgroups, volumes};
use agent_core::compose::Service;
use agent_core::health::ProbeResult;
use agent_core::instance::Instance;
use agent_core::limits::ENGINE_STOP_WAIT;
use agent_core::plan::{self, Action, Observed, Task, container_of};
use agent_core::protocol::types::Level;
use agent_core::status::{Container, Engine};
use agent_host::container_output::{self, Origin};
use agent_host::files::write_whole;
use agent_host::hot_partition::CGROUPS;
use agent_host::systemd::is_stopping;
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::{info, warn};

impl Agent {
    pub(super) async fn reconcile_containers(&mut self) -> Result<()> {
        let mut containerd = match self.link.client.take() {
            Some(containerd) => containerd,
            None => self.connect().await?,
        };
        let result = self.converge(&mut containerd).await;
        self.link.client = Some(containerd);
        result
    }

    async fn connect(&mut self) -> Result<Containerd> {
        self.image_manager.read_shipped()?;
        let images = &self.image_manager;
        self.link.connect(|name, digest| images.may_run(name, digest)).await
    }

    async fn converge(&mut self, containerd: &mut Containerd) -> Result<()> {
        let groups = orphan_cgroups::names(Path::new(CGROUPS));
        self.table.observed = containerd.observe().await?;
        self.end_strays(&groups);
        let living: Vec<&str> = self.table.observed.keys().map(String::as_str).collect();
        let ended = container_output::end_all_but(&self.paths.logs, &living);
        self.problems.set("output", ended.err().map(|error| format!("{error:#}")));
        self.advance_trials();
        self.table.wanted = self.instances();
        self.bring_images(containerd).await;
        self.look_for_secrets();
        let mounts = self.mount_volumes().await;
        self.problems.set("volumes", mounts.err().map(|error| format!("{error:#}")));
        self.tell_ports();
        let may_start = |instance: &Instance| {
            containerd.has_image(&instance.service.image)
                && self.secrets.missing(&instance.service).is_empty()
                && self.remote.has_all(instance)
                && self.table.has_dependencies(&instance.service)
        };
        let is_unwell =
            |it: &Instance| self.table.health.of(&it.id, &it.fingerprint) == Some(false);
        let now = self.now();
        let actions = plan::plan(
            &self.table.wanted,
            &self.table.observed,
            &self.table.history,
            &may_start,
            &is_unwell,
            now,
        );
        let mut stuck = BTreeSet::new();
        for action in &actions {
            let instance = match action {
                Action::Remove(name) => container_output::instance_of(name),
                // As long as the old one can't be taken away a new one would be one too many.
                Action::Create(id) if stuck.contains(id.as_str()) => continue,
                Action::Create(id) => id,
            };
            // One container that can't be had does not keep the others waiting.
            let done = self.act(containerd, action).await.err().map(|error| error.to_string());
            if done.is_some() {
                stuck.insert(instance);
                if let Action::Create(id) = action {
                    self.note_not_made(id);
                }
            }
            // That the old one is gone does not say that the new one runs.
            if done.is_some() || matches!(action, Action::Create(_)) {
                self.problems.set(&format!("container {instance}"), done);
            }
        }
        if !actions.is_empty() {
            self.table.observed = containerd.observe().await?;
        }
        self.note_failures();
        self.forget_others();
        self.look_around();
        if self.table.all_up() {
            let proven = self.rollouts.versions.proven(&self.cores);
            let wanted: Vec<Service> =
                self.table.wanted.iter().map(|instance| instance.service.clone()).collect();
            let services = [self.rollouts.services.as_slice(), &wanted, &proven];
            self.image_manager.collect(containerd, &services).await?;
        }
        Ok(())
    }

    /// Ends what runs in containers' cgroups that were there before containerd was asked, and of
    /// which it knows nothing.
    fn end_strays(&self, groups: &BTreeSet<String>) {
        for name in groups.iter().filter(|name| !self.table.observed.contains_key(*name)) {
            let about = format!("container {}", container_output::instance_of(name));
            match orphan_cgroups::end(Path::new(CGROUPS), name) {
                Ok(0) => {}
                Ok(count) => {
                    let text = format!("{count} processes were left of {name}; they are ended");
                    self.log.record(Level::Error, &about, &text);
                }
                Err(error) => warn!("end what is left of {name}: {error}"),
            }
        }
    }

    /// Returns the instances to run: those of the declared services, and ephemeral debug
    /// containers.
    pub(super) fn instances(&self) -> Vec<Instance> {
        let mut all = self.rollouts.versions.instances(&self.rollouts.services, &self.cores);
        all.extend(self.debug_containers.values().map(|throwaway| throwaway.instance.clone()));
        all
    }

    /// The images of what is to run, and what keeps them from being here.
    async fn bring_images(&mut self, containerd: &mut Containerd) {
        let images: BTreeSet<String> =
            self.table.wanted.iter().map(|instance| instance.service.image.clone()).collect();
        let missing = self.image_manager.bring(containerd, &images).await;
        let is_gone = |image: &str| !images.contains(image);
        self.problems.forget(|about| about.strip_prefix("image ").is_some_and(is_gone));
        for image in images {
            let about = format!("image {image}");
            match missing.get(&image) {
                Some(Missing::Refused(why)) => self.problems.set(&about, Some(why.clone())),
                Some(Missing::Fetching(how_far)) => {
                    self.problems.set_transient(about, how_far.clone());
                }
                None => self.problems.set(&about, None),
            }
        }
    }

    fn look_for_secrets(&mut self) {
        for instance in self.table.wanted.clone() {
            let missing = self.secrets.missing(&instance.service);
            let said = (!missing.is_empty()).then(|| {
                let names = missing.join(", ");
                format!("{names} not on this host; bring it with qctl secret set")
            });
            self.problems.set(&format!("secrets of {}", instance.id), said);
        }
    }

    /// Where services with ports in two slots are now, for who uses them: before the one before
    /// goes.
    fn tell_ports(&mut self) {
        let directory = self.paths.ports.clone();
        for instance in self.table.wanted.iter().filter(|instance| instance.serving) {
            let (ports, path) = (instance.ports(), directory.join(&instance.service.name));
            let is_told = std::fs::read_to_string(&path).is_ok_and(|told| told == ports);
            if ports.is_empty() {
                let _ = std::fs::remove_file(&path);
            }
            if ports.is_empty() || is_told {
                continue;
            }
            let told = std::fs::create_dir_all(&directory)
                .map_err(Into::into)
                .and_then(|()| write_whole(&path, &ports));
            if let Err(error) = told {
                warn!("{error:#}");
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
                let id = container_output::instance_of(name);
                let ending = self.table.ending(name);
                self.table.health.forget(id);
                if self.table.observed.get(name).is_some_and(Observed::is_orphan) {
                    containerd.create_placeholder(name).await?;
                }
                containerd.remove(name, ending).await?;
                if !self.table.wanted.iter().any(|instance| instance.id == id) {
                    self.secrets.withdraw(id);
                }
                self.log.record(Level::Info, &format!("container {id}"), &self.table.removal(name));
                Ok(())
            }
            Action::Create(id) => {
                let now = self.now();
                let instance = self.table.wanted.iter().find(|instance| instance.id == *id);
                let instance = instance.expect("planned from what is wanted").clone();
                let found = container_of(&self.table.observed, &instance);
                let task = found.and_then(|(_, observed)| observed.task);
                // A task that is not there was taken away by a kill of its shim, or of containerd.
                let ended_by_itself = matches!(task, Some(Task::Stopped(_) | Task::Running));
                self.table.history.entry(id.clone()).or_default().note_start(now, ended_by_itself);
                let pid = self.create(containerd, &instance).await?;
                if self.is_on_trial(&instance) {
                    let trial = self.rollouts.trial_of(&instance, now);
                    trial.not_made = 0;
                    trial.starts += u32::from(ended_by_itself || trial.starts == 0);
                }
                let Service { image, cpuset, .. } = &instance.service;
                let text = format!("started from {image}, process {pid}, CPUs {cpuset}");
                self.log.record(Level::Info, &format!("container {id}"), &text);
                Ok(())
            }
        }
    }

    async fn create(
        &self,
        containerd: &Containerd,
        instance: &Instance,
    ) -> Result<u32, ContainerdError> {
        let service = &instance.service;
        volumes::prepare(service).map_err(ContainerdError::Volume)?;
        let prepare = ContainerdError::Prepare;
        // systemd may take its time; the kill switch does not wait for it.
        let (secrets, wanted) = (self.secrets.clone(), instance.clone());
        let deliver = move || {
            secrets.withdraw(&wanted.id);
            secrets.deliver(&wanted.id, &wanted.service)
        };
        let brought = tokio::task::spawn_blocking(deliver).await.expect("it does not panic");
        let brought = brought.map_err(prepare)?;
        let origin = Origin {
            container: instance.id.clone(),
            service: service.name.clone(),
            image: service.image.clone(),
            digest: self.image_manager.digest(&service.image).unwrap_or_default(),
            generation: self.rollouts.generation_of(instance),
            ended: false,
        };
        let files = container_output::Files::begin(&self.paths.logs, &origin).map_err(prepare)?;
        let made = containerd.create(instance, &brought, &files).await;
        // Each try has another name, and says the same.
        made.map_err(|error| match error {
            ContainerdError::Call { action, object, message } => ContainerdError::Call {
                action,
                object: object.replace(&files.stem, &instance.id),
                message: message.replace(&files.stem, &instance.id),
            },
            other => other,
        })
    }

    /// Names instances that failed and are not started again.
    fn note_failures(&mut self) {
        for instance in &self.table.wanted {
            let said = self.table.failure(instance).map(|status| match status {
                // The kernel's OOM killer and a kill by hand look the same from here.
                137 => "it was killed (137): by hand, or for want of memory".to_owned(),
                status => format!("it ended with {status}, and is not started again"),
            });
            self.problems.set(&format!("exit of {}", instance.id), said);
        }
    }

    fn note_not_made(&mut self, id: &str) {
        self.table.history.entry(id.to_owned()).or_default().note_not_made();
        let instance = self.table.wanted.iter().find(|instance| instance.id == id).cloned();
        if let Some(instance) = instance.filter(|instance| self.is_on_trial(instance)) {
            let now = self.now();
            self.rollouts.trial_of(&instance, now).not_made += 1;
        }
    }

    /// Drops problems and opened secrets of instances that are neither wanted nor observed.
    fn forget_others(&mut self) {
        let ids = self.table.ids();
        let is_gone = |about: &str| {
            let of = ["health of ", "secrets of ", "exit of ", "container "];
            let id = of.iter().find_map(|start| about.strip_prefix(start));
            id.is_some_and(|id| !ids.contains(id.trim_end_matches(" metrics")))
        };
        self.problems.forget(is_gone);
        self.secrets.keep_only(&ids);
    }

    /// Containers outlive the agent, but not the host: when it goes down they get their signal and
    /// their time, instead of being killed with whatever is left.
    pub(super) async fn leave(&mut self) {
        let is_stopping = is_stopping().await;
        let Some(containerd) = self.link.client.as_ref().filter(|_| is_stopping) else { return };
        // The engines cancel their orders first, perhaps through a container.
        let start = Instant::now();
        let runs = |engine: Engine| PathBuf::from(format!("/proc/{}", engine.pid)).exists();
        while self.engines().into_iter().any(runs) && start.elapsed() < ENGINE_STOP_WAIT {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut stops = tokio::task::JoinSet::new();
        let names: Vec<String> = self.table.observed.keys().cloned().collect();
        for name in names {
            let (containerd, ending) = (containerd.watcher(), self.table.ending(&name));
            stops.spawn(async move {
                let stopped = containerd.remove(&name, ending).await;
                info!(container = name, "the host stops: {name}: {stopped:?}");
            });
        }
        stops.join_all().await;
    }

    /// Starts the results that are due; what they bring comes back to the main loop.
    fn look_around(&mut self) {
        let now = self.now();
        let running =
            self.table.wanted.iter().filter(|it| self.table.task(it) == Some(Task::Running));
        let subjects = running.flat_map(|instance| {
            let is_well = self.table.health.of(&instance.id, &instance.fingerprint) == Some(true);
            let waits = instance.service.policy.health.is_some() && !is_well;
            let metrics = instance.metrics_name();
            // Who is not well yet has no metrics that say something.
            instance.subjects().into_iter().filter(move |it| !waits || it.name != metrics)
        });
        let subjects = subjects.collect();
        for subject in self.table.health.due(subjects, now) {
            let results = self.probe_results.clone();
            let ages = self.file_ages.clone();
            tokio::spawn(async move { results.send(probe(subject, ages).await).await });
        }
    }

    pub(super) fn note_probe(&mut self, result: &ProbeResult) {
        let subjects = self.table.wanted.iter().flat_map(Instance::subjects);
        let Some(subject) = subjects.into_iter().find(|subject| subject.name == result.name) else {
            return;
        };
        let now = self.now();
        if self.table.health.note(result, &subject.health, now) {
            self.problems.set(&format!("health of {}", result.name), result.wrong.clone());
            self.link.wake.notify_one();
        }
    }

    /// Status of an instance.
    pub(super) fn container_status(&self, instance: &Instance) -> Container {
        let generation = self.rollouts.generation_of(instance);
        self.table.status(instance, self.rollout_of(instance), generation)
    }
}
