//! OUCH 5.0, exchange to client: every message. Time stamps are nanoseconds since midnight.

use super::appendage::{self, Appendage, Element};
use super::{Capacity, CrossType, Display, OrderState, Price, Side, TimeInForce, UserRefNum};
use crate::field::{Alpha, Symbol};
use crate::wire::WireError;

layout! {
    /// System Event: `S` start of day, `E` end of day.
    SystemEvent = b'S', 10 { timestamp: u64, event_code: u8 }

    /// Order Accepted: the answer to Enter Order.
    Accepted = b'A', 62 {
        timestamp: u64, user_ref_num: UserRefNum, side: Side, quantity: u32, symbol: Symbol,
        price: Price, time_in_force: TimeInForce, display: Display, order_ref: u64,
        capacity: Capacity, intermarket_sweep: u8, cross_type: CrossType,
        order_state: OrderState, cl_ord_id: Alpha<14>,
    }

    /// Order Replaced: the answer to Replace Order.
    Replaced = b'U', 66 {
        timestamp: u64, orig_user_ref_num: UserRefNum, user_ref_num: UserRefNum, side: Side,
        quantity: u32, symbol: Symbol, price: Price, time_in_force: TimeInForce,
        display: Display, order_ref: u64, capacity: Capacity, intermarket_sweep: u8,
        cross_type: CrossType, order_state: OrderState, cl_ord_id: Alpha<14>,
    }

    /// Order Canceled: `quantity` shares are gone from the order.
    Canceled = b'C', 18 { timestamp: u64, user_ref_num: UserRefNum, quantity: u32, reason: u8 }

    /// Cancelled, or reduced, because it would have traded with the firm's own order.
    AiqCanceled = b'D', 32 {
        timestamp: u64, user_ref_num: UserRefNum, decrement_shares: u32, reason: u8,
        quantity_prevented: u32, execution_price: Price, liquidity_flag: u8, aiq_strategy: u8,
    }

    /// Order Executed: `quantity` shares traded at `price`.
    Executed = b'E', 34 {
        timestamp: u64, user_ref_num: UserRefNum, quantity: u32, price: Price,
        liquidity_flag: u8, match_number: u64,
    }

    /// Broken Trade: the trade `match_number` was broken.
    BrokenTrade = b'B', 36 {
        timestamp: u64, user_ref_num: UserRefNum, match_number: u64, reason: u8,
        cl_ord_id: Alpha<14>,
    }

    /// Rejected; see [`super::reject`].
    Rejected = b'J', 29 {
        timestamp: u64, user_ref_num: UserRefNum, reason: u16, cl_ord_id: Alpha<14>,
    }

    /// Cancel Pending: the order is in a cross and will be cancelled after it.
    CancelPending = b'P', 13 { timestamp: u64, user_ref_num: UserRefNum }

    /// Cancel Reject: the order can't be cancelled now.
    CancelReject = b'I', 13 { timestamp: u64, user_ref_num: UserRefNum }

    /// Order Priority Update.
    PriorityUpdate = b'T', 30 {
        timestamp: u64, user_ref_num: UserRefNum, price: Price, display: Display, order_ref: u64,
    }

    /// Order Modified: the answer to Modify Order.
    Modified = b'M', 18 { timestamp: u64, user_ref_num: UserRefNum, side: Side, quantity: u32 }

    /// Order Restated: reserve refresh or a new displayed price.
    Restated = b'R', 14 { timestamp: u64, user_ref_num: UserRefNum, reason: u8 }

    /// Mass Cancel Response.
    MassCancelResponse = b'X', 25 {
        timestamp: u64, user_ref_num: UserRefNum, firm: Alpha<4>, symbol: Symbol,
    }

    /// Disable Order Entry Response.
    DisableResponse = b'G', 17 { timestamp: u64, user_ref_num: UserRefNum, firm: Alpha<4> }

    /// Enable Order Entry Response.
    EnableResponse = b'K', 17 { timestamp: u64, user_ref_num: UserRefNum, firm: Alpha<4> }

    /// Account Query Response.
    AccountQueryResponse = b'Q', 13 { timestamp: u64, next_user_ref_num: UserRefNum }
}

messages! {
    /// Any message from exchange to client.
    Message, "OUCH 5.0 outbound":
    SystemEvent, Accepted, Replaced, Canceled, AiqCanceled, Executed, BrokenTrade, Rejected,
    CancelPending, CancelReject, PriorityUpdate, Modified, Restated, MassCancelResponse,
    DisableResponse, EnableResponse, AccountQueryResponse,
}

impl Message {
    /// Reads one whole message with its appendage. A System Event has none, and may not carry any.
    ///
    /// # Errors
    /// [`WireError`] names the message and what is wrong with it.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<(Self, Appendage<'_>), WireError> {
        let message = Self::decode_prefix(bytes)?;
        let rest = &bytes[message.encoded_len()..];
        if matches!(message, Self::SystemEvent(_)) && !rest.is_empty() {
            let need = SystemEvent::LEN;
            return Err(WireError::Length { what: "OUCH System Event", need, got: bytes.len() });
        }
        Ok((message, Appendage::decode(rest)?))
    }

    /// Appends the message with an appendage, which is written even if it is empty.
    ///
    /// # Panics
    /// If a System Event is given elements.
    pub fn encode_with(&self, elements: &[Element<'_>], out: &mut Vec<u8>) {
        self.encode_to(out);
        if matches!(self, Self::SystemEvent(_)) {
            assert!(elements.is_empty(), "a System Event has no appendage");
            return;
        }
        appendage::encode_to(elements, out);
    }
}
