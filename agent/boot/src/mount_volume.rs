//! Volumes of other hosts. The agent, which may not mount, writes down what is wanted, a file for
//! each; a unit of its own (`quietcore-volume@.service`) has systemd mount it, a disk by iSCSI once
//! the host's initiator (open-iscsi) has it, and leaves a word where it can't.

use agent_core::compose::remote_volumes::{REMOTE_VOLUMES, Remote, Session};
use agent_core::digest::hex;
use agent_host::files::write_whole;
use agent_host::systemd::{is_active, systemctl_blocking};
use agent_host::volume_mounts::{mounted, mounts, report_file, request_file};
use agent_host::worker_file::WorkerReport;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Timeout of a mount, as a property of systemd's mount unit.
const MOUNT_LIMIT: &str = "TimeoutSec=30s";
/// Time limit for a disk to appear after its iSCSI login.
const DISK_LIMIT: Duration = Duration::from_secs(15);
/// The host's initiator.
const INITIATOR: &str = "quietcore-iscsid.service";
/// Exit status of `iscsiadm` if a session exists already (`HAS_SESSION`), and if none does
/// (`NO_SESSION`; iscsiadm(8), "EXIT STATUS").
const HAS_SESSION: i32 = 15;
const NO_SESSION: i32 = 21;

/// Mounts or unmounts a volume as the agent requested, and reports the result to it.
///
/// # Errors
/// The request can't be read or fulfilled; the report has the reason.
pub fn fulfil_request(id: &str) -> Result<()> {
    ensure!(!id.contains('/') && !id.starts_with('.'), "{id} is no volume");
    let done = mount_or_unmount(id);
    if done.is_err() {
        report_file(id).write(&WorkerReport::of(&done))?;
    }
    done
}

fn mount_or_unmount(id: &str) -> Result<()> {
    let request = request_file(id);
    let wanted = request.read()?.with_context(|| format!("nothing is requested of {id}"))?;
    match (wanted.remote, mounted()?.contains(id)) {
        (Some(remote), false) => mount(id, &remote),
        (Some(_), true) => Ok(()),
        (None, is_mounted) => {
            unmount(id, is_mounted)?;
            // Until here the unit may have to be started again.
            request.remove()
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
        systemctl_blocking(&["stop", &place])?;
    }
    let _ = std::fs::remove_dir(&place);
    let has_disks = mounts()?.iter().any(|(_, file_system)| file_system == "ext4");
    if !has_disks && is_active(INITIATOR) {
        run(Command::new("iscsiadm").args(["-m", "session", "--logout"]), &[NO_SESSION])?;
        run(Command::new("iscsiadm").args(["-m", "node", "-o", "delete"]), &[NO_SESSION])?;
        systemctl_blocking(&["stop", INITIATOR])?;
    }
    Ok(())
}

/// Has the initiator ask for a target's disks.
fn log_in(session: &Session, disk: &Path) -> Result<()> {
    if disk.exists() {
        return Ok(());
    }
    systemctl_blocking(&["start", INITIATOR])?;
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

/// This host's name as an initiator, in the form of Debian's `iscsi-iname`: it stays what it is as
/// long as the host's identity does, and storage can be told of it.
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
