//! Directories in memory (`tmpfs`), with Docker's flags. Sources: Compose Specification, "tmpfs";
//! Docker, "tmpfs mounts"; tmpfs(5).

use crate::compose::units;
use serde::Serialize;

/// Size of one whose line names none.
const BYTES: u64 = 64 << 20;

/// Remedy for a line that is refused.
pub const REMEDY: &str = "/PATH, or /PATH:size=64m,mode=1777 with uid=, gid=, ro, exec";

/// A directory in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tmpfs {
    /// In the container.
    pub target: String,
    /// Bytes, at most.
    pub bytes: u64,
    /// Access, in octal digits.
    pub mode: String,
    /// Number of the user that owns it, if not root.
    pub uid: Option<u32>,
    /// Number of its group.
    pub gid: Option<u32>,
    /// True if it can't be written to.
    pub read_only: bool,
    /// True if programs in it may run; as with Docker they may not unless the file says so.
    pub exec: bool,
}

/// Reads a line: a path and, behind a colon, options.
pub fn read(text: &str) -> Option<Tmpfs> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut tmpfs = Tmpfs {
        target: target.into(),
        bytes: BYTES,
        mode: "1777".into(),
        uid: None,
        gid: None,
        read_only: false,
        exec: false,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => tmpfs.bytes = units::bytes(size).filter(|bytes| *bytes > 0)?,
            ("mode", mode) if u32::from_str_radix(mode, 8).is_ok() => tmpfs.mode = mode.into(),
            ("uid", id) => tmpfs.uid = Some(id.parse().ok()?),
            ("gid", id) => tmpfs.gid = Some(id.parse().ok()?),
            ("rw", "") => tmpfs.read_only = false,
            ("ro", "") => tmpfs.read_only = true,
            ("exec", "") => tmpfs.exec = true,
            ("noexec", "") => tmpfs.exec = false,
            // It has neither devices nor set-user-ID programs anyway.
            ("nosuid" | "nodev", "") => {}
            _ => return None,
        }
    }
    target.starts_with('/').then_some(tmpfs)
}
