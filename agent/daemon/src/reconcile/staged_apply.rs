//! A compose file that waits for the next boot, whatever release that is.

use crate::reconcile::Agent;
use agent_core::compose;
use agent_core::protocol::types::Level;
use agent_host::files::write_private;
use agent_host::update::history::boot_id;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const ABOUT: &str = "compose";

/// Compose file that waits for the next boot.
#[derive(Debug, Serialize, Deserialize)]
struct Staged {
    /// The boot in which it was brought.
    boot: String,
    compose: String,
}

impl Agent {
    /// Keeps a file for the next boot; another one in its place.
    pub(super) fn stage(&self, compose: &str) -> Result<()> {
        let staged = Staged { boot: boot_id()?, compose: compose.into() };
        write_private(&self.staged(), &serde_json::to_string(&staged)?)?;
        self.log.record(Level::Info, ABOUT, "is staged: the next boot runs it");
        Ok(())
    }

    /// Whether a file waits for the next boot.
    pub(super) fn is_staged(&self) -> bool {
        self.staged().exists()
    }

    /// Something else was applied: the last word counts.
    pub(super) fn forget_staged(&self) {
        let _ = std::fs::remove_file(self.staged());
    }

    /// When the agent starts: after a boot, what was staged is what is applied. Says whether it was
    /// so; what can't be done is said, and the host goes on with what it has.
    pub(super) fn finish_staged(&mut self) -> bool {
        self.take_staged().unwrap_or_else(|error| {
            self.log.record(Level::Error, ABOUT, &format!("what was staged: {error:#}"));
            false
        })
    }

    fn take_staged(&mut self) -> Result<bool> {
        let path = self.staged();
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(false) };
        let staged: Result<Staged, _> = serde_json::from_str(&text);
        let taken = match staged {
            Ok(staged) if boot_id()? == staged.boot => return Ok(false),
            Ok(staged) => compose::parse(&staged.compose, &self.cores)
                .map(|_| staged.compose)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match &taken {
            Ok(compose) => {
                // Before it: what was on trial is taken back, or it would take this back.
                self.restore()?;
                write_private(&self.paths.applied, compose)?;
                self.log.record(Level::Info, ABOUT, "what was staged is applied");
            }
            Err(why) => {
                let said = format!("what was staged is not accepted, the one before stays: {why}");
                self.log.record(Level::Error, ABOUT, &said);
            }
        }
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        Ok(taken.is_ok())
    }

    fn staged(&self) -> PathBuf {
        self.paths.applied.with_extension("staged.json")
    }
}
