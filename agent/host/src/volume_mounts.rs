//! Requests of the agent to `quietcore-volume@.service` to mount and unmount remote volumes, and
//! what is mounted.

use crate::files::write_whole;
use agent_core::compose::remote_volumes::{REMOTE_VOLUMES, Remote};
use anyhow::{Context, Result, bail};
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where what is wanted is written down: `ID.json`, and `ID.wrong` for what went wrong.
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

pub fn file(id: &str, extension: &str) -> PathBuf {
    // Not with_extension: a volume's name may have dots.
    Path::new(WANTED).join(format!("{id}.{extension}"))
}

/// Has it mounted, or no longer; returns once that is so.
///
/// # Errors
/// What the unit says.
pub async fn ask(id: &str, remote: Option<Remote>) -> Result<()> {
    std::fs::create_dir_all(WANTED).with_context(|| format!("make {WANTED}"))?;
    let _ = std::fs::remove_file(file(id, "wrong"));
    write_whole(&file(id, "json"), &serde_json::to_string(&Wanted { remote })?)?;
    let unit = format!("quietcore-volume@{id}.service");
    let started = crate::systemd::systemctl(&["start", &unit]).await;
    match std::fs::read_to_string(file(id, "wrong")) {
        Ok(why) => bail!("{why}"),
        Err(_) => started.map(drop),
    }
}
