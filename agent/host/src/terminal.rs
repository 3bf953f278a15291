//! The terminal of a container that is thrown away. containerd's shim has it and passes its bytes
//! through two named pipes: who looks reads one, the agent writes what is typed into the other.

use agent_core::instance::DEBUG;
use agent_core::protocol::types::{Size, Terminal};
use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use nix::unistd::{chown, mkfifo};
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are typed at once: a pipe takes so many whole, or none (pipe(7), `PIPE_BUF`).
pub const KEYS_LEN_MAX: usize = 4096;

/// Names the pipes of a debug container's terminal.
///
/// # Errors
/// The name is not that of an ephemeral debug container.
pub fn terminal_of(directory: &Path, name: &str, size: Size) -> Result<Terminal> {
    let [keys, screen] = [keys(directory, name)?, screen(directory, name)?];
    Ok(Terminal { size, keys, screen })
}

/// Where terminals are: beside the agent's socket.
pub fn directory(socket: &Path) -> PathBuf {
    socket.with_file_name("terminals")
}

fn pipe(directory: &Path, name: &str, what: &str) -> Result<PathBuf> {
    let number = name.strip_prefix(DEBUG).unwrap_or_default();
    let is_one = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    ensure!(is_one, "{name} is no container of qctl debug");
    Ok(directory.join(format!("{name}.{what}")))
}

fn keys(directory: &Path, name: &str) -> Result<PathBuf> {
    pipe(directory, name, "keys")
}

/// The pipe with what a container's terminal shows.
///
/// # Errors
/// The name is not that of one that is thrown away.
pub fn screen(directory: &Path, name: &str) -> Result<PathBuf> {
    pipe(directory, name, "screen")
}

/// Makes the directory anew: terminals end with the agent that began them. The network's side of
/// the agent may read there.
///
/// # Errors
/// What the file system says.
pub fn prepare(directory: &Path, network: Option<u32>) -> Result<()> {
    let named = || directory.display().to_string();
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir(directory).with_context(named)?;
    if let Some(network) = network {
        chown(directory, None, Some(network.into())).with_context(named)?;
    }
    std::fs::set_permissions(directory, Permissions::from_mode(0o750)).with_context(named)
}

/// The pipes of one, as long as it is kept. Both are held at both ends: neither the shim nor who
/// looks is told that the other one is gone when he has not come yet.
#[derive(Debug)]
pub struct Pipes {
    terminal: Terminal,
    _held: [File; 2],
}

impl Pipes {
    /// Makes both named pipes of a terminal and holds them open.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn make(terminal: Terminal) -> Result<Self> {
        let make = |path: &Path, mode: u32| -> Result<File> {
            let named = || path.display().to_string();
            mkfifo(path, Mode::from_bits_truncate(mode)).with_context(named)?;
            OpenOptions::new().read(true).write(true).open(path).with_context(named)
        };
        let held = [make(&terminal.keys, 0o600)?, make(&terminal.screen, 0o640)?];
        // Who may look into the directory may look at the screen. The unit may make nothing that
        // has its directory's group by itself (RestrictSUIDSGID=).
        let directory = terminal.screen.parent().context("a terminal has a directory")?;
        chown(&terminal.screen, None, Some(directory.metadata()?.gid().into()))?;
        Ok(Self { terminal, _held: held })
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        for path in [&self.terminal.keys, &self.terminal.screen] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Types; waits for nobody.
///
/// # Errors
/// There is no such terminal, or its program reads nothing.
pub fn type_into(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    ensure!(bytes.len() <= KEYS_LEN_MAX, "at most {KEYS_LEN_MAX} bytes are typed at once");
    let path = keys(directory, name)?;
    let mut options = OpenOptions::new();
    let opened = options.write(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let mut pipe = opened.with_context(|| format!("{name} has no terminal"))?;
    pipe.write_all(bytes).with_context(|| format!("{name} reads nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_typed_is_read_once_and_nobody_reaches_another_file() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("it");
        prepare(&directory, None).unwrap();
        let size = Size { rows: 24, columns: 80 };
        let terminal = terminal_of(&directory, "debug.7", size).unwrap();
        let pipes = Pipes::make(terminal.clone()).unwrap();
        type_into(&directory, "debug.7", b"ls\r").unwrap();
        let mut read = [0; 3];
        File::open(&terminal.keys).unwrap().read_exact(&mut read).unwrap();
        assert_eq!(&read, b"ls\r");
        // A program that reads nothing: the pipe takes 64 KiB.
        let full = std::iter::repeat_with(|| type_into(&directory, "debug.7", &[b'x'; 4096]));
        let refused = full.take(17).find_map(Result::err).unwrap();
        assert_eq!(refused.to_string(), "debug.7 reads nothing");
        assert!(type_into(&directory, "debug.7", &[0; KEYS_LEN_MAX + 1]).is_err());
        for name in ["debug.8", "debug.", "debug.7/../x", "../debug.7", "a", ""] {
            assert!(type_into(&directory, name, b"x").is_err(), "{name}");
        }
        drop(pipes);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
    }
}
