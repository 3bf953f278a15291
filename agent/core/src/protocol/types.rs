//! Values that requests, responses and the status carry.

use crate::limits::{CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Record of the audit log: one request that may change state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the record.
    pub number: u64,
    /// Seconds since 1970, by this host's clock.
    pub time: u64,
    /// `root` on the host itself, or the name in a certificate.
    pub who: String,
    /// Request, as [`crate::protocol::Request::for_audit`] gives it.
    pub request: Value,
    /// Why it was refused or failed; nothing if it was done.
    pub refused: Option<String>,
    /// The hash of the record before, in hex; empty for the first.
    pub before: String,
    /// SHA-256 of this record's JSON with this field empty, in hex.
    pub hash: String,
}

impl Record {
    /// Hash that the record must have.
    pub fn hashed(&self) -> String {
        let bare = Self { hash: String::new(), ..self.clone() };
        format!("{:x}", Sha256::digest(serde_json::to_string(&bare).expect("plain data")))
    }
}

/// Verifies the hash chain of the audit log: each record is whole and follows the one before.
///
/// # Errors
/// The number of the first record that does not.
pub fn verify(records: &[Record]) -> Result<(), u64> {
    let broken = |record: &&Record| record.hash != record.hashed();
    if let Some(record) = records.iter().find(broken) {
        return Err(record.number);
    }
    match records.windows(2).find(|pair| pair[1].before != pair[0].hash) {
        Some(pair) => Err(pair[1].number),
        None => Ok(()),
    }
}

/// Severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Info,
    /// Somebody may want to look.
    Warning,
    /// Something is not as it is to be.
    Error,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: each is one more than the one before, over restarts too.
    pub number: u64,
    /// Seconds since 1970, by this host's clock.
    pub time: u64,
    /// Severity of the event.
    pub level: Level,
    /// Subject of the event: `container exporter`, `image NAME`, `compose`, ...
    pub about: String,
    /// Message text of the event.
    pub text: String,
}

/// Parameters of a packet capture.
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
    /// Checks that its words are safe on a command line and its limits are kept.
    ///
    /// # Errors
    /// The first word that is not.
    pub fn check(&self) -> Result<()> {
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

/// An image that this host has, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLine {
    /// Name of the image.
    pub name: String,
    /// The digest of its manifest, or of an index that has it.
    pub digest: String,
    /// Where it is from: `os`, `registry` or `archive`.
    pub from: String,
    /// Whether what is declared uses it.
    pub declared: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Rows of the terminal.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// One, at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Size at the start.
    pub size: Size,
    /// The pipe with what is typed.
    pub keys: PathBuf,
    /// The pipe with what is shown.
    pub screen: PathBuf,
}

/// Counts of one core since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CoreCounts {
    /// Local timer interrupts (`LOC`).
    pub timer: u64,
    /// Interrupts by other cores: reschedule, function call, TLB shootdown (`RES`, `CAL`, `TLB`).
    pub ipi: u64,
    /// Interrupts by devices.
    pub device: u64,
    /// Context switches on the core, of all kinds.
    pub switches: u64,
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
