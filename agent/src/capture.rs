//! Packets of an interface, as a pcap file: the image's tcpdump, in a unit of its own that may do nothing else. Its taps cost
//! who sends and receives there some work, on his core: while the engine trades, somebody has to want that.

use crate::limits::{
    CAPTURE_LEN_MAX, CAPTURE_PACKET_LEN, CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX, REQUEST_LEN_MAX,
};
use abi::counters::State;
use abi::shards::alive_pages;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Where its unit waits (systemd/base/system/quietcore-pcap.socket).
const SOCKET: &str = "/run/quietcore/pcap/socket";
/// The unit begins and ends within this.
const MARGIN: Duration = Duration::from_secs(5);
/// How a pcap file begins, in microseconds and in nanoseconds, on this machine (pcap-savefile(5)).
const MAGIC: [[u8; 4]; 2] = [[0xd4, 0xc3, 0xb2, 0xa1], [0x4d, 0x3c, 0xb2, 0xa1]];

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
    let mut stream = UnixStream::connect(SOCKET)
        .await
        .with_context(|| format!("connect to {SOCKET}; is quietcore-pcap.socket there?"))?;
    let mut line = serde_json::to_string(wanted)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    // Who stops reading ends it: its next packet finds nobody.
    let (limit, mut taken) = (Duration::from_secs(wanted.seconds) + MARGIN, Vec::new());
    let mut stream = stream.take(CAPTURE_LEN_MAX);
    // What came until then is there.
    let _ = timeout(limit, stream.read_to_end(&mut taken)).await;
    ensure!(
        !taken.is_empty(),
        "nothing came: two captures at once are all that there can be; journalctl -u 'quietcore-pcap@*' says more"
    );
    let is_file = MAGIC.iter().any(|magic| taken.starts_with(magic));
    ensure!(is_file, "{}", String::from_utf8_lossy(&taken).trim());
    Ok(taken)
}

/// The unit's work: reads what is wanted from the socket that is its standard input, and has tcpdump answer there.
///
/// # Errors
/// It does not begin; who asks is told as well.
pub fn serve() -> Result<()> {
    let done = take(BufReader::new(std::io::stdin().take(REQUEST_LEN_MAX)));
    if let Err(error) = &done {
        println!("{error:#}");
    }
    done
}

fn take(mut from: impl BufRead) -> Result<()> {
    let mut line = String::new();
    from.read_line(&mut line).context("hear what is wanted")?;
    let wanted: Wanted = serde_json::from_str(&line).context("what is wanted")?;
    wanted.check()?;
    let mut command = Command::new("tcpdump");
    // Not promiscuous: the card stays as it is. Packets as they come, and nobody is asked for names.
    command.args(["-p", "-n", "-U", "-w", "-", "-i", &wanted.interface]);
    command.args(["-c", &wanted.packets.to_string(), "-s", &CAPTURE_PACKET_LEN.to_string()]);
    command.args(["--", &wanted.filter]);
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.context("start tcpdump")?;
    let pid = Pid::from_raw(child.id() as i32);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(wanted.seconds));
        // It writes what it has. This process ends with it, or has ended.
        let _ = kill(pid, Signal::SIGINT);
    });
    let mut said = String::new();
    child.stderr.take().context("its errors")?.take(4096).read_to_string(&mut said)?;
    let status = child.wait()?;
    // What it says after that has no place in a file of packets.
    let has_begun = said.contains("listening on");
    ensure!(
        has_begun || status.success(),
        "{}",
        said.lines().last().unwrap_or("tcpdump failed").trim()
    );
    Ok(())
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
