//! NASDAQ OUCH 5.0: the order-entry messages and their appendages. No session, no order state.
//!
//! Source: "OUCH 5.0 Order Entry Specification", NASDAQ (revision 1.05). Integers are big-endian.
//! A message is a fixed part, told by its first byte *and its direction*, and an appendage:
//!
//! ```text
//! 0      1                        n        n+2
//! ┌──────┬────────────────────────┬────────┬─────────────────────────────────────┬───
//! │ type │ fixed fields …         │ length │ len │ tag │ value (len − 1 bytes)   │ …
//! └──────┴────────────────────────┴────────┴─────────────────────────────────────┴───
//!                                  u16, bytes of all elements; may be left out with them
//! ```

/// The appendage: optional values behind the fixed part, each under a tag.
pub mod appendage;
/// Client to exchange.
pub mod inbound;
/// Exchange to client.
pub mod outbound;

use crate::field::Side as BookSide;
use crate::wire::Field;
use std::fmt;

/// The client's number of an order: strictly increasing within the account's day.
pub type UserRefNum = u32;

/// A price in 1/10,000 of the currency, eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Price(pub u64);

impl Field for Price {
    const LEN: usize = 8;
    #[inline(always)]
    fn get(bytes: &[u8]) -> Option<Self> {
        u64::get(bytes).map(Self)
    }
    #[inline(always)]
    fn put(&self, bytes: &mut [u8]) {
        self.0.put(bytes);
    }
}

impl From<crate::field::Price> for Price {
    fn from(price: crate::field::Price) -> Self {
        Self(u64::from(price.0))
    }
}

impl Price {
    /// The same price in four bytes; `None` above 429,496.7295.
    pub fn narrow(self) -> Option<crate::field::Price> {
        u32::try_from(self.0).ok().map(crate::field::Price)
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04}", self.0 / 10_000, self.0 % 10_000)
    }
}

code! {
    /// Side of an order to enter.
    Side {
        /// Buy order, code `B`.
        Buy = b'B',
        /// Sell what is owned.
        Sell = b'S',
        /// Short sale, code `T`.
        SellShort = b'T',
        /// Sell short, exempt from Reg SHO's price test.
        SellShortExempt = b'E',
    }

    /// Time for which an order stays open.
    TimeInForce {
        /// Until the market closes.
        Day = b'0',
        /// Immediate or cancel.
        ImmediateOrCancel = b'3',
        /// Until the end of extended hours.
        ExtendedHours = b'5',
        /// Until the appendage's `ExpireTime`.
        GoodTillTime = b'6',
        /// After hours only.
        AfterHours = b'E',
    }

    /// Whether the order shows in the book.
    Display {
        /// Order that is shown in the book.
        Visible = b'Y',
        /// Order that is not shown in the book.
        Hidden = b'N',
        /// Shown with the participant's MPID.
        Attributable = b'A',
        /// Shown at a price that conforms to Reg NMS; outbound only.
        Conformant = b'Z',
    }

    /// In what capacity the firm acts.
    Capacity {
        /// For a client.
        Agency = b'A',
        /// For its own book.
        Principal = b'P',
        /// Riskless principal, code `R`.
        Riskless = b'R',
        /// Other capacity, code `O`.
        Other = b'O',
    }

    /// Cross that the order is for.
    CrossType {
        /// The continuous market.
        Continuous = b'N',
        /// The opening cross.
        Opening = b'O',
        /// The closing cross.
        Closing = b'C',
        /// A halt or IPO cross.
        Halt = b'H',
        /// Supplemental cross type, code `S`.
        Supplemental = b'S',
        /// Retail cross type, code `R`.
        Retail = b'R',
        /// Extended-life cross type, code `E`.
        ExtendedLife = b'E',
        /// After-hours close, code `A`.
        AfterHoursClose = b'A',
    }

    /// Whether an accepted order rests.
    OrderState {
        /// Order that rests or trades.
        Live = b'L',
        /// Order that was accepted and is no longer open.
        Dead = b'D',
    }
}

impl Side {
    /// The side of the book.
    pub fn book_side(self) -> BookSide {
        match self {
            Self::Buy => BookSide::Buy,
            Self::Sell | Self::SellShort | Self::SellShortExempt => BookSide::Sell,
        }
    }
}

impl From<BookSide> for Side {
    fn from(side: BookSide) -> Self {
        match side {
            BookSide::Buy => Self::Buy,
            BookSide::Sell => Self::Sell,
        }
    }
}

/// Reject reasons that this project acts on or sends (u16 in Rejected; the specification has 53).
pub mod reject {
    /// Anything not listed.
    pub const OTHER: u16 = 0x0f;
    /// The price crosses a limit.
    pub const INVALID_PRICE: u16 = 0x1d;
    /// The quantity is zero or above 999,999.
    pub const INVALID_QUANTITY: u16 = 0x13;
    /// No such symbol.
    pub const INVALID_SYMBOL: u16 = 0x17;
    /// The market is halted.
    pub const HALTED: u16 = 0x07;
    /// The order can't be replaced any more.
    pub const REPLACE_NOT_ALLOWED: u16 = 0x15;
    /// Order entry is closed.
    pub const DESTINATION_CLOSED: u16 = 0x02;
    /// The combination of fields is not one this venue trades.
    pub const PROCESSING_ERROR: u16 = 0x0a;
}

/// The largest quantity of one order.
pub const QUANTITY_MAX: u32 = 999_999;
