//! Values that the agent and a worker hand over, each in a JSON file that one of them writes and
//! the other reads. The file of the other side is hostile until proved: bounded, no link, no pipe.

use crate::files::{cut, read_up_to, write_whole};
use agent_core::limits::EVENT_TEXT_MAX;
use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// JSON file with one value, written by the agent or a worker and read by the other.
#[derive(Debug, Clone)]
pub struct WorkerFile<T> {
    path: PathBuf,
    len_max: u64,
    value: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> WorkerFile<T> {
    /// File at `path`, of which at most `len_max` bytes are read.
    pub fn new(path: impl Into<PathBuf>, len_max: u64) -> Self {
        Self { path: path.into(), len_max, value: PhantomData }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the value, atomically and durably.
    ///
    /// # Errors
    /// File system errors, with the path.
    pub fn write(&self, value: &T) -> Result<()> {
        write_whole(&self.path, &serde_json::to_string(value)?)
    }

    /// Removes the file; a missing one is removed already.
    ///
    /// # Errors
    /// File system errors, with the path.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Reads the value; `None` if there is no file.
    ///
    /// # Errors
    /// The file is too large, is no regular file, or holds no such value.
    pub fn read(&self) -> Result<Option<T>> {
        if self.path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let bytes = read_up_to(&self.path, self.len_max)?;
        let value = serde_json::from_slice(&bytes);
        value.with_context(|| self.path.display().to_string()).map(Some)
    }

    /// Time of the last write; `None` if there is no file.
    pub fn written(&self) -> Option<SystemTime> {
        self.path.symlink_metadata().and_then(|file| file.modified()).ok()
    }
}

/// Result of a worker's last attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerReport {
    /// Reason of the failure in one line; none after a success.
    pub error: Option<String>,
}

impl WorkerReport {
    /// Report of an attempt, its reason cut to the length of an event.
    pub fn of<T>(attempt: &Result<T>) -> Self {
        let error = attempt.as_ref().err();
        Self { error: error.map(|error| cut(&format!("{error:#}"), EVENT_TEXT_MAX)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_side_wrote_is_bounded_and_a_plain_file() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let file = WorkerFile::<WorkerReport>::new(directory.join("report.json"), 100);
        assert_eq!(file.read().unwrap(), None);
        let report = WorkerReport::of::<()>(&Err(anyhow::anyhow!("no answer")));
        file.write(&report).unwrap();
        assert_eq!(file.read().unwrap(), Some(report));
        assert!(file.written().is_some());
        std::fs::write(file.path(), "x".repeat(101)).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("larger than 100"));
        std::fs::write(file.path(), "{\"eror\":1}").unwrap();
        assert!(format!("{:#}", file.read().unwrap_err()).contains("unknown field"));
        file.remove().unwrap();
        file.remove().unwrap();
        for target in ["/etc/passwd", "/nowhere"] {
            std::os::unix::fs::symlink(target, file.path()).unwrap();
            assert!(file.read().is_err(), "a link to {target} is followed");
            file.remove().unwrap();
        }
        nix::unistd::mkfifo(file.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("no file"));
    }
}
