//! `blkio_config`: how much a service may ask of disks; `x-quietcore.io_latency`: how soon they are
//! to answer it. Source: Compose Specification, "blkio_config"; the kernel's cgroup-v2.rst, "IO
//! Interface Files", `io.max` and `io.latency`.

use crate::compose::schema::{RawDiskLimit, RawService};
use crate::compose::{Refused, units};
use serde::Serialize;
use std::collections::BTreeMap;

/// Limits of one disk for a service, a second, and the latency target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiskLimit {
    /// `/dev/NAME`: a whole disk.
    pub disk: String,
    /// Bytes that it may read.
    pub read_bytes: Option<u64>,
    /// Bytes that it may write.
    pub write_bytes: Option<u64>,
    /// Read requests a second.
    pub reads: Option<u64>,
    /// Write requests a second.
    pub writes: Option<u64>,
    /// Microseconds within which it is to be answered: others, which may wait longer, are slowed
    /// down for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_micros: Option<u64>,
}

/// Reads the disk limits of a service from `blkio_config` and `x-quietcore.io_latency`.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn read(raw: &RawService) -> Result<Vec<DiskLimit>, Refused> {
    let mut disks = Disks::default();
    if let Some(raw) = &raw.blkio_config {
        let mut put = |key, all: &[RawDiskLimit], field: fn(&mut DiskLimit) -> &mut Option<u64>| {
            for limit in all {
                let text = limit.rate.text();
                let rate = units::bytes(&text).filter(|rate| *rate > 0);
                let rate =
                    rate.ok_or((key, text, "a rate a second, as in 12mb, or 100 of them"))?;
                *field(disks.get(key, &limit.path)?) = Some(rate);
            }
            Ok(())
        };
        put("blkio_config.device_read_bps", &raw.device_read_bps, |disk| &mut disk.read_bytes)?;
        put("blkio_config.device_write_bps", &raw.device_write_bps, |disk| &mut disk.write_bytes)?;
        put("blkio_config.device_read_iops", &raw.device_read_iops, |disk| &mut disk.reads)?;
        put("blkio_config.device_write_iops", &raw.device_write_iops, |disk| &mut disk.writes)?;
    }
    for (path, time) in raw.own.iter().flat_map(|own| &own.io_latency) {
        let key = "x-quietcore.io_latency";
        let micros = units::duration(time).map(|time| time.as_micros() as u64);
        let micros = micros.filter(|micros| LATENCIES.contains(micros));
        let micros = micros.ok_or((key, time.clone(), "a time from 10us to 10s, as in 5ms"))?;
        disks.get(key, path)?.latency_micros = Some(micros);
    }
    Ok(disks.0.into_values().collect())
}

/// Microseconds. Within less no disk answers, and for the others that would be a brake that is
/// never released.
const LATENCIES: std::ops::RangeInclusive<u64> = 10..=10_000_000;

#[derive(Default)]
struct Disks(BTreeMap<String, DiskLimit>);

impl Disks {
    fn get(&mut self, key: &'static str, path: &str) -> Result<&mut DiskLimit, Refused> {
        let name = path.strip_prefix("/dev/").unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err((key, path.into(), "a whole disk, as in /dev/nvme0n1"));
        }
        let disk = self.0.entry(path.into()).or_default();
        disk.disk = path.into();
        Ok(disk)
    }
}
