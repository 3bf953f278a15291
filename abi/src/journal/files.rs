//! The journal's files as they lie in their directory: which there are, and how to follow them
//! while the engine writes. Only reads.

use super::{BLOCK_LEN, Header, Kind, Record, Segment};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The segments in a directory, oldest first. Files that are none yet are left out.
///
/// # Errors
/// What reading the directory or a file says, with its path.
pub fn segments(directory: &Path) -> io::Result<BTreeMap<Header, PathBuf>> {
    let at = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(|error| at(directory, error))? {
        let path = entry.map_err(|error| at(directory, error))?.path();
        if path.extension().is_none_or(|extension| extension != "qcj") {
            continue;
        }
        match header(&path) {
            Ok(Some(header)) => drop(found.insert(header, path)),
            Ok(None) => {}
            // The agent removes its oldest copies.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(&path, error)),
        }
    }
    Ok(found)
}

/// Reads the segment header of the file at `path`; `None` if it is no segment (yet).
///
/// # Errors
/// The file can't be opened or read.
pub fn header(path: &Path) -> io::Result<Option<Header>> {
    read_header(&mut File::open(path)?)
}

/// Reads the segment header at the beginning of an open file; `None` if it is no segment (yet).
///
/// # Errors
/// The file can't be read.
pub fn read_header(file: &mut File) -> io::Result<Option<Header>> {
    let mut head = [0; BLOCK_LEN];
    file.seek(SeekFrom::Start(0))?;
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| Header::decode(&head).ok()),
    }
}

/// Read at once: many times the longest record.
const CHUNK_LEN: usize = 1 << 20;

/// Number of polls that wait for records missing between a segment and the next one, which the disk
/// may have finished earlier.
const PATIENCE_POLLS: u32 = 20;

/// Record or gap that a [`Follower`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The next record.
    Record(Record<'a>),
    /// Records after this one are not there any more.
    Gap(u64),
}

struct Current {
    header: Header,
    file: File,
    offset: u64,
}

/// Reads a journal from its oldest segment on, and goes on as it grows.
pub struct Follower {
    directories: Vec<PathBuf>,
    current: Option<Current>,
    last_sequence: Option<u64>,
    waited_polls: u32,
}

impl Follower {
    /// Follows the journal in the first directory; the others hold copies of its segments.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, current: None, last_sequence: None, waited_polls: 0 }
    }

    /// Hands over what was written since the last call.
    ///
    /// # Errors
    /// What reading says; what was handed over is not handed over again.
    pub fn poll(&mut self, mut take: impl FnMut(Found<'_>)) -> io::Result<()> {
        let mut chunk = Vec::new();
        loop {
            while self.read_on(&mut chunk, &mut take)? {}
            let Some((header, path)) = self.next_segment()? else { return Ok(()) };
            if self.last_sequence.is_some() && !self.may_go_on(header, &path, &mut take)? {
                return Ok(());
            }
            self.current =
                Some(Current { header, file: File::open(path)?, offset: BLOCK_LEN as u64 });
        }
    }

    fn next_segment(&self) -> io::Result<Option<(Header, PathBuf)>> {
        let mut all = BTreeMap::new();
        for (place, directory) in self.directories.iter().enumerate() {
            match segments(directory) {
                // A copy is not overwritten; there may be none yet.
                Ok(found) => all.extend(found),
                Err(error) if place > 0 && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let present = self.current.as_ref().map(|current| current.header);
        Ok(all.into_iter().find(|(header, _)| Some(*header) > present))
    }

    /// Whether the present segment is at its end, the next one being there.
    fn may_go_on(
        &mut self,
        header: Header,
        path: &Path,
        take: &mut impl FnMut(Found<'_>),
    ) -> io::Result<bool> {
        let mut bytes = vec![0; CHUNK_LEN];
        let len = File::open(path)?.read_at(&mut bytes, 0)?;
        let first = Segment::of(header, &bytes[..len], BLOCK_LEN).next();
        let Some(Ok(first)) = first else { return Ok(false) };
        let last = self.last_sequence.unwrap_or(0);
        if first.kind != Kind::RunStarted && first.sequence > last + 1 {
            self.waited_polls += 1;
            if self.waited_polls < PATIENCE_POLLS {
                return Ok(false);
            }
            take(Found::Gap(last));
        }
        self.waited_polls = 0;
        Ok(true)
    }

    /// Reads some of the present segment; `true` if there was something. A record that does not
    /// check is one that is being written.
    fn read_on(
        &mut self,
        chunk: &mut Vec<u8>,
        take: &mut impl FnMut(Found<'_>),
    ) -> io::Result<bool> {
        let Some(current) = &mut self.current else { return Ok(false) };
        let start = current.offset - current.offset % BLOCK_LEN as u64;
        chunk.resize(CHUNK_LEN, 0);
        let len = current.file.read_at(chunk, start)?;
        let from = (current.offset - start) as usize;
        if len <= from {
            return Ok(false);
        }
        let mut records = Segment::of(current.header, &chunk[..len], from);
        let mut end = from;
        while let Some(Ok(record)) = records.next() {
            self.last_sequence = Some(record.sequence);
            take(Found::Record(record));
            end = records.offset();
        }
        current.offset = start + end as u64;
        Ok(end > from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{encode_pad, encode_record, record_len};
    use super::*;

    fn batch(header: Header, records: std::ops::Range<u64>) -> Vec<u8> {
        let len = records.clone().count() * record_len(32);
        let mut bytes = vec![0; len.next_multiple_of(BLOCK_LEN)];
        let mut at = 0;
        for sequence in records {
            // Records of 64 bytes fill blocks without rest.
            let payload = &[sequence as u8; 32];
            let record = Record { kind: Kind::FeedA, sequence, time_ns: 5, payload };
            at += encode_record(&record, header.mark(), &mut bytes[at..]);
        }
        encode_pad(&mut bytes[at..], header.mark());
        bytes
    }

    fn sequences(follower: &mut Follower) -> Vec<u64> {
        let mut found = Vec::new();
        let take = |what: Found<'_>| match what {
            Found::Record(record) => found.push(record.sequence),
            Found::Gap(_) => found.push(0),
        };
        follower.poll(take).unwrap();
        found
    }

    fn segment(header: Header, batches: &[Vec<u8>], len: usize) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        batches.iter().for_each(|batch| bytes.extend(batch));
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn a_journal_is_followed_over_its_segments_as_it_grows() {
        let temporary = tempfile::tempdir().unwrap();
        let (root, len) = (temporary.path().to_path_buf(), 6 * BLOCK_LEN);
        let mut follower = Follower::new(vec![root.clone(), root.join("copies")]);
        assert!(sequences(&mut follower).is_empty());
        let one = Header { segment: 0, run: 9 };
        let path = root.join("00000000.qcj");
        std::fs::write(&path, segment(one, &[batch(one, 1..4)], len)).unwrap();
        assert_eq!(sequences(&mut follower), [1, 2, 3]);
        assert!(sequences(&mut follower).is_empty());
        let torn = batch(one, 4..100);
        let mut half = segment(one, &[batch(one, 1..4), torn.clone()], len);
        half[3 * BLOCK_LEN..].fill(0xee);
        std::fs::write(&path, half).unwrap();
        let some = sequences(&mut follower);
        assert_eq!((some[0], *some.last().unwrap() < 99), (4, true));
        // The next segment is on disk before the rest of this one.
        let two = Header { segment: 1, run: 9 };
        let next = segment(two, &[batch(two, 100..103)], len);
        std::fs::write(root.join("00000001.qcj"), next).unwrap();
        assert!(sequences(&mut follower).is_empty());
        std::fs::write(&path, segment(one, &[batch(one, 1..4), torn], len)).unwrap();
        let rest = sequences(&mut follower);
        assert_eq!(rest, (some.last().unwrap() + 1..103).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_overwritten_is_read_from_the_copies_or_said_to_be_gone() {
        let (temporary, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, copies) = (temporary.path().to_path_buf(), other.path().to_path_buf());
        let len = 4 * BLOCK_LEN;
        let header = |segment| Header { segment, run: 9 };
        let write = |path: PathBuf, number: u64| {
            let records = number * 10 + 1..number * 10 + 11;
            let bytes = segment(header(number), &[batch(header(number), records)], len);
            std::fs::write(path, bytes).unwrap();
        };
        write(root.join("00000000.qcj"), 0);
        let mut follower = Follower::new(vec![root.clone(), copies.clone()]);
        assert_eq!(sequences(&mut follower).len(), 10);
        write(copies.join("1.qcj"), 1);
        write(root.join("00000000.qcj"), 2);
        assert_eq!(sequences(&mut follower), (11..31).collect::<Vec<_>>());
        write(root.join("00000000.qcj"), 5);
        let polls = (0..PATIENCE_POLLS).flat_map(|_| sequences(&mut follower)).collect::<Vec<_>>();
        assert_eq!(polls, [0].into_iter().chain(51..61).collect::<Vec<_>>());
    }
}
