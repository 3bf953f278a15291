//! A compose file that waits for the next boot. One that came with a release on trial goes with it: if the release falls
//! back, the file before is back too.

use super::Agent;
use crate::compose;
use crate::events::Level;
use crate::files::write_whole;
use crate::update::Running;
use crate::update::history::boot_id;
use abi::release::Version;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const ABOUT: &str = "compose";

/// What waits.
#[derive(Debug, Serialize, Deserialize)]
struct Staged {
    /// The boot in which it was brought.
    boot: String,
    compose: String,
}

/// What was applied before it, as long as the release that it came with is on trial.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    /// The release.
    version: Version,
    /// Nothing if it was the image's own.
    compose: Option<String>,
}

impl Agent {
    /// Keeps a file for the next boot; another one in its place.
    pub(super) fn stage(&self, compose: &str) -> Result<()> {
        let staged = Staged { boot: boot_id()?, compose: compose.into() };
        write_whole(&self.staged(), &serde_json::to_string(&staged)?)?;
        self.log.say(Level::Info, ABOUT, "is staged: the next boot runs it");
        Ok(())
    }

    /// Whether a file waits for the next boot.
    pub(super) fn is_staged(&self) -> bool {
        self.staged().exists()
    }

    /// Something else was applied: the last word counts.
    pub(super) fn forget_staged(&self) {
        let _ = std::fs::remove_file(self.staged());
        let _ = std::fs::remove_file(self.before_staged());
    }

    /// When the agent starts: after a boot, what was staged is what is applied, or what came with a release that fell back is
    /// no more. Says whether something is another; what can't be done is said, and the host goes on with what it has.
    pub(super) fn settle_staged(&mut self) -> bool {
        let went = self.go_back().and_then(|back| Ok(self.take_staged()? || back));
        went.unwrap_or_else(|error| {
            self.log.say(Level::Error, ABOUT, &format!("what was staged: {error:#}"));
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
                self.note_before()?;
                write_whole(&self.paths.applied, compose)?;
                self.log.say(Level::Info, ABOUT, "what was staged is applied");
            }
            Err(why) => {
                let said = format!("what was staged is not accepted, the one before stays: {why}");
                self.log.say(Level::Error, ABOUT, &said);
            }
        }
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        Ok(taken.is_ok())
    }

    /// Remembers what was applied, if the release is on trial. A second time it is known already.
    fn note_before(&self) -> Result<()> {
        let path = self.before_staged();
        if !self.paths.update.is_on_trial() || path.exists() {
            return Ok(());
        }
        let version = Running::read(&self.paths.update.os_release)?.version;
        let compose = std::fs::read_to_string(&self.paths.applied).ok();
        write_whole(&path, &serde_json::to_string(&Before { version, compose })?)
    }

    /// Takes back what came with a release that is not the one that runs.
    fn go_back(&self) -> Result<bool> {
        let path = self.before_staged();
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(false) };
        let before: Before = serde_json::from_str(&text).context("what was applied before")?;
        if Running::read(&self.paths.update.os_release)?.version == before.version {
            return Ok(false);
        }
        match before.compose {
            Some(compose) => write_whole(&self.paths.applied, &compose)?,
            None => drop(std::fs::remove_file(&self.paths.applied)),
        }
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        let text = format!("{} fell back, and what was staged for it with it", before.version);
        self.log.say(Level::Warning, ABOUT, &text);
        Ok(true)
    }

    /// Once a second: what came with a release that has proved itself stays.
    pub(super) fn keep_staged(&self) {
        let path = self.before_staged();
        if path.exists() && !self.paths.update.is_on_trial() {
            let _ = std::fs::remove_file(path);
        }
    }

    fn staged(&self) -> PathBuf {
        self.paths.applied.with_extension("staged.json")
    }

    fn before_staged(&self) -> PathBuf {
        self.paths.applied.with_extension("before-staged.json")
    }
}
