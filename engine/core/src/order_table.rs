//! Orders resting in all books, found by reference number. Fixed capacity; never grows.

use abi::field::Side;

/// A place in a table or list of at most 2^32 − 1 entries.
pub(crate) type Handle = u32;
/// No place.
pub(crate) const NONE: Handle = Handle::MAX;

/// One order in a book. `previous` and `next` make its level's queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resting {
    pub order_ref: u64,
    pub shares: u32,
    pub level: Handle,
    pub previous: Handle,
    pub next: Handle,
    pub instrument: u16,
    pub side: Side,
}

#[derive(Clone, Copy)]
struct Cell {
    order_ref: u64,
    handle: Handle,
}

const EMPTY: Cell = Cell { order_ref: 0, handle: NONE };

/// The table: a slab of orders and an open-addressing index over it, at most half full.
pub(crate) struct OrderTable {
    slab: Box<[Resting]>,
    free: Handle,
    len: usize,
    index: Box<[Cell]>,
    shift: u32,
}

impl OrderTable {
    pub fn new(capacity: usize) -> Self {
        let blank = Resting {
            order_ref: 0,
            shares: 0,
            level: NONE,
            previous: NONE,
            next: NONE,
            instrument: 0,
            side: Side::Buy,
        };
        let mut slab = vec![blank; capacity].into_boxed_slice();
        for (at, order) in slab.iter_mut().enumerate() {
            order.next = if at + 1 < capacity { at as Handle + 1 } else { NONE };
        }
        let cells = (capacity * 2).next_power_of_two();
        let index = vec![EMPTY; cells].into_boxed_slice();
        Self { slab, free: 0, len: 0, index, shift: 64 - cells.ilog2() }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Fibonacci hashing: references are dense counters, and the multiplier spreads runs of them.
    #[inline(always)]
    fn home(&self, order_ref: u64) -> usize {
        (order_ref.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    #[inline]
    fn find_cell(&self, order_ref: u64) -> Option<usize> {
        let mut at = self.home(order_ref);
        loop {
            let cell = self.index[at];
            if cell.handle == NONE {
                return None;
            }
            if cell.order_ref == order_ref {
                return Some(at);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    #[inline]
    pub fn find(&self, order_ref: u64) -> Option<Handle> {
        self.find_cell(order_ref).map(|at| self.index[at].handle)
    }

    #[inline(always)]
    pub fn get(&self, handle: Handle) -> &Resting {
        &self.slab[handle as usize]
    }

    #[inline(always)]
    pub fn get_mut(&mut self, handle: Handle) -> &mut Resting {
        &mut self.slab[handle as usize]
    }

    pub fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Adds an order that is not in the table; the caller checked that and [`Self::is_full`].
    pub fn insert(&mut self, order: Resting) -> Handle {
        let handle = self.free;
        self.free = self.slab[handle as usize].next;
        self.slab[handle as usize] = order;
        self.len += 1;
        let mut at = self.home(order.order_ref);
        while self.index[at].handle != NONE {
            at = (at + 1) & (self.index.len() - 1);
        }
        self.index[at] = Cell { order_ref: order.order_ref, handle };
        handle
    }

    /// Removes an order that is in the table. Later entries of the run move up, so that no
    /// tombstones collect over a day.
    pub fn remove(&mut self, handle: Handle) {
        let order_ref = self.slab[handle as usize].order_ref;
        let mask = self.index.len() - 1;
        let mut hole = self.find_cell(order_ref).expect("a resting order is in the index");
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let cell = self.index[at];
            if cell.handle == NONE {
                break;
            }
            let from_home = at.wrapping_sub(self.home(cell.order_ref)) & mask;
            if from_home >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = cell;
                hole = at;
            }
        }
        self.index[hole] = EMPTY;
        self.slab[handle as usize].next = self.free;
        self.free = handle;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};
    use std::collections::HashMap;

    fn order(order_ref: u64, shares: u32) -> Resting {
        let none = NONE;
        Resting {
            order_ref,
            shares,
            level: none,
            previous: none,
            next: none,
            instrument: 0,
            side: Side::Buy,
        }
    }

    #[test]
    fn it_agrees_with_a_hash_map() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut table = OrderTable::new(64);
        let mut model = HashMap::new();
        for step in 0..200_000u32 {
            let order_ref = u64::from(rng.next_u32() % 100);
            match (table.find(order_ref), model.get(&order_ref)) {
                (Some(handle), Some(shares)) => {
                    assert_eq!(table.get(handle).shares, *shares);
                    table.remove(handle);
                    model.remove(&order_ref);
                }
                (None, None) if table.is_full() => assert_eq!(model.len(), 64),
                (None, None) => {
                    table.insert(order(order_ref, step));
                    model.insert(order_ref, step);
                }
                (found, expected) => panic!("{order_ref}: {found:?} against {expected:?}"),
            }
            assert_eq!(table.len(), model.len());
        }
    }
}
