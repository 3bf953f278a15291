//! Values as lines of JSON, in a file that is bounded: one that has grown is put aside, and one
//! older is kept. What a power cut left of a line stays one of its own, which nobody reads.

use crate::files::read_up_to;
use agent_core::limits::LINE_LEN_MAX;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The two files.
#[derive(Debug, Clone)]
pub struct JsonLines {
    path: PathBuf,
    len_max: u64,
}

impl JsonLines {
    /// Files of about so many bytes each.
    pub fn at(path: &Path, len_max: u64) -> Self {
        Self { path: path.into(), len_max }
    }

    /// Where the newer one is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("old")
    }

    /// Opens the newer file for root alone; one of an earlier version may have been for all.
    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.append(true).read(true).create(true).mode(0o600).open(&self.path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// Puts a file aside that has grown to its length.
    fn rotate(&self) -> io::Result<()> {
        match self.path.metadata().is_ok_and(|file| file.len() >= self.len_max) {
            true => std::fs::rename(&self.path, self.older()),
            false => Ok(()),
        }
    }

    /// Reserves room on the disk for the next line, however long.
    ///
    /// # Errors
    /// There is none, or what the file system says.
    pub fn reserve(&self) -> io::Result<()> {
        self.rotate()?;
        let file = self.open()?;
        let end = file.metadata()?.len() as i64;
        let room = LINE_LEN_MAX as i64 + 1;
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, room)?;
        Ok(())
    }

    /// One more; a durable one is on the disk afterwards.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append(&self, value: &impl Serialize, durable: bool) -> io::Result<()> {
        self.rotate()?;
        let mut line = serde_json::to_string(value)? + "\n";
        if line.len() > LINE_LEN_MAX {
            return Err(io::Error::other(format!("a line of {} bytes", line.len())));
        }
        let mut file = self.open()?;
        let len = file.metadata()?.len();
        let mut end = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut end, len - 1)?;
        }
        if end != [b'\n'] {
            line.insert(0, '\n');
        }
        file.write_all(line.as_bytes())?;
        if durable {
            file.sync_data()?;
        }
        if let Some(directory) = self.path.parent().filter(|_| durable && len == 0) {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }

    /// All that there are, oldest first.
    pub fn read<T: DeserializeOwned>(&self) -> Vec<T> {
        let mut all = Vec::new();
        for path in [&self.older(), &self.path] {
            let bytes =
                read_up_to(path, self.len_max + 2 * LINE_LEN_MAX as u64).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            all.extend(text.lines().filter_map(|line| serde_json::from_str::<T>(line).ok()));
        }
        all
    }

    /// The last so many of those that one wants, oldest first.
    pub fn last<T: DeserializeOwned>(&self, count: usize, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let mut all = self.read::<T>();
        all.retain(wanted);
        all.split_off(all.len().saturating_sub(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_lines_are_left_out_and_the_files_are_bounded() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().to_path_buf();
        let lines = JsonLines::at(&root.join("lines.jsonl"), 100);
        lines.append(&1, false).unwrap();
        // A power cut in the middle of a line.
        OpenOptions::new().append(true).open(lines.path()).unwrap().write_all(b"{\"a").unwrap();
        lines.append(&2, true).unwrap();
        assert_eq!(lines.read::<u32>(), [1, 2]);
        assert_eq!(lines.last::<u32>(1, |_| true), [2]);
        (3..300).for_each(|number| lines.append(&number, false).unwrap());
        let sizes = [lines.path(), &lines.older()].map(|path| path.metadata().unwrap().len());
        assert!(sizes.iter().all(|size| *size < 110), "{sizes:?}");
        assert_eq!(lines.last::<u32>(2, |_| true), [298, 299]);
    }

    #[test]
    fn lines_are_for_root_and_have_their_room_before_they_come() {
        use std::os::unix::fs::MetadataExt;
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("audit.jsonl");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let lines = JsonLines::at(&path, 1 << 20);
        lines.reserve().unwrap();
        let file = path.metadata().unwrap();
        assert_eq!((file.mode() & 0o777, file.len()), (0o600, 0));
        assert!(file.blocks() * 512 >= LINE_LEN_MAX as u64, "no room is reserved");
        lines.append(&"x", true).unwrap();
        assert_eq!(lines.read::<String>(), ["x"]);
    }
}
