//! Host facts that a container's limits need: device numbers of its disks, and the huge page sizes
//! that the kernel can limit.

use agent_core::compose::Service;
use agent_core::runtime_spec::Facts;
use anyhow::{Result, bail, ensure};
use std::path::Path;

/// Reads what a service's limits need from `/sys`.
///
/// # Errors
/// A disk that the service names is not of this host, or its kernel lacks io.latency.
pub fn read_facts(service: &Service, sys: &Path) -> Result<Facts> {
    let controllers = std::fs::read_to_string(sys.join("fs/cgroup/cgroup.controllers"));
    let controllers = controllers.unwrap_or_default();
    let has_hugetlb = controllers.split_whitespace().any(|name| name == "hugetlb");
    let huge_pages = if has_hugetlb { huge_pages(sys) } else { Vec::new() };
    let mut disks = Vec::new();
    for limit in &service.disks {
        let (major, minor) = number(&limit.disk, sys)?;
        ensure!(
            limit.latency_micros.is_none() || has_io_latency(sys),
            "x-quietcore.io_latency: this host's kernel has no io.latency; our own has (KERNEL=quietcore, rt)"
        );
        disks.push((major, minor, limit.clone()));
    }
    Ok(Facts { huge_pages, disks })
}

/// Whether the kernel has that file. It has none at its root; before the first container there is
/// no other place to look, and the runtime says it.
fn has_io_latency(sys: &Path) -> bool {
    let containers =
        sys.join("fs/cgroup").join(agent_core::runtime_spec::CGROUP.trim_start_matches('/'));
    !containers.join("io.max").exists() || containers.join("io.latency").exists()
}

/// Source: Documentation/admin-guide/mm/hugetlbpage.rst, and cgroup-v2.rst, "HugeTLB".
fn huge_pages(sys: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(sys.join("kernel/mm/hugepages")).into_iter().flatten();
    let shown = |kib: u64| match kib {
        0..1_024 => format!("{kib}KB"),
        1_024..1_048_576 => format!("{}MB", kib >> 10),
        _ => format!("{}GB", kib >> 20),
    };
    let mut sizes: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(shown(name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?))
        })
        .collect();
    sizes.sort();
    sizes
}

/// A disk's device number. The agent has no devices of its own (PrivateDevices=); sysfs knows them
/// too.
fn number(disk: &str, sys: &Path) -> Result<(u32, u32)> {
    let block = sys.join("block");
    let dev = block.join(disk.trim_start_matches("/dev/")).join("dev");
    let text = std::fs::read_to_string(dev).unwrap_or_default();
    if let Some((major, minor)) = text.trim().split_once(':')
        && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
    {
        return Ok((major, minor));
    }
    let entries = std::fs::read_dir(&block).into_iter().flatten().flatten();
    let mut known: Vec<String> =
        entries.map(|entry| format!("/dev/{}", entry.file_name().display())).collect();
    known.sort();
    bail!("{disk} is no disk of this host; there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_and_disks_are_read_and_an_unknown_disk_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let sys = temporary.path().join("it");
        for directory in ["fs/cgroup", "block/vda", "kernel/mm/hugepages/hugepages-2048kB"] {
            std::fs::create_dir_all(sys.join(directory)).unwrap();
        }
        std::fs::create_dir_all(sys.join("kernel/mm/hugepages/hugepages-1048576kB")).unwrap();
        std::fs::write(sys.join("block/vda/dev"), "254:0\n").unwrap();
        std::fs::write(sys.join("fs/cgroup/cgroup.controllers"), "cpu hugetlb io\n").unwrap();
        let service = |disk: &str| {
            let text = format!(
                "services:\n  a:\n    image: x\n    blkio_config:\n      device_read_bps: [{{path: {disk}, rate: 1mb}}]\n      device_write_iops: [{{path: {disk}, rate: 9}}]\n"
            );
            let cores = abi::hostplan::CorePlan::from_kernel("0-3", "2-3").unwrap();
            agent_core::compose::parse(&text, &cores).unwrap().remove(0)
        };
        let facts = read_facts(&service("/dev/vda"), &sys).unwrap();
        let [(254, 0, limit)] = &facts.disks[..] else { panic!("{facts:?}") };
        assert_eq!((limit.read_bytes, limit.writes, limit.reads), (Some(1 << 20), Some(9), None));
        assert_eq!(facts.huge_pages, ["1GB", "2MB"]);
        let error = read_facts(&service("/dev/sda"), &sys).unwrap_err().to_string();
        assert!(error.contains("/dev/sda is no disk of this host; there are /dev/vda"), "{error}");
        let text = "services: {a: {image: x, x-quietcore: {io_latency: {/dev/vda: 5ms}}}}";
        let cores = abi::hostplan::CorePlan::from_kernel("0-3", "2-3").unwrap();
        let prompt = agent_core::compose::parse(text, &cores).unwrap().remove(0);
        let containers = sys.join("fs/cgroup/quietcore-containers");
        std::fs::create_dir(&containers).unwrap();
        std::fs::write(containers.join("io.max"), "").unwrap();
        let error = read_facts(&prompt, &sys).unwrap_err().to_string();
        assert!(error.contains("no io.latency; our own has"), "{error}");
        std::fs::write(containers.join("io.latency"), "").unwrap();
        let facts = read_facts(&prompt, &sys).unwrap();
        assert_eq!(facts.disks[0].2.latency_micros, Some(5000));
        // A kernel without the controller.
        std::fs::write(sys.join("fs/cgroup/cgroup.controllers"), "cpu\n").unwrap();
        assert!(read_facts(&service("/dev/vda"), &sys).unwrap().huge_pages.is_empty());
    }
}
