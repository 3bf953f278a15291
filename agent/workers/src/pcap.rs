//! Packets of an interface, as a pcap file: the image's tcpdump, in a unit of its own that may do
//! nothing else. Its taps cost who sends and receives there some work, on his core: while the
//! engine trades, somebody has to want that.

use agent_core::limits::{CAPTURE_PACKET_LEN, REQUEST_LEN_MAX};
use agent_core::protocol::types::Wanted;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The unit's work: reads what is wanted from the socket that is its standard input, and has
/// tcpdump answer there.
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
    // Not promiscuous: the card stays as it is. Packets as they come, and nobody is asked for
    // names.
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
