//! NASDAQ TotalView-ITCH 5.0: every message of the specification, encoded and decoded. No book, no
//! session.
//!
//! Source: "Nasdaq TotalView-ITCH 5.0", sections 1.1 to 1.9. Integers are big-endian and unsigned.
//! Every message starts alike:
//!
//! ```text
//! 0     1             3               5                      11
//! ┌─────┬─────────────┬───────────────┬──────────────────────┬─────────────
//! │type │stock locate │tracking number│nanoseconds (6 bytes) │ the rest …
//! └─────┴─────────────┴───────────────┴──────────────────────┴─────────────
//! ```
//!
//! One-byte codes that the engine does not act on stay `u8`, so that a new code from the exchange
//! is not a decoding error.

use crate::field::{Alpha, Price, Price8, Side, Symbol, Time48};
use crate::wire::{Field, WireError};

/// An order's reference number, unique for the day.
pub type OrderRef = u64;

layout! {
    /// System Event (1.1): `O` start of messages, `S` system hours, `Q` market hours, `M`, `E`, `C`
    /// their ends.
    SystemEvent = b'S', 12 { stock_locate: u16, tracking_number: u16, timestamp: Time48, event_code: u8 }

    /// Stock Directory (1.2.1): gives a symbol its locate code for the day.
    StockDirectory = b'R', 39 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol,
        market_category: u8, financial_status: u8, round_lot_size: u32, round_lots_only: u8,
        issue_classification: u8, issue_sub_type: Alpha<2>, authenticity: u8,
        short_sale_threshold: u8, ipo_flag: u8, luld_price_tier: u8, etp_flag: u8,
        etp_leverage_factor: u32, inverse: u8,
    }

    /// Stock Trading Action (1.2.2): `H` halted, `P` paused, `Q` quotation only, `T` trading.
    TradingAction = b'H', 25 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol,
        trading_state: u8, reserved: u8, reason: Alpha<4>,
    }

    /// Reg SHO short-sale price-test restriction (1.2.3).
    RegSho = b'Y', 20 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol, action: u8,
    }

    /// Market Participant Position (1.2.4).
    ParticipantPosition = b'L', 26 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, mpid: Alpha<4>, stock: Symbol,
        primary_market_maker: u8, market_maker_mode: u8, participant_state: u8,
    }

    /// Market-wide circuit-breaker decline levels (1.2.5.1).
    MwcbDeclineLevel = b'V', 35 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48,
        level_1: Price8, level_2: Price8, level_3: Price8,
    }

    /// Market-wide circuit-breaker status (1.2.5.2).
    MwcbStatus = b'W', 12 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, breached_level: u8,
    }

    /// Quoting period update for an initial public offering (1.2.6).
    IpoQuotingPeriod = b'K', 28 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol,
        release_time_seconds: u32, release_qualifier: u8, ipo_price: Price,
    }

    /// Limit up, limit down auction collar (1.2.7).
    LuldAuctionCollar = b'J', 35 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol,
        reference_price: Price, upper_price: Price, lower_price: Price, extension: u32,
    }

    /// Operational halt of one market centre (1.2.8).
    OperationalHalt = b'h', 21 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol,
        market_code: u8, halt_action: u8,
    }

    /// Add Order without attribution (1.3.1).
    AddOrder = b'A', 36 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
        side: Side, shares: u32, stock: Symbol, price: Price,
    }

    /// Add Order with the participant's MPID (1.3.2).
    AddOrderMpid = b'F', 40 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
        side: Side, shares: u32, stock: Symbol, price: Price, attribution: Alpha<4>,
    }

    /// Order Executed at its own price (1.4.1).
    OrderExecuted = b'E', 31 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
        executed_shares: u32, match_number: u64,
    }

    /// Order Executed at another price (1.4.2).
    OrderExecutedWithPrice = b'C', 36 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
        executed_shares: u32, match_number: u64, printable: u8, execution_price: Price,
    }

    /// Order Cancel: the order keeps the rest of its shares (1.4.3).
    OrderCancel = b'X', 23 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
        cancelled_shares: u32,
    }

    /// Order Delete (1.4.4).
    OrderDelete = b'D', 19 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
    }

    /// Order Replace: a new reference, price and size on the same side (1.4.5).
    OrderReplace = b'U', 35 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
        new_order_ref: OrderRef, shares: u32, price: Price,
    }

    /// Trade against an order that was not displayed (1.5.1).
    Trade = b'P', 44 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, order_ref: OrderRef,
        side: Side, shares: u32, stock: Symbol, price: Price, match_number: u64,
    }

    /// Cross Trade: opening, closing, halt or IPO cross (1.5.2).
    CrossTrade = b'Q', 40 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, shares: u64, stock: Symbol,
        cross_price: Price, match_number: u64, cross_type: u8,
    }

    /// Broken Trade (1.5.3).
    BrokenTrade = b'B', 19 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, match_number: u64,
    }

    /// Net Order Imbalance Indicator (1.6).
    Noii = b'I', 50 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, paired_shares: u64,
        imbalance_shares: u64, imbalance_direction: u8, stock: Symbol, far_price: Price,
        near_price: Price, current_reference_price: Price, cross_type: u8,
        price_variation: u8,
    }

    /// Retail Price Improvement Indicator (1.7).
    RetailInterest = b'N', 20 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol,
        interest_flag: u8,
    }

    /// Direct Listing with Capital Raise price discovery (1.8).
    DirectListing = b'O', 48 {
        stock_locate: u16, tracking_number: u16, timestamp: Time48, stock: Symbol,
        open_eligibility: u8, minimum_allowable_price: Price, maximum_allowable_price: Price,
        near_execution_price: Price, near_execution_time: u64, lower_price_collar: Price,
        upper_price_collar: Price,
    }
}

messages! {
    /// Any ITCH 5.0 message.
    Message, "ITCH 5.0":
    SystemEvent, StockDirectory, TradingAction, RegSho, ParticipantPosition, MwcbDeclineLevel,
    MwcbStatus, IpoQuotingPeriod, LuldAuctionCollar, OperationalHalt, AddOrder, AddOrderMpid,
    OrderExecuted, OrderExecutedWithPrice, OrderCancel, OrderDelete, OrderReplace, Trade,
    CrossTrade, BrokenTrade, Noii, RetailInterest, DirectListing,
}

impl Message {
    /// Reads one whole message.
    ///
    /// # Errors
    /// [`WireError`], also when bytes are left over: an ITCH message fills its block.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message = Self::decode_prefix(bytes)?;
        if bytes.len() != message.encoded_len() {
            let need = message.encoded_len();
            return Err(WireError::Length { what: "ITCH message", need, got: bytes.len() });
        }
        Ok(message)
    }
}

/// Nanoseconds since midnight of an encoded message; `None` if it is too short to have any.
pub fn timestamp_of(message: &[u8]) -> Option<Time48> {
    Time48::get(message.get(5..11)?)
}

/// Splits a file of messages behind two-byte big-endian lengths (NASDAQ "BinaryFILE" framing).
///
/// A zero length ends the session, and with it the file; what follows is padding.
pub struct Framed<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Framed<'a> {
    /// Walks `file` from its start.
    pub fn new(file: &'a [u8]) -> Self {
        Self { rest: file, offset: 0 }
    }

    /// Byte offset of the next frame in the file.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for Framed<'a> {
    type Item = Result<&'a [u8], WireError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if let [high, low, body @ ..] = self.rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if let (1.., Some((message, rest))) = (length, body.split_at_checked(length)) {
                self.rest = rest;
                self.offset += 2 + length;
                return Some(Ok(message));
            }
        }
        self.last()
    }
}

impl<'a> Framed<'a> {
    /// The end, or what stands where a frame should.
    #[cold]
    fn last(&mut self) -> Option<Result<&'a [u8], WireError>> {
        let short = |need, got| {
            Some(Err(WireError::Length { what: "length-prefixed ITCH frame", need, got }))
        };
        let rest = std::mem::take(&mut self.rest);
        match rest {
            [] | [0, 0, ..] => None,
            [_] => short(2, 1),
            [high, low, body @ ..] => {
                short(usize::from(u16::from_be_bytes([*high, *low])), body.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_ends_at_a_zero_length_and_names_a_cut() {
        let mut file = vec![0, 1, b'x', 0, 2, b'y', b'z', 0, 0, 0xff];
        let frames: Vec<_> = Framed::new(&file).map(Result::unwrap).collect();
        assert_eq!(frames, [&b"x"[..], b"yz"]);
        file.truncate(6);
        let last = Framed::new(&file).last().unwrap();
        assert_eq!(
            last,
            Err(WireError::Length { what: "length-prefixed ITCH frame", need: 2, got: 1 })
        );
    }

    #[test]
    fn the_order_path_has_the_specified_offsets() {
        let add = AddOrder {
            stock_locate: 1,
            tracking_number: 2,
            timestamp: Time48::new(3).unwrap(),
            order_ref: 4,
            side: Side::Buy,
            shares: 5,
            stock: Symbol::new("AAPL").unwrap(),
            price: Price(6),
        };
        let bytes = add.to_bytes();
        assert_eq!((bytes[0], bytes[19], &bytes[24..32]), (b'A', b'B', &b"AAPL    "[..]));
        assert_eq!((bytes[18], bytes[23], bytes[35]), (4, 5, 6));
        assert_eq!(timestamp_of(&bytes), Time48::new(3));
    }

    #[test]
    fn a_message_with_bytes_left_over_is_refused() {
        let bytes = [b'D'; OrderDelete::LEN + 1];
        assert!(matches!(
            Message::decode(&bytes),
            Err(WireError::Length { need: 19, got: 20, .. })
        ));
    }
}
