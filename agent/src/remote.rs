//! Volumes of other hosts. The agent, which may not mount, writes down what is wanted, a file for each; a unit of its own
//! (`quietcore-volume@.service`) has systemd mount it, a disk by iSCSI once the host's initiator (open-iscsi) has it, and
//! leaves a word where it can't.

use crate::compose::remote::{REMOTE_VOLUMES, Remote, Session};
use crate::files::write_whole;
use crate::ociarchive::hex;
use anyhow::{Context, Result, bail, ensure};
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where what is wanted is written down: `ID.json`, and `ID.wrong` for what went wrong.
const WANTED: &str = "/run/quietcore/volumes";
/// How long systemd tries to mount something.
const MOUNT_LIMIT: &str = "TimeoutSec=30s";
/// How long a disk may take to be there after its session is.
const DISK_LIMIT: Duration = Duration::from_secs(15);
/// The host's initiator.
const INITIATOR: &str = "quietcore-iscsid.service";
/// What `iscsiadm` ends with if there is a session already, and if there is none (iscsiadm(8), "EXIT STATUS").
const HAS_SESSION: i32 = 15;
const NO_SESSION: i32 = 21;

/// What is to be so.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Mounted; none if nobody needs it any more.
    remote: Option<Remote>,
}

/// Which volumes are mounted: the last part of their places.
///
/// # Errors
/// This process's mounts can't be read.
pub fn mounted() -> Result<BTreeSet<String>> {
    Ok(mounts()?.into_iter().map(|(id, _)| id).collect())
}

/// Which the unit was asked for, and has not yet done away with all of.
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
fn mounts() -> Result<Vec<(String, String)>> {
    let all = Process::myself()?.mountinfo().context("read the mounts")?;
    let ours = all.0.into_iter().filter_map(|mount| {
        let id = mount.mount_point.to_str()?.strip_prefix(REMOTE_VOLUMES)?;
        Some((id.to_owned(), mount.fs_type))
    });
    Ok(ours.collect())
}

fn file(id: &str, extension: &str) -> PathBuf {
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

/// The unit's work.
///
/// # Errors
/// It can't be done; the agent finds why beside what it wrote.
pub fn settle(id: &str) -> Result<()> {
    let done = try_settle(id);
    if let Err(error) = &done {
        write_whole(&file(id, "wrong"), &format!("{error:#}"))?;
    }
    done
}

fn try_settle(id: &str) -> Result<()> {
    ensure!(!id.contains('/') && !id.starts_with('.'), "{id} is no volume");
    let path = file(id, "json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let wanted: Wanted = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    match (wanted.remote, mounted()?.contains(id)) {
        (Some(remote), false) => mount(id, &remote),
        (Some(_), true) => Ok(()),
        (None, is_mounted) => {
            unmount(id, is_mounted)?;
            // Until here somebody may have to come again.
            std::fs::remove_file(&path).with_context(|| path.display().to_string())
        }
    }
}

fn mount(id: &str, remote: &Remote) -> Result<()> {
    if let Some(session) = &remote.session {
        log_in(session, Path::new(&remote.what))?;
    }
    let place = format!("{REMOTE_VOLUMES}{id}");
    let mut command = Command::new("systemd-mount");
    command.args(["--quiet", "--collect", "--property", MOUNT_LIMIT]);
    if remote.session.is_some() {
        // What is on a disk is written before the host goes down, and that takes its session.
        command.args(["--property", &format!("After={INITIATOR}")]);
    } else {
        // A server that is gone does not keep the host from going down.
        command.args(["--property", "LazyUnmount=yes", "--property", "ForceUnmount=yes"]);
    }
    command.args(["--type", &remote.file_system, "--options", &remote.options]);
    command.args(["--", &remote.what, &place]);
    if let Err(error) = run(&mut command, &[]) {
        let unit = place.trim_start_matches('/').replace('-', "\\x2d").replace('/', "-");
        let said = reason(&format!("{unit}.mount"));
        bail!("mount {}: {}", remote.what, said.unwrap_or_else(|| error.to_string()));
    }
    Ok(())
}

/// The last words of what a unit ran.
fn reason(unit: &str) -> Option<String> {
    let mut command = Command::new("journalctl");
    command.args(["--boot", "--quiet", "--no-pager", "--output=cat", "--lines=1"]);
    command.args(["_TRANSPORT=stdout", &format!("_SYSTEMD_UNIT={unit}")]);
    let said = run(&mut command, &[]).ok()?;
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
}

fn unmount(id: &str, is_mounted: bool) -> Result<()> {
    let place = format!("{REMOTE_VOLUMES}{id}");
    if is_mounted {
        run(Command::new("systemctl").args(["stop", &place]), &[])?;
    }
    let _ = std::fs::remove_dir(&place);
    let has_disks = mounts()?.iter().any(|(_, file_system)| file_system == "ext4");
    let is_active = Command::new("systemctl").args(["is-active", "--quiet", INITIATOR]).status();
    if !has_disks && is_active.is_ok_and(|status| status.success()) {
        run(Command::new("iscsiadm").args(["-m", "session", "--logout"]), &[NO_SESSION])?;
        run(Command::new("iscsiadm").args(["-m", "node", "-o", "delete"]), &[NO_SESSION])?;
        run(Command::new("systemctl").args(["stop", INITIATOR]), &[])?;
    }
    Ok(())
}

/// Has the initiator ask for a target's disks.
fn log_in(session: &Session, disk: &Path) -> Result<()> {
    if disk.exists() {
        return Ok(());
    }
    run(Command::new("systemctl").args(["start", INITIATOR]), &[])?;
    let portal = session.portal.to_string();
    let node = |rest: &[&str]| {
        let mut command = Command::new("iscsiadm");
        command.args(["-m", "node", "-T", &session.target, "-p", &portal]).args(rest);
        run(&mut command, &[HAS_SESSION])
    };
    node(&["-o", "new"])?;
    node(&["--login"])?;
    let start = Instant::now();
    while !disk.exists() {
        ensure!(start.elapsed() < DISK_LIMIT, "{portal} has {}, but no such disk", session.target);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Runs it to its end, which may also be one of these.
fn run(command: &mut Command, fine: &[i32]) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}"))?;
    let code = output.status.code();
    if !output.status.success() && !code.is_some_and(|code| fine.contains(&code)) {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}", said.trim().lines().last().unwrap_or("failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// This host's name as an initiator, in the form of Debian's `iscsi-iname`: it stays what it is as long as the host's
/// identity does, and storage can be told of it.
///
/// # Errors
/// The host has no identity, or the file can't be written.
pub fn name_initiator(path: &Path) -> Result<()> {
    let id = std::fs::read_to_string("/etc/machine-id").context("read /etc/machine-id")?;
    let hash = Sha256::digest(format!("quietcore initiator {}", id.trim()));
    let name = format!("iqn.1993-08.org.debian:01:{}", hex(&hash[..6]));
    println!("this host is {name}");
    write_whole(path, &format!("InitiatorName={name}\n"))
}
