//! The disk to write to: a whole one, large enough, of 512-byte blocks, and in use by nothing.
//! Opened for ourselves alone, so that the kernel refuses whoever comes later.

use crate::flash::order_mark::{MARK_AT, MARK_LEN};
use crate::flash::{CHUNK_LEN, Device};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::{major, minor};
use procfs::process::Process;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A disk, by what the kernel says of it in sysfs.
pub struct Disk {
    path: PathBuf,
    sysfs: PathBuf,
    /// Size in bytes.
    pub len: u64,
}

fn attribute(sysfs: &Path, name: &str) -> Option<String> {
    Some(std::fs::read_to_string(sysfs.join(name)).ok()?.trim().to_owned())
}

impl Disk {
    /// Looks at the disk; nothing is opened.
    ///
    /// # Errors
    /// It is none, or none that an image of so many bytes can be put on.
    pub fn find(path: &Path, needed: u64) -> Result<Self> {
        let named = path.display();
        let Ok(metadata) = path.metadata() else {
            bail!("{named}: there is no such disk; {}", list());
        };
        ensure!(metadata.file_type().is_block_device(), "{named} is no disk; {}", list());
        let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
        let sysfs = Path::new("/sys/dev/block").join(number);
        let sysfs = sysfs.canonicalize().with_context(|| format!("{named}: not in sysfs"))?;
        if sysfs.join("partition").exists() {
            let whole = sysfs.parent().and_then(Path::file_name).unwrap_or_default();
            bail!("{named} is a partition; name the whole disk, /dev/{}", whole.to_string_lossy());
        }
        let number = |name: &str| attribute(&sysfs, name).and_then(|text| text.parse::<u64>().ok());
        let len = number("size").context("its size")? * 512;
        ensure!(len > 0, "{named} has no medium in it");
        ensure!(number("ro") == Some(0), "{named} is read-only; look for its write lock");
        let block = number("queue/logical_block_size").unwrap_or(512);
        ensure!(block == 512, "{named} has blocks of {block} bytes; the image is for 512");
        ensure!(
            len >= needed,
            "{named} has {} MiB; {} MiB are needed, take a larger disk",
            len >> 20,
            needed.div_ceil(1 << 20)
        );
        let disk = Self { path: path.into(), sysfs, len };
        let uses = disk.uses()?;
        ensure!(
            uses.is_empty(),
            "{named} is in use: {}; unmount it, or name another disk",
            uses.join(", ")
        );
        Ok(disk)
    }

    /// The disk's and its partitions' directories in sysfs.
    fn parts(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.sysfs).into_iter().flatten().flatten();
        let partitions = entries.map(|entry| entry.path());
        let partitions = partitions.filter(|path| path.join("partition").exists());
        [self.sysfs.clone()].into_iter().chain(partitions).collect()
    }

    /// Lists the uses of the disk and its partitions: mounts, swap and holders such as
    /// device-mapper.
    fn uses(&self) -> Result<Vec<String>> {
        let mounts = Process::myself()?.mountinfo()?;
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        let mut uses = Vec::new();
        for part in self.parts() {
            let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = attribute(&part, "dev").unwrap_or_default();
            let mounted = mounts.iter().filter(|mount| mount.majmin == number);
            uses.extend(
                mounted.map(|m| format!("{name} is mounted at {}", m.mount_point.display())),
            );
            let holders = std::fs::read_dir(part.join("holders")).into_iter().flatten().flatten();
            uses.extend(
                holders.map(|entry| format!("{name} is part of {}", holder(&entry.path()))),
            );
            if swaps.lines().any(|line| line.starts_with(&format!("/dev/{name} "))) {
                uses.push(format!("{name} is swap"));
            }
        }
        Ok(uses)
    }

    /// Describes the disk for an operator: path, model, size in MiB, and whether it is empty.
    pub fn description(&self) -> String {
        let model = attribute(&self.sysfs, "device/model").unwrap_or_else(|| "disk".into());
        let content = match (self.is_blank(), self.parts().len() - 1) {
            (Ok(true), _) => "empty".into(),
            (_, 0) => "something on it".into(),
            (_, count) => format!("{count} partitions on it"),
        };
        format!("{}: {model}, {} MiB, {content}", self.path.display(), self.len >> 20)
    }

    /// Whether its first and last bytes are zero, where partition tables, file systems, LUKS, LVM
    /// and RAID have what they are known by.
    ///
    /// # Errors
    /// It can't be read.
    pub fn is_blank(&self) -> Result<bool> {
        let named = || format!("read {}", self.path.display());
        let file = File::open(&self.path).with_context(named)?;
        let mut bytes = vec![0; CHUNK_LEN];
        for offset in [0, self.len.saturating_sub(CHUNK_LEN as u64)] {
            file.read_exact_at(&mut bytes, offset).with_context(named)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns true if this order has installed the disk.
    ///
    /// # Errors
    /// It can't be read.
    pub fn is_installed_by(&self, mark: &[u8; MARK_LEN]) -> Result<bool> {
        let named = || format!("read {}", self.path.display());
        let mut found = [0; MARK_LEN];
        let file = File::open(&self.path).with_context(named)?;
        file.read_exact_at(&mut found, MARK_AT).with_context(named)?;
        Ok(found == *mark)
    }

    /// Opens it for ourselves alone.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn open(self) -> Result<Device> {
        let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(&self.path);
        let file = file.with_context(|| {
            format!(
                "open {} for ourselves alone; who has it, and are we root?",
                self.path.display()
            )
        })?;
        Ok(Device::new(file, self.len))
    }
}

/// A device-mapper device has a name of its own.
fn holder(sysfs: &Path) -> String {
    let name = sysfs.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match attribute(sysfs, "dm/name") {
        Some(own) => format!("{name} ({own})"),
        None => name,
    }
}

/// Whole disks of this machine, in words.
pub fn list() -> String {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    // Floppies, loop devices and RAM disks have no device behind them.
    let real = entries.map(|entry| entry.path()).filter(|path| path.join("device").exists());
    let mut names: Vec<_> = real
        .filter_map(|path| {
            let size = attribute(&path, "size")?.parse::<u64>().ok()? >> 11;
            let name = path.file_name()?.to_string_lossy().into_owned();
            (size > 0).then(|| format!("/dev/{name} ({size} MiB)"))
        })
        .collect();
    names.sort();
    match names.is_empty() {
        true => "this machine has no disk".into(),
        false => format!("there are {}", names.join(", ")),
    }
}
