//! GLIMPSE 5.0: the state of all books as ITCH 5.0 messages, over SoupBinTCP. No sockets, no books.
//!
//! Source: "GLIMPSE 5.0", NASDAQ. After the login the server sends, as sequenced messages, what is
//! in force: Stock Directory, Stock Trading Action, Reg SHO, … and an Add Order for every resting
//! order; then this one, and closes the session.

use crate::field::Alpha;

layout! {
    /// End of Snapshot: `sequence` is the MoldUDP64 number of the first message that is not in it,
    /// decimal, right-justified.
    EndOfSnapshot = b'G', 21 { sequence: Alpha<20> }
}
