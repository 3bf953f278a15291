//! A FIX 4.4 drop copy: every answer of the exchange to the engine's orders, as Execution Reports
//! for one counterparty. Reads the engine's journal and never speaks to the engine.

/// Messages as bytes: `tag=value` fields, body length, checksum.
pub mod fix;
/// OUCH answers become Execution Reports.
pub mod reports;
/// The FIX session of an acceptor: logon, sequence numbers, resends, heartbeats.
pub mod session;
/// Append-only log of sent reports and sequence numbers, on disk before they are sent.
pub mod store;
