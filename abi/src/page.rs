//! Shared pages as arrays of atomic words: a file on tmpfs that one process writes and others read.
//! What the words mean stands in `counters` and `control`.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use thiserror::Error;

/// Why a shared page can't be used.
#[derive(Debug, Error)]
pub enum PageError {
    /// A system call failed.
    #[error("{action} {path}")]
    Io {
        /// Action that failed, such as `open page`.
        action: &'static str,
        /// The page's file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// The file is not a page of the expected kind or version.
    #[error(
        "{path}: not a page of this version ({found}); remove the file, its owner makes it anew"
    )]
    Foreign {
        /// The page's file.
        path: PathBuf,
        /// Difference that was found, in length or magic.
        found: String,
    },
}

/// A mapped page. Holding one proves that the file was long enough when it was mapped; its owner
/// never shortens it.
pub struct Page {
    map: memmap2::MmapRaw,
    words: usize,
}

impl Page {
    /// Maps the page at `path`, making it with zeroes if it is not there. Others may read it.
    ///
    /// # Errors
    /// [`PageError::Io`] names the step that failed.
    pub fn create(path: &Path, words: usize) -> Result<Self, PageError> {
        let io = |action| move |source| PageError::Io { action, path: path.into(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let file = options.open(path).map_err(io("open page"))?;
        let len = file.metadata().map_err(io("stat page"))?.len();
        if len < bytes(words) {
            file.set_len(bytes(words)).map_err(io("size page"))?;
        }
        Self::map(&file, words).map_err(|source| map_failed(path, source))
    }

    /// Maps an existing page for reading and writing.
    ///
    /// # Errors
    /// [`PageError::Io`] if it can't be opened, [`PageError::Foreign`] if it is too short.
    pub fn open(path: &Path, words: usize) -> Result<Self, PageError> {
        let file = Self::open_file(path, words, OpenOptions::new().read(true).write(true))?;
        Self::map(&file, words).map_err(|source| map_failed(path, source))
    }

    /// Maps an existing page for reading only; a write through it would fault.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_readonly(path: &Path, words: usize) -> Result<Self, PageError> {
        let file = Self::open_file(path, words, OpenOptions::new().read(true))?;
        let map = memmap2::MmapOptions::new().len(words * 8).map_raw_read_only(&file);
        Ok(Self { map: map.map_err(|source| map_failed(path, source))?, words })
    }

    fn open_file(path: &Path, words: usize, options: &OpenOptions) -> Result<File, PageError> {
        let io = |action| move |source| PageError::Io { action, path: path.into(), source };
        let file = options.open(path).map_err(io("open page"))?;
        let metadata = file.metadata().map_err(io("stat page"))?;
        if metadata.len() < bytes(words) {
            let found = format!("{} bytes where {} are needed", metadata.len(), bytes(words));
            return Err(PageError::Foreign { path: path.into(), found });
        }
        Ok(file)
    }

    fn map(file: &File, words: usize) -> io::Result<Self> {
        let map = memmap2::MmapOptions::new().len(words * 8).map_raw(file)?;
        Ok(Self { map, words })
    }

    /// The page, if its first word says that it is of the expected kind and version.
    pub(crate) fn expect(self, magic: u64, path: &Path) -> Result<Self, PageError> {
        match self[0].load(Acquire) {
            found if found == magic => Ok(self),
            found => {
                let found = format!("magic {found:#018x}");
                Err(PageError::Foreign { path: path.into(), found })
            }
        }
    }
}

fn map_failed(path: &Path, source: io::Error) -> PageError {
    PageError::Io { action: "map page", path: path.into(), source }
}

fn bytes(words: usize) -> u64 {
    words as u64 * 8
}

impl Deref for Page {
    type Target = [AtomicU64];

    #[allow(unsafe_code, reason = "the one place that turns a mapping into words")]
    #[inline(always)]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: mmap returned `words * 8` bytes, page-aligned, that stay mapped as long as `self`
        // owns the MmapRaw; AtomicU64 has no invalid bit patterns and tolerates other processes'
        // writes; the file's owner never shortens it, so no access faults.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.words) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn two_mappings_see_one_page() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let writer = Page::create(&path, 8).unwrap();
        let reader = Page::open_readonly(&path, 8).unwrap();
        writer[7].store(42, Relaxed);
        assert_eq!(reader[7].load(Relaxed), 42);
        assert!(matches!(Page::open(&path, 9), Err(PageError::Foreign { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Page::open(&path, 8), Err(PageError::Io { .. })));
    }
}
