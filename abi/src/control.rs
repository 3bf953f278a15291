//! The control page: what the agent tells a running engine. One atomic load a loop reads all of it.
//!
//! ```text
//! word 0       1       2      3       4       5           6        16
//! ┌────────────┬───────┬──────┬───────┬───────┬───────────┬────────┬────────┬──
//! │ MAGIC      │ zero  │ KILL │ DRAIN │ COUNT │ HEARTBEAT │ LIMITS │ limits │ zeroes up to PAGE_WORDS
//! └────────────┴───────┴──────┴───────┴───────┴───────────┴────────┴────────┴──
//! ```
//! COUNT changes with every order to the engine, LIMITS with every set of risk limits, whose words
//! stand from 16 on, and from 48 on those of the configuration that they change; HEARTBEAT is the
//! agent's last sign of life. The page lives in `/run`, outlives the engine's process, and is kept
//! by it: an engine that restarts under a set kill switch stays killed.

use crate::page::{Page, PageError};
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

/// Says that the file is a control page ("QCCTRL" and a version of the layout).
pub const MAGIC: u64 = u64::from_be_bytes(*b"QCCTRL\0\x01");
/// Words in the page.
pub const PAGE_WORDS: usize = 512;

const KILL: usize = 2;
const DRAIN: usize = 3;
const COUNT: usize = 4;
const HEARTBEAT: usize = 5;
const LIMITS: usize = 6;
const LIMITS_AT: usize = 16;
const CONFIGURED_AT: usize = 48;
/// Words that a set of risk limits may have.
pub const LIMITS_WORDS_MAX: usize = CONFIGURED_AT - LIMITS_AT;
/// The risk limits in the order of their words, as the engine's configuration names them.
pub const LIMIT_NAMES: [&str; 13] = [
    "order_shares_max",
    "lot_shares",
    "order_notional_max",
    "price_collar_bps",
    "position_shares_max",
    "orders_open_max",
    "gross_notional_max",
    "net_notional_max",
    "messages_per_second_max",
    "duplicate_window_ns",
    "feed_age_max_ns",
    "rejects_in_a_row_max",
    "loss_max",
];
const _: () = assert!(CONFIGURED_AT + LIMITS_WORDS_MAX <= PAGE_WORDS);

/// Commands to the engine from an operator, the agent or the engine itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orders {
    /// Cancel everything and send nothing more until cleared.
    pub kill: bool,
    /// Open no new positions: cancel working orders, then stay flat as far as fills allow.
    pub drain: bool,
    /// The agent gives no sign of life, and the configuration says that this stops trading. Set by
    /// the engine itself, never by the page.
    pub agent_silent: bool,
    /// An operator has just asked for neither kill nor drain. Set by the engine when the page
    /// changes.
    pub resume: bool,
}

impl Orders {
    /// The orders as bits, for the journal.
    pub fn to_bits(self) -> u8 {
        u8::from(self.kill)
            | u8::from(self.drain) << 1
            | u8::from(self.agent_silent) << 2
            | u8::from(self.resume) << 3
    }

    /// The inverse of [`Self::to_bits`]; unknown bits are ignored.
    pub fn from_bits(bits: u8) -> Self {
        Self {
            kill: bits & 1 != 0,
            drain: bits & 2 != 0,
            agent_silent: bits & 4 != 0,
            resume: bits & 8 != 0,
        }
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

    /// Maps the page of an engine that has run since the boot. Does not make it: the page belongs
    /// to the engine's user, who could not write to one that root made.
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

    /// Returns the kill and drain commands that are set on the page.
    pub fn orders(&self) -> Orders {
        let is_set = |at: usize| self.0[at].load(Acquire) != 0;
        Orders { kill: is_set(KILL), drain: is_set(DRAIN), agent_silent: false, resume: false }
    }

    /// The agent is alive at `now_ns` of `CLOCK_MONOTONIC`.
    pub fn beat(&self, now_ns: u64) {
        self.0[HEARTBEAT].store(now_ns, Relaxed);
    }

    /// When the agent last gave a sign of life: nanoseconds of `CLOCK_MONOTONIC`, 0 for never.
    #[inline(always)]
    pub fn heartbeat_ns(&self) -> u64 {
        self.0[HEARTBEAT].load(Relaxed)
    }

    /// Changes with every [`Self::set_limits`]; odd while they are being written, 0 before the
    /// first.
    #[inline(always)]
    pub fn limits_generation(&self) -> u64 {
        self.0[LIMITS].load(Acquire)
    }

    /// Asks for other risk limits, by the words that the engine's core reads, in the place of the
    /// configured ones. One process writes.
    pub fn set_limits(&self, words: &[u64], configured: &[u64]) {
        let generation = self.0[LIMITS].load(Relaxed) | 1;
        self.0[LIMITS].store(generation, Relaxed);
        fence(Release);
        for (at, words) in [(LIMITS_AT, words), (CONFIGURED_AT, configured)] {
            for (word, value) in self.0[at..][..LIMITS_WORDS_MAX].iter().zip(words) {
                word.store(*value, Relaxed);
            }
        }
        self.0[LIMITS].store(generation + 1, Release);
    }

    /// The risk limits of a generation, and the configured ones that they change; `None` if another
    /// one is being written.
    pub fn limits<const N: usize>(&self, generation: u64) -> Option<([u64; N], [u64; N])> {
        const { assert!(N <= LIMITS_WORDS_MAX) };
        let read = |from: usize| std::array::from_fn(|at| self.0[from + at].load(Relaxed));
        let words = (read(LIMITS_AT), read(CONFIGURED_AT));
        fence(Acquire);
        let same = self.0[LIMITS].load(Relaxed) == generation;
        (same && generation.is_multiple_of(2) && generation > 0).then_some(words)
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
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let agent = ControlPage::open(&path).unwrap();
        let before = agent.generation();
        agent.set(Orders { kill: true, ..Orders::default() });
        let engine = ControlPage::open(&path).unwrap();
        assert_eq!(engine.orders(), Orders { kill: true, ..Orders::default() });
        assert_ne!(engine.generation(), before);
        std::fs::write(&path, [1; PAGE_WORDS * 8]).unwrap();
        assert!(matches!(ControlPage::open(&path), Err(PageError::Foreign { .. })));
    }

    #[test]
    fn limits_are_read_whole_or_not_at_all() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let (agent, engine) =
            (ControlPage::open(&path).unwrap(), ControlPage::open(&path).unwrap());
        assert_eq!(engine.limits::<2>(engine.limits_generation()), None);
        agent.set_limits(&[7, 8], &[1, 2]);
        let generation = engine.limits_generation();
        assert_eq!(engine.limits(generation), Some(([7, 8], [1, 2])));
        agent.set_limits(&[9, 8], &[1, 2]);
        assert_eq!(engine.limits::<2>(generation), None);
    }

    #[test]
    fn bits_carry_orders() {
        for bits in 0..16 {
            assert_eq!(Orders::from_bits(bits).to_bits(), bits);
        }
    }
}
