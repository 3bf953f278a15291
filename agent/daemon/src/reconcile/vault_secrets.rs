//! Secrets that came from Vault: kept sealed as if somebody had brought them, each time that one is
//! another. Who asks Vault is not believed more than it needs: of what it brings only what the
//! host's credential names is taken.

use crate::reconcile::Agent;
use crate::reconcile::tasks::Work;
use agent_core::limits::REFUSED_PAUSE;
use agent_host::vault_exchange::{self, Fetched, VaultPaths};
use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

const ABOUT: &str = "Vault";

/// Secrets that this host takes from Vault, if it has the credential for it.
#[derive(Debug, Default)]
pub struct VaultSync {
    /// Names of the configured secrets.
    names: BTreeSet<String>,
    paths: VaultPaths,
    /// Why it takes none although there is a credential.
    broken: Option<String>,
    /// When what was read last had been written.
    seen: Option<SystemTime>,
    /// Secrets read last, in base64, by name.
    fetched: Fetched,
    /// SHA-256 of what was kept, so that each is opened once.
    kept: BTreeMap<String, [u8; 32]>,
    /// Errors of secrets that could not be kept, and the time of the next attempt, by name.
    postponed: BTreeMap<String, (String, Duration)>,
}

impl VaultSync {
    /// By this host's credentials.
    pub fn new(credentials: Option<&Path>) -> Self {
        match vault_exchange::Config::read(credentials) {
            Ok(None) => Self::default(),
            Ok(Some(config)) => Self { names: config.names(), ..Self::default() },
            Err(error) => Self { broken: Some(format!("{error:#}")), ..Self::default() },
        }
    }

    /// Looks at what was written since.
    fn look(&mut self) -> Result<()> {
        let written = self.paths.fetched_file().written();
        if written.is_some() && written != self.seen {
            self.fetched = self.paths.fetched_file().read()?.unwrap_or_default();
            self.fetched.retain(|name, _| self.names.contains(name));
            self.postponed.clear();
            self.seen = written;
        }
        Ok(())
    }

    /// One that is to be kept.
    fn next(&self, now: Duration) -> Option<(String, String)> {
        let is_due = |name: &String| self.postponed.get(name).is_none_or(|(_, at)| *at <= now);
        let is_other =
            |name: &String, secret: &String| self.kept.get(name) != Some(&digest(secret));
        let mut due = self.fetched.iter().filter(|(name, it)| is_due(name) && is_other(name, it));
        due.next().map(|(name, secret)| (name.clone(), secret.clone()))
    }

    fn wrong(&self) -> Option<String> {
        let postponed = self.postponed.iter().map(|(name, (why, _))| format!("{name}: {why}"));
        let postponed: Vec<String> = postponed.collect();
        let said = (!postponed.is_empty()).then(|| postponed.join("; "));
        said.or_else(|| self.paths.report_file().read().ok().flatten()?.error)
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

impl Agent {
    /// Once a second, one secret: systemd may take its time for each.
    pub(super) fn take_from_vault(&mut self) {
        if self.vault.names.is_empty() {
            return self.problems.set(ABOUT, self.vault.broken.clone());
        }
        let looked = self.vault.look().err().map(|error| format!("{error:#}"));
        let now = self.now();
        if !self.tasks.has_any(|work| matches!(work, Work::Secret(_)))
            && let Some((name, secret)) = self.vault.next(now)
        {
            self.keep_fetched(name, secret);
        }
        let said = looked.or_else(|| self.vault.wrong());
        self.problems.set(ABOUT, said);
    }

    /// Keeps it and gives it to its containers, unless it is what this host has. One that could not
    /// be given before is.
    fn keep_fetched(&mut self, name: String, secret: String) {
        let (secrets, known) = (self.secrets.clone(), name.clone());
        let open = tokio::task::spawn_blocking(move || secrets.open(&known).ok());
        self.start(vec![Work::Secret(name.clone())], open, move |agent, before| {
            let before = before.expect("it does not panic");
            let wanted = STANDARD.decode(&secret).ok();
            // What is no base64 is refused when it is set.
            if wanted.is_some() && before == wanted && !agent.vault.postponed.contains_key(&name) {
                return agent.note_kept(name, &secret, Ok(()));
            }
            let kept = (name.clone(), secret.clone());
            agent.set_secret(name, &secret, move |agent, set| {
                agent.note_kept(kept.0, &kept.1, set);
            });
        });
    }

    fn note_kept(&mut self, name: String, secret: &str, kept: Result<()>) {
        match kept {
            Ok(()) => {
                self.vault.postponed.remove(&name);
                self.vault.kept.insert(name, digest(secret));
            }
            Err(error) => {
                let again = (format!("{error:#}"), self.now() + REFUSED_PAUSE);
                self.vault.postponed.insert(name, again);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_taken_one_at_a_time_and_again_after_a_while() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let names = ["a", "b"].map(ToOwned::to_owned).into();
        let mut sync = VaultSync {
            names,
            paths: vault_exchange::VaultPaths::in_directory(&directory),
            ..VaultSync::default()
        };
        sync.look().unwrap();
        assert_eq!(sync.next(Duration::ZERO), None);
        let brought = r#"{"a":"QQ==","b":"Qg==","quietcore.api":"QQ=="}"#;
        std::fs::write(&sync.paths.fetched, brought).unwrap();
        sync.look().unwrap();
        assert_eq!(sync.fetched.len(), 2, "somebody brought what nobody asked for");
        let pair = |name: &str, secret: &str| Some((name.to_owned(), secret.to_owned()));
        assert_eq!(sync.next(Duration::ZERO), pair("a", "QQ=="));
        let later = Duration::from_secs(60);
        sync.postponed.insert("a".into(), ("no room".into(), later));
        assert_eq!(sync.next(Duration::ZERO), pair("b", "Qg=="));
        sync.kept.insert("b".into(), digest("Qg=="));
        assert_eq!((sync.next(Duration::ZERO), sync.wrong()), (None, Some("a: no room".into())));
        assert_eq!(sync.next(later), pair("a", "QQ=="));
    }
}
