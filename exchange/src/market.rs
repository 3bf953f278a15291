//! Market trait with its orders and events, for background flow with matching and for a recorded
//! day.

use abi::field::{Price, Side, Symbol};
use abi::itch::Message;

/// Nanoseconds since midnight.
pub type DayTime = u64;

/// An order's number in the market.
pub type OrderRef = u64;

/// Event of a market: a feed message or a fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something for the feed.
    Feed(Message),
    /// A recorded message for the feed, as it was recorded.
    Recorded(Vec<u8>),
    /// An order of an account traded.
    Fill {
        /// Number of the order that traded.
        order_ref: OrderRef,
        /// Shares traded in this fill.
        shares: u32,
        /// At what price.
        price: Price,
        /// The trade's number.
        match_number: u64,
        /// Whether the order was resting.
        resting: bool,
    },
}

/// An order of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewOrder {
    /// Symbol to trade.
    pub symbol: Symbol,
    /// Side of the order.
    pub side: Side,
    /// Limit price, in 1/10,000.
    pub price: Price,
    /// Number of shares.
    pub shares: u32,
    /// Whether the rest that does not trade at once stays.
    pub rests: bool,
}

/// A market. Every call appends what happened to `events`, in order.
pub trait Market {
    /// Opens: directory, system events, resting orders.
    fn open(&mut self, now: DayTime, events: &mut Vec<Event>);

    /// When something happens by itself next, in nanoseconds after opening; `None` for never.
    fn next_at(&self) -> Option<u64>;

    /// Lets the next thing happen.
    fn step(&mut self, now: DayTime, events: &mut Vec<Event>);

    /// Whether orders in this symbol are taken.
    fn lists(&self, symbol: Symbol) -> bool;

    /// Takes an order; returns its number. Fills come before the rest of it rests.
    fn enter(&mut self, order: &NewOrder, now: DayTime, events: &mut Vec<Event>) -> OrderRef;

    /// Takes `shares` off a resting order; all of it if it has no more.
    fn reduce(&mut self, order_ref: OrderRef, shares: u32, now: DayTime, events: &mut Vec<Event>);

    /// Replaces a resting order: a new number, price and size, at the end of its queue.
    fn replace(
        &mut self,
        order_ref: OrderRef,
        order: &NewOrder,
        now: DayTime,
        events: &mut Vec<Event>,
    ) -> OrderRef;
}
