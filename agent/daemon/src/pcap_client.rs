//! Client of the packet capture unit: sends a capture request and reads the pcap file.

use abi::counters::State;
use abi::shards::alive_pages;
use agent_core::limits::CAPTURE_LEN_MAX;
use agent_core::protocol::types::Wanted;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Where its unit waits (systemd/base/system/quietcore-pcap.socket).
pub const SOCKET: &str = "/run/quietcore/pcap/socket";

/// The unit begins and ends within this.
pub const MARGIN: Duration = Duration::from_secs(5);

/// Magic numbers of a little-endian pcap file, with timestamps in microseconds and in nanoseconds
/// (pcap-savefile(5)).
pub const MAGIC: [[u8; 4]; 2] = [[0xd4, 0xc3, 0xb2, 0xa1], [0x4d, 0x3c, 0xb2, 0xa1]];

/// Takes them down; `pages` are the engines'.
///
/// # Errors
/// It is not understood, an engine trades and nobody wants that, or what tcpdump says.
pub async fn capture(pages: &Path, wanted: &Wanted) -> Result<Vec<u8>> {
    wanted.check()?;
    let now = agent_host::engine_pages::monotonic_ns();
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
