//! One file that somebody appends to: its lines, each once, from a place on.

use agent_core::limits::{OUTPUT_BACKLOG_MAX, OUTPUT_CHUNK, OUTPUT_CHUNKS_MAX, OUTPUT_PUNCH};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Line of a container's output, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Its bytes, without the end of line.
    pub text: &'a [u8],
    /// The place behind it in the stream, in bytes.
    pub place: u64,
    /// Whether the line goes on in the next piece: it is longer than [`OUTPUT_CHUNK`].
    pub is_partial: bool,
}

/// A reader with a place.
#[derive(Debug)]
pub struct Stream {
    path: PathBuf,
    /// Up to where everything was given on.
    pub place: u64,
    punched: u64,
    /// Bytes that were passed over, since too many were waiting.
    pub left_out: u64,
}

impl Stream {
    /// Follows a file from a place on.
    pub fn new(path: &Path, place: u64) -> Self {
        // An earlier reader may have been killed before it gave back what it had read.
        Self { path: path.into(), place, punched: 0, left_out: 0 }
    }

    /// Gives every whole line behind the place to `emit`; at the end of a file that nobody writes
    /// to any more, also what has no end of line. Says whether more is there.
    ///
    /// # Errors
    /// What the file system or `emit` says; the place is behind what was given on.
    pub fn read(
        &mut self,
        ended: bool,
        mut emit: impl FnMut(Line) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let len = file.metadata()?.len();
        // A power cut took what had been read already; what comes now is new.
        self.place = self.place.min(len);
        let waiting = len - self.place;
        if waiting > OUTPUT_BACKLOG_MAX {
            let from = len - OUTPUT_BACKLOG_MAX / 2;
            let from = from + to_line(&mut file, from)?;
            self.left_out += from - self.place;
            self.place = from;
        }
        let mut chunk = vec![0; OUTPUT_CHUNK];
        for _ in 0..OUTPUT_CHUNKS_MAX {
            file.seek(SeekFrom::Start(self.place))?;
            let read = file.read(&mut chunk)?;
            let whole = match chunk[..read].iter().rposition(|byte| *byte == b'\n') {
                Some(last) => last + 1,
                // A line longer than the chunk is given in pieces.
                None if read == OUTPUT_CHUNK || ended => read,
                None => 0,
            };
            if whole == 0 {
                self.give_back(&file)?;
                return Ok(false);
            }
            for line in chunk[..whole].split_inclusive(|byte| *byte == b'\n') {
                let place = self.place + line.len() as u64;
                let (text, is_partial) = match line.strip_suffix(b"\n") {
                    Some(text) => (text, false),
                    None => (line, line.len() == OUTPUT_CHUNK),
                };
                if !text.is_empty() {
                    emit(Line { text, place, is_partial })?;
                }
                self.place = place;
            }
        }
        self.give_back(&file)?;
        Ok(true)
    }

    fn give_back(&mut self, file: &File) -> io::Result<()> {
        let end = self.place / OUTPUT_PUNCH * OUTPUT_PUNCH;
        if end > self.punched {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(file, flags, self.punched as i64, (end - self.punched) as i64)?;
            self.punched = end;
        }
        Ok(())
    }
}

/// Bytes from a place to the start of the next line, if that is near.
fn to_line(file: &mut File, from: u64) -> io::Result<u64> {
    let mut chunk = vec![0; OUTPUT_CHUNK];
    file.seek(SeekFrom::Start(from))?;
    let read = file.read(&mut chunk)?;
    Ok(chunk[..read].iter().position(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn no_line_is_lost_or_given_twice_over_restarts_and_the_disk_is_given_back() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let path = directory.join("a");
        let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let (mut written, mut seen, mut place) = (0u32, Vec::new(), 0);
        for round in 0..20 {
            let mut stream = Stream::new(&path, place);
            for _ in 0..10_000 {
                writeln!(log, "line {written:08} of a container").unwrap();
                written += 1;
            }
            write!(log, "half ").unwrap();
            // Whoever takes the lines breaks off: it goes on from there.
            let mut budget = 7_000;
            let broken = stream.read(false, |line| {
                budget -= 1;
                if budget == 0 {
                    return Err(io::Error::other("no journal"));
                }
                seen.push(String::from_utf8_lossy(line.text).into_owned());
                Ok(())
            });
            assert!(broken.is_err());
            place = stream.place;
            writeln!(log, "line {round}").unwrap();
        }
        write!(log, "the last").unwrap();
        let mut stream = Stream::new(&path, place);
        let mut read = |ended| {
            let mut emit = |line: Line| {
                seen.push(String::from_utf8_lossy(line.text).into_owned());
                Ok(())
            };
            while stream.read(ended, &mut emit).unwrap() {}
        };
        read(false);
        read(true);
        let numbers: Vec<u32> =
            seen.iter().filter_map(|line| line.strip_prefix("line ")?[..8].parse().ok()).collect();
        assert_eq!(numbers, (0..written).collect::<Vec<_>>());
        assert_eq!(seen.len(), written as usize + 21);
        assert_eq!(seen.last().unwrap(), "the last");
        let metadata = log.metadata().unwrap();
        assert!(metadata.blocks() * 512 < metadata.len() / 2, "{metadata:?}");
    }

    #[test]
    fn a_backlog_is_bounded_and_counted_and_a_shorter_file_is_gone_on_with() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let path = directory.join("a");
        let mut log = File::create(&path).unwrap();
        log.set_len(OUTPUT_BACKLOG_MAX * 2).unwrap();
        log.seek(SeekFrom::End(0)).unwrap();
        write!(log, "\nlast\n").unwrap();
        let mut stream = Stream::new(&path, 0);
        let mut lines = Vec::new();
        let mut emit = |line: Line| {
            lines.push(line.text.to_vec());
            Ok(())
        };
        while stream.read(false, &mut emit).unwrap() {}
        assert_eq!(lines.last().unwrap(), b"last");
        assert!(stream.left_out >= OUTPUT_BACKLOG_MAX * 3 / 2, "{}", stream.left_out);
        // After a power cut.
        log.set_len(3).unwrap();
        assert!(!stream.read(false, |_| Ok(())).unwrap());
        assert_eq!(stream.place, 3);
    }

    #[test]
    fn pieces_of_a_long_line_say_that_it_goes_on() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a");
        let long = "x".repeat(OUTPUT_CHUNK * 2 + 1);
        std::fs::write(&path, format!("short\n{long}\n{long}")).unwrap();
        let (mut stream, mut pieces) = (Stream::new(&path, 0), Vec::new());
        let mut emit = |line: Line| {
            pieces.push((line.text.len(), line.is_partial));
            Ok(())
        };
        while stream.read(true, &mut emit).unwrap() {}
        let line = [(OUTPUT_CHUNK, true), (OUTPUT_CHUNK, true), (1, false)];
        assert_eq!(pieces, [&[(5, false)], line.as_slice(), line.as_slice()].concat());
    }
}
