//! Files of a container that say its own name: `/etc/hostname` and `/etc/hosts`, as Docker gives
//! them. Sources: hostname(5), hosts(5); Debian Reference, 5.1.1, on 127.0.1.1.

use agent_core::compose::Service;
use agent_core::runtime_spec::{Delivered, brings};
use agent_host::files::write_whole;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;

/// Writes the files of an instance below a directory, but for those that its service brings.
///
/// # Errors
/// A file can't be written.
pub fn write(directory: &Path, id: &str, service: &Service) -> Result<Vec<Delivered>> {
    let place = directory.join(id);
    std::fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    let name = &service.hostname;
    let hosts = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n"
    );
    let mut written = Vec::new();
    for (file, text) in [("hostname", format!("{name}\n")), ("hosts", hosts)] {
        let target = format!("/etc/{file}");
        if !brings(service, &target) {
            write_whole(&place.join(file), &text)?;
            written.push((place.join(file), target));
        }
    }
    Ok(written)
}

/// Removes the files of all instances but those.
pub fn keep_only(directory: &Path, ids: &BTreeSet<String>) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_gone = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.is_dir() && name.is_none_or(|name| !ids.contains(name))
    };
    let gone = entries.map(|entry| entry.path()).filter(|path| is_gone(path));
    gone.for_each(|path| drop(std::fs::remove_dir_all(path)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::hostplan::CorePlan;

    #[test]
    fn a_container_knows_its_own_name_unless_it_brings_the_file() {
        let temporary = tempfile::tempdir().unwrap();
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let text = "services: {a: {image: x, hostname: feed}, b: {image: x, tmpfs: /etc}}";
        let services = agent_core::compose::parse(text, &cores).unwrap();
        let written = write(temporary.path(), "a", &services[0]).unwrap();
        let targets: Vec<_> = written.iter().map(|(_, target)| target.as_str()).collect();
        assert_eq!(targets, ["/etc/hostname", "/etc/hosts"]);
        assert_eq!(std::fs::read_to_string(&written[0].0).unwrap(), "feed\n");
        assert!(std::fs::read_to_string(&written[1].0).unwrap().contains("127.0.1.1\tfeed\n"));
        assert_eq!(write(temporary.path(), "b", &services[1]).unwrap(), []);
        std::fs::write(temporary.path().join("resolv.conf"), "").unwrap();
        keep_only(temporary.path(), &["b".to_owned()].into());
        let left = |name: &str| temporary.path().join(name).exists();
        assert!(!left("a") && left("b") && left("resolv.conf"));
    }
}
