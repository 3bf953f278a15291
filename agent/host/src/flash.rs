//! Puts a disk image on a disk, so that a disk on which it did not get to its end does not boot at
//! all: what makes it bootable, the partition table at its start, is wiped first and written last,
//! after the rest was read back. Only blocks that differ are written: a second try goes on where
//! the first one stopped.

/// The disk: found, and not in use.
pub mod disk;
/// Mark of the order that installed a disk.
pub mod order_mark;
/// Sources of a disk image: a file, or the parts in a netboot UKI.
pub mod source;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Read and written at once.
const CHUNK_LEN: usize = 1 << 20;

/// The partition table and its room before the first partition. Everything after it is out of
/// firmware's sight as long as this is empty.
const HEAD_LEN: u64 = CHUNK_LEN as u64;

/// Bytes in order, all of which can be read at any place.
pub trait Source {
    /// Bytes in all, a multiple of 512.
    fn size(&self) -> u64;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// What reading says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Disk or other device that an image is written to.
pub trait Target {
    /// Bytes in all.
    fn size(&self) -> u64;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes `bytes` from `offset` on.
    ///
    /// # Errors
    /// What the disk says.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Everything written is on the disk, and what is read next comes from there.
    ///
    /// # Errors
    /// What the disk says.
    fn flush_and_check(&mut self) -> io::Result<()>;
}

/// Step of writing an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Comparing and writing.
    Writing,
    /// Reading back and comparing with the image.
    Verifying,
}

/// Writes an image. Returns how many bytes were other ones before.
///
/// # Errors
/// The disk is too small, fails, or gives back something else than was written. It does not boot
/// then.
pub fn write(
    source: &impl Source,
    target: &mut impl Target,
    mut tell: impl FnMut(Step, u64),
) -> Result<u64> {
    let (len, room) = (source.size(), target.size());
    ensure!(room >= len, "the disk has {room} bytes, the image {len}; take a larger one");
    let mut written = blank(target, 0)?;
    // The backup of an earlier partition table.
    written += blank(target, (room - HEAD_LEN).max(len) / 512 * 512)?;
    target.flush_and_check().context("write to the disk")?;
    let (mut wanted, mut found) = (vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]);
    for step in [Step::Writing, Step::Verifying] {
        for offset in (HEAD_LEN..len).step_by(CHUNK_LEN) {
            let size = (len - offset).min(CHUNK_LEN as u64) as usize;
            let (wanted, found) = (&mut wanted[..size], &mut found[..size]);
            read(source, wanted, offset)?;
            target.read_at(found, offset).with_context(|| gone("read", offset))?;
            if wanted != found {
                ensure!(step == Step::Writing, "{}", untrue(offset));
                target.write_at(wanted, offset).with_context(|| gone("write", offset))?;
                written += size as u64;
            }
            tell(step, offset + size as u64);
        }
        target.flush_and_check().with_context(|| gone("write", len))?;
    }
    let head = &mut wanted[..HEAD_LEN.min(len) as usize];
    read(source, head, 0)?;
    target.write_at(head, 0).with_context(|| gone("write", 0))?;
    target.flush_and_check().with_context(|| gone("write", 0))?;
    let found = &mut found[..head.len()];
    target.read_at(found, 0).with_context(|| gone("read", 0))?;
    if head != found {
        bail!("{}", untrue(0));
    }
    Ok(written + head.len() as u64)
}

fn read(source: &impl Source, bytes: &mut [u8], offset: u64) -> Result<()> {
    source.read_at(bytes, offset).with_context(|| format!("read the image at byte {offset}"))
}

fn gone(what: &str, offset: u64) -> String {
    format!(
        "{what} the disk at byte {offset}; is it still there? It does not boot now: start again"
    )
}

fn untrue(offset: u64) -> String {
    format!(
        "the disk gives back something else than was written at byte {offset}; take another disk, \
         this one does not boot now"
    )
}

/// Makes up to [`HEAD_LEN`] bytes zero. Returns how many were written.
fn blank(target: &mut impl Target, offset: u64) -> Result<u64> {
    let size = HEAD_LEN.min(target.size().saturating_sub(offset)) as usize;
    let (zeros, mut found) = (vec![0; size], vec![0; size]);
    target.read_at(&mut found, offset).with_context(|| gone("read", offset))?;
    if found == zeros {
        return Ok(0);
    }
    target.write_at(&zeros, offset).with_context(|| gone("write", offset))?;
    Ok(size as u64)
}

/// An open disk.
pub struct Device {
    file: File,
    len: u64,
}

impl Device {
    /// Takes a file that is open for reading and writing.
    pub fn new(file: File, len: u64) -> Self {
        Self { file, len }
    }
}

impl Target for Device {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush_and_check(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        Ok(posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }
}

/// Says how far it is: on a terminal in one line that changes, else every tenth.
pub struct Progress {
    len: u64,
    shown: Option<(Step, u64)>,
    started: Instant,
    drawn: Instant,
}

impl Progress {
    /// For so many bytes.
    pub fn new(len: u64) -> Self {
        let now = Instant::now();
        Self { len, shown: None, started: now, drawn: now }
    }

    /// Prints the progress of a step, `done` in bytes.
    pub fn tell(&mut self, step: Step, done: u64) {
        let percent = done * 100 / self.len.max(1);
        let name = match step {
            Step::Writing => "writing",
            Step::Verifying => "reading back",
        };
        let mut out = io::stderr();
        let line = format!("{name} {percent:>3} %, {} of {} MiB", done >> 20, self.len >> 20);
        if out.is_terminal() {
            let is_due = self.drawn.elapsed() > Duration::from_millis(100) || done == self.len;
            if is_due || self.shown.is_none() {
                (self.drawn, self.shown) = (Instant::now(), Some((step, percent)));
                let end = if done == self.len { "\n" } else { "" };
                let seconds = self.started.elapsed().as_secs();
                let _ = write!(out, "\r{line}, {seconds} s{end}");
            }
        } else if self.shown != Some((step, percent / 10)) {
            self.shown = Some((step, percent / 10));
            let _ = writeln!(out, "{line}");
        }
    }
}
