//! Wanted images and the progress of their fetches: two files, exchanged between the agent, which
//! has no network access, and the pull worker. systemd starts the worker as long as the first file
//! exists.

use crate::worker_file::WorkerFile;
use agent_core::limits::METADATA_LEN_MAX;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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

impl ImagePaths {
    /// File of the names of wanted images; there is none while nothing is wanted.
    pub fn wanted_file(&self) -> WorkerFile<BTreeSet<String>> {
        WorkerFile::new(&self.wanted, METADATA_LEN_MAX)
    }

    /// File of the progress of each image.
    pub fn progress_file(&self) -> WorkerFile<AllProgress> {
        WorkerFile::new(&self.progress, METADATA_LEN_MAX)
    }

    /// Requests these images and no others of the pull worker.
    ///
    /// # Errors
    /// The file can't be written or removed.
    pub fn want(&self, names: &BTreeSet<String>) -> Result<()> {
        match names.is_empty() {
            true => self.wanted_file().remove(),
            false => self.wanted_file().write(names),
        }
    }
}
