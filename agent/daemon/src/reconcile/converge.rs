//! The agent's containers: what is declared, what is to run of it, and the way there.

use crate::containerd::Containerd;
use crate::containerd::images::StoredImage;
use crate::image_manager::{Import, Missing, collect, load, read_shipped};
use crate::memory_events::oom_kills;
use crate::reconcile::Agent;
use crate::reconcile::probe_client::probe;
use crate::reconcile::tasks::Work;
use crate::{name_files, orphan_cgroups};
use agent_core::compose::Service;
use agent_core::health::ProbeResult;
use agent_core::instance::Instance;
use agent_core::limits::ENGINE_STOP_WAIT;
use agent_core::plan::{self, Observed, Task};
use agent_core::protocol::types::Level;
use agent_core::runtime_spec::ETC;
use agent_core::status::{Container, Engine};
use agent_host::container_output;
use agent_host::files::write_whole;
use agent_host::hot_partition::CGROUPS;
use agent_host::systemd::is_stopping;
use anyhow::{Result, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

impl Agent {
    /// Connects to containerd, and takes over the images that an earlier agent left there as far as
    /// they may run: a policy counts at every start, not only when an image is fetched.
    fn connect(&mut self) {
        if self.tasks.has(&Work::Connect) {
            return;
        }
        let (socket, archives) = (self.link.socket.clone(), self.paths.archives.clone());
        let connect = async move {
            let shipped = tokio::task::spawn_blocking(move || read_shipped(&archives)).await??;
            let client = Containerd::connect(&socket).await?;
            client.remove_leftovers().await?;
            let stored = client.stored_images().await?;
            Ok((shipped, client, stored))
        };
        self.start(vec![Work::Connect], connect, |agent, connected: Result<_>| match connected {
            Err(error) => agent.lose_containerd(&error),
            Ok((shipped, client, stored)) => {
                agent.image_manager.shipped = shipped;
                let may_run = stored.into_iter().filter(|image: &StoredImage| {
                    agent.image_manager.may_run(&image.name, &image.digest)
                });
                agent.link.images =
                    may_run.map(|image| (image.name, Arc::new(image.config))).collect();
                agent.link.connected(client);
                agent.observe();
            }
        });
    }

    fn lose_containerd(&mut self, error: &anyhow::Error) {
        self.link.lose();
        self.problems.set("containers", Some(format!("{error:#}")));
    }

    /// Reads what containerd has, in a task; what is to be done follows from that.
    pub(super) fn observe(&mut self) {
        let Some(containerd) = self.link.client.clone() else { return self.connect() };
        if self.tasks.has(&Work::Observe) {
            self.tasks.observe_again = true;
            return;
        }
        let changes = self.tasks.changes;
        let observe = async move {
            // Before containerd is asked: what has a cgroup then and is not known, it forgot.
            let groups = orphan_cgroups::names(Path::new(CGROUPS));
            let mut observed = containerd.observe().await;
            for (name, found) in observed.iter_mut().flatten().filter(|(_, it)| it.task.is_some()) {
                found.oom_kills = oom_kills(Path::new(CGROUPS), name);
            }
            (groups, observed)
        };
        self.start(vec![Work::Observe], observe, move |agent, (groups, observed)| {
            let again = std::mem::take(&mut agent.tasks.observe_again);
            match observed {
                Err(error) => return agent.lose_containerd(&error.into()),
                // While it looked some container was changed.
                Ok(_) if changes != agent.tasks.changes => return agent.observe(),
                Ok(observed) => {
                    agent.end_strays(&groups, &observed);
                    let observed = agent.without_changes(observed);
                    let before = std::mem::replace(&mut agent.table.observed, observed);
                    if agent.has_observed {
                        agent.note_oom_kills(&before);
                    }
                    agent.has_observed = true;
                    agent.tasks.seen_changes = changes;
                    agent.converge();
                }
            }
            agent.problems.set("containers", None);
            if again {
                agent.observe();
            }
        });
    }

    /// Replaces what was observed of instances that are just being changed by what was observed of
    /// them before: half a container is neither one that ended nor one that runs.
    fn without_changes(
        &self,
        mut observed: BTreeMap<String, Observed>,
    ) -> BTreeMap<String, Observed> {
        let is_changed = |found: &Observed| self.tasks.changes_container(&found.instance);
        observed.retain(|_, found| !is_changed(found));
        let before = self.table.observed.iter().filter(|(_, found)| is_changed(found));
        observed.extend(before.map(|(name, found)| (name.clone(), found.clone())));
        observed
    }

    /// Begins what leads from what is observed to what is wanted.
    fn converge(&mut self) {
        let is_living = |stem: &str| {
            self.table.observed.contains_key(stem)
                || self.tasks.changes_container(container_output::instance_of(stem))
        };
        let ended =
            container_output::end_all_but(&self.paths.logs, &self.paths.positions, &is_living);
        self.problems.set("output", ended.err().map(|error| format!("{error:#}")));
        self.advance_trials();
        self.table.wanted = self.instances();
        self.bring_images();
        self.look_for_secrets();
        let mounts = self.mount_volumes();
        self.problems.set("volumes", mounts.err().map(|error| format!("{error:#}")));
        self.tell_ports();
        let may_start = |instance: &Instance| {
            self.link.has_image(&instance.service.image)
                && !self.may_go(&instance.service.image)
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
        self.act(actions);
        self.resize_terminals();
        self.note_failures();
        self.forget_others();
        self.look_around();
        self.give_renewed();
        self.collect_images();
    }

    /// Takes away images that nobody needs, once everything declared is up.
    fn collect_images(&mut self) {
        let is_busy = self.tasks.has_any(|work| {
            matches!(work, Work::Image(_) | Work::Load | Work::Container(_) | Work::Collect)
        });
        let Some(containerd) = self.link.client.clone().filter(|_| !is_busy) else { return };
        if !self.table.all_up() {
            return;
        }
        let proven = self.rollouts.versions.proven(&self.cores);
        let wanted: Vec<Service> =
            self.table.wanted.iter().map(|instance| instance.service.clone()).collect();
        let services = [self.rollouts.services.as_slice(), &wanted, &proven];
        let Some(keep) = self.image_manager.to_keep(&services) else { return };
        let (store, lock) = (self.image_manager.store().clone(), self.images_in_use.clone());
        let shipped = self.image_manager.shipped.keys().cloned().collect();
        self.collecting = Some(keep.clone());
        let collect = async move {
            let _alone = lock.write().await;
            let kept = keep.clone();
            (kept, collect(store, containerd, keep, shipped).await)
        };
        self.start(vec![Work::Collect], collect, |agent, (kept, removed)| {
            agent.collecting = None;
            agent.image_manager.note_collected(&removed);
            let manager = &agent.image_manager;
            let is_kept = |name: &str| kept.contains(name) || manager.digest(name).is_some();
            agent.link.images.retain(|name, _| is_kept(name));
            agent.problems.set("images", removed.err().map(|error| format!("{error:#}")));
        });
    }

    /// Names containers in which the kernel killed processes since they were observed before.
    fn note_oom_kills(&self, before: &BTreeMap<String, Observed>) {
        for (name, found) in &self.table.observed {
            let known = before.get(name).map_or(0, |found| found.oom_kills);
            if found.oom_kills > known {
                let count = found.oom_kills - known;
                let text = format!(
                    "out of memory: the kernel killed {count} of its processes; raise mem_limit"
                );
                self.log.record(Level::Error, &format!("container {}", found.instance), &text);
            }
        }
    }

    /// Ends what runs in containers' cgroups that were there before containerd was asked, and of
    /// which it knows nothing.
    fn end_strays(&self, groups: &BTreeSet<String>, observed: &BTreeMap<String, Observed>) {
        let is_changed =
            |name: &str| self.tasks.changes_container(container_output::instance_of(name));
        let is_stray = |name: &&String| !observed.contains_key(*name) && !is_changed(name);
        for name in groups.iter().filter(is_stray) {
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

    /// Has the images of what is to run brought into containerd, and says what keeps others from
    /// being there.
    fn bring_images(&mut self) {
        let images: BTreeSet<String> =
            self.table.wanted.iter().map(|instance| instance.service.image.clone()).collect();
        let is_missing = |image: &&String| !self.link.has_image(image) && !self.may_go(image);
        let missing: BTreeSet<String> = images.iter().filter(is_missing).cloned().collect();
        let (imports, mut said) = self.image_manager.find(&missing);
        for import in imports {
            said.insert(import.name.clone(), Missing::Fetching("is being unpacked".into()));
            self.import(import);
        }
        let is_gone = |image: &str| !images.contains(image);
        self.problems.forget(|about| about.strip_prefix("image ").is_some_and(is_gone));
        for image in images {
            let about = format!("image {image}");
            match said.get(&image) {
                Some(Missing::Refused(why)) => self.problems.set(&about, Some(why.clone())),
                Some(Missing::Fetching(how_far)) => {
                    self.problems.set_transient(about, how_far.clone());
                }
                None => self.problems.set(&about, None),
            }
        }
    }

    /// Returns true while an image may be among those that are just being taken away.
    fn may_go(&self, image: &str) -> bool {
        self.collecting.as_ref().is_some_and(|kept| !kept.contains(image))
    }

    fn import(&mut self, import: Import) {
        let work = Work::Image(import.name.clone());
        let Some(containerd) = self.link.client.clone().filter(|_| !self.tasks.has(&work)) else {
            return;
        };
        let lock = self.images_in_use.clone();
        let run = async move {
            let _in_use = lock.read().await;
            let imported = import.run(&containerd).await;
            (import.name, imported)
        };
        self.start(vec![work], run, |agent, (name, imported)| {
            match imported {
                Ok(config) => {
                    agent.link.images.insert(name.clone(), Arc::new(config));
                    agent.image_manager.note_imported(&name);
                }
                Err(error) => agent.image_manager.refuse(&name, &error),
            }
            agent.link.wake.notify_one();
        });
    }

    /// Loads an image from an archive of this host.
    pub(super) fn load_image(
        &mut self,
        archive: PathBuf,
        then: impl FnOnce(Result<String>) + Send + 'static,
    ) {
        let Some(containerd) = self.link.client.clone() else {
            return then(Err(anyhow!("containerd does not answer")));
        };
        let (store, lock) = (self.image_manager.store().clone(), self.images_in_use.clone());
        if self.tasks.has(&Work::Load) {
            return then(Err(anyhow!("another image is being loaded; ask again")));
        }
        let load = async move {
            let _in_use = lock.read().await;
            load(store, containerd, archive).await
        };
        self.start(vec![Work::Load], load, |agent, loaded| {
            then(loaded.map(|(named, config)| {
                agent.link.images.insert(named.name.clone(), Arc::new(config));
                agent.image_manager.note_imported(&named.name);
                agent.link.wake.notify_one();
                named.name
            }));
        });
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

    /// Names instances that failed and are not started again.
    fn note_failures(&mut self) {
        for instance in &self.table.wanted {
            let is_out_of_memory = self.table.is_out_of_memory(instance);
            let said = self.table.failure(instance).map(|status| match status {
                _ if is_out_of_memory => format!(
                    "it ran out of memory, ended with {status} and is not started again; raise mem_limit"
                ),
                status => format!("it ended with {status}, and is not started again"),
            });
            self.problems.set(&format!("exit of {}", instance.id), said);
        }
    }

    /// Drops problems and opened secrets of instances that are neither wanted nor observed.
    fn forget_others(&mut self) {
        let mut ids = self.table.ids();
        ids.extend(self.tasks.changed_instances());
        let is_gone = |about: &str| {
            let of = ["health of ", "secrets of ", "exit of ", "container "];
            let id = of.iter().find_map(|start| about.strip_prefix(start));
            id.is_some_and(|id| !ids.contains(id.trim_end_matches(" metrics")))
        };
        self.problems.forget(is_gone);
        self.secrets.keep_only(&ids);
        name_files::keep_only(Path::new(ETC), &ids);
    }

    /// Containers outlive the agent, but not the host: when it goes down they get their signal and
    /// their time, instead of being killed with whatever is left.
    pub(super) async fn leave(&mut self) {
        let is_stopping = is_stopping().await;
        let Some(containerd) = self.link.client.clone().filter(|_| is_stopping) else { return };
        // The engines cancel their orders first, perhaps through a container.
        let start = Instant::now();
        let runs = |engine: Engine| PathBuf::from(format!("/proc/{}", engine.pid)).exists();
        while self.engines().into_iter().any(runs) && start.elapsed() < ENGINE_STOP_WAIT {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // A task may have made one meanwhile.
        if let Ok(observed) = containerd.observe().await {
            self.table.observed = observed;
        }
        let mut stops = tokio::task::JoinSet::new();
        let names: Vec<String> = self.table.observed.keys().cloned().collect();
        for name in names {
            let (containerd, ending) = (containerd.clone(), self.table.ending(&name));
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
