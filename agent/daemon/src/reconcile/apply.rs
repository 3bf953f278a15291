//! Declared services: the compose file of the image, or an applied one, perhaps on trial.

use crate::block_devices::read_facts;
use crate::reconcile::Agent;
use agent_core::compose::{self, Service};
use agent_core::limits::{TRY_MAX, TRY_MIN};
use agent_core::protocol::types::Level;
use agent_host::files::write_private;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tracing::warn;

/// Lists each service as added, removed, changed or unchanged, one line per service, by name.
pub fn changes(before: &[Service], after: &[Service]) -> Vec<String> {
    let find = |all: &[Service], name: &str| all.iter().find(|one| one.name == name).cloned();
    let names: BTreeSet<&str> =
        before.iter().chain(after).map(|service| service.name.as_str()).collect();
    let line = |name: &str| match (find(before, name), find(after, name)) {
        (None, Some(new)) => format!("+ {name}: {}", new.image),
        (Some(_), None) => format!("- {name}"),
        (Some(old), Some(new)) if old.fingerprint() != new.fingerprint() => {
            format!("~ {name}: {}, made anew", new.image)
        }
        (Some(old), Some(new)) if old.policy != new.policy => {
            format!("~ {name}: {}, the container stays", new.image)
        }
        _ => format!("= {name}"),
    };
    names.into_iter().map(line).collect()
}

/// Whether this host has the disks that services name.
pub fn check_host(services: &[Service]) -> Result<()> {
    for service in services {
        read_facts(service, Path::new("/sys"))
            .with_context(|| format!("services.{}", service.name))?;
    }
    Ok(())
}

/// Mode in which a compose file is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Report of changes only; nothing is applied.
    DryRun,
    /// Declared from now on.
    Now,
    /// The same, for this time, unless somebody keeps it.
    Try(Duration),
    /// The same, from the next boot on.
    Staged,
}

impl How {
    pub fn of(dry_run: bool, try_seconds: Option<u64>, staged: bool) -> Result<Self> {
        match (dry_run, try_seconds.map(Duration::from_secs), staged) {
            (true, None, false) => Ok(Self::DryRun),
            (false, None, true) => Ok(Self::Staged),
            (false, None, false) => Ok(Self::Now),
            (false, Some(time), false) if (TRY_MIN..=TRY_MAX).contains(&time) => {
                Ok(Self::Try(time))
            }
            (false, Some(time), false) => {
                let (min, max) = (TRY_MIN.as_secs(), TRY_MAX.as_secs());
                bail!("for {} s: {min} s to {max} s", time.as_secs())
            }
            _ => bail!("only one of dry run, try and staged"),
        }
    }
}

impl Agent {
    /// The applied compose file if it is there and still valid, else the image's. What was on trial
    /// when the agent or the host went down is taken back: nobody kept it.
    pub(super) fn load(&mut self) -> Result<Vec<Service>> {
        self.restore()?;
        if let Ok(text) = std::fs::read_to_string(&self.paths.applied) {
            match compose::parse(&text, &self.cores) {
                Ok(services) => return Ok(services),
                Err(error) => {
                    warn!("{}: {error}; using the image's own", self.paths.applied.display())
                }
            }
        }
        let path = &self.paths.compose;
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        compose::parse(&text, &self.cores).with_context(|| path.display().to_string())
    }

    /// The text of what is declared.
    pub(super) fn declared_text(&self) -> String {
        let applied = std::fs::read_to_string(&self.paths.applied);
        applied.or_else(|_| std::fs::read_to_string(&self.paths.compose)).unwrap_or_default()
    }

    /// A file that is refused changes nothing. Says what is another than before, by service.
    pub(super) fn apply(&mut self, text: &str, how: How) -> Result<Vec<String>> {
        let services = compose::parse(text, &self.cores)?;
        for service in &services {
            self.check_image(&service.image)?;
        }
        check_host(&services)?;
        let changes = changes(&self.rollouts.services, &services);
        let try_for = match how {
            How::DryRun => return Ok(changes),
            How::Staged => {
                self.stage(text)?;
                return Ok(changes);
            }
            How::Now => None,
            How::Try(time) => Some(time),
        };
        // The last word counts.
        self.forget_staged();
        if try_for.is_some() && self.rollouts.try_until.is_none() {
            // Empty if it is the image's own: that of the next release is to be its own again.
            let applied = std::fs::read_to_string(&self.paths.applied).unwrap_or_default();
            let versions = serde_json::to_string_pretty(&self.rollouts.versions)?;
            write_private(&self.versions_before_try(), &versions)?;
            write_private(&self.before_try(), &applied)?;
        }
        write_private(&self.paths.applied, text)?;
        let count = services.len();
        let said = match try_for {
            None => format!("applied, {count} services"),
            Some(time) => {
                format!("applied for {} s, {count} services; qctl keep keeps it", time.as_secs())
            }
        };
        self.log.record(Level::Info, "compose", &said);
        self.declare(services)?;
        match try_for {
            Some(time) => self.rollouts.try_until = Some(self.now() + time),
            None => self.forget_try(),
        }
        self.note_drift();
        Ok(changes)
    }

    /// Whether an image could be had, in principle. As long as containerd does not answer it may
    /// have it.
    pub(super) fn check_image(&self, name: &str) -> Result<()> {
        let is_there = self.link.client.is_none() || self.link.has_image(name);
        self.image_manager.check(is_there, name)
    }

    fn declare(&mut self, services: Vec<Service>) -> Result<()> {
        self.rollouts.services = services;
        self.rollouts.versions.declare(&self.rollouts.services);
        self.table.wanted = self.instances();
        self.rollouts.trials.clear();
        self.problems.forget(|about| about.starts_with("rollout "));
        self.image_manager.changed();
        self.link.wake.notify_one();
        self.write_versions()
    }

    /// Keeps the compose file that was applied on trial.
    pub(super) fn keep(&mut self) -> Result<()> {
        ensure!(self.rollouts.try_until.is_some(), "nothing is applied on trial");
        self.forget_try();
        self.log.record(Level::Info, "compose", "is kept");
        Ok(())
    }

    /// Takes back what was applied on trial, if its time is over.
    pub(super) fn end_try(&mut self) {
        if self.rollouts.try_until.is_none_or(|until| self.now() < until) {
            return;
        }
        self.rollouts.try_until = None;
        let back = self.load();
        match back {
            Ok(services) => {
                self.rollouts.services = services;
                self.remember();
                self.rollouts.trials.clear();
                self.problems.forget(|about| about.starts_with("rollout "));
                self.image_manager.changed();
                self.link.wake.notify_one();
                self.log.record(
                    Level::Warning,
                    "compose",
                    "nobody kept it: the one before is back",
                );
                self.note_drift();
            }
            Err(error) => self.log.record(Level::Error, "compose", &format!("{error:#}")),
        }
    }

    pub(super) fn restore(&mut self) -> Result<()> {
        let before = self.before_try();
        if !before.exists() || self.rollouts.try_until.is_some() {
            return Ok(());
        }
        let versions = self.versions_before_try();
        if versions.exists() {
            std::fs::rename(&versions, &self.paths.versions)
                .with_context(|| format!("take {} back", versions.display()))?;
        }
        let empty = before.metadata().is_ok_and(|file| file.len() == 0);
        let taken = match empty {
            true => {
                let _ = std::fs::remove_file(&self.paths.applied);
                std::fs::remove_file(&before)
            }
            false => std::fs::rename(&before, &self.paths.applied),
        };
        taken.with_context(|| format!("take {} back", before.display()))
    }

    fn forget_try(&mut self) {
        self.rollouts.try_until = None;
        let _ = std::fs::remove_file(self.before_try());
        let _ = std::fs::remove_file(self.versions_before_try());
    }

    fn versions_before_try(&self) -> std::path::PathBuf {
        self.paths.versions.with_extension("before-try.json")
    }

    fn before_try(&self) -> std::path::PathBuf {
        self.paths.applied.with_extension("before-try.yaml")
    }
}
