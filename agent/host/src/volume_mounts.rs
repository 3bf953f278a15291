//! Requests of the agent to `quietcore-volume@.service` to mount and unmount remote volumes, and
//! what is mounted.

use crate::systemd::systemctl;
use crate::worker_file::{WorkerFile, WorkerReport};
use agent_core::compose::remote_volumes::{REMOTE_VOLUMES, Remote};
use agent_core::limits::METADATA_LEN_MAX;
use anyhow::{Context, Result, bail};
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// Directory of requests, `ID.json`, and of reports, `ID.report`.
pub const WANTED: &str = "/run/quietcore/volumes";

/// Requested state of a volume.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Mounted; none if nobody needs it any more.
    pub remote: Option<Remote>,
}

/// Returns the IDs of mounted volumes: the last part of their mount points.
///
/// # Errors
/// This process's mounts can't be read.
pub fn mounted() -> Result<BTreeSet<String>> {
    Ok(mounts()?.into_iter().map(|(id, _)| id).collect())
}

/// Returns the IDs of volumes that were requested of the unit and not yet cleaned up completely.
///
/// # Errors
/// The directory is there and can't be read.
pub fn known() -> Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(WANTED) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.with_context(|| format!("read {WANTED}"))?,
    };
    let id = |name: &str| Some(name.strip_suffix(".json")?.to_owned());
    Ok(entries.filter_map(|entry| id(entry.ok()?.file_name().to_str()?)).collect())
}

/// With their file systems.
pub fn mounts() -> Result<Vec<(String, String)>> {
    let all = Process::myself()?.mountinfo().context("read the mounts")?;
    let ours = all.0.into_iter().filter_map(|mount| {
        let id = mount.mount_point.to_str()?.strip_prefix(REMOTE_VOLUMES)?;
        Some((id.to_owned(), mount.fs_type))
    });
    Ok(ours.collect())
}

/// File of the requested state of a volume.
pub fn request_file(id: &str) -> WorkerFile<Wanted> {
    // Not with_extension: a volume's name may have dots.
    WorkerFile::new(Path::new(WANTED).join(format!("{id}.json")), METADATA_LEN_MAX)
}

/// File of the result of the unit's last attempt.
pub fn report_file(id: &str) -> WorkerFile<WorkerReport> {
    WorkerFile::new(Path::new(WANTED).join(format!("{id}.report")), METADATA_LEN_MAX)
}

/// Requests a volume to be mounted, or no longer; returns once that is so.
///
/// # Errors
/// What the unit reports.
pub async fn request(id: &str, remote: Option<Remote>) -> Result<()> {
    std::fs::create_dir_all(WANTED).with_context(|| format!("make {WANTED}"))?;
    report_file(id).remove()?;
    request_file(id).write(&Wanted { remote })?;
    let unit = format!("quietcore-volume@{id}.service");
    let started = systemctl(&["start", &unit]).await;
    match report_file(id).read()?.and_then(|report| report.error) {
        Some(why) => bail!("{why}"),
        None => started.map(drop),
    }
}
