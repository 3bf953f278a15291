//! OUCH 5.0, client to exchange: every message.

use super::appendage::{self, Appendage, Element};
use super::{Capacity, CrossType, Display, Price, Side, TimeInForce, UserRefNum};
use crate::field::{Alpha, Symbol};
use crate::wire::WireError;

layout! {
    /// Enter Order: a new order.
    EnterOrder = b'O', 45 {
        user_ref_num: UserRefNum, side: Side, quantity: u32, symbol: Symbol, price: Price,
        time_in_force: TimeInForce, display: Display, capacity: Capacity,
        intermarket_sweep: u8, cross_type: CrossType, cl_ord_id: Alpha<14>,
    }

    /// Replace Order: the new order takes the rest of the old one's quantity into account.
    ReplaceOrder = b'U', 38 {
        orig_user_ref_num: UserRefNum, user_ref_num: UserRefNum, quantity: u32, price: Price,
        time_in_force: TimeInForce, display: Display, intermarket_sweep: u8,
        cl_ord_id: Alpha<14>,
    }

    /// Cancel Order: `quantity` is what is to be left, 0 for nothing.
    CancelOrder = b'X', 9 { user_ref_num: UserRefNum, quantity: u32 }

    /// Modify Order: side (among the sell sides) or a smaller quantity, without losing priority.
    ModifyOrder = b'M', 10 { user_ref_num: UserRefNum, side: Side, quantity: u32 }

    /// Mass Cancel by firm and symbol.
    MassCancel = b'C', 17 { user_ref_num: UserRefNum, firm: Alpha<4>, symbol: Symbol }

    /// Disable Order Entry for a firm.
    DisableOrderEntry = b'D', 9 { user_ref_num: UserRefNum, firm: Alpha<4> }

    /// Enable Order Entry for a firm.
    EnableOrderEntry = b'E', 9 { user_ref_num: UserRefNum, firm: Alpha<4> }

    /// Account Query: which user reference number comes next?
    AccountQuery = b'Q', 1 {}
}

messages! {
    /// Any message from client to exchange.
    Message, "OUCH 5.0 inbound":
    EnterOrder, ReplaceOrder, CancelOrder, ModifyOrder, MassCancel, DisableOrderEntry,
    EnableOrderEntry, AccountQuery,
}

impl Message {
    /// Reads one whole message with its appendage.
    ///
    /// # Errors
    /// [`WireError`] names the message and what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Appendage<'_>), WireError> {
        let message = Self::decode_prefix(bytes)?;
        let appendage = Appendage::decode(&bytes[message.encoded_len()..])?;
        Ok((message, appendage))
    }

    /// Appends the message with an appendage, which is written even if it is empty.
    pub fn encode_with(&self, elements: &[Element<'_>], out: &mut Vec<u8>) {
        self.encode_to(out);
        appendage::encode_to(elements, out);
    }
}
