//! Containers' output to the journal. The shim appends to a file and never waits for a reader; the agent
//! reads behind it, keeps its place on disk, and gives what it has read back to the file system.

use crate::limits::{TAIL_CHUNK, TAIL_CHUNKS_MAX, TAIL_PUNCH};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// One container's output.
pub struct Tail {
    log: PathBuf,
    place: PathBuf,
    offset: u64,
    punched: u64,
}

impl Tail {
    /// Follows `NAME.log` in `directory` from where an earlier agent stopped.
    pub fn new(directory: &Path, name: &str) -> Self {
        let place = directory.join(format!("{name}.offset"));
        let offset = std::fs::read_to_string(&place)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        Self {
            log: directory.join(format!("{name}.log")),
            place,
            offset,
            punched: offset / TAIL_PUNCH * TAIL_PUNCH,
        }
    }

    /// The file that the container's output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Gives every whole line that came since the last call to `emit`.
    ///
    /// # Errors
    /// What the file system says; lines already given are not given again.
    pub fn read(&mut self, mut emit: impl FnMut(&str)) -> io::Result<()> {
        let mut file = match OpenOptions::new().read(true).write(true).open(&self.log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if file.metadata()?.len() < self.offset {
            (self.offset, self.punched) = (0, 0);
        }
        // A container that writes faster than this keeps nobody else waiting: the rest is read next time.
        for _ in 0..TAIL_CHUNKS_MAX {
            let mut chunk = vec![0; TAIL_CHUNK];
            file.seek(SeekFrom::Start(self.offset))?;
            let len = file.read(&mut chunk)?;
            let whole = match chunk[..len].iter().rposition(|byte| *byte == b'\n') {
                Some(last) => last + 1,
                // A line longer than the chunk is given in pieces.
                None if len == TAIL_CHUNK => len,
                None => break,
            };
            for line in chunk[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
            {
                emit(&String::from_utf8_lossy(line));
            }
            self.offset += whole as u64;
        }
        self.keep(&file)
    }

    fn keep(&mut self, file: &File) -> io::Result<()> {
        let text = format!("{}\n", self.offset);
        if std::fs::read_to_string(&self.place).unwrap_or_default() != text {
            let next = self.place.with_extension("offset.next");
            std::fs::write(&next, text)?;
            std::fs::rename(&next, &self.place)?;
        }
        let end = self.offset / TAIL_PUNCH * TAIL_PUNCH;
        if end > self.punched {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(file, flags, self.punched as i64, (end - self.punched) as i64)?;
            self.punched = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn no_line_is_lost_or_given_twice_over_restarts_and_the_disk_is_given_back() {
        let directory = std::env::temp_dir().join(format!("quietcore-tail-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut log =
            OpenOptions::new().create(true).append(true).open(directory.join("a.log")).unwrap();
        let (mut written, mut seen) = (0u32, Vec::new());
        for round in 0..20 {
            let mut tail = Tail::new(&directory, "a");
            for _ in 0..10_000 {
                writeln!(log, "line {written:08} of a container").unwrap();
                written += 1;
            }
            write!(log, "half ").unwrap();
            tail.read(|line| seen.push(line.to_string())).unwrap();
            writeln!(log, "line {round}").unwrap();
        }
        Tail::new(&directory, "a").read(|line| seen.push(line.to_string())).unwrap();
        let numbers: Vec<u32> =
            seen.iter().filter_map(|line| line.strip_prefix("line ")?[..8].parse().ok()).collect();
        assert_eq!(numbers, (0..written).collect::<Vec<_>>());
        assert_eq!(seen.len(), written as usize + 20);
        let metadata = log.metadata().unwrap();
        assert!(
            metadata.blocks() * 512 < metadata.len() / 2,
            "{} blocks of {} bytes",
            metadata.blocks(),
            metadata.len()
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
