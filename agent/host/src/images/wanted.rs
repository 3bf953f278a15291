//! Wanted images and the progress of their fetches: two files, exchanged between the agent, which
//! has no network access, and the pull worker. systemd starts the worker as long as the first file
//! exists.

use crate::files::{read_up_to, write_whole};
use agent_core::limits::METADATA_LEN_MAX;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where the files are.
#[derive(Debug, Clone)]
pub struct ImagePaths {
    /// Names of images, written by the agent.
    pub wanted: PathBuf,
    /// File of the progress of each image, written by the pull worker.
    pub progress: PathBuf,
    /// Directory of the image store.
    pub store: PathBuf,
    /// Names of images that somebody loaded by hand: the agent's own.
    pub loaded: PathBuf,
}

impl Default for ImagePaths {
    fn default() -> Self {
        Self {
            wanted: "/run/quietcore/agent/wanted.json".into(),
            progress: "/run/quietcore/pull/progress.json".into(),
            store: "/var/lib/quietcore/images".into(),
            loaded: "/var/lib/quietcore/agent/images".into(),
        }
    }
}

/// Progress of fetching an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes in all; 0 before the manifest is there.
    pub of: u64,
    /// Number of failed attempts.
    pub failures: u32,
    /// Why, the last time.
    pub error: Option<String>,
}

impl Progress {
    /// In one line.
    pub fn text(&self) -> String {
        let (done, of) = (self.done >> 20, self.of >> 20);
        match &self.error {
            Some(error) => format!("attempt {}: {error}", self.failures),
            None if self.of == 0 => "is asked for".into(),
            None => format!("{done} of {of} MiB"),
        }
    }
}

/// Progress of all wanted images, by name.
pub type AllProgress = BTreeMap<String, Progress>;

/// The images that are wanted; nothing if there is no such file.
pub fn read(path: &Path) -> Option<BTreeSet<String>> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// Wants these images and no others.
///
/// # Errors
/// The file can't be written or removed.
pub fn write(path: &Path, names: &BTreeSet<String>) -> Result<()> {
    if names.is_empty() {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        };
    }
    write_whole(path, &serde_json::to_string(names)?)
}

/// Reads the progress of each image; empty if the file is missing or damaged.
pub fn progress(path: &Path) -> AllProgress {
    let text = read_up_to(path, METADATA_LEN_MAX).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}
