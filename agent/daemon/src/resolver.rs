//! Names for this host and its containers: the name servers that systemd-networkd was given by DHCP
//! or its configuration, as the resolv.conf that `/etc` of the image points to, and the files of
//! `/etc` that containers have. No resolver daemon has to run for it. Sources: resolv.conf(5),
//! hosts(5).

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

/// Brings resolv.conf up to date, and the files that containers have.
///
/// # Errors
/// One can't be written.
pub fn update() -> Result<()> {
    std::fs::create_dir_all(ETC).with_context(|| format!("make {ETC}"))?;
    let state = std::fs::read_to_string(STATE).unwrap_or_default();
    let text = resolv_conf(&state);
    let path = Path::new(RESOLV_CONF);
    if !std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        write_whole(path, &text)?;
    }
    let name = nix::unistd::gethostname().context("this host's name")?;
    let name = name.to_string_lossy();
    for (file, text) in
        [("resolv.conf", text), ("hosts", hosts(&name)), ("hostname", format!("{name}\n"))]
    {
        write_in_place(&Path::new(ETC).join(file), &text)?;
    }
    Ok(())
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

fn hosts(name: &str) -> String {
    // 127.0.1.1 is Debian's for a name without an address of its own (Debian Reference, 5.1.1).
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n")
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
        let path = temporary.path().join("hosts");
        write_in_place(&path, &hosts("a-longer-name")).unwrap();
        let inode = || path.metadata().unwrap().ino();
        let before = inode();
        write_in_place(&path, &hosts("ny4")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), hosts("ny4"));
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
