//! Secrets that come, change and go while containers run.

use crate::containerd::Containerd;
use crate::reconcile::Agent;
use crate::reconcile::api_check::check_api_config;
use crate::reconcile::tasks::Work;
use crate::request_verifier::RequestVerifier;
use crate::secrets::{Owner, Secrets, put};
use agent_core::instance::Instance;
use agent_core::limits::API_CONFIG_LEN_MAX;
use agent_core::plan::{Ending, Task, container_of};
use agent_core::protocol::types::Level;
use agent_host::api_config::Config;
use agent_host::files::{read_up_to, write_private};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::ImageConfiguration;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The API's configuration: a credential of this host, and a secret once somebody brought another
/// one.
const API: &str = "quietcore.api";

/// Where the API's configuration comes from, and where its process reads it.
struct ApiFiles {
    directory: PathBuf,
    credential: Option<PathBuf>,
    secrets: Secrets,
    verifier: RequestVerifier,
}

impl ApiFiles {
    /// Puts the API's configuration where its process reads it, and in force for who asks over the
    /// network; without one there is no API. The process could change its file, so the verifier
    /// does not read that.
    fn bring(&self) -> Result<()> {
        let path = self.directory.join(API);
        let is_brought = self.secrets.names().iter().any(|name| name == API);
        let opened = is_brought.then(|| self.secrets.open(API)).transpose();
        let (brought, failed) = match opened {
            Ok(opened) => (opened, None),
            // What it was given is better than nobody who gets in.
            Err(error) => (None, Some(error)),
        };
        let brought = match (brought, &self.credential) {
            (Some(bytes), _) => Some(bytes),
            (None, Some(path)) => Some(read_up_to(path, API_CONFIG_LEN_MAX)?),
            (None, None) => None,
        };
        match brought {
            None => {
                self.verifier.set_config(None);
                let _ = std::fs::remove_file(&path);
            }
            Some(bytes) => {
                let config = str::from_utf8(&bytes).context(API).and_then(Config::parse);
                self.verifier.set_config(config.as_ref().ok().cloned());
                let directory = self.directory.metadata()?;
                let (uid, gid) = (directory.uid(), directory.gid());
                put(&self.directory, API, &bytes, Owner { uid, gid, mode: 0o400 })?;
                config.context(API)?;
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Secrets of an instance, to be opened anew.
struct Give {
    instance: Instance,
    image: Arc<ImageConfiguration>,
    secrets: Secrets,
    /// Container of the instance, by its name, and how it ends.
    container: Option<(String, Ending)>,
    containerd: Option<Containerd>,
}

impl Give {
    /// Opens an instance's secrets anew, and tells it; says how.
    async fn make(&self) -> Result<String> {
        let containerd = self.containerd.as_ref().context("containerd does not answer")?;
        let user = containerd.user(&self.instance.service, &self.image).await?;
        let (secrets, wanted) = (self.secrets.clone(), self.instance.clone());
        let deliver = move || secrets.deliver(&wanted.id, &wanted.service, &user);
        tokio::task::spawn_blocking(deliver).await??;
        let (container, ending) = self.container.as_ref().context("there is no container")?;
        if let Some(signal) = self.instance.service.policy.secret_signal {
            containerd.signal(container, signal).await?;
            return Ok(format!("with signal {signal}"));
        }
        containerd.remove(container, *ending).await?;
        Ok("which is made anew".into())
    }
}

impl Agent {
    /// A credential that is another than at the last start comes before what was brought over the
    /// network: whoever can give a host its credentials gets in again.
    pub(super) fn start_api(&self) -> Result<()> {
        if let Some(path) = &self.paths.api_credential {
            use sha2::{Digest, Sha256};
            let given = read_up_to(path, API_CONFIG_LEN_MAX)?;
            let digest = format!("{:x}\n", Sha256::digest(given));
            let noted = self.paths.versions.with_file_name("api-credential");
            if std::fs::read_to_string(&noted).is_ok_and(|before| before != digest)
                && self.secrets.names().iter().any(|name| name == API)
            {
                self.secrets.remove(API)?;
                let text = "is forgotten: this host was given another credential";
                self.log.record(Level::Warning, &format!("secret {API}"), text);
            }
            write_private(&noted, &digest)?;
        }
        self.api_files().bring()
    }

    fn api_files(&self) -> ApiFiles {
        ApiFiles {
            directory: self.paths.api.clone(),
            credential: self.paths.api_credential.clone(),
            secrets: self.secrets.clone(),
            verifier: self.request_verifier.clone(),
        }
    }

    /// Tries again what failed.
    pub(super) fn mend_api(&mut self) {
        let is_changed = self.tasks.has(&Work::Api) || self.tasks.has(&Work::Secret(API.into()));
        if !self.problems.has("API") || is_changed {
            return;
        }
        let files = self.api_files();
        let bring = tokio::task::spawn_blocking(move || files.bring());
        self.start(vec![Work::Api], bring, |agent, brought| {
            let failed = brought.expect("it does not panic").err();
            agent.problems.set("API", failed.map(|error| format!("{error:#}")));
        });
    }

    /// Keeps a secret and gives it to the containers that use it: they get their signal, or are
    /// made anew.
    pub(super) fn set_secret(
        &mut self,
        name: String,
        secret: &str,
        then: impl FnOnce(&mut Self, Result<()>) + Send + 'static,
    ) {
        if self.changes_secret(&name) {
            return then(self, Err(anyhow!("secret {name}: it is being changed; ask again")));
        }
        let secret = match STANDARD.decode(secret).context("the secret is no base64") {
            Ok(secret) => secret,
            Err(error) => return then(self, Err(error)),
        };
        let (files, kept) = (self.api_files(), name.clone());
        let keep = async move {
            let is_api = kept == API;
            if is_api {
                // One that could not be served with would lock everybody out.
                check_api_config(&secret).await?;
            }
            // systemd may take its time.
            let keep = move || {
                files.secrets.set(&kept, &secret)?;
                if is_api { files.bring() } else { Ok(()) }
            };
            tokio::task::spawn_blocking(keep).await?
        };
        let mut works = vec![Work::Secret(name.clone())];
        works.extend((name == API).then_some(Work::Api));
        self.start(works, keep, move |agent, kept: Result<()>| match kept {
            Ok(()) => {
                agent.log.record(Level::Info, &format!("secret {name}"), "is kept");
                let users = agent.users_of(&name);
                agent.give_secret(name, users, then);
            }
            Err(error) => then(agent, Err(error)),
        });
    }

    /// Returns true while a secret is being kept, or put where the API reads it.
    fn changes_secret(&self, name: &str) -> bool {
        self.tasks.has(&Work::Secret(name.to_owned())) || name == API && self.tasks.has(&Work::Api)
    }

    /// Instances that use a secret.
    fn users_of(&self, name: &str) -> Vec<Instance> {
        let uses = |instance: &&Instance| {
            instance.service.secrets.iter().any(|secret| secret.source == name)
        };
        self.table.wanted.iter().filter(uses).cloned().collect()
    }

    /// Gives a secret that was just kept to containers that use it.
    fn give_secret(
        &mut self,
        name: String,
        users: Vec<Instance>,
        then: impl FnOnce(&mut Self, Result<()>) + Send + 'static,
    ) {
        // One that is just being made, or was a moment ago, may have opened the secret of before.
        let is_clear =
            |it: &Instance| !self.tasks.changes_container(&it.id) && !self.tasks.is_stale();
        let (users, others): (Vec<_>, Vec<_>) = users.into_iter().partition(is_clear);
        let now = self.now();
        let later = others.into_iter().map(|instance| ((instance.id, name.clone()), now));
        self.renewed_secrets.extend(later);
        let runs = |instance: &Instance| self.table.task(instance) == Some(Task::Running);
        let mut failed = Vec::new();
        let mut gives = Vec::new();
        for instance in users.into_iter().filter(runs) {
            let id = instance.id.clone();
            match self.give(instance) {
                Some(give) => gives.push(give),
                None => failed.push(format!("{id}: its image is not on this host any more")),
            }
        }
        let works = gives.iter().map(|give| Work::Container(give.instance.id.clone())).collect();
        let give = async move {
            let mut given = Vec::new();
            for give in gives {
                let how = give.make().await;
                given.push((give, how));
            }
            given
        };
        self.start(works, give, move |agent, given| {
            for (give, how) in given {
                let id = &give.instance.id;
                match how {
                    Ok(how) => {
                        let text = format!("given to {id}, {how}");
                        agent.log.record(Level::Info, &format!("secret {name}"), &text);
                        if give.instance.service.policy.secret_signal.is_none() {
                            agent.note_made_anew(&give.instance);
                        }
                    }
                    // The others are given it all the same.
                    Err(error) => failed.push(format!("{id}: {error:#}")),
                }
            }
            agent.observe();
            let failed = failed.join(", ");
            let is_given = failed.is_empty();
            if is_given {
                agent.problems.set(&format!("secret {name}"), None);
            }
            let given = is_given
                .then_some(())
                .with_context(|| format!("it is kept, but not given to {failed}"));
            then(agent, given);
        });
    }

    /// Gives secrets that were kept while an instance's container was being made, unless it began
    /// after that. What was observed is fresh.
    pub(super) fn give_renewed(&mut self) {
        let is_free = |id: &str| !self.tasks.changes_container(id);
        let all = self.renewed_secrets.iter();
        let free: Vec<_> =
            all.filter(|((id, _), _)| is_free(id)).map(|(key, at)| (key.clone(), *at)).collect();
        for ((id, name), kept_at) in free {
            self.renewed_secrets.remove(&(id.clone(), name.clone()));
            let began = self.table.history.get(&id).and_then(|history| history.started_at);
            if began.is_some_and(|began| began > kept_at) {
                continue;
            }
            let mut users = self.users_of(&name);
            users.retain(|instance| instance.id == id);
            let about = format!("secret {name}");
            self.give_secret(name, users, move |agent, given| {
                let failed = given.err().map(|error| format!("{error:#}"));
                agent.problems.set(&about, failed);
            });
        }
    }

    /// A container that runs has an image.
    fn give(&self, instance: Instance) -> Option<Give> {
        let image = self.link.images.get(&instance.service.image)?.clone();
        let found = container_of(&self.table.observed, &instance);
        let container = found.map(|(name, _)| (name.clone(), self.table.ending(name)));
        let (secrets, containerd) = (self.secrets.clone(), self.link.client.clone());
        Some(Give { instance, image, secrets, container, containerd })
    }

    /// Notes that an instance did not end by itself: neither its trial nor its health begins with
    /// that.
    fn note_made_anew(&mut self, instance: &Instance) {
        self.table.health.forget(&instance.id);
        if let Some(trial) = self.rollouts.trials.get_mut(&instance.service.name) {
            trial.starts = trial.starts.saturating_sub(1);
        }
    }

    pub(super) fn remove_secret(&mut self, name: &str) -> Result<()> {
        ensure!(!self.changes_secret(name), "secret {name}: it is being changed; ask again");
        if let Some(instance) = self.users_of(name).first() {
            bail!("secret {name} is used by the service {}", instance.service.name);
        }
        self.secrets.remove(name)?;
        if name == API {
            // Without a secret of that name none is opened.
            self.api_files().bring()?;
        }
        self.log.record(Level::Info, &format!("secret {name}"), "is forgotten");
        Ok(())
    }
}
