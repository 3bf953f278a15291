//! `blkio_config`: how much a service may ask of disks. Source: Compose Specification, "blkio_config"; the kernel's
//! cgroup-v2.rst, "IO Interface Files", `io.max`.

use super::schema::{RawDiskLimit, RawDisks};
use super::{Refused, units};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a service may ask of one disk, a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiskLimit {
    /// `/dev/NAME`: a whole disk.
    pub disk: String,
    /// Bytes that it may read.
    pub read_bytes: Option<u64>,
    /// Bytes that it may write.
    pub write_bytes: Option<u64>,
    /// Reads.
    pub reads: Option<u64>,
    /// Writes.
    pub writes: Option<u64>,
}

/// Reads it.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn read(raw: Option<&RawDisks>) -> Result<Vec<DiskLimit>, Refused> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    let mut disks: BTreeMap<String, DiskLimit> = BTreeMap::new();
    let mut put = |key, all: &[RawDiskLimit], field: fn(&mut DiskLimit) -> &mut Option<u64>| {
        for limit in all {
            let name = limit.path.strip_prefix("/dev/").unwrap_or_default();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if name.is_empty() || !name.bytes().all(plain) {
                return Err((key, limit.path.clone(), "a whole disk, as in /dev/nvme0n1"));
            }
            let text = limit.rate.text();
            let rate = units::bytes(&text).filter(|rate| *rate > 0);
            let rate = rate.ok_or((key, text, "a rate a second, as in 12mb, or 100 of them"))?;
            let disk = disks.entry(limit.path.clone()).or_default();
            disk.disk.clone_from(&limit.path);
            *field(disk) = Some(rate);
        }
        Ok(())
    };
    put("blkio_config.device_read_bps", &raw.device_read_bps, |disk| &mut disk.read_bytes)?;
    put("blkio_config.device_write_bps", &raw.device_write_bps, |disk| &mut disk.write_bytes)?;
    put("blkio_config.device_read_iops", &raw.device_read_iops, |disk| &mut disk.reads)?;
    put("blkio_config.device_write_iops", &raw.device_write_iops, |disk| &mut disk.writes)?;
    Ok(disks.into_values().collect())
}
