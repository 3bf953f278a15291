//! Finds the block devices of the root: its data and its hash tree, by the partition GUIDs that the
//! root hash names (Discoverable Partitions Specification: the first and the last 128 bits of the
//! hash).

use crate::gpt;
use crate::verity::RootHash;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Waits until both partitions are there.
pub fn wait_for(root_hash: &RootHash, limit: Duration) -> Result<(PathBuf, PathBuf), String> {
    let start = Instant::now();
    let (data_guid, hash_guid) = root_hash.partition_guids();
    loop {
        if let (Some(data), Some(hash)) = (find(&data_guid), find(&hash_guid)) {
            return Ok((data, hash));
        }
        if start.elapsed() > limit {
            return Err(format!(
                "no disk has the partitions of roothash={root_hash} after {} s",
                limit.as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn find(guid: &gpt::DiskGuid) -> Option<PathBuf> {
    let devices = fs::read_dir("/sys/class/block").ok()?;
    devices.filter_map(Result::ok).find_map(|device| {
        let name = device.file_name().into_string().ok()?;
        let is_disk = !device.path().join("partition").exists() && !name.starts_with("dm-");
        if !is_disk {
            return None;
        }
        let mut disk = File::open(Path::new("/dev").join(&name)).ok()?;
        let number = gpt::find(&mut disk, guid).ok()??;
        partition(&device.path(), number)
    })
}

/// The device of a disk's partition `number`.
fn partition(disk: &Path, number: u32) -> Option<PathBuf> {
    let children = fs::read_dir(disk).ok()?;
    children.filter_map(Result::ok).find_map(|child| {
        let text = fs::read_to_string(child.path().join("partition")).ok()?;
        (text.trim().parse() == Ok(number)).then(|| Path::new("/dev").join(child.file_name()))
    })
}
