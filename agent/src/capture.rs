//! Packets of an interface, as a pcap file: the image's tcpdump, in a unit of its own that may do nothing else. Its taps cost
//! who sends and receives there some work, on his core: while the engine trades, somebody has to want that.

use crate::limits::{
    CAPTURE_LEN_MAX, CAPTURE_PACKET_LEN, CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX,
};
use abi::counters::State;
use abi::shards::alive_pages;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its name, or `any`.
    pub interface: String,
    /// As pcap-filter(7) has it; empty for all.
    #[serde(default)]
    pub filter: String,
    /// For so long,
    pub seconds: u64,
    /// or until so many are there.
    pub packets: u64,
    /// Although the engine trades.
    #[serde(default)]
    pub trading: bool,
}

impl Wanted {
    /// # Errors
    /// What can't be.
    fn check(&self) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        let name = &self.interface;
        let is_name = (1..=15).contains(&name.len()) && name.bytes().all(plain);
        ensure!(is_name && !name.starts_with('-'), "{name:?} is no interface's name");
        ensure!(
            (1..=CAPTURE_SECONDS_MAX).contains(&self.seconds),
            "seconds: 1 to {CAPTURE_SECONDS_MAX}"
        );
        ensure!(
            (1..=CAPTURE_PACKETS_MAX).contains(&self.packets),
            "packets: 1 to {CAPTURE_PACKETS_MAX}"
        );
        ensure!(
            self.filter.len() <= 1000 && !self.filter.contains('\0'),
            "filter: at most 1000 bytes of text"
        );
        Ok(())
    }
}

/// What the unit may; everything else it may not.
const PROPERTIES: [&str; 14] = [
    "DynamicUser=yes",
    "AmbientCapabilities=CAP_NET_RAW",
    "CapabilityBoundingSet=CAP_NET_RAW",
    "RestrictAddressFamilies=AF_PACKET AF_NETLINK AF_UNIX AF_INET",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "ProtectHome=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictNamespaces=yes",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "MemoryMax=64M",
];

/// Takes them down; `pages` are the engines'.
///
/// # Errors
/// It is not understood, an engine trades and nobody wants that, or what tcpdump says.
pub async fn capture(pages: &Path, wanted: &Wanted) -> Result<Vec<u8>> {
    wanted.check()?;
    let now = crate::status::monotonic_ns();
    let trades = alive_pages(pages, now).iter().any(|(_, it)| it.state() == Some(State::Trading));
    ensure!(
        wanted.trading || !trades,
        "the engine trades, and each packet on {} would cost its core some work; qctl drain first, or give --trading",
        wanted.interface
    );
    let mut command = Command::new("systemd-run");
    command.args(["--pipe", "--quiet", "--collect", "--service-type=exec"]);
    command.args(PROPERTIES.map(|property| format!("--property={property}")));
    command.arg(format!("--property=RuntimeMaxSec={}", wanted.seconds));
    // Not promiscuous: the card stays as it is. Whole packets as they come, and no names asked of anybody.
    command.args(["--", "tcpdump", "-p", "-n", "-U", "-w", "-"]);
    command.args(["-i", &wanted.interface, "-c", &wanted.packets.to_string()]);
    command.args(["-s", &CAPTURE_PACKET_LEN.to_string(), "--", &wanted.filter]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start systemd-run")?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut taken, mut said) = (Vec::new(), String::new());
    // Who stops reading ends it: its next packet finds the pipe closed.
    out.context("its output")?.take(CAPTURE_LEN_MAX).read_to_end(&mut taken).await?;
    if taken.is_empty() {
        err.context("its errors")?.take(4096).read_to_string(&mut said).await?;
        bail!("{}", said.lines().last().unwrap_or("tcpdump said nothing").trim());
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_reach_a_command_line_are_names_and_numbers() {
        let good = Wanted {
            interface: "eth0".into(),
            filter: "udp port 31001".into(),
            seconds: 5,
            packets: 10,
            trading: false,
        };
        assert!(good.check().is_ok());
        let wrong = |change: &dyn Fn(&mut Wanted)| {
            let mut wanted = good.clone();
            change(&mut wanted);
            wanted.check().unwrap_err().to_string()
        };
        for name in ["", "-w", "a b", "eth0;reboot", "a-name-that-is-too-long"] {
            assert!(wrong(&|it| it.interface = name.into()).contains("no interface's name"));
        }
        assert!(wrong(&|it| it.seconds = 0).contains("seconds: 1 to"));
        assert!(wrong(&|it| it.packets = u64::MAX).contains("packets: 1 to"));
        assert!(wrong(&|it| it.filter = "x".repeat(1001)).contains("filter"));
    }
}
