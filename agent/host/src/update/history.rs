//! History of the versions that this host was given, and their outcomes: kept on the data
//! partition, so that a version that fell back is not tried again.

use abi::release::Version;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Entries that are kept.
const ENTRIES_MAX: usize = 64;

/// Outcome of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Write to the slot in progress.
    Writing,
    /// The next boot tries it.
    Staged,
    /// Proved: the version ran and is no longer on trial.
    Proved,
    /// A later boot ran another version.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    version: Version,
    /// The boot in which it came this far.
    boot: String,
    outcome: Outcome,
}

/// All of them, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    entries: Vec<Entry>,
}

impl History {
    /// Reads it; a host that was never updated has none.
    ///
    /// # Errors
    /// It is there but can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!("{}: remove it to forget failed versions", path.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Writes it, whole.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> Result<()> {
        crate::files::write_whole(path, &serde_json::to_string_pretty(self)?)
    }

    /// Notes how far a version has come in this boot.
    pub fn note(&mut self, version: Version, boot: &str, outcome: Outcome) {
        // What was to be tried before this one is not tried any more.
        let open = |entry: &Entry| matches!(entry.outcome, Outcome::Writing | Outcome::Staged);
        self.entries.retain(|entry| entry.version != version && !open(entry));
        self.entries.push(Entry { version, boot: boot.into(), outcome });
        let over = self.entries.len().saturating_sub(ENTRIES_MAX);
        self.entries.drain(..over);
    }

    /// Whether a version was tried and fell back.
    pub fn has_failed(&self, version: Version) -> bool {
        self.failed().any(|failed| failed == version)
    }

    /// The versions that did.
    pub fn failed(&self) -> impl Iterator<Item = Version> {
        let failed = self.entries.iter().filter(|entry| entry.outcome == Outcome::Failed);
        failed.map(|entry| entry.version)
    }

    /// Draws the conclusion from what runs now: a version that was staged in an earlier boot and
    /// does not run has failed, the one that runs and is not on trial has proved itself. Returns
    /// whether that is news.
    pub fn record_boot(&mut self, running: Version, is_on_trial: bool, boot: &str) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            let outcome = match entry.outcome {
                Outcome::Staged if entry.version == running && !is_on_trial => Outcome::Proved,
                Outcome::Writing if entry.version == running && !is_on_trial => Outcome::Proved,
                Outcome::Staged if entry.version != running && entry.boot != boot => {
                    Outcome::Failed
                }
                same => same,
            };
            changed |= outcome != entry.outcome;
            entry.outcome = outcome;
        }
        changed
    }
}

/// This boot's name, by the kernel.
///
/// # Errors
/// There is no `/proc`.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path).context(path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_staged_and_does_not_run_has_failed() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        let mut history = History::default();
        history.note(version("0.2.0"), "one", Outcome::Staged);
        assert!(!history.record_boot(version("0.1.0"), false, "one"), "it has had no boot yet");
        assert!(!history.record_boot(version("0.2.0"), true, "two"), "it is on trial");
        assert!(history.record_boot(version("0.2.0"), false, "two"));
        assert_eq!(history.failed().count(), 0);
        history.note(version("0.3.0"), "two", Outcome::Staged);
        assert!(history.record_boot(version("0.2.0"), false, "five"));
        assert!(history.has_failed(version("0.3.0")));
        assert!(!history.has_failed(version("0.2.0")));
        history.note(version("0.4.0"), "five", Outcome::Writing);
        assert!(!history.record_boot(version("0.2.0"), false, "six"), "a power cut is no verdict");
        assert!(!history.has_failed(version("0.4.0")));
    }
}
