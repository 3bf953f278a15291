//! Bytes and schemas that two parties must agree on. No sockets, no policy, no program's
//! configuration.
#![warn(missing_docs)]

/// Macros to declare a fixed layout once and to encode, decode and size-check it from that
/// declaration.
#[macro_use]
pub mod wire;
/// Signed payloads in envelopes (DSSE).
pub mod dsse;
/// Field types of the exchange protocols: alpha, prices, time stamps, sides.
pub mod field;
/// GLIMPSE 5.0: the state of all books, for who has missed too much.
pub mod glimpse;
/// NASDAQ TotalView-ITCH 5.0: the market-data messages.
pub mod itch;
/// MoldUDP64 1.00: the datagrams that carry ITCH, and the re-request.
pub mod mold;
/// NASDAQ OUCH 5.0: the order-entry messages and their appendages.
pub mod ouch;
/// SoupBinTCP 3.00: the session that carries OUCH.
pub mod soup;

/// The journal's checksum.
pub mod checksum;
/// The control page: what the agent tells a running engine.
pub mod control;
/// The counters page: what a running engine tells the host.
pub mod counters;
/// The partition table of a disk image.
pub mod gpt;
/// The buckets of a histogram of times.
pub mod histogram;
/// Host configuration: name, networks, cores, clock servers, release key and CA certificates.
pub mod hostconfig;
/// The host plan: which cores are hot, and how a host says so.
pub mod hostplan;
/// Journal segments and records.
pub mod journal;
/// Shared pages as arrays of atomic words.
pub mod page;
/// A release of the operating system.
pub mod release;
/// Where the pages of an engine and its shards lie.
pub mod shards;
