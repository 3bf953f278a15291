//! The books of all instruments: queues of orders at each price, best bid and offer, depth. The
//! orders themselves live in `order_table`, the order of the prices in `ladder`.

use crate::ladder::{Ladder, Level, Touched, WINDOW};
use crate::order_table::{Entry, Handle, NONE, OrderTable, Resting};
use abi::field::{Price, Side};

/// A price and the shares that stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Price of the quote.
    pub price: Price,
    /// Shares, at most 2^32 − 1.
    pub shares: u32,
}

impl From<&Level> for Quote {
    #[inline(always)]
    fn from(level: &Level) -> Self {
        Self { price: level.price, shares: level.shares }
    }
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

    /// Whether the best bid is at or above the best offer.
    pub fn is_crossed(&self) -> bool {
        matches!((self.bid, self.ask), (Some(bid), Some(ask)) if bid.price >= ask.price)
    }
}

/// Why an order could not be put into its book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    LevelsFull,
    TableFull,
    Duplicate,
    Shares,
}

/// The ladders of all instruments: bids of instrument `i` at `2 (i + 1)`, offers behind them. The
/// first two are nobody's, so that a place of 0 can stand for no instrument.
pub(crate) type Ladders = [Ladder];

/// One more than an instrument's number.
pub(crate) type Place = u16;

/// The number of a side's ladder.
#[inline(always)]
pub(crate) fn ladder_of(place: Place, side: Side) -> u32 {
    u32::from(place) * 2 + u32::from(side == Side::Sell)
}

/// The side that a ladder's number stands for.
pub(crate) fn side_of(ladder: u32) -> Side {
    if ladder.is_multiple_of(2) { Side::Buy } else { Side::Sell }
}

/// The best bid and offer of an instrument.
#[inline(always)]
pub(crate) fn bbo(ladders: &Ladders, place: Place) -> Bbo {
    let at = usize::from(place) * 2;
    match ladders.get(at..at + 2) {
        Some([bids, asks]) => {
            Bbo { bid: bids.best().map(Quote::from), ask: asks.best().map(Quote::from) }
        }
        _ => Bbo::default(),
    }
}

/// Puts an order at the end of the queue at its price if nothing about it is unusual: its slot is
/// free, its price near the touch. `None`, and nothing done that can be seen, if it is for
/// [`enqueue`].
#[inline(always)]
pub(crate) fn enqueue_plain(
    ladders: &mut Ladders,
    table: &mut OrderTable,
    order_ref: u64,
    ladder: u32,
    shares: u32,
    price: Price,
) -> Option<Touched> {
    let number = ladder;
    let ladder = ladders.get_mut(number as usize)?;
    let rank = ladder.plain_rank(price)?;
    let before = ladder.shares_at(rank);
    let sum = before.wrapping_add(shares);
    if sum <= before {
        // No shares, or too many.
        return None;
    }
    let home = table.home(order_ref);
    let slots = table.slots();
    let slot = slots.get_mut(home)?;
    if !slot.is_free_home(home) {
        return None;
    }
    let (level, touched) = ladder.take_slot(rank, price);
    level.shares = sum;
    let tail = std::mem::replace(&mut level.tail, home as Handle);
    (slot.order_ref, slot.level, slot.previous) = (order_ref, rank % WINDOW, tail);
    (slot.shares, slot.ladder, slot.next) = (shares, number, NONE);
    link(level, slots, tail, home as Handle);
    table.count_in();
    Some(touched)
}

/// Puts an order at the end of the queue at its price.
#[inline(never)]
pub(crate) fn enqueue(
    ladders: &mut Ladders,
    table: &mut OrderTable,
    entry: &Entry,
) -> Result<Touched, Refused> {
    if table.find(entry.order_ref).is_some() {
        return Err(Refused::Duplicate);
    }
    let ladder = &mut ladders[entry.ladder as usize];
    let Ok(at) = ladder.level_for(entry.price, table) else { return Err(Refused::LevelsFull) };
    let Some(sum) = ladder.get(at).shares.checked_add(entry.shares).filter(|_| entry.shares > 0)
    else {
        give_back(ladder, table, at);
        return Err(Refused::Shares);
    };
    let Ok(handle) = table.vacancy(entry.order_ref) else {
        give_back(ladder, table, at);
        return Err(Refused::TableFull);
    };
    let touched = ladder.is_best(at);
    let level = ladder.get_mut(at);
    level.shares = sum;
    let tail = std::mem::replace(&mut level.tail, handle);
    table.slots()[handle as usize].fill(entry, at, tail);
    link(level, table.slots(), tail, handle);
    table.count_in();
    Ok(touched)
}

/// Lets the queue's last order, if there is one, know the one that follows it.
#[inline(always)]
fn link(level: &mut Level, slots: &mut [Resting], last: Handle, next: Handle) {
    match slots.get_mut(last as usize) {
        Some(last) => last.next = next,
        None => level.head = next,
    }
}

/// Closes the queue over an order that leaves it.
#[inline(always)]
fn unlink(level: &mut Level, slots: &mut [Resting], order: &Resting) {
    match slots.get_mut(order.next as usize) {
        Some(next) => next.previous = order.previous,
        None => level.tail = order.previous,
    }
    link(level, slots, order.previous, order.next);
}

/// A level that was made for an order which did not come.
fn give_back(ladder: &mut Ladder, table: &mut OrderTable, level: Handle) {
    if ladder.get(level).head == NONE {
        ladder.remove(level, table);
    }
}

/// Takes an order out of its queue and of the table, and its level out if it was the last there, if
/// it lies in the slot of its reference and its price near the touch. `None`, and nothing done, if
/// not.
#[inline(always)]
pub(crate) fn dequeue_plain(
    ladders: &mut Ladders,
    table: &mut OrderTable,
    place: Place,
    order_ref: u64,
) -> Option<Touched> {
    let home = table.home(order_ref);
    let slots = table.slots();
    let slot = slots.get_mut(home)?;
    let order = *slot;
    let is_its = order.ladder / 2 == u32::from(place);
    let ladder = ladders.get_mut(order.ladder as usize)?;
    if !slot.is_alone(order_ref) || !is_its || order.level >= WINDOW {
        return None;
    }
    slot.clear_alone(home);
    let touched = ladder.is_best(order.level);
    let level = ladder.near_mut(order.level);
    level.shares -= order.shares;
    unlink(level, slots, &order);
    table.count_out();
    if order.next == NONE && order.previous == NONE {
        ladder.remove_near(order.level, table);
    }
    Some(touched)
}

/// Takes shares off an order, if it lies in the slot of its reference and its price near the touch;
/// with none left, it leaves its queue and the table. `None`, and nothing done, if it has fewer or
/// lies elsewhere.
#[inline(always)]
pub(crate) fn reduce_plain(
    ladders: &mut Ladders,
    table: &mut OrderTable,
    place: Place,
    order_ref: u64,
    shares: u32,
) -> Option<Touched> {
    let home = table.home(order_ref);
    let order = table.slots().get_mut(home)?;
    let is_its = order.ladder / 2 == u32::from(place);
    if shares == order.shares {
        return dequeue_plain(ladders, table, place, order_ref);
    }
    if order.order_ref != order_ref || !is_its || shares > order.shares || order.level >= WINDOW {
        return None;
    }
    let ladder = ladders.get_mut(order.ladder as usize)?;
    order.shares -= shares;
    ladder.near_mut(order.level).shares -= shares;
    Some(ladder.is_best(order.level))
}

/// Takes shares off an order, wherever it lies; one with no shares left leaves its queue and the
/// table. The caller checked that it has as many.
#[inline(never)]
pub(crate) fn reduce(
    ladders: &mut Ladders,
    table: &mut OrderTable,
    handle: Handle,
    shares: u32,
) -> Touched {
    let order = &mut table.slots()[handle as usize];
    let ladder = &mut ladders[order.ladder as usize];
    let touched = ladder.is_best(order.level);
    let level = ladder.get_mut(order.level);
    level.shares -= shares;
    order.shares -= shares;
    if order.shares > 0 {
        return touched;
    }
    let order = *order;
    table.vacate(handle);
    unlink(level, table.slots(), &order);
    give_back(ladder, table, order.level);
    touched
}
