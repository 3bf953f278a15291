//! Order that a strategy asks for, as the risk checks see it.

use crate::market::InstrumentId;
use abi::field::{Price, Side};

/// An order as risk sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Instrument of the order.
    pub instrument: InstrumentId,
    /// Side of the order.
    pub side: Side,
    /// Price of the order.
    pub price: Price,
    /// Shares that can trade.
    pub shares: u32,
    /// The order that it replaces: its open shares and their value are counted as working already.
    pub replaces: Option<Replaced>,
}

/// The order that a candidate replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// UserRefNum of the replaced order.
    pub user_ref: u32,
    /// Its open shares.
    pub shares: u32,
    /// Price of the replaced order.
    pub price: Price,
    /// Shares that it has executed: OUCH counts them in a replacement's quantity.
    pub executed: u32,
    /// Mark of a sale as long, which a replacement keeps.
    pub is_long_sale: bool,
}
