//! The price levels of one side of one instrument: a ring of slots near the touch, one a tick, with
//! a bitmap over them, and a sorted list of the levels further away. Knows levels by number; the
//! queues of orders are `book`'s.
//!
//! ```text
//!      far (sorted)         window: ranks top − WINDOW + 1 … top
//! ┌────┬────┬─── ─┬────┐ ┌─────────────┬──────────────┬───────────┐
//! │    │    │     │    │ │ · · █ █ · █ │ █ █ · █ best │ · · · · · │
//! └────┴────┴─── ─┴────┘ └─────────────┴──────────────┴───────────┘
//!   worse ────────────────────────────────────────► better    top
//! ```
//! A rank is a price in ticks that grows towards the touch on either side. A slot is the rank's low
//! bits, so that a level keeps its number, and its orders theirs, while the window moves.

use crate::order_table::{Handle, NONE, OrderTable};
use abi::field::{Price, Side};

/// Slots of a ring: $10.24 at a tick of one cent.
pub(crate) const WINDOW: u32 = 1024;
const WORDS: usize = WINDOW as usize / 64;
/// Ranks kept free above the best level when the window moves.
const HEADROOM: u32 = WINDOW / 4;

/// A price of US stocks from one dollar on is a multiple of this (Reg NMS rule 612), in 1/10,000.
const CENT: u32 = 100;
/// The inverse of 25 modulo 2^32.
const INVERSE_OF_25: u32 = 0xc28f_5c29;
const _: () = assert!(INVERSE_OF_25.wrapping_mul(25) == 1);
/// Cents that a price can have.
pub(crate) const CENTS_MAX: u32 = u32::MAX / CENT;

/// The cents of a price; more than [`CENTS_MAX`] if it is no whole number of them. Multiplication
/// by the inverse maps the multiples of 25 onto the least numbers, and the rotation those of 4
/// among them (Lemire, Kaser, Kurz: Faster remainder by direct computation, 2019, section 3.2).
#[inline(always)]
pub(crate) fn cents(price: Price) -> u32 {
    price.0.wrapping_mul(INVERSE_OF_25).rotate_right(2)
}

/// A price, its shares and its queue of orders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub price: Price,
    pub shares: u32,
    pub head: Handle,
    pub tail: Handle,
}

const BLANK: Level = Level { price: Price(0), shares: 0, head: NONE, tail: NONE };

/// No level is left for a price beyond the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// One side of one instrument. The first [`WINDOW`] levels are the ring's; far levels follow.
pub(crate) struct Ladder {
    ring: [Level; WINDOW as usize],
    words: [u64; WORDS],
    /// The rank of the best level, if the side is not empty.
    best: u32,
    /// The best rank that the window has a slot for.
    top: u32,
    /// All ones for offers, whose ranks grow as their prices fall.
    flip: u32,
    /// [`WINDOW`] if the short ways may be taken: a tick is a cent, the side is not empty, and
    /// every rank in the window is one of a price; else 0.
    plain_window: u32,
    in_cents: bool,
    is_empty: bool,
    far_levels: Box<[Level]>,
    far_free: Vec<Handle>,
    /// Ranks and numbers of the far levels, worst first.
    far: Vec<(u32, Handle)>,
}

impl Ladder {
    pub fn new(side: Side, far_max: usize) -> Self {
        let mut ladder = Self {
            ring: [BLANK; WINDOW as usize],
            words: [0; WORDS],
            best: 0,
            top: 0,
            flip: if side == Side::Buy { 0 } else { u32::MAX },
            plain_window: 0,
            in_cents: true,
            is_empty: true,
            far_levels: vec![BLANK; far_max].into_boxed_slice(),
            far_free: Vec::with_capacity(far_max),
            far: Vec::with_capacity(far_max),
        };
        ladder.clear();
        ladder
    }

    /// Empties the side.
    pub fn clear(&mut self) {
        self.ring.fill(BLANK);
        self.words.fill(0);
        (self.best, self.top, self.plain_window) = (0, 0, 0);
        (self.in_cents, self.is_empty) = (true, true);
        self.far.clear();
        self.far_free.clear();
        self.far_free.extend((WINDOW..WINDOW + self.far_levels.len() as Handle).rev());
    }

    /// The best level.
    #[inline(always)]
    pub fn best(&self) -> Option<&Level> {
        (!self.is_empty).then(|| &self.ring[(self.best % WINDOW) as usize])
    }

    /// Whether a level is the best.
    #[inline(always)]
    pub fn is_best(&self, level: Handle) -> bool {
        level == self.best % WINDOW
    }

    /// A level of the ring.
    #[inline(always)]
    pub fn near_mut(&mut self, level: Handle) -> &mut Level {
        &mut self.ring[(level % WINDOW) as usize]
    }

    pub fn get_mut(&mut self, level: Handle) -> &mut Level {
        if level < WINDOW { self.near_mut(level) } else { self.far_mut(level) }
    }

    fn far_mut(&mut self, level: Handle) -> &mut Level {
        &mut self.far_levels[(level - WINDOW) as usize]
    }

    pub fn get(&self, level: Handle) -> &Level {
        if level < WINDOW {
            &self.ring[level as usize]
        } else {
            &self.far_levels[(level - WINDOW) as usize]
        }
    }

    /// The rank of a price that the short way can take: whole cents, in the window of a side that
    /// has orders.
    #[inline(always)]
    pub fn plain_rank(&self, price: Price) -> Option<u32> {
        let rank = cents(price) ^ self.flip;
        (self.top.wrapping_sub(rank) < self.plain_window).then_some(rank)
    }

    /// The shares at a rank in the window.
    #[inline(always)]
    pub fn shares_at(&self, rank: u32) -> u32 {
        self.ring[(rank % WINDOW) as usize].shares
    }

    /// The level of a price, marked as used: the caller puts an order there.
    pub fn level_for(&mut self, price: Price, table: &mut OrderTable) -> Result<Handle, Full> {
        match self.plain_rank(price) {
            Some(rank) => {
                self.take_slot(rank, price);
                Ok(rank % WINDOW)
            }
            None => self.level_elsewhere(price, table),
        }
    }

    /// Uses the slot of a rank in the window.
    #[inline(always)]
    pub fn take_slot(&mut self, rank: u32, price: Price) -> (&mut Level, Touched) {
        let slot = rank % WINDOW;
        self.words[(slot / 64) as usize] |= 1 << (slot % 64);
        let touched = rank >= self.best;
        if touched {
            self.best = rank;
        }
        let level = &mut self.ring[slot as usize];
        level.price = price;
        (level, touched)
    }

    /// Takes out a level whose queue is empty.
    pub fn remove(&mut self, level: Handle, table: &mut OrderTable) {
        if level < WINDOW {
            self.remove_near(level, table);
        } else {
            self.remove_far(level);
        }
    }

    /// Takes out a level of the ring whose queue is empty.
    #[inline(always)]
    pub fn remove_near(&mut self, level: Handle, table: &mut OrderTable) {
        self.words[(level / 64) as usize % WORDS] &= !(1 << (level % 64));
        if self.is_best(level) {
            self.find_best(table);
        }
    }

    /// The best level is gone.
    #[inline(always)]
    fn find_best(&mut self, table: &mut OrderTable) {
        let slot = self.best % WINDOW;
        let below = self.words[(slot / 64) as usize] & ((1 << (slot % 64)) - 1);
        if below != 0 {
            self.best -= slot % 64 - below.ilog2();
        } else {
            self.find_best_further(table);
        }
    }

    #[inline(never)]
    fn find_best_further(&mut self, table: &mut OrderTable) {
        let next = self.used_from(self.best % WINDOW);
        match next {
            Some(rank) if self.top.wrapping_sub(rank) <= WINDOW - HEADROOM => self.best = rank,
            Some(rank) if self.far.is_empty() => self.best = rank,
            _ => {
                (self.is_empty, self.best) = (next.is_none(), next.unwrap_or(0));
                self.plain_window = 0;
                self.follow_down(table);
            }
        }
    }

    /// The best rank in use in the window, looked for from `slot` downwards and around the ring,
    /// which is in order if no better one is in use.
    fn used_from(&self, slot: u32) -> Option<u32> {
        let first = (slot / 64) as usize;
        let low = u64::MAX >> (63 - slot % 64);
        for step in 0..=WORDS {
            let word = (first + WORDS - step) % WORDS;
            let mask = match step {
                0 => low,
                WORDS => !low,
                _ => u64::MAX,
            };
            if let Some(bit) = (self.words[word] & mask).checked_ilog2() {
                let slot = word as u32 * 64 + bit;
                return Some(self.top.wrapping_sub(self.top.wrapping_sub(slot) % WINDOW));
            }
        }
        None
    }

    /// The ranks in use in the window, best first.
    fn ranks(&self) -> impl Iterator<Item = u32> + '_ {
        let next = |rank: &u32| {
            let below = rank.wrapping_sub(1);
            self.used_from(below % WINDOW).filter(|next| *next < *rank)
        };
        std::iter::successors((!self.is_empty).then_some(self.best), next)
    }

    /// The levels, best first.
    pub fn iter(&self) -> impl Iterator<Item = &Level> + '_ {
        self.ranks()
            .map(|rank| &self.ring[(rank % WINDOW) as usize])
            .chain(self.far.iter().rev().map(|(_, level)| self.get(*level)))
    }

    /// The level of a price that is no whole number of ticks or outside the window.
    #[inline(never)]
    fn level_elsewhere(&mut self, price: Price, table: &mut OrderTable) -> Result<Handle, Full> {
        if self.in_cents && !price.0.is_multiple_of(CENT) {
            self.refine(table)?;
        }
        let rank = self.rank(price);
        if self.is_empty || !self.is_near(rank) && rank > self.top {
            self.move_window(rank.saturating_add(HEADROOM), table)?;
            self.set_best(rank);
        }
        if self.is_near(rank) {
            self.take_slot(rank, price);
            return Ok(rank % WINDOW);
        }
        match self.far.binary_search_by_key(&rank, |(rank, _)| *rank) {
            Ok(at) => Ok(self.far[at].1),
            Err(at) => {
                let level = self.far_free.pop().ok_or(Full)?;
                *self.far_mut(level) = Level { price, ..BLANK };
                self.far.insert(at, (rank, level));
                Ok(level)
            }
        }
    }

    fn remove_far(&mut self, level: Handle) {
        let rank = self.rank(self.get(level).price);
        if let Ok(at) = self.far.binary_search_by_key(&rank, |(rank, _)| *rank) {
            self.far.remove(at);
            self.far_free.push(level);
        }
    }

    /// The best level has fallen to the window's low end, or there is none left in it.
    fn follow_down(&mut self, table: &mut OrderTable) {
        let best =
            if self.is_empty { self.far.last().map(|(rank, _)| *rank) } else { Some(self.best) };
        let Some(best) = best else { return };
        // Downwards, no level leaves the window: the far list can't be full.
        let moved = self.move_window(best.saturating_add(HEADROOM), table);
        debug_assert!(moved.is_ok());
        self.set_best(best);
    }

    fn set_best(&mut self, rank: u32) {
        (self.is_empty, self.best) = (false, rank);
        let ranks = [self.top.saturating_sub(WINDOW - 1), self.top];
        let all_prices = ranks.iter().all(|rank| rank ^ self.flip <= CENTS_MAX);
        self.plain_window = if self.in_cents && all_prices { WINDOW } else { 0 };
    }

    /// Puts the window's top at `top`: levels below it go to the far list, far levels in it come
    /// near.
    fn move_window(&mut self, top: u32, table: &mut OrderTable) -> Result<(), Full> {
        // A window that reached below rank 0 would come round to the highest ranks.
        let top = top.max(WINDOW - 1);
        self.send_far_if(|rank| top.wrapping_sub(rank) >= WINDOW, table)?;
        self.top = top;
        while let Some((rank, far)) = self.far.pop_if(|(rank, _)| top.wrapping_sub(*rank) < WINDOW)
        {
            let slot = rank % WINDOW;
            let level = *self.get(far);
            self.ring[slot as usize] = level;
            self.words[(slot / 64) as usize] |= 1 << (slot % 64);
            self.far_free.push(far);
            renumber(table, level.head, slot);
        }
        Ok(())
    }

    /// Moves the levels in the window whose rank is so to the far list: all of them, or none if
    /// there is no room.
    fn send_far_if(
        &mut self,
        wanted: impl Fn(u32) -> bool,
        table: &mut OrderTable,
    ) -> Result<(), Full> {
        if self.ranks().filter(|rank| wanted(*rank)).count() > self.far_free.len() {
            return Err(Full);
        }
        let mut next = (!self.is_empty).then_some(self.best);
        while let Some(rank) = next {
            next = self.used_from(rank.wrapping_sub(1) % WINDOW).filter(|next| *next < rank);
            if wanted(rank) {
                self.send_far(rank, table);
            }
        }
        Ok(())
    }

    fn send_far(&mut self, rank: u32, table: &mut OrderTable) {
        let slot = rank % WINDOW;
        let far = self.far_free.pop().expect("as many as were counted");
        let level = std::mem::replace(&mut self.ring[slot as usize], BLANK);
        *self.far_mut(far) = level;
        let at = self.far.partition_point(|(other, _)| *other < rank);
        self.far.insert(at, (rank, far));
        self.words[(slot / 64) as usize] &= !(1 << (slot % 64));
        renumber(table, level.head, far);
    }

    /// Counts in 1/10,000 from now on: a price came that is no whole number of cents.
    fn refine(&mut self, table: &mut OrderTable) -> Result<(), Full> {
        self.send_far_if(|_| true, table)?;
        (self.is_empty, self.plain_window, self.in_cents) = (true, 0, false);
        for at in 0..self.far.len() {
            self.far[at].0 = self.rank(self.get(self.far[at].1).price);
        }
        self.follow_down(table);
        Ok(())
    }

    /// The rank of a price that is a whole number of ticks.
    fn rank(&self, price: Price) -> u32 {
        let ticks = if self.in_cents { price.0 / CENT } else { price.0 };
        ticks ^ self.flip
    }

    #[inline(always)]
    fn is_near(&self, rank: u32) -> bool {
        self.top.wrapping_sub(rank) < WINDOW
    }
}

/// Tells the orders of a queue the number that their level has now.
fn renumber(table: &mut OrderTable, head: Handle, level: Handle) {
    let mut at = head;
    while let Some(order) = table.slots().get_mut(at as usize) {
        order.level = level;
        at = order.next;
    }
}

/// Whether a change can be seen in the best bid and offer.
pub type Touched = bool;
