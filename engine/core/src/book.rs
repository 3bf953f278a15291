//! One instrument's price levels: aggregated shares and the FIFO queue of each. The orders themselves
//! live in `order_table`.

use crate::order_table::{Handle, NONE, OrderTable};
use abi::field::{Price, Side};

/// A price and the shares that stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The price.
    pub price: Price,
    /// Shares, at most 2^32 − 1.
    pub shares: u32,
}

/// The best bid and offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bbo {
    /// The best bid.
    pub bid: Option<Quote>,
    /// The best offer.
    pub ask: Option<Quote>,
}

impl Bbo {
    /// The best quote of one side.
    pub fn side(&self, side: Side) -> Option<Quote> {
        match side {
            Side::Buy => self.bid,
            Side::Sell => self.ask,
        }
    }

    /// Twice the middle of the touch, so that it stays an integer; `None` without both sides.
    pub fn mid_doubled(&self) -> Option<u64> {
        Some(u64::from(self.bid?.price.0) + u64::from(self.ask?.price.0))
    }
}

#[derive(Debug, Clone, Copy)]
struct Level {
    price: Price,
    shares: u32,
    head: Handle,
    tail: Handle,
}

/// A level's place in the ladder. `rank` grows towards the touch on either side.
#[derive(Debug, Clone, Copy)]
struct Rung {
    rank: u32,
    level: Handle,
}

/// One side: rungs sorted so that the best is last, where most changes happen.
struct Ladder {
    side: Side,
    rungs: Vec<Rung>,
}

impl Ladder {
    fn rank(&self, price: Price) -> u32 {
        match self.side {
            Side::Buy => price.0,
            Side::Sell => !price.0,
        }
    }

    /// Where `rank` is, or where it belongs.
    #[inline]
    fn position(&self, rank: u32) -> Result<usize, usize> {
        for (at, rung) in self.rungs.iter().enumerate().rev().take(8) {
            if rung.rank == rank {
                return Ok(at);
            }
            if rung.rank < rank {
                return Err(at + 1);
            }
        }
        self.rungs.binary_search_by_key(&rank, |rung| rung.rank)
    }
}

/// Why the book did not take a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LevelsFull;

/// Both sides of one instrument.
pub struct Book {
    ladders: [Ladder; 2],
    levels: Vec<Level>,
    free: Vec<Handle>,
}

fn index_of(side: Side) -> usize {
    usize::from(side == Side::Sell)
}

impl Book {
    pub(crate) fn new(levels_max: usize) -> Self {
        let ladder = |side| Ladder { side, rungs: Vec::with_capacity(levels_max) };
        let blank = Level { price: Price(0), shares: 0, head: NONE, tail: NONE };
        Self {
            ladders: [ladder(Side::Buy), ladder(Side::Sell)],
            levels: vec![blank; levels_max * 2],
            free: (0..levels_max as Handle * 2).rev().collect(),
        }
    }

    /// The best bid and offer.
    #[inline]
    pub fn bbo(&self) -> Bbo {
        let best = |ladder: &Ladder| {
            let level = &self.levels[ladder.rungs.last()?.level as usize];
            Some(Quote { price: level.price, shares: level.shares })
        };
        Bbo { bid: best(&self.ladders[0]), ask: best(&self.ladders[1]) }
    }

    /// The levels of one side, best first.
    pub fn depth(&self, side: Side) -> impl Iterator<Item = Quote> + '_ {
        let rungs = self.ladders[index_of(side)].rungs.iter().rev();
        rungs
            .map(|rung| &self.levels[rung.level as usize])
            .map(|l| Quote { price: l.price, shares: l.shares })
    }

    /// The level of a price, made if it is not there.
    pub(crate) fn level_for(&mut self, side: Side, price: Price) -> Result<Handle, LevelsFull> {
        let ladder = &mut self.ladders[index_of(side)];
        let rank = ladder.rank(price);
        match ladder.position(rank) {
            Ok(at) => Ok(ladder.rungs[at].level),
            Err(_) if ladder.rungs.len() == ladder.rungs.capacity() => Err(LevelsFull),
            Err(at) => {
                let level = self.free.pop().ok_or(LevelsFull)?;
                self.levels[level as usize] = Level { price, shares: 0, head: NONE, tail: NONE };
                ladder.rungs.insert(at, Rung { rank, level });
                Ok(level)
            }
        }
    }

    pub(crate) fn price_of(&self, level: Handle) -> Price {
        self.levels[level as usize].price
    }

    pub(crate) fn shares_of(&self, level: Handle) -> u32 {
        self.levels[level as usize].shares
    }

    /// Puts an order at the end of its level's queue. The caller checked that the shares add up.
    pub(crate) fn enqueue(&mut self, table: &mut OrderTable, handle: Handle) {
        let (level_handle, shares) = (table.get(handle).level, table.get(handle).shares);
        let level = &mut self.levels[level_handle as usize];
        level.shares += shares;
        table.get_mut(handle).previous = level.tail;
        match level.tail {
            NONE => level.head = handle,
            tail => table.get_mut(tail).next = handle,
        }
        level.tail = handle;
    }

    /// Takes shares off an order that has more.
    pub(crate) fn reduce(&mut self, table: &mut OrderTable, handle: Handle, shares: u32) {
        let order = table.get_mut(handle);
        order.shares -= shares;
        self.levels[order.level as usize].shares -= shares;
    }

    /// Takes an order out of its queue, and its level out of the ladder if it was the last.
    pub(crate) fn dequeue(&mut self, table: &mut OrderTable, handle: Handle) {
        let order = *table.get(handle);
        let level = &mut self.levels[order.level as usize];
        level.shares -= order.shares;
        match order.previous {
            NONE => level.head = order.next,
            previous => table.get_mut(previous).next = order.next,
        }
        match order.next {
            NONE => level.tail = order.previous,
            next => table.get_mut(next).previous = order.previous,
        }
        if level.head == NONE {
            let price = level.price;
            let ladder = &mut self.ladders[index_of(order.side)];
            let at =
                ladder.position(ladder.rank(price)).expect("a level with orders is in the ladder");
            ladder.rungs.remove(at);
            self.free.push(order.level);
        }
    }
}
