//! Name servers: what systemd-networkd was given by DHCP or its configuration, as the resolv.conf
//! that `/etc` of the image points to, and the one that containers have. No resolver daemon has to
//! run for it.

use agent_core::runtime_spec::ETC;
use agent_host::files::write_whole;
use anyhow::{Context, Result};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// State file of systemd-networkd (source: sd-network).
const STATE: &str = "/run/systemd/netif/state";
/// Target of the symbolic link `/etc/resolv.conf`.
const RESOLV_CONF: &str = "/run/quietcore/resolv.conf";

/// The C library takes no more (resolv.conf(5), `MAXNS`).
const SERVERS_MAX: usize = 3;

/// Brings resolv.conf up to date, this host's and that of containers.
///
/// # Errors
/// A file can't be written.
pub fn update() -> Result<()> {
    std::fs::create_dir_all(ETC).with_context(|| format!("make {ETC}"))?;
    let state = std::fs::read_to_string(STATE).unwrap_or_default();
    let text = resolv_conf(&state);
    let path = Path::new(RESOLV_CONF);
    if !std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        write_whole(path, &text)?;
    }
    write_in_place(&Path::new(ETC).join("resolv.conf"), &text)
}

/// Writes a file that is bound into containers: another one in its place would not be theirs.
fn write_in_place(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn resolv_conf(state: &str) -> String {
    let words = |name: &str| -> Vec<String> {
        let line = state.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
    };
    let servers = words("DNS").into_iter().take(SERVERS_MAX);
    let mut text: String = servers.map(|server| format!("nameserver {server}\n")).collect();
    let domains = words("DOMAINS");
    if !domains.is_empty() {
        text += &format!("search {}\n", domains.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_containers_change_in_place() {
        use std::os::unix::fs::MetadataExt;
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("resolv.conf");
        write_in_place(&path, "nameserver 10.0.2.30\n").unwrap();
        let inode = || path.metadata().unwrap().ino();
        let before = inode();
        write_in_place(&path, "nameserver 10.0.2.3\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 10.0.2.3\n");
        assert_eq!(inode(), before, "a container has the file of before");
    }

    #[test]
    fn name_servers_come_from_networkd() {
        let state =
            "OPER_STATE=routable\nDNS=10.0.2.3 fec0::3 10.0.2.4 10.0.2.5\nDOMAINS=desk.example\n";
        let text =
            "nameserver 10.0.2.3\nnameserver fec0::3\nnameserver 10.0.2.4\nsearch desk.example\n";
        assert_eq!(resolv_conf(state), text);
        assert_eq!(resolv_conf("OPER_STATE=off\n"), "");
    }
}
