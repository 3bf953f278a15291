//! Lines to the journal, with fields, by its native protocol (systemd.io, "Native Journal
//! Protocol"); and the last one of a stream that it has.

use crate::container_output::{Kind, Origin};
use agent_core::limits::JOURNAL_SYNC;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Journal field with the output stream of a line, such as `STEM.out`.
const STREAM: &str = "QUIETCORE_STREAM";
/// Where in the stream the line ends.
const PLACE: &str = "QUIETCORE_PLACE";
/// Mark of the entry that [`sync`] sends.
const SYNC: &str = "QUIETCORE_SYNC";
/// The container of a line, as Docker's own journald driver calls it.
pub const CONTAINER: &str = "CONTAINER_NAME";

/// Mark of a piece whose line goes on in the next entry, as Docker's journald driver has it.
pub const PARTIAL: &str = "CONTAINER_PARTIAL_MESSAGE";

/// Severities of journal entries (syslog(3)).
const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;

/// A connection to journald, and a buffer.
pub struct Journal {
    socket: UnixDatagram,
    entry: Vec<u8>,
}

impl Journal {
    /// Connects to the journal's socket at `path`.
    ///
    /// # Errors
    /// journald does not listen.
    pub fn connect(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::unbound().context("make a socket")?;
        socket.connect(path).with_context(|| format!("connect to {}", path.display()))?;
        Ok(Self { socket, entry: Vec::new() })
    }

    /// Gives a line, or a piece of one that goes on, to the journal. Waits while its queue is full.
    ///
    /// # Errors
    /// journald went away; the line is not taken.
    pub fn line(
        &mut self,
        head: &Head,
        text: &[u8],
        place: u64,
        is_partial: bool,
    ) -> io::Result<()> {
        self.entry.clear();
        self.entry.extend_from_slice(&head.0);
        if is_partial {
            self.entry.extend_from_slice(format!("{PARTIAL}=true\n").as_bytes());
        }
        self.entry.extend_from_slice(format!("{PLACE}={place}\nMESSAGE=").as_bytes());
        self.entry.extend_from_slice(text);
        self.entry.push(b'\n');
        self.socket.send(&self.entry).map(drop)
    }
}

/// Journal fields common to all lines of a stream, serialized.
pub struct Head(Vec<u8>);

impl Head {
    /// Of a container's stream.
    pub fn new(origin: &Origin, stem: &str, kind: Kind) -> Self {
        let priority = if kind == Kind::Err { WARNING } else { INFORMATIONAL };
        let Origin { container, service, image, digest, generation, .. } = origin;
        let stream = stream_name(stem, kind);
        Self(format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={container}\n{CONTAINER}={container}\nQUIETCORE_SERVICE={service}\nIMAGE_NAME={image}\nQUIETCORE_IMAGE_DIGEST={digest}\nQUIETCORE_GENERATION={generation}\n{STREAM}={stream}\n").into_bytes())
    }
}

fn stream_name(stem: &str, kind: Kind) -> String {
    format!("{stem}.{}", kind.name())
}

/// The place behind the last line of a stream that the journal has, once it has taken what waits
/// for it.
///
/// # Errors
/// journalctl can't be run.
pub fn last_place(stem: &str, kind: Kind) -> Result<Option<u64>> {
    let place = last(&format!("{STREAM}={}", stream_name(stem, kind)), PLACE)?;
    Ok(place.and_then(|place| place.parse().ok()))
}

/// Field of the last entry that matches.
fn last(matching: &str, field: &str) -> Result<Option<String>> {
    let mut journalctl = Command::new("journalctl");
    journalctl
        .args(["--quiet", "--no-pager", "--output=json", "--lines=1"])
        .arg(format!("--output-fields={field}"))
        .arg(matching);
    let output = journalctl.output().context("run journalctl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "journalctl: {}", said.trim());
    let line = String::from_utf8_lossy(&output.stdout);
    let entry: Value = match line.lines().next() {
        None => return Ok(None),
        Some(line) => serde_json::from_str(line).context("read what journalctl says")?,
    };
    Ok(entry[field].as_str().map(ToOwned::to_owned))
}

/// Waits until the journal has taken what an earlier process sent to it: `journalctl --sync` is for
/// root only, so an entry is sent behind it, and waited for.
///
/// # Errors
/// journald does not take it, or it does not come within [`JOURNAL_SYNC`].
pub fn sync(path: &Path) -> Result<()> {
    let socket = Journal::connect(path)?.socket;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mark = format!("{}-{}", std::process::id(), since_epoch.as_nanos());
    let entry = format!("PRIORITY=7\n{SYNC}={mark}\nMESSAGE=reads containers' output\n");
    socket.send(entry.as_bytes()).context("send to the journal")?;
    let start = Instant::now();
    while last(&format!("{SYNC}={mark}"), SYNC)?.is_none() {
        ensure!(start.elapsed() < JOURNAL_SYNC, "the journal does not take what is sent to it");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_fields() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::connect(&path).unwrap();
        let origin = Origin {
            container: "a.green".into(),
            service: "a".into(),
            image: "x:1".into(),
            digest: "sha256:00".into(),
            generation: 3,
            ended: false,
        };
        journal.line(&Head::new(&origin, "a.green-1f", Kind::Err), b"x=\xff y", 7, true).unwrap();
        let mut entry = [0; 1024];
        let len = journald.recv(&mut entry).unwrap();
        let text = String::from_utf8_lossy(&entry[..len]).into_owned();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=a.green",
                "CONTAINER_NAME=a.green",
                "QUIETCORE_SERVICE=a",
                "IMAGE_NAME=x:1",
                "QUIETCORE_IMAGE_DIGEST=sha256:00",
                "QUIETCORE_GENERATION=3",
                "QUIETCORE_STREAM=a.green-1f.err",
                "CONTAINER_PARTIAL_MESSAGE=true",
                "QUIETCORE_PLACE=7",
                "MESSAGE=x=\u{fffd} y",
            ]
        );
        drop(journald);
        assert!(journal.line(&Head::new(&origin, "a", Kind::Out), b"x", 1, false).is_err());
    }
}
