//! Fixed capacities of the core with their reasons. Risk limits are `settings::RiskLimits`;
//! capacities that a host can choose stand in `settings` too.

/// Instruments one hot thread trades: all that one US exchange lists.
pub const INSTRUMENTS_MAX: usize = 12_288;

/// Our own orders that can still trade. A slot is found by the low bits of its UserRefNum.
pub const OWN_ORDERS_MAX: usize = 4096;

/// Orders the books hold at most if the configuration allows it: 32-bit handles, one value spare.
pub const BOOK_ORDERS_MAX: usize = 1 << 28;

/// Prices on one side of one instrument that the configuration can allow. AAPL on a busy day shows
/// 600.
pub const LEVELS_MAX: usize = 1 << 16;

/// Datagrams held back while an earlier one is missing: 64 × 1.5 KB stay in the L2 cache and cover
/// the reordering that two lines of one switch produce; a longer gap is the request server's.
pub const HELD_PACKETS_MAX: usize = 64;

/// Executions kept in case that the exchange breaks one: a day of a desk's thread.
pub const EXECUTIONS_KEPT: usize = 1 << 16;

/// Intents that a strategy may raise in one call: two sides of eight instruments.
pub const INTENTS_MAX: usize = 16;

/// Bytes to the exchange that one input may cause: a cancel (14 B) for every own order on a kill.
pub const OUTBOX_LEN: usize = OWN_ORDERS_MAX * 16;

/// Bytes of the order-entry stream kept while a packet is incomplete.
pub const STREAM_LEN: usize = 128 * 1024;

/// Refused intents that one input may report: all of one call for each instrument of a datagram.
pub const REFUSALS_MAX: usize = 1024;

/// Events that one input may raise.
pub const EVENTS_MAX: usize = 16;

/// Orders a second that the rate limit can be set to: above it, an exchange port is throttled
/// anyway.
pub const ORDER_RATE_MAX: u32 = 1_000_000;

const _: () = assert!(OWN_ORDERS_MAX.is_power_of_two(), "slots are found by masking");
const _: () = assert!(STREAM_LEN > abi::soup::PAYLOAD_LEN_MAX + 3, "one whole packet must fit");
