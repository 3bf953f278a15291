//! `qctl pcap`: packets of an interface of a host.

use crate::client::{Client, unexpected};
use agent_core::protocol::types::Wanted;
use agent_core::protocol::{Request, Response};
use agent_host::files::write_whole_bytes;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Pcap {
    /// Its name, or any.
    interface: String,
    /// Packet filter in the syntax of pcap-filter(7), as in udp port 31001.
    filter: Vec<String>,
    /// The pcap file; standard output if left out.
    #[arg(short, long)]
    write: Option<PathBuf>,
    /// For so many seconds, 45 at most,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// or until so many packets are there; 8 MiB at most.
    #[arg(long, default_value_t = 10_000)]
    packets: u64,
    /// Although the engine trades: each packet costs who sends or receives it some work, on his
    /// core.
    #[arg(long)]
    trading: bool,
}

/// Takes them down and writes them.
pub fn take(client: &mut Client, pcap: &Pcap) -> Result<()> {
    let mut out = std::io::stdout();
    ensure!(pcap.write.is_some() || !out.is_terminal(), "give --write FILE, or pipe it somewhere");
    let wanted = Wanted {
        interface: pcap.interface.clone(),
        filter: pcap.filter.join(" "),
        seconds: pcap.seconds,
        packets: pcap.packets,
        trading: pcap.trading,
    };
    let Response::Captured(taken) = client.ask(&Request::Capture(wanted))? else {
        return Err(unexpected("packets"));
    };
    let taken = STANDARD.decode(taken).context("the agent's packets")?;
    match &pcap.write {
        Some(path) => write_whole_bytes(path, &taken)?,
        None => out.write_all(&taken)?,
    }
    eprintln!("{} bytes of packets", taken.len());
    Ok(())
}
