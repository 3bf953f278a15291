//! Orders resting in all books, found by reference number. Fixed capacity; never grows.
//!
//! References are counters of the day, so an order's home is the slot of its reference's low bits,
//! and nearly every lookup ends there. An order whose home is taken lies in the overflow, in a
//! chain that starts at the home. A handle out of bounds is no order, so that one comparison both
//! bounds an access and ends a list.
//!
//! ```text
//!  0               homes               2^k        overflow        2^k + capacity
//! ┌────┬────┬────────────┬────┬─── ─┬────┬────────────┬────┬─── ───┐
//! │    │ 17 │ 18 (chain) │    │     │    │ 18 + 2^k   │    │       │
//! └────┴────┴─────┬──────┴────┴─── ─┴────┴─────▲──────┴────┴─── ───┘
//!                 └───────────────────────────┘
//! ```

use abi::field::Price;

/// A place in a table or list of at most 2^32 − 1 entries.
pub(crate) type Handle = u32;
/// No place: out of every table's bounds.
pub(crate) const NONE: Handle = Handle::MAX;

/// One order in a book: half a cache line. `previous` and `next` make its level's queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resting {
    pub order_ref: u64,
    pub shares: u32,
    /// Its level; see `ladder`.
    pub level: Handle,
    pub previous: Handle,
    pub next: Handle,
    chain: Handle,
    /// Its side of its instrument; see `book`.
    pub ladder: u32,
}

impl Resting {
    /// Whether the slot is empty and no order of its home lies elsewhere.
    #[inline(always)]
    pub fn is_free_home(&self, home: usize) -> bool {
        self.order_ref == vacant(home)
    }

    /// Holds a new order, at the end of its level's queue.
    #[inline(always)]
    pub fn fill(&mut self, entry: &Entry, level: Handle, previous: Handle) {
        self.order_ref = entry.order_ref;
        self.shares = entry.shares;
        self.level = level;
        self.previous = previous;
        self.next = NONE;
        self.ladder = entry.ladder;
    }

    /// Whether it is the order of a reference, and no order of its home lies elsewhere.
    #[inline(always)]
    pub fn is_alone(&self, order_ref: u64) -> bool {
        self.order_ref == order_ref && self.chain == NONE
    }

    /// Empties a slot without a chain.
    #[inline(always)]
    pub fn clear_alone(&mut self, slot: usize) {
        self.order_ref = vacant(slot);
    }

    /// Empties its slot; the chain stays.
    fn clear(&mut self, slot: usize) {
        self.order_ref = if self.chain == NONE { vacant(slot) } else { vacant_with_chain(slot) };
    }

    fn is_vacant(&self, slot: usize) -> bool {
        self.order_ref == vacant(slot) || self.order_ref == vacant_with_chain(slot)
    }
}

/// No slot is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

const _: () = assert!(size_of::<Resting>() == 32);

/// The table. It holds at least `capacity` orders, and is full when an order whose home is taken
/// finds no slot in the overflow.
pub(crate) struct OrderTable {
    slots: Box<[Resting]>,
    home_mask: usize,
    free: Handle,
    len: usize,
}

impl OrderTable {
    pub fn new(capacity: usize) -> Self {
        let homes = capacity.next_power_of_two().max(2);
        let blank = Resting {
            order_ref: 0,
            shares: 0,
            level: NONE,
            previous: NONE,
            next: NONE,
            chain: NONE,
            ladder: 0,
        };
        let slots = vec![blank; homes + capacity].into_boxed_slice();
        let mut table = Self { slots, home_mask: homes - 1, free: homes as Handle, len: 0 };
        table.clear();
        table
    }

    /// Empties the table.
    pub fn clear(&mut self) {
        let homes = self.home_mask + 1;
        let last = self.slots.len() - 1;
        for (at, order) in self.slots.iter_mut().enumerate() {
            order.order_ref = vacant(at);
            order.chain = NONE;
            order.next = if (homes..last).contains(&at) { at as Handle + 1 } else { NONE };
        }
        self.free = homes as Handle;
        self.len = 0;
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// All slots; a handle is an index.
    #[inline(always)]
    pub fn slots(&mut self) -> &mut [Resting] {
        &mut self.slots
    }

    /// The order of a handle; `None` for [`NONE`].
    pub fn at(&self, handle: Handle) -> Option<&Resting> {
        self.slots.get(handle as usize)
    }

    #[inline(always)]
    pub fn home(&self, order_ref: u64) -> usize {
        order_ref as usize & self.home_mask
    }

    pub fn find(&self, order_ref: u64) -> Option<Handle> {
        let mut at = self.home(order_ref) as Handle;
        while let Some(order) = self.slots.get(at as usize) {
            if order.order_ref == order_ref {
                return Some(at);
            }
            at = order.chain;
        }
        None
    }

    /// A slot for an order that is not in the table.
    ///
    /// # Errors
    /// The table is full.
    pub fn vacancy(&mut self, order_ref: u64) -> Result<Handle, Full> {
        let home = self.home(order_ref);
        if self.slots[home].is_vacant(home) {
            return Ok(home as Handle);
        }
        let handle = self.free;
        self.free = self.slots.get(handle as usize).ok_or(Full)?.next;
        self.slots[handle as usize].chain = self.slots[home].chain;
        self.slots[home].chain = handle;
        Ok(handle)
    }

    /// Counts an order that was put into its slot.
    #[inline(always)]
    pub fn count_in(&mut self) {
        self.len += 1;
    }

    /// Counts an order whose home was emptied.
    #[inline(always)]
    pub fn count_out(&mut self) {
        self.len -= 1;
    }

    /// Empties any slot.
    pub fn vacate(&mut self, handle: Handle) {
        self.len -= 1;
        if handle as usize <= self.home_mask {
            return self.slots[handle as usize].clear(handle as usize);
        }
        let Resting { order_ref, chain, .. } = self.slots[handle as usize];
        let mut at = self.home(order_ref);
        while self.slots[at].chain != handle {
            at = self.slots[at].chain as usize;
        }
        self.slots[at].chain = chain;
        let home = self.home(order_ref);
        if self.slots[home].is_vacant(home) {
            self.slots[home].clear(home);
        }
        let slot = &mut self.slots[handle as usize];
        (slot.order_ref, slot.next) = (vacant(handle as usize), self.free);
        self.free = handle;
    }
}

/// Returns the `order_ref` of an empty slot: a reference that has another home.
#[inline(always)]
fn vacant(slot: usize) -> u64 {
    slot as u64 ^ 1
}

/// The same for a home with a chain.
fn vacant_with_chain(slot: usize) -> u64 {
    slot as u64 ^ 1 ^ (1 << 63)
}

/// A new order, as its message has it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub order_ref: u64,
    pub ladder: u32,
    pub shares: u32,
    pub price: Price,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};
    use std::collections::HashMap;

    #[test]
    fn it_agrees_with_a_hash_map() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut table = OrderTable::new(60);
        let (mut model, mut was_full) = (HashMap::new(), false);
        for step in 0..400_000u32 {
            let spread = if step % 1_000 < 500 { 100 } else { 1 << 20 };
            let order_ref = match rng.next_u32() % 20 {
                0 => u64::MAX,
                1 => 0,
                _ => u64::from(rng.next_u32() % spread) * 7,
            };
            match (table.find(order_ref), model.get(&order_ref)) {
                (Some(handle), Some(shares)) => {
                    assert_eq!(table.at(handle).unwrap().shares, *shares);
                    table.vacate(handle);
                    model.remove(&order_ref);
                }
                (None, None) => match table.vacancy(order_ref) {
                    Ok(handle) => {
                        let slot = &mut table.slots()[handle as usize];
                        (slot.order_ref, slot.shares) = (order_ref, step);
                        table.count_in();
                        model.insert(order_ref, step);
                    }
                    Err(Full) => {
                        assert!(model.len() >= 60, "full with {}", model.len());
                        was_full = true;
                        for order_ref in model.drain().map(|(order_ref, _)| order_ref) {
                            table.vacate(table.find(order_ref).unwrap());
                        }
                    }
                },
                (found, expected) => panic!("{order_ref}: {found:?} against {expected:?}"),
            }
            assert_eq!(table.len(), model.len());
        }
        assert!(was_full);
    }
}
