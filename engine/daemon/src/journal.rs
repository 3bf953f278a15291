//! Journal files: a ring of preallocated segments, written by the hot thread itself. The layout
//! stands in `abi::journal`; what is recorded is decided by the caller.

use crate::arena::Region;
use crate::limits::{JOURNAL_RESERVE, JOURNAL_WRITES_MAX, JOURNAL_WRITES_RESERVE};
use crate::port::Port;
use crate::recovery::Past;
use abi::journal::{
    BLOCK_LEN, Header, Kind, PAYLOAD_LEN_MAX, Record, Recovery, encode_pad, encode_record,
    record_len,
};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the journal can't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A system call failed.
    #[error("journal: {action} {path}")]
    Io {
        /// Action that failed, such as `read`.
        action: &'static str,
        /// Path of the file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The files of a journal, preallocated and open.
pub struct Files {
    /// The open files, in the ring's order.
    pub files: Vec<File>,
    /// Where the next run starts.
    pub layout: Layout,
    /// Whether writes bypass the page cache.
    pub direct: bool,
}

/// Where a run's records go.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Files in the ring.
    pub files: u64,
    /// Bytes of a file.
    pub segment_len: u64,
    /// The number of the next segment to start.
    pub next_segment: u64,
    /// The sequence number of the next record.
    pub next_sequence: u64,
    /// Recovery from earlier runs' journal.
    pub recovery: Recovery,
}

impl Layout {
    /// Where a run starts after what is in `segments`: (number, bytes), oldest first.
    pub fn after<'a>(
        files: usize,
        segment_len: u64,
        segments: impl Iterator<Item = (u64, &'a [u8])>,
    ) -> Self {
        let mut past = Past::default();
        let (mut next_segment, mut next_sequence) = (0, 1);
        for (number, bytes) in segments {
            next_segment = number + 1;
            next_sequence = next_sequence.max(1 + past.read(bytes));
        }
        let recovery = past.recovery();
        Self { files: files as u64, segment_len, next_segment, next_sequence, recovery }
    }
}

/// The file of place `index` in the ring.
pub fn segment_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("{index:08}.qcj"))
}

/// The segments of a journal, oldest first.
///
/// # Errors
/// [`OpenError`] if the directory or a file can't be read.
pub fn segments(directory: &Path) -> Result<BTreeMap<Header, PathBuf>, OpenError> {
    let path = directory.to_path_buf();
    abi::journal::files::segments(directory).map_err(|source| OpenError::Io {
        action: "read directory",
        path,
        source,
    })
}

impl Files {
    /// Opens the journal in `directory`; makes and fills its files if they are not there.
    ///
    /// # Errors
    /// [`OpenError`] names the step and the file.
    pub fn open(directory: &Path, count: usize, segment_len: u64) -> Result<Self, OpenError> {
        let io = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| OpenError::Io { action, path, source }
        };
        std::fs::create_dir_all(directory).map_err(io("make directory", directory))?;
        let known = segments(directory)?;
        let mut past = Vec::with_capacity(known.len());
        for (header, path) in &known {
            past.push((header.segment, std::fs::read(path).map_err(io("read", path))?));
        }
        let past = past.iter().map(|(number, bytes)| (*number, &bytes[..]));
        let layout = Layout::after(count, segment_len, past);
        let mut files = Vec::with_capacity(count);
        let mut direct = true;
        for index in 0..count {
            let path = segment_path(directory, index);
            preallocate(&path, segment_len).map_err(io("preallocate", &path))?;
            let (file, is_direct) = open_direct(&path).map_err(io("open", &path))?;
            direct &= is_direct;
            files.push(file);
        }
        Ok(Self { files, layout, direct })
    }
}

/// Fills a file with zeroes, so that no write while trading has to allocate a block. A file of
/// another size holds a journal of another `segment_mib`, and is not touched.
fn preallocate(path: &Path, len: u64) -> io::Result<()> {
    match path.metadata() {
        Ok(metadata) if metadata.len() == len => return Ok(()),
        Ok(metadata) => {
            let found = metadata.len() >> 20;
            let remedy = "move the old journal away, or set journal.segment_mib back";
            return Err(io::Error::other(format!("it is a segment of {found} MiB; {remedy}")));
        }
        Err(_) => {}
    }
    let partial = path.with_extension("partial");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&partial)?;
    let zeroes = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let step = left.min(zeroes.len() as u64);
        file.write_all(&zeroes[..step as usize])?;
        left -= step;
    }
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

fn open_direct(path: &Path) -> io::Result<(File, bool)> {
    let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(path);
    match open(libc::O_DIRECT | libc::O_DSYNC) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok((open(libc::O_DSYNC)?, false))
        }
        Err(error) => Err(error),
    }
}

/// A write under way.
#[derive(Clone, Copy)]
struct Flight {
    at: usize,
    len: usize,
    place: u32,
    offset: u64,
    end: u64,
    last_sequence: u64,
    done: bool,
}

/// Result of a journal write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// All of it is on disk.
    Whole,
    /// Failed write: an errno, or 0 for a short write.
    Failed(i32),
}

/// The journal of a running engine. Positions count bytes since the start; memory is used as a
/// ring.
pub struct Journal {
    layout: Layout,
    memory: Region,
    /// Everything before is on disk.
    freed: u64,
    batch_start: u64,
    head: u64,
    segment: u64,
    run: u64,
    mark: u32,
    only_ticks: bool,
    segment_offset: u64,
    flights: [Flight; JOURNAL_WRITES_MAX],
    flights_start: u32,
    flights_submitted: u32,
    flights_end: u32,
    /// The last record on disk.
    pub durable: u64,
    /// Bytes given to the kernel.
    pub bytes: u64,
    /// Number of records taken.
    pub records: u64,
    /// A write failed: nothing more is recorded.
    pub lost: bool,
}

impl Journal {
    /// A journal that collects its records in `memory`; `run` is the time of its start.
    pub fn new(layout: Layout, memory: Region, run: u64) -> Self {
        let segment = layout.next_segment;
        let durable = layout.next_sequence - 1;
        let idle =
            Flight { at: 0, len: 0, place: 0, offset: 0, end: 0, last_sequence: 0, done: true };
        let mut journal = Self {
            layout,
            memory,
            freed: 0,
            batch_start: 0,
            head: 0,
            segment,
            run,
            mark: 0,
            only_ticks: true,
            segment_offset: 0,
            flights: [idle; JOURNAL_WRITES_MAX],
            flights_start: 0,
            flights_submitted: 0,
            flights_end: 0,
            durable,
            bytes: 0,
            records: 0,
            lost: false,
        };
        journal.start_segment();
        journal
    }

    /// Gives the memory back. No write may be under way.
    pub fn into_memory(self) -> Region {
        self.memory
    }

    fn at(&self, position: u64) -> usize {
        (position % self.memory.len() as u64) as usize
    }

    /// Whether the longest input and all that follows from it can be recorded now.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.has_memory(JOURNAL_RESERVE, JOURNAL_WRITES_RESERVE)
    }

    /// Whether there is room for what can't wait for room: the kill switch and its cancels.
    pub fn has_reserve(&self) -> bool {
        self.has_memory(JOURNAL_RESERVE / 2, JOURNAL_WRITES_RESERVE / 2)
    }

    #[inline]
    fn has_memory(&self, bytes: usize, writes: usize) -> bool {
        let used = (self.head - self.freed) as usize;
        let flights = self.flights_end.wrapping_sub(self.flights_start) as usize;
        self.lost || used + bytes <= self.memory.len() && flights + writes <= JOURNAL_WRITES_MAX
    }

    /// Takes a record. The caller asked [`Self::has_room`]; a longer payload is split. A lost
    /// journal takes none.
    #[inline]
    pub fn record(&mut self, kind: Kind, time_ns: u64, payload: &[u8]) {
        if self.lost {
            return;
        }
        if payload.len() > PAYLOAD_LEN_MAX {
            let (first, rest) = payload.split_at(PAYLOAD_LEN_MAX);
            self.record(kind, time_ns, first);
            return self.record(kind, time_ns, rest);
        }
        let len = record_len(payload.len());
        self.make_way(len);
        let sequence = self.layout.next_sequence;
        let at = self.at(self.head);
        let record = Record { kind, sequence, time_ns, payload };
        encode_record(&record, self.mark, self.memory.bytes_mut(at, len));
        self.only_ticks &= kind == Kind::Tick;
        self.layout.next_sequence += 1;
        self.records += 1;
        self.head += len as u64;
        self.skip_to_block();
    }

    /// A record never runs over the end of the memory or of the segment.
    fn make_way(&mut self, len: usize) {
        let batch = (self.head - self.batch_start) as usize + len;
        let end = self.segment_offset + batch.next_multiple_of(BLOCK_LEN) as u64;
        let past_segment = end > self.layout.segment_len;
        let past_memory =
            self.at(self.batch_start) + batch.next_multiple_of(BLOCK_LEN) > self.memory.len();
        if past_segment || past_memory {
            self.seal();
        }
        if past_segment {
            self.segment += 1;
            self.start_segment();
            self.seal();
        }
        let left = self.memory.len() - self.at(self.head);
        if !self.is_dirty() && left < len.next_multiple_of(BLOCK_LEN) {
            self.head += left as u64;
            self.batch_start = self.head;
        }
    }

    fn start_segment(&mut self) {
        let left = self.memory.len() - self.at(self.head);
        if left < BLOCK_LEN {
            self.head += left as u64;
        }
        let at = self.at(self.head);
        let header = Header { segment: self.segment, run: self.run };
        self.mark = header.mark();
        self.memory.bytes_mut(at, BLOCK_LEN).copy_from_slice(&header.encode());
        self.segment_offset = 0;
        self.batch_start = self.head;
        self.head += BLOCK_LEN as u64;
    }

    /// Readers skip what is left of a block when no record's head fits; so does the writer.
    fn skip_to_block(&mut self) {
        let at = self.at(self.head);
        let left = at.next_multiple_of(BLOCK_LEN) - at;
        if left > 0 && left < abi::journal::RECORD_HEAD_LEN {
            self.memory.bytes_mut(at, left).fill(0);
            self.head += left as u64;
        }
    }

    /// Closes the batch: a whole number of blocks, to be written by the next [`Self::submit`].
    pub fn seal(&mut self) {
        if !self.is_dirty() || self.lost {
            return;
        }
        let at = self.at(self.batch_start);
        let used = (self.head - self.batch_start) as usize;
        let len = used.next_multiple_of(BLOCK_LEN);
        encode_pad(self.memory.bytes_mut(at + used, len - used), self.mark);
        let place = (self.segment % self.layout.files) as u32;
        let end = self.batch_start + len as u64;
        let (offset, last_sequence) = (self.segment_offset, self.last_sequence());
        let flight = Flight { at, len, place, offset, end, last_sequence, done: false };
        self.flights[self.flights_end as usize % JOURNAL_WRITES_MAX] = flight;
        self.flights_end = self.flights_end.wrapping_add(1);
        self.only_ticks = true;
        self.segment_offset += len as u64;
        self.head = end;
        self.batch_start = end;
    }

    /// Gives all closed batches to the machine, in order.
    ///
    /// # Errors
    /// What it says.
    pub fn submit(&mut self, port: &mut impl Port) -> io::Result<()> {
        while self.flights_submitted != self.flights_end {
            let number = self.flights_submitted;
            let flight = self.flights[number as usize % JOURNAL_WRITES_MAX];
            port.write(flight.place, &self.memory, flight.at, flight.len, flight.offset, number)?;
            self.flights_submitted = number.wrapping_add(1);
            self.bytes += flight.len as u64;
        }
        Ok(())
    }

    /// The segment that is being filled.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// The number of the last record taken.
    pub fn last_sequence(&self) -> u64 {
        self.layout.next_sequence - 1
    }

    /// Bytes recorded since the last batch was closed.
    #[inline]
    pub fn batch_len(&self) -> usize {
        (self.head - self.batch_start) as usize
    }

    /// Whether nothing but timer ticks was recorded since the last batch was closed.
    pub fn has_only_ticks(&self) -> bool {
        self.only_ticks
    }

    /// Whether records wait for [`Self::seal`].
    pub fn is_dirty(&self) -> bool {
        self.head != self.batch_start
    }

    /// A write completed. HotBuffers is freed, and the watermark moves, in the order of the writes.
    pub fn on_written(&mut self, number: u32, result: i32) -> Written {
        let flight = &mut self.flights[number as usize % JOURNAL_WRITES_MAX];
        if result < 0 || result as usize != flight.len {
            self.lost = true;
            return Written::Failed(if result < 0 { -result } else { 0 });
        }
        flight.done = true;
        while self.flights_start != self.flights_end {
            let first = self.flights[self.flights_start as usize % JOURNAL_WRITES_MAX];
            if !first.done {
                break;
            }
            self.freed = first.end;
            self.durable = first.last_sequence;
            self.flights_start = self.flights_start.wrapping_add(1);
        }
        Written::Whole
    }

    /// Whether every write has completed.
    pub fn is_idle(&self) -> bool {
        self.flights_start == self.flights_end
    }
}
