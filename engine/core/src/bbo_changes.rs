//! The best bids and offers as the strategy last saw them: which changed, and the hash of all of
//! them.

use crate::book::{Bbo, Quote};
use crate::counters::{Counter, Counters};
use crate::market::InstrumentId;
use crate::strategy::Strategy;

/// FNV-1a, 64 bits: offset basis and prime; taken a word at a time.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The hash of a sequence of best bids and offers after `state` was added to it. An empty side
/// counts as price 0 and shares 0.
#[inline]
pub fn bbo_hash(hash: u64, instrument: u32, state: &Bbo) -> u64 {
    hash_of(hash, instrument, packed(state))
}

/// Offer and bid of a state, each price and shares in one word; 0 for an empty side.
#[inline(always)]
fn packed(state: &Bbo) -> [u64; 2] {
    let word = |quote: Option<Quote>| {
        quote.map_or(0, |q| u64::from(q.price.0) << 32 | u64::from(q.shares))
    };
    [word(state.ask), word(state.bid)]
}

#[inline(always)]
fn hash_of(hash: u64, instrument: u32, [ask, bid]: [u64; 2]) -> u64 {
    let words = [u64::from(instrument), ask, bid];
    // The rotation brings a word's high bits to where the next product spreads them.
    words.into_iter().fold(hash, |hash, word| (hash ^ word).wrapping_mul(FNV_PRIME).rotate_left(29))
}

/// The hash of no state at all.
pub const BBO_HASH_EMPTY: u64 = FNV_BASIS;

/// The last best bid and offer of each instrument.
pub(crate) struct Touch {
    last: Vec<[u64; 2]>,
    is_changed: Vec<bool>,
    /// Instruments whose `is_changed` is set, in the order of their first change.
    changed: Vec<InstrumentId>,
    /// [`bbo_hash`] over all changes.
    pub hash: u64,
}

impl Touch {
    pub fn new(instruments: usize) -> Self {
        Self {
            last: vec![[0; 2]; instruments],
            is_changed: vec![false; instruments],
            changed: Vec::with_capacity(instruments),
            hash: BBO_HASH_EMPTY,
        }
    }

    /// Compares with the last and, if it changed, tells the strategy and the hash.
    #[inline]
    pub fn note<S: Strategy>(
        &mut self,
        id: InstrumentId,
        bbo: Bbo,
        counters: &mut Counters,
        strategy: &mut S,
    ) {
        let (now, last) = (packed(&bbo), &mut self.last[usize::from(id.0)]);
        if (now[0] ^ last[0]) | (now[1] ^ last[1]) != 0 {
            *last = now;
            self.hash = hash_of(self.hash, u32::from(id.0), now);
            counters.count(Counter::BboChanges);
            strategy.on_quote(id, &bbo);
            self.mark(id);
        }
    }

    /// Has the strategy called for an instrument.
    pub fn mark(&mut self, id: InstrumentId) {
        if !std::mem::replace(&mut self.is_changed[usize::from(id.0)], true) {
            self.changed.push(id);
        }
    }

    /// Has the strategy called for every instrument.
    pub fn mark_all(&mut self) {
        (0..self.last.len() as u16).for_each(|id| self.mark(InstrumentId(id)));
    }

    /// The next instrument that changed.
    #[inline]
    pub fn take_changed(&mut self) -> Option<InstrumentId> {
        let id = self.changed.pop()?;
        self.is_changed[usize::from(id.0)] = false;
        Some(id)
    }
}
