//! Secrets that came from Vault: kept sealed as if somebody had brought them, each time that one is another.

use super::Agent;
use crate::vault::{Config, Places};
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;
use std::time::SystemTime;

const ABOUT: &str = "Vault";

/// What this host takes from Vault, if it does.
#[derive(Debug, Default)]
pub(super) struct VaultDesk {
    places: Option<Places>,
    /// Why it does not although there is a credential.
    broken: Option<String>,
    /// When what was taken last had been written.
    seen: Option<SystemTime>,
    /// What could not be kept.
    failed: Option<String>,
}

impl VaultDesk {
    /// By this host's credentials.
    pub(super) fn new(credentials: Option<&Path>) -> Self {
        match Config::read(credentials) {
            Ok(config) => Self { places: config.map(|_| Places::default()), ..Self::default() },
            Err(error) => Self { broken: Some(format!("{error:#}")), ..Self::default() },
        }
    }
}

impl Agent {
    /// Once a second.
    pub(super) async fn take_from_vault(&mut self) {
        let Some(places) = self.vault.places.clone() else {
            return self.problem(ABOUT, self.vault.broken.clone());
        };
        let written = places.fetched.metadata().and_then(|file| file.modified()).ok();
        if written.is_some() && written != self.vault.seen {
            self.vault.seen = written;
            let kept = self.keep_fetched(&places).await;
            self.vault.failed = kept.err().map(|error| format!("{error:#}"));
        }
        let said = self.vault.failed.clone().or_else(|| places.wrong());
        self.problem(ABOUT, said);
    }

    async fn keep_fetched(&mut self, places: &Places) -> Result<()> {
        for (name, secret) in places.read()? {
            let wanted = STANDARD.decode(&secret).context("it is no base64")?;
            let (secrets, known) = (self.secrets.clone(), name.clone());
            let opened = move || secrets.open(&known).ok();
            let before = tokio::task::spawn_blocking(opened).await?;
            if before.as_ref() != Some(&wanted) {
                self.set_secret(&name, &secret).await.with_context(|| format!("secret {name}"))?;
            }
        }
        Ok(())
    }
}
