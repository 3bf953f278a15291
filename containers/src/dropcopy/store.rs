//! Append-only log of sent reports and sequence numbers, on disk before anything is sent: sequence
//! numbers and resends survive any crash.
//!
//! ```text
//! entry  0        4        8      9        16         24             32
//!        ┌────────┬────────┬──────┬────────┬──────────┬──────────────┬────────┐   little-endian; the crc
//!        │ crc32c │ length │ kind │ zeroes │ sequence │ time (ns)    │ text   │   covers byte 4 to the end
//!        └────────┴────────┴──────┴────────┴──────────┴──────────────┴────────┘
//! ```

use super::fix::Fields;
use abi::checksum::crc32c;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const HEAD_LEN: usize = 32;
/// A report has some 300 bytes.
const TEXT_LEN_MAX: usize = 64 << 10;
/// Reports that are read at a time: a day's would not fit into a small container.
const PART_LEN: usize = 1_000;
const REPORT: u8 = 1;
const SESSION_MESSAGE: u8 = 2;
const HEARD: u8 = 3;

/// A report that was given a sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `MsgSeqNum` of the report.
    pub sequence: u64,
    /// When it was first sent, nanoseconds since the epoch.
    pub time_ns: u64,
    /// Its fields behind the header.
    pub text: String,
}

struct Place {
    sequence: u64,
    time_ns: u64,
    offset: u64,
    len: usize,
}

/// The log of one FIX session.
pub struct Store {
    path: PathBuf,
    file: File,
    end: u64,
    places: Vec<Place>,
    pending: Vec<u8>,
    /// The `MsgSeqNum` of the next message to send.
    pub next_out: u64,
    /// The `MsgSeqNum` that the counterparty's next message is to have.
    pub next_in: u64,
}

impl Store {
    /// Opens the log; half an entry at its end was never sent, and is cut off.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = open.map_err(named)?;
        let mut entries = BufReader::new(File::open(path).map_err(named)?);
        let mut store = Self {
            path: path.into(),
            file,
            end: 0,
            places: Vec::new(),
            pending: Vec::new(),
            next_out: 1,
            next_in: 1,
        };
        while store.take(&mut entries).is_some() {}
        store.file.set_len(store.end).map_err(named)?;
        Ok(store)
    }

    /// Takes the next entry; `None` at the end, or where the rest is none.
    fn take(&mut self, entries: &mut impl Read) -> Option<()> {
        let mut entry = vec![0; HEAD_LEN];
        entries.read_exact(&mut entry).ok()?;
        let head: [u8; HEAD_LEN] = *entry.first_chunk()?;
        let len = u32::from_le_bytes(*head[4..].first_chunk()?) as usize;
        if len > TEXT_LEN_MAX {
            return None;
        }
        entry.resize(HEAD_LEN + len, 0);
        entries.read_exact(&mut entry[HEAD_LEN..]).ok()?;
        if crc32c(&entry[4..]) != u32::from_le_bytes(*head.first_chunk()?) {
            return None;
        }
        let word = |at: usize| head[at..].first_chunk().map(|word| u64::from_le_bytes(*word));
        self.note(head[8], word(16)?, word(24)?, self.end, len);
        self.end += (HEAD_LEN + len) as u64;
        Some(())
    }

    fn note(&mut self, kind: u8, sequence: u64, time_ns: u64, at: u64, len: usize) {
        match kind {
            REPORT => {
                let offset = at + HEAD_LEN as u64;
                self.places.push(Place { sequence, time_ns, offset, len });
                self.next_out = sequence + 1;
            }
            SESSION_MESSAGE => self.next_out = sequence + 1,
            _ => self.next_in = sequence + 1,
        }
    }

    fn append(&mut self, kind: u8, sequence: u64, time_ns: u64, text: &str) {
        let mut entry = vec![0; HEAD_LEN];
        entry[4..8].copy_from_slice(&(text.len() as u32).to_le_bytes());
        entry[8] = kind;
        entry[16..24].copy_from_slice(&sequence.to_le_bytes());
        entry[24..32].copy_from_slice(&time_ns.to_le_bytes());
        entry.extend_from_slice(text.as_bytes());
        let crc = crc32c(&entry[4..]);
        entry[..4].copy_from_slice(&crc.to_le_bytes());
        let at = self.end + self.pending.len() as u64;
        self.note(kind, sequence, time_ns, at, text.len());
        self.pending.extend_from_slice(&entry);
    }

    /// Gives a report the next sequence number.
    pub fn add_report(&mut self, report: &Fields, time_ns: u64) -> Report {
        let (sequence, text) = (self.next_out, report.to_text());
        self.append(REPORT, sequence, time_ns, &text);
        Report { sequence, time_ns, text }
    }

    /// Gives a session message the next sequence number.
    pub fn add_session_message(&mut self, time_ns: u64) -> u64 {
        let sequence = self.next_out;
        self.append(SESSION_MESSAGE, sequence, time_ns, "");
        sequence
    }

    /// Says that the counterparty's message of this number was taken.
    pub fn add_heard(&mut self, sequence: u64, time_ns: u64) {
        self.append(HEARD, sequence, time_ns, "");
    }

    /// Puts on disk what was added since the last call. Comes before anything of it is sent.
    ///
    /// # Errors
    /// What the file system says, with the path; nothing of it may be sent then.
    pub fn commit(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.pending).and_then(|()| self.file.sync_data());
        let path = &self.path;
        written.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        self.end += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// The first of the committed reports from one sequence number to another, both included: as
    /// many as are read at a time.
    ///
    /// # Errors
    /// What reading says.
    pub fn reports(&self, from: u64, to: u64) -> io::Result<Vec<Report>> {
        let start = self.places.partition_point(|place| place.sequence < from);
        let wanted = self.places[start..].iter().take_while(|place| place.sequence <= to);
        wanted.take(PART_LEN).map(|place| self.read(place)).collect()
    }

    /// Whether there are reports from one sequence number to another, both included.
    pub fn has_reports(&self, from: u64, to: u64) -> bool {
        let start = self.places.partition_point(|place| place.sequence < from);
        self.places.get(start).is_some_and(|place| place.sequence <= to)
    }

    /// Hands over all committed reports.
    ///
    /// # Errors
    /// What reading says, or what `take` does.
    pub fn for_each(&self, mut take: impl FnMut(Report) -> io::Result<()>) -> io::Result<()> {
        self.places.iter().try_for_each(|place| take(self.read(place)?))
    }

    fn read(&self, place: &Place) -> io::Result<Report> {
        let mut bytes = vec![0; place.len];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        Ok(Report { sequence: place.sequence, time_ns: place.time_ns, text })
    }

    /// Starts numbering anew: 1 for a session message, the numbers from 2 on for those of the
    /// reports that `again` makes of the present ones; `None` takes back all before. The old log
    /// stays until the new one is whole.
    ///
    /// # Errors
    /// What the file system says; the old log is in force then.
    pub fn restart(
        &mut self,
        time_ns: u64,
        mut again: impl FnMut(&Report) -> Again,
    ) -> io::Result<()> {
        let partial = self.path.with_extension("partial");
        let mut fresh = Self::blank(&partial, time_ns)?;
        self.for_each(|report| {
            let Again { only_these, text } = again(&report);
            if only_these {
                fresh = Self::blank(&partial, time_ns)?;
            }
            let sequence = fresh.next_out;
            fresh.append(REPORT, sequence, time_ns, &text);
            if fresh.pending.len() > 1 << 20 { fresh.commit() } else { Ok(()) }
        })?;
        fresh.commit()?;
        fresh.file.sync_all()?;
        std::fs::rename(&partial, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        fresh.path.clone_from(&self.path);
        *self = fresh;
        Ok(())
    }

    /// A new log whose first number is a session message's.
    fn blank(path: &Path, time_ns: u64) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut fresh = Self::open(path)?;
        fresh.add_session_message(time_ns);
        Ok(fresh)
    }
}

/// A report as it is sent under other numbers.
#[derive(Debug)]
pub struct Again {
    /// True if this is the first report to keep: the new log drops all reports before it.
    pub only_these: bool,
    /// Fields of the report behind the header.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        let mut fields = Fields::new();
        fields.add(58, text);
        fields
    }

    #[test]
    fn numbers_and_reports_survive_a_crash_at_any_byte() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let _ = std::fs::remove_file(&path);
        let mut store = Store::open(&path).unwrap();
        store.add_session_message(1);
        let one = store.add_report(&fields("one"), 2);
        store.add_heard(1, 3);
        store.commit().unwrap();
        let kept = std::fs::metadata(&path).unwrap().len();
        let two = store.add_report(&fields("two"), 4);
        store.commit().unwrap();
        assert_eq!((one.sequence, two.sequence), (2, 3));
        let whole = std::fs::read(&path).unwrap();
        for cut in kept as usize..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let store = Store::open(&path).unwrap();
            assert_eq!((store.next_out, store.next_in), (3, 2), "cut at {cut}");
            assert_eq!(store.reports(1, u64::MAX).unwrap(), std::slice::from_ref(&one));
        }
        std::fs::write(&path, &whole).unwrap();
        let mut store = Store::open(&path).unwrap();
        assert_eq!(store.reports(3, 3).unwrap(), [two]);
        let again = |report: &Report| Again {
            only_these: report.sequence == 3,
            text: format!("97=Y\u{1}{}", report.text),
        };
        store.restart(5, again).unwrap();
        assert_eq!((store.next_out, store.next_in), (3, 1));
        let kept = Store::open(&path).unwrap().reports(1, 9).unwrap();
        assert_eq!((kept.len(), kept[0].text.as_str()), (1, "97=Y\u{1}58=two\u{1}"));
        std::fs::remove_file(&path).unwrap();
    }
}
