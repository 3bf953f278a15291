//! Files that are whole after a power cut.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file so that after a power cut it is the old one or the new one.
///
/// # Errors
/// What the file system says, with the path.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    write_whole_bytes(path, text.as_bytes())
}

/// [`write_whole`] of bytes that are no text.
///
/// # Errors
/// What the file system says, with the path.
pub fn write_whole_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with_mode(path, bytes, 0o644)
}

/// [`write_whole`] of what only root may read: secrets, environments, who did what.
///
/// # Errors
/// What the file system says, with the path.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    write_with_mode(path, text.as_bytes(), 0o600)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let next = path.with_extension("next");
    // What a killed agent left may have another mode.
    let _ = std::fs::remove_file(&next);
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(&next);
    let mut file = file.with_context(|| format!("write {}", next.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", next.display()))?;
    std::fs::rename(&next, path).with_context(|| format!("replace {}", path.display()))?;
    if let Some(directory) = path.parent() {
        std::fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Reads a file that somebody else may have written: at most so many bytes.
///
/// # Errors
/// What the file system says, or that it is larger.
pub fn read_up_to(path: &Path, max: u64) -> Result<Vec<u8>> {
    let named = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    // Somebody may have put a pipe there, which nobody writes to, or a link.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.with_context(named)?;
    ensure!(file.metadata().with_context(named)?.is_file(), "{}: no file", path.display());
    let len = file.take(max + 1).read_to_end(&mut bytes).with_context(named)? as u64;
    ensure!(len <= max, "{}: larger than {max} bytes", path.display());
    Ok(bytes)
}

/// A text of at most so many bytes, its end left out if it is longer.
pub fn cut(text: &str, max: usize) -> String {
    match text.len() > max {
        true => format!("{}...", &text[..text.floor_char_boundary(max)]),
        false => text.to_owned(),
    }
}

/// Bytes that are free to unprivileged users on a directory's file system.
///
/// # Errors
/// What the file system says, with the path.
pub fn free_bytes(directory: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(directory);
    let stat = stat.with_context(|| format!("look at {}", directory.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_private_is_so_from_its_first_byte() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("compose.yaml");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        // What was for all before, and what a killed agent left of the next one.
        std::fs::write(&path, "old").unwrap();
        std::fs::write(path.with_extension("next"), "left").unwrap();
        write_private(&path, "TOKEN=x").unwrap();
        assert_eq!(
            (mode(&path), std::fs::read_to_string(&path).unwrap()),
            (0o600, "TOKEN=x".into())
        );
        write_whole(&path, "for all").unwrap();
        assert_eq!(mode(&path), 0o644);
    }
}
