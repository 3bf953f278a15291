//! Changes of containers, each instance in a task of its own: a container that takes its time to
//! end keeps no other waiting.

use crate::bind_sources::BindSources;
use crate::containerd::{Containerd, ContainerdError, Prepared};
use crate::reconcile::Agent;
use crate::reconcile::tasks::Work;
use crate::secrets::Secrets;
use crate::{name_files, volumes};
use agent_core::compose::Service;
use agent_core::instance::Instance;
use agent_core::limits::CONTAINERD_TIMEOUT;
use agent_core::plan::{Action, Ending, Observed, Task, container_of};
use agent_core::protocol::types::Level;
use agent_core::runtime_spec::{ETC, host_mounts};
use agent_host::container_output::{self, Files, Origin};
use oci_spec::image::ImageConfiguration;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// Container to be taken away.
struct Removal {
    name: String,
    ending: Ending,
    /// A task without a container.
    is_orphan: bool,
    /// Text of the event.
    text: String,
}

/// Container to be made.
struct Creation {
    instance: Instance,
    image: Arc<ImageConfiguration>,
    secrets: Secrets,
    origin: Origin,
    logs: PathBuf,
    /// Whether a task of this instance has ended by itself, or with its shim.
    ended_by_itself: bool,
    /// Whether this version of it was there before.
    is_back: bool,
}

/// Changes of an instance's containers, in order: removals, then a creation.
#[derive(Default)]
struct Changes {
    removals: Vec<Removal>,
    creation: Option<Creation>,
}

/// Changes that were made, and the error that ended them.
#[derive(Default)]
struct Made {
    removed: Vec<Removal>,
    /// Begin of the creation, and the process of the container or the error.
    created: Option<(Creation, Instant, Result<u32, ContainerdError>)>,
    failed: Option<ContainerdError>,
}

impl Changes {
    async fn make(self, containerd: &Containerd) -> Made {
        let mut made = Made::default();
        for removal in self.removals {
            match removal.make(containerd).await {
                Ok(()) => made.removed.push(removal),
                // As long as the old one can't be taken away a new one would be one too many.
                Err(error) => return Made { failed: Some(error), ..made },
            }
        }
        if let Some(creation) = self.creation {
            let began = Instant::now();
            let created = creation.make(containerd).await;
            made.created = Some((creation, began, created));
        }
        made
    }
}

impl Removal {
    async fn make(&self, containerd: &Containerd) -> Result<(), ContainerdError> {
        if self.is_orphan {
            containerd.create_placeholder(&self.name).await?;
        }
        containerd.remove(&self.name, self.ending).await
    }
}

impl Creation {
    async fn make(&self, containerd: &Containerd) -> Result<u32, ContainerdError> {
        let (instance, service) = (self.instance.clone(), self.instance.service.clone());
        let user = containerd.user(&service, &self.image).await?;
        let (secrets, origin, logs) =
            (self.secrets.clone(), self.origin.clone(), self.logs.clone());
        // systemd may take its time for a secret, and a disk for a directory.
        let prepare = move || {
            volumes::prepare(&service, &user).map_err(ContainerdError::Volume)?;
            secrets.withdraw(&instance.id);
            let brought = secrets.deliver(&instance.id, &service, &user);
            let mut brought = brought.map_err(ContainerdError::Prepare)?;
            let names = name_files::write(Path::new(ETC), &instance.id, &service);
            brought.extend(names.map_err(ContainerdError::Prepare)?);
            let mounts = host_mounts(&service, &brought);
            let sources = mounts.iter().map(|mount| Path::new(&mount.source));
            let sources = BindSources::open(sources).map_err(ContainerdError::Volume)?;
            let output = Files::begin(&logs, &origin).map_err(ContainerdError::Prepare)?;
            Ok::<_, ContainerdError>(Prepared { user, sources, brought, output })
        };
        let prepared = timeout(CONTAINERD_TIMEOUT, tokio::task::spawn_blocking(prepare)).await;
        let late = |_| {
            let seconds = CONTAINERD_TIMEOUT.as_secs();
            let error = io::Error::other(format!("no answer for {seconds} s"));
            ContainerdError::Volume(error)
        };
        let prepared = prepared.map_err(late)?.expect("it does not panic")?;
        let made = containerd.create(&self.instance, &self.image, &prepared).await;
        let stem = &prepared.output.stem;
        // Each try has another name, and says the same.
        made.map_err(|error| match error {
            ContainerdError::Call { action, object, message } => ContainerdError::Call {
                action,
                object: object.replace(stem, &self.instance.id),
                message: message.replace(stem, &self.instance.id),
            },
            other => other,
        })
    }
}

impl Agent {
    /// Begins actions, instances side by side. What is under way is looked at again once it ends.
    pub(super) fn act(&mut self, actions: Vec<Action>) {
        let Some(containerd) = self.link.client.clone() else { return };
        let mut by_instance: BTreeMap<String, Changes> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Remove(name) => {
                    let id = container_output::instance_of(&name).to_owned();
                    let removal = self.removal(name);
                    by_instance.entry(id).or_default().removals.push(removal);
                }
                Action::Create(id) => {
                    let creation = self.creation(&id);
                    by_instance.entry(id).or_default().creation = creation;
                }
            }
        }
        by_instance.retain(|id, _| !self.tasks.changes_container(id));
        // What leaves may hold a port that what comes needs; what ran before needs what it had.
        // What can't be made to leave keeps nobody waiting.
        let leaves =
            |id: &str| self.table.wanted_instance(id).is_none() && !self.stuck.contains(id);
        let some_leave = by_instance.keys().any(|id| leaves(id))
            || self.tasks.has_any(|work| matches!(work, Work::Container(id) if leaves(id)));
        let is_back =
            |changes: &Changes| changes.creation.as_ref().is_none_or(|creation| creation.is_back);
        by_instance.retain(|_, changes| !some_leave || is_back(changes));
        for (id, changes) in by_instance {
            for removal in &changes.removals {
                self.table.health.forget(container_output::instance_of(&removal.name));
            }
            let containerd = containerd.clone();
            let make = async move { changes.make(&containerd).await };
            self.start(vec![Work::Container(id.clone())], make, move |agent, made| {
                agent.note_made(&id, made);
            });
        }
    }

    fn removal(&self, name: String) -> Removal {
        let is_orphan = self.table.observed.get(&name).is_some_and(Observed::is_orphan);
        let (ending, text) = (self.table.ending(&name), self.table.removal(&name));
        Removal { name, ending, is_orphan, text }
    }

    fn creation(&self, id: &str) -> Option<Creation> {
        let instance = self.table.wanted_instance(id)?.clone();
        let image = self.link.images.get(&instance.service.image)?.clone();
        let found = container_of(&self.table.observed, &instance);
        let task = found.and_then(|(_, observed)| observed.task);
        // A task that is not there was taken away by a kill of its shim, or of containerd.
        let ended_by_itself = matches!(task, Some(Task::Stopped(_) | Task::Running));
        let is_back =
            found.is_some_and(|(_, it)| it.fingerprint.as_ref() == Some(&instance.fingerprint));
        let Service { name, image: image_name, .. } = &instance.service;
        let origin = Origin {
            container: instance.id.clone(),
            service: name.clone(),
            image: image_name.clone(),
            digest: self.image_manager.digest(image_name).unwrap_or_default(),
            generation: self.rollouts.generation_of(&instance),
            ended: false,
        };
        let (secrets, logs) = (self.secrets.clone(), self.paths.logs.clone());
        Some(Creation { instance, image, secrets, origin, logs, ended_by_itself, is_back })
    }

    fn note_made(&mut self, id: &str, made: Made) {
        for Removal { name, text, .. } in made.removed {
            let id = container_output::instance_of(&name);
            if self.table.wanted_instance(id).is_none() {
                self.secrets.withdraw(id);
            }
            self.log.record(Level::Info, &format!("container {id}"), &text);
        }
        let about = format!("container {id}");
        let mut error = made.failed.map(|error| error.to_string());
        let is_stuck = error.is_some();
        match is_stuck {
            true => drop(self.stuck.insert(id.to_owned())),
            false => drop(self.stuck.remove(id)),
        }
        if let Some((creation, began, created)) = made.created {
            let at = began.saturating_duration_since(self.started);
            let history = self.table.history.entry(id.to_owned()).or_default();
            history.note_start(at, creation.ended_by_itself);
            match created {
                Ok(pid) => self.note_created(&creation, pid),
                Err(failed) => {
                    error = Some(failed.to_string());
                    self.note_not_made(&creation.instance);
                }
            }
            self.problems.set(&about, error);
        } else if error.is_some() {
            // That the old one is gone does not say that the new one runs.
            self.problems.set(&about, error);
        }
        // What can't be taken away is tried again by the next tick.
        if !is_stuck {
            self.observe();
        }
    }

    fn note_created(&mut self, creation: &Creation, pid: u32) {
        let Creation { instance, ended_by_itself, .. } = creation;
        let now = self.now();
        if self.is_on_trial(instance) {
            let trial = self.rollouts.trial_of(instance, now);
            trial.not_made = 0;
            trial.starts += u32::from(*ended_by_itself || trial.starts == 0);
        }
        let Service { image, cpuset, .. } = &instance.service;
        let text = format!("started from {image}, process {pid}, CPUs {cpuset}");
        self.log.record(Level::Info, &format!("container {}", instance.id), &text);
    }

    fn note_not_made(&mut self, instance: &Instance) {
        self.table.history.entry(instance.id.clone()).or_default().note_not_made();
        let wanted = self.table.wanted_instance(&instance.id).cloned();
        if let Some(instance) = wanted.filter(|instance| self.is_on_trial(instance)) {
            let now = self.now();
            self.rollouts.trial_of(&instance, now).not_made += 1;
        }
    }
}
