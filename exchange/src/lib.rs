//! The exchange that the engine is tested against: matching, market data, order entry, replay of
//! real captures. Shares the wire formats with the engine and nothing else, so that it has none of
//! its bugs.
#![forbid(unsafe_code)]

/// Seeded loss, duplication and reordering of datagrams.
pub mod faults;
/// Every limit with its reason.
pub mod limits;
/// Market trait with its orders and events, whichever kind the market is.
pub mod market;
/// Price-time matching: one book per symbol.
pub mod matching;
/// Order entry: OUCH 5.0 messages become orders, fills become OUCH answers.
pub mod order_entry;
/// The session's messages by sequence number, and the datagrams made of them.
pub mod publisher;
/// A recorded day, with our own orders matched against it.
pub mod recorded_market;
/// Sockets and the clock around the rest.
pub mod server;
/// The snapshot server.
pub mod snapshot_server;
/// One SoupBinTCP account: its sequenced messages and its logins.
pub mod soup_account;
/// The model of background order flow.
pub mod synthetic_market;
