//! Order that a strategy asks for, as the risk checks see it.

use crate::market::InstrumentId;
use abi::field::{Price, Side};

/// An order as risk sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// What it is for.
    pub instrument: InstrumentId,
    /// Its side.
    pub side: Side,
    /// Its price.
    pub price: Price,
    /// Shares that can trade.
    pub shares: u32,
    /// The order that it replaces: its open shares and their value are counted as working already.
    pub replaces: Option<Replaced>,
}

/// The order that a candidate replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Its number.
    pub user_ref: u32,
    /// Its open shares.
    pub shares: u32,
    /// Its price.
    pub price: Price,
}
