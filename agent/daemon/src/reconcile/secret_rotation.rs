//! Secrets that come, change and go while containers run.

use crate::reconcile::Agent;
use crate::reconcile::api_check::check_api_config;
use crate::secrets::put;
use agent_core::compose::top_level::Access;
use agent_core::instance::Instance;
use agent_core::limits::API_CONFIG_LEN_MAX;
use agent_core::plan::{Task, container_of};
use agent_core::protocol::types::Level;
use agent_host::files::{read_up_to, write_private};
use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::os::unix::fs::MetadataExt;

/// The API's configuration: a credential of this host, and a secret once somebody brought another
/// one.
const API: &str = "quietcore.api";

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
        self.bring_api()
    }

    /// Puts the API's configuration where its process reads it; without one there is no API.
    fn bring_api(&self) -> Result<()> {
        let path = self.paths.api.join(API);
        let is_brought = self.secrets.names().iter().any(|name| name == API);
        let opened = is_brought.then(|| self.secrets.open(API)).transpose();
        let (brought, failed) = match opened {
            Ok(opened) => (opened, None),
            // What it was given is better than nobody who gets in.
            Err(error) => (None, Some(error)),
        };
        let brought = match (brought, &self.paths.api_credential) {
            (Some(bytes), _) => Some(bytes),
            (None, Some(path)) => Some(read_up_to(path, API_CONFIG_LEN_MAX)?),
            (None, None) => None,
        };
        match brought {
            None => drop(std::fs::remove_file(&path)),
            Some(bytes) => {
                let directory = self.paths.api.metadata()?;
                let (uid, gid) = (directory.uid(), directory.gid());
                put(&self.paths.api, API, &bytes, Access { uid, gid, mode: 0o400 })?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Tries again what failed.
    pub(super) fn mend_api(&mut self) {
        if self.problems.has("API") {
            let failed = self.bring_api().err().map(|error| format!("{error:#}"));
            self.problems.set("API", failed);
        }
    }

    /// Keeps a secret and gives it to the containers that use it: they get their signal, or are
    /// made anew.
    pub(super) async fn set_secret(&mut self, name: &str, secret: &str) -> Result<()> {
        let secret = STANDARD.decode(secret).context("the secret is no base64")?;
        if name == API {
            // One that could not be served with would lock everybody out.
            check_api_config(&secret).await?;
        }
        // systemd may take its time; the kill switch does not wait for it.
        let (secrets, kept) = (self.secrets.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || secrets.set(&kept, &secret)).await??;
        if name == API {
            self.bring_api()?;
        }
        let about = format!("secret {name}");
        self.log.record(Level::Info, &about, "is kept");
        let uses = |instance: &&Instance| {
            let runs = self.table.task(instance) == Some(Task::Running);
            runs && instance.service.secrets.iter().any(|secret| secret.source == name)
        };
        let users: Vec<Instance> = self.table.wanted.iter().filter(uses).cloned().collect();
        let mut failed = Vec::new();
        for instance in users {
            match self.give(&instance).await {
                Ok(how) => {
                    let text = format!("given to {}, {how}", instance.id);
                    self.log.record(Level::Info, &about, &text);
                }
                // The others are given it all the same.
                Err(error) => failed.push(format!("{}: {error:#}", instance.id)),
            }
        }
        self.link.wake.notify_one();
        ensure!(failed.is_empty(), "it is kept, but not given to {}", failed.join(", "));
        Ok(())
    }

    /// Opens an instance's secrets anew, and tells it; says how.
    async fn give(&mut self, instance: &Instance) -> Result<String> {
        let (secrets, wanted) = (self.secrets.clone(), instance.clone());
        let deliver = move || secrets.deliver(&wanted.id, &wanted.service);
        tokio::task::spawn_blocking(deliver).await??;
        let containerd = self.link.client.as_ref().context("containerd does not answer")?;
        let found = container_of(&self.table.observed, instance);
        let (container, _) = found.context("there is no container")?;
        if let Some(signal) = instance.service.policy.secret_signal {
            containerd.signal(container, signal).await?;
            return Ok(format!("with signal {signal}"));
        }
        containerd.remove(container, self.table.ending(container)).await?;
        // It did not end by itself: neither its trial nor its health begins with that.
        self.table.health.forget(&instance.id);
        if let Some(trial) = self.rollouts.trials.get_mut(&instance.service.name) {
            trial.starts = trial.starts.saturating_sub(1);
        }
        Ok("which is made anew".into())
    }

    pub(super) fn remove_secret(&mut self, name: &str) -> Result<()> {
        let uses = |instance: &&Instance| {
            instance.service.secrets.iter().any(|secret| secret.source == name)
        };
        if let Some(instance) = self.table.wanted.iter().find(uses) {
            bail!("secret {name} is used by the service {}", instance.service.name);
        }
        self.secrets.remove(name)?;
        if name == API {
            self.bring_api()?;
        }
        self.log.record(Level::Info, &format!("secret {name}"), "is forgotten");
        Ok(())
    }
}
