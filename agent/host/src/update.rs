//! Updates of the operating system: a signed release is fetched by one unit, written to the other
//! slot by another, and proves itself at its boot. Neither unit is the agent; the agent asks, and
//! knows how it went.

/// History of the versions that this host was given, and their outcomes.
pub mod history;
/// Files with the progress of an update.
pub mod progress_files;
/// Verification of releases: signature, version and history.
pub mod trust;

use abi::release::Version;
use anyhow::{Context, Result, ensure};
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where everything is.
#[derive(Debug, Clone)]
pub struct UpdatePaths {
    /// Directory of the fetched release.
    pub staging: PathBuf,
    /// The public key of who makes releases: the image's.
    pub key: PathBuf,
    /// The one that this host was given instead, if it is there.
    pub own_key: PathBuf,
    /// CA certificates for HTTPS servers, if this host was given any.
    pub own_authorities: PathBuf,
    /// The os-release file of the running version.
    pub os_release: PathBuf,
    /// File of the update [`history::History`].
    pub history: PathBuf,
    /// File of the agent's [`Request`].
    pub request: PathBuf,
    /// That it has asked: what the units said before is about something else.
    pub asking: PathBuf,
    /// Progress file of the fetching unit.
    pub fetching: PathBuf,
    /// Progress file of the installing unit.
    pub installing: PathBuf,
    /// There once this boot has proved itself.
    pub blessed: PathBuf,
    /// There while systemd-boot counts this version's boots.
    pub counted: PathBuf,
}

impl Default for UpdatePaths {
    fn default() -> Self {
        Self {
            staging: "/var/lib/quietcore/update".into(),
            key: "/usr/share/quietcore/release.pub".into(),
            own_key: crate::credentials::HostPaths::default().release_key(),
            own_authorities: crate::credentials::HostPaths::default().authorities(),
            os_release: "/usr/lib/os-release".into(),
            history: "/var/lib/quietcore/agent/updates.json".into(),
            request: "/run/quietcore/agent/update.json".into(),
            asking: "/run/quietcore/agent/asking.json".into(),
            fetching: "/run/quietcore/fetch/progress.json".into(),
            installing: "/run/quietcore/install/progress.json".into(),
            blessed: "/run/quietcore/blessed".into(),
            counted:
                "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
                    .into(),
        }
    }
}

impl UpdatePaths {
    /// Whether the running version may still fall back: its boot is counted and it is not blessed
    /// yet.
    pub fn is_on_trial(&self) -> bool {
        self.counted.exists() && !self.blessed.exists()
    }
}

/// Returns the device that the running root is mounted from.
///
/// # Errors
/// The kernel does not say.
pub fn root_device() -> Result<PathBuf> {
    let mounts = Process::myself()?.mountinfo()?;
    let root = mounts.into_iter().find(|mount| mount.mount_point == Path::new("/"));
    Ok(root.and_then(|mount| mount.mount_source).context("what / is mounted from")?.into())
}

/// Refuses an update of a host that runs from a slot of no disk: a netboot UKI carries its root,
/// which our init mounts from a loop device, and the slots of a disk in such a host are another
/// system's. That of a slot is the device-mapper device `root`, by what `sysfs` says of it.
///
/// # Errors
/// The host runs from no slot of a disk, or what it runs from can't be told.
pub fn ensure_slots(root: &Path, sysfs: &Path) -> Result<()> {
    let name = root.file_name().unwrap_or_default();
    let mapped = std::fs::read_to_string(sysfs.join("class/block").join(name).join("dm/name"));
    ensure!(
        mapped.is_ok_and(|mapped| mapped.trim() == "root"),
        "this host runs from {}, not from a slot of its disk: it was started over the network or from a \
         stick; give it the new version there, or install it first",
        root.display()
    );
    Ok(())
}

/// Request of the agent to the two update units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The directory of a release: `http://` or `https://`.
    pub url: String,
}

/// The version and the profile that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// `IMAGE_VERSION` of os-release.
    pub version: Version,
    /// `VARIANT_ID` of os-release.
    pub variant: String,
}

impl Running {
    /// Reads an os-release file.
    ///
    /// # Errors
    /// It can't be read, or does not say.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim_matches('"').to_owned())
                .with_context(|| format!("{}: no {name}=", path.display()))
        };
        Ok(Self { version: value("IMAGE_VERSION")?.parse()?, variant: value("VARIANT_ID")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_root_of_a_slot_is_updated() {
        let sysfs = tempfile::tempdir().unwrap();
        for (device, name) in [("dm-0", "root\n"), ("dm-1", "var\n")] {
            let directory = sysfs.path().join("class/block").join(device).join("dm");
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("name"), name).unwrap();
        }
        assert!(ensure_slots(Path::new("/dev/dm-0"), sysfs.path()).is_ok());
        for root in ["/dev/dm-1", "/dev/dm-2", "/dev/loop0", "overlay", "", "/dev/vda2"] {
            let refused = ensure_slots(Path::new(root), sysfs.path()).unwrap_err();
            assert!(refused.to_string().contains("not from a slot"), "{refused}");
        }
    }

    #[test]
    fn os_release_says_what_runs() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        std::fs::write(&path, "ID=quietcore\nIMAGE_VERSION=\"0.3.1\"\nVARIANT_ID=debug\n").unwrap();
        let running = Running::read(&path).unwrap();
        assert_eq!(
            (running.version.to_string().as_str(), &running.variant[..]),
            ("0.3.1", "debug")
        );
        std::fs::write(&path, "ID=debian\n").unwrap();
        assert!(Running::read(&path).unwrap_err().to_string().contains("IMAGE_VERSION"));
    }
}
