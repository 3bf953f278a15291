//! The deterministic core: bytes, state and a time stamp in; bytes to send out. No I/O, no clock,
//! no thread, no log, and no allocation after construction.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

/// Two feed lines and a request server become one sequence without holes.
pub mod arbiter;
/// The best bids and offers as the strategy last saw them.
pub mod bbo_changes;
/// One instrument's price levels.
pub mod book;
/// Counters and events of the core; the rim shows them to the host.
pub mod counters;
/// The price levels of one side, in the order of their prices.
mod ladder;
/// Every limit with its reason.
pub mod limits;
/// The reference strategy: a market maker that joins the touch.
pub mod maker;
/// All books, fed by ITCH.
pub mod market;
/// Order entry: intents become OUCH messages, answers become orders and positions.
pub mod order_entry;
/// The states of an order of ours, and the table of its moves.
pub mod order_state;
/// Orders resting in all books, found by reference number.
mod order_table;
/// Our own orders and positions.
pub mod orders;
/// Everything put together: inputs in, effects out.
pub mod pipeline;
/// Pre-trade risk checks that every order must pass before it is sent.
pub mod risk;
/// Settings of the core, given at construction.
pub mod settings;
/// The SoupBinTCP client: login, heartbeats, resume.
pub mod soup_session;
/// Strategy interface: the view of the market and the intents.
pub mod strategy;
/// The other reference strategy: a taker on book imbalance.
pub mod taker;
/// Trading status of an instrument from the feed, beside its book.
pub mod trading_status;
