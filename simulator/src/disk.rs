//! Journal files that keep what was written, and on a power cut some of what was being written.

use abi::journal::Header;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

/// A disk writes so many bytes at once or not at all.
const SECTOR_LEN: usize = 512;

/// A write under way.
#[derive(Debug, Clone)]
pub struct Write {
    /// The number that the engine gave it.
    pub number: u32,
    /// Index of the journal file.
    pub place: usize,
    /// Where in the file.
    pub offset: usize,
    /// Bytes to write.
    pub bytes: Vec<u8>,
}

/// Crash of a machine: a killed process or a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed: writes that the kernel has begun end, others never begin.
    Kill,
    /// The power goes: of every write under way, any sectors may have arrived.
    PowerCut,
}

/// Disk of the simulated machine: journal files and writes under way.
pub struct Disk {
    files: Vec<Vec<u8>>,
    under_way: Vec<Write>,
    /// Every seventh write is dropped, although it is said to be finished.
    pub lies: bool,
    /// Failure that each write ends with; `None` for a working disk.
    pub failure: Option<Failure>,
}

/// A disk that does not do what it was asked to, and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The errno of `EIO`.
    Error,
    /// Half of the bytes.
    Short,
    /// No completion until the failure is cleared.
    Silence,
}

impl Disk {
    /// Files of zeroes.
    pub fn new(files: usize, len: usize) -> Self {
        Self { files: vec![vec![0; len]; files], under_way: Vec::new(), lies: false, failure: None }
    }

    /// The files that hold a segment: number and bytes, oldest first.
    pub fn segments(&self) -> Vec<(u64, &[u8])> {
        let number = |file: &Vec<u8>| Some(Header::decode(file).ok()?.segment);
        let mut found: Vec<_> =
            self.files.iter().filter_map(|file| Some((number(file)?, &file[..]))).collect();
        found.sort_unstable_by_key(|(number, _)| *number);
        found
    }

    /// Takes a write.
    pub fn begin(&mut self, write: Write) {
        self.under_way.push(write);
    }

    /// A write arrives. `None` if it is not under way any more.
    pub fn finish(&mut self, number: u32) -> Option<Write> {
        let at = self.under_way.iter().position(|write| write.number == number)?;
        let write = self.under_way.remove(at);
        if !(self.lies && number % 7 == 6) {
            let place = &mut self.files[write.place][write.offset..];
            place[..write.bytes.len()].copy_from_slice(&write.bytes);
        }
        Some(write)
    }

    /// The machine ends with writes under way.
    pub fn crash(&mut self, crash: Crash, rng: &mut ChaCha8Rng) {
        for write in std::mem::take(&mut self.under_way) {
            let file = &mut self.files[write.place][write.offset..][..write.bytes.len()];
            let fate = rng.next_u32() % 4;
            for (sector, bytes) in write.bytes.chunks(SECTOR_LEN).enumerate() {
                let arrives = match (crash, fate) {
                    (_, 0) => false,
                    (Crash::Kill, _) | (_, 1) => true,
                    (Crash::PowerCut, 2) => sector < write.bytes.len() / SECTOR_LEN / 2,
                    (Crash::PowerCut, _) => rng.next_u32().is_multiple_of(2),
                };
                if arrives {
                    file[sector * SECTOR_LEN..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }
}
