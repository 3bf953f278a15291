//! The installing unit: writes a fetched release to the slot that does not run. It reaches devices,
//! and no network. What makes the release bootable comes last, after the rest has been read back.

use abi::release::{Artefact, IMAGE, Release, Version};
use agent_core::limits::PARTITION_WAIT;
use agent_core::update_progress::{Progress, Stage};
use agent_host::images::archive::sha256;
use agent_host::update::history::{History, Outcome, boot_id};
use agent_host::update::progress_files::{report_failure, write_progress};
use agent_host::update::trust::ReleaseVerifier;
use agent_host::update::{Running, UpdatePaths, ensure_slots, root_device};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Writes slots. Package systemd-container; it is in nobody's path.
const SYSUPDATE: &str = "/usr/lib/systemd/systemd-sysupdate";
/// Where boot entries are, on the EFI system partition.
const ENTRIES: &str = "/efi/EFI/Linux";

/// The unit's work.
///
/// # Errors
/// What stands in the progress too.
pub fn run(paths: &UpdatePaths) -> Result<()> {
    report_failure(&paths.installing, work(paths))
}

fn work(paths: &UpdatePaths) -> Result<()> {
    ensure_slots(&root_device()?, Path::new("/sys"))?;
    ensure!(
        !paths.is_on_trial(),
        "the version that runs has not proved itself yet; the other slot is what it falls back to"
    );
    let (staging, boot) = (&paths.staging, boot_id()?);
    take_over(staging)?;
    let release = ReleaseVerifier::of(paths)?.admit_in(staging)?;
    let version = release.version;
    let tell = |stage, detail: &str| {
        let progress = Progress { stage, version: Some(version), detail: detail.into() };
        write_progress(&progress, &paths.installing)
    };
    tell(Stage::Writing, "to the other slot")?;
    for artefact in &release.artefacts {
        check(&staging.join(&artefact.name), artefact)?;
    }
    let mut history = History::read(&paths.history)?;
    history.note(version, &boot, Outcome::Writing);
    history.write(&paths.history)?;
    let running = Running::read(&paths.os_release)?.version;
    remove_entries(Path::new(ENTRIES), running)?;
    sysupdate("root", version)?;
    for (uuid, artefact) in release.partitions() {
        check(&partition(uuid)?, artefact).context("read back")?;
    }
    sysupdate("uki", version)?;
    check_entry(&release)?;
    history.note(version, &boot, Outcome::Staged);
    history.write(&paths.history)?;
    for entry in std::fs::read_dir(staging)? {
        let _ = std::fs::remove_file(entry?.path());
    }
    tell(Stage::Staged, "the next boot tries it")
}

/// Makes what was fetched ours, so that it stays what is checked now.
fn take_over(staging: &Path) -> Result<()> {
    std::os::unix::fs::chown(staging, Some(0), Some(0)).context("take the staging directory")?;
    std::fs::set_permissions(staging, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(staging)? {
        std::os::unix::fs::lchown(entry?.path(), Some(0), Some(0))?;
    }
    Ok(())
}

/// Compares a file's or partition's first bytes with what was signed; what the page cache holds of
/// it is not believed.
fn check(path: &Path, artefact: &Artefact) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let found = sha256(file.take(artefact.size)).with_context(|| path.display().to_string())?;
    ensure!(
        found == artefact.sha256,
        "{}: its bytes are not those that were signed",
        path.display()
    );
    Ok(())
}

/// Removes the boot entries of every version but the running one: what they boot is about to be
/// overwritten.
fn remove_entries(directory: &Path, running: Version) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if version_of(&entry.file_name().to_string_lossy()).is_some_and(|found| found != running) {
            std::fs::remove_file(entry.path())
                .with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(File::open(directory)?.sync_all()?)
}

/// The version of a boot entry, by its name: `quietcore_0.2.0.efi`, `quietcore_0.2.0+2-1.efi`.
fn version_of(name: &str) -> Option<Version> {
    let rest = name.strip_prefix(IMAGE)?.strip_prefix('_')?.strip_suffix(".efi")?;
    rest.split('+').next()?.parse().ok()
}

fn sysupdate(component: &str, version: Version) -> Result<()> {
    let output = Command::new(SYSUPDATE)
        .arg(format!("--component={component}"))
        .args(["update", &version.to_string()])
        .output()
        .with_context(|| format!("start {SYSUPDATE}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    eprint!("{said}");
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    ensure!(output.status.success(), "systemd-sysupdate, {component}: {last}");
    Ok(())
}

/// The device of a partition; udev takes a moment to see it under its new name.
fn partition(uuid: &str) -> Result<PathBuf> {
    let plain = uuid.replace('-', "").to_ascii_lowercase();
    ensure!(plain.len() == 32, "{uuid}: not a partition's UUID");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &plain[range]);
    let path = Path::new("/dev/disk/by-partuuid").join(parts.join("-"));
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > PARTITION_WAIT {
            bail!("{} has not appeared", path.display());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(path)
}

/// The new boot entry is there, whole and with its boots counted.
fn check_entry(release: &Release) -> Result<()> {
    let directory = Path::new(ENTRIES);
    let entries = std::fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.path());
    let counted = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| version_of(&name) == Some(release.version) && name.contains('+'))
    };
    let mut found = entries.filter(counted);
    let (Some(entry), None) = (found.next(), found.next()) else {
        bail!("{}: there is not one counted entry of {}", directory.display(), release.version);
    };
    let uki = release.artefacts.iter().find(|artefact| artefact.name.ends_with(".efi"));
    check(&entry, uki.context("a release has a UKI")?).context("read back")?;
    Ok(File::open(directory)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_running_versions_entries_stay() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let names = [
            "quietcore_0.2.0.efi",
            "quietcore_0.2.1+0-3.efi",
            "quietcore_0.1.9+2-1.efi",
            "quietcore_0.20.0.efi",
            "rescue.efi",
        ];
        names.iter().for_each(|name| std::fs::write(directory.join(name), "").unwrap());
        remove_entries(&directory, "0.2.0".parse().unwrap()).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["quietcore_0.2.0.efi", "rescue.efi"]);
    }

    #[test]
    fn a_partition_is_read_back_as_it_was_signed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        std::fs::write(&path, [[1; 4096], [9; 4096]].concat()).unwrap();
        let sha256 = sha256(&[1; 4096][..]).unwrap();
        let artefact = Artefact { name: "root".into(), size: 4096, sha256 };
        check(&path, &artefact).unwrap();
        std::fs::write(&path, [[1; 4095], [9; 4095]].concat()).unwrap();
        assert!(check(&path, &artefact).unwrap_err().to_string().contains("not those"));
    }
}
