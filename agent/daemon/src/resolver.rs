//! Name servers: what systemd-networkd was given by DHCP or its configuration, as the resolv.conf
//! that `/etc` of the image points to. No resolver daemon has to run for it.

use agent_host::files::write_whole;
use anyhow::Result;
use std::path::Path;

/// State file of systemd-networkd (source: sd-network).
const STATE: &str = "/run/systemd/netif/state";
/// Target of the symbolic link `/etc/resolv.conf`.
const RESOLV_CONF: &str = "/run/quietcore/resolv.conf";

/// The C library takes no more (resolv.conf(5), `MAXNS`).
const SERVERS_MAX: usize = 3;

/// Brings resolv.conf up to date.
///
/// # Errors
/// It can't be written.
pub fn update() -> Result<()> {
    let state = std::fs::read_to_string(STATE).unwrap_or_default();
    let text = resolv_conf(&state);
    let path = Path::new(RESOLV_CONF);
    if std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    write_whole(path, &text)
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
    fn name_servers_come_from_networkd() {
        let state =
            "OPER_STATE=routable\nDNS=10.0.2.3 fec0::3 10.0.2.4 10.0.2.5\nDOMAINS=desk.example\n";
        let text =
            "nameserver 10.0.2.3\nnameserver fec0::3\nnameserver 10.0.2.4\nsearch desk.example\n";
        assert_eq!(resolv_conf(state), text);
        assert_eq!(resolv_conf("OPER_STATE=off\n"), "");
    }
}
