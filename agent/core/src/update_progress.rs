//! Progress of an operating-system update, as the status shows it.

use abi::release::Version;
use serde::{Deserialize, Serialize};

/// Stage of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing was asked for since the boot.
    #[default]
    None,
    /// On its way.
    Fetching,
    /// All of it is here, and is what was signed.
    Fetched,
    /// Being written to the other slot.
    Writing,
    /// The next boot tries it.
    Staged,
    /// Given up; nothing has changed for the next boot.
    Failed,
}

/// Progress of an update, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Stage that the update has reached.
    pub stage: Stage,
    /// Version of the release, once it is known.
    pub version: Option<Version>,
    /// Detail of the stage, in words.
    pub detail: String,
}

/// Updates, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The running version may still fall back to the one before.
    pub on_trial: bool,
    /// Progress of the last update.
    pub progress: Progress,
    /// Versions that fell back on this host.
    pub failed: Vec<String>,
}
