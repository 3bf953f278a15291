//! The control page: what the agent tells a running engine. One atomic load a loop reads all of it.
//!
//! ```text
//! word 0          1         2          3        4
//! ┌───────────────┬─────────┬──────────┬────────┬────────┬──
//! │ MAGIC         │ VERSION │ KILL     │ DRAIN  │ COUNT  │ zeroes up to PAGE_WORDS
//! └───────────────┴─────────┴──────────┴────────┴────────┴──
//! ```
//! The page lives in `/run`, outlives the engine's process, and is kept by it: an engine that
//! restarts under a set kill switch stays killed.

use crate::page::{Page, PageError};
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Says that the file is a control page ("QCCTRL" and a version of the layout).
pub const MAGIC: u64 = u64::from_be_bytes(*b"QCCTRL\0\x01");
/// Words in the page.
pub const PAGE_WORDS: usize = 512;

const KILL: usize = 2;
const DRAIN: usize = 3;
const COUNT: usize = 4;
const _: () = assert!(COUNT < PAGE_WORDS);

/// What an operator or the agent asks of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orders {
    /// Cancel everything and send nothing more until cleared.
    pub kill: bool,
    /// Open no new positions: cancel working orders, then stay flat as far as fills allow.
    pub drain: bool,
}

impl Orders {
    /// The orders as bits, for the journal.
    pub fn to_bits(self) -> u8 {
        u8::from(self.kill) | u8::from(self.drain) << 1
    }

    /// The inverse of [`Self::to_bits`]; unknown bits are ignored.
    pub fn from_bits(bits: u8) -> Self {
        Self { kill: bits & 1 != 0, drain: bits & 2 != 0 }
    }
}

/// The control page, mapped.
pub struct ControlPage(Page);

impl ControlPage {
    /// Maps the page at `path`; makes it if it is missing, keeps what it says if it is there.
    ///
    /// # Errors
    /// [`PageError`] if the file is not a control page of this version.
    pub fn open(path: &Path) -> Result<Self, PageError> {
        let page = Page::create(path, PAGE_WORDS)?;
        // A page of zeroes is one that was just made; any other first word is judged below.
        let _ = page[0].compare_exchange(0, MAGIC, Release, Acquire);
        page.expect(MAGIC, path).map(Self)
    }

    /// Maps the page of an engine that has run since the boot. Does not make it: the page belongs to
    /// the engine's user, who could not write to one that root made.
    ///
    /// # Errors
    /// [`PageError`] if it is not there or of another version.
    pub fn open_existing(path: &Path) -> Result<Self, PageError> {
        Page::open(path, PAGE_WORDS)?.expect(MAGIC, path).map(Self)
    }

    /// Changes with every [`Self::set`]; a reader compares it with the last one it saw.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.0[COUNT].load(Acquire)
    }

    /// What is asked at present.
    pub fn orders(&self) -> Orders {
        Orders { kill: self.0[KILL].load(Acquire) != 0, drain: self.0[DRAIN].load(Acquire) != 0 }
    }

    /// Asks for `orders`. One process writes: the agent.
    pub fn set(&self, orders: Orders) {
        self.0[KILL].store(u64::from(orders.kill), Relaxed);
        self.0[DRAIN].store(u64::from(orders.drain), Relaxed);
        self.0[COUNT].fetch_add(1, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_outlive_the_process_that_read_them() {
        let path = std::env::temp_dir().join(format!("quietcore-control-{}", std::process::id()));
        let agent = ControlPage::open(&path).unwrap();
        let before = agent.generation();
        agent.set(Orders { kill: true, drain: false });
        let engine = ControlPage::open(&path).unwrap();
        assert_eq!(engine.orders(), Orders { kill: true, drain: false });
        assert_ne!(engine.generation(), before);
        std::fs::write(&path, [1; PAGE_WORDS * 8]).unwrap();
        assert!(matches!(ControlPage::open(&path), Err(PageError::Foreign { .. })));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn bits_carry_orders() {
        for bits in 0..4 {
            assert_eq!(Orders::from_bits(bits).to_bits(), bits);
        }
    }
}
