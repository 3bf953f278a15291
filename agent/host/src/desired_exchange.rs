//! Files between the agent and the worker that follows a desired state, and the configuration of
//! both.

use crate::credentials::read_credential;
use crate::worker_file::{WorkerFile, WorkerReport};
use agent_core::desired::{CREDENTIAL, Config};
use agent_core::limits::{
    DESIRED_CONFIG_LEN_MAX, DESIRED_PAUSE_MAX, DESIRED_TIMEOUT, METADATA_LEN_MAX,
};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads this process's credential `quietcore.desired`, if it was given one.
///
/// # Errors
/// One line: the file, what is wrong, the remedy.
pub fn read_config(credentials: Option<&Path>) -> Result<Option<Config>> {
    read_credential(credentials, CREDENTIAL, DESIRED_CONFIG_LEN_MAX, Config::parse)
}

/// Where it puts things.
#[derive(Debug, Clone)]
pub struct DesiredPaths {
    /// File of the envelope that was fetched.
    pub envelope: PathBuf,
    /// File of the result of the last fetch.
    pub progress: PathBuf,
}

impl Default for DesiredPaths {
    fn default() -> Self {
        Self {
            envelope: "/run/quietcore/desired/desired.json".into(),
            progress: "/run/quietcore/desired/progress.json".into(),
        }
    }
}

impl DesiredPaths {
    /// File of the result of the last fetch.
    pub fn report_file(&self) -> WorkerFile<WorkerReport> {
        WorkerFile::new(&self.progress, METADATA_LEN_MAX)
    }

    /// Returns the error of the last fetch, or that no fetch has been reported for too long; `None`
    /// if there is no problem. `started` is the time since the host could have begun to fetch.
    pub fn wrong(&self, config: &Config, started: Duration) -> Option<String> {
        config.url.as_ref()?;
        let longest = 2 * (config.interval.max(DESIRED_PAUSE_MAX) + DESIRED_TIMEOUT);
        let reported = self.report_file().written();
        let age = reported.map_or(started, |at| at.elapsed().unwrap_or_default());
        if age > longest {
            let minutes = age.as_secs() / 60;
            return Some(format!("no fetch for {minutes} min; see quietcore-follow.service"));
        }
        self.report_file().read().ok().flatten().unwrap_or_default().error
    }
}
