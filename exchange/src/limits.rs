//! Every limit of the exchange with its reason.

/// Messages of one session kept for re-requests: 4 million of 36 bytes are 150 MB, 11 hours at 100
/// a second. The session ends when they are used up.
pub const MESSAGES_MAX: usize = 4_000_000;

/// Background orders resting in one book: deep enough to look like a market, small enough to walk.
pub const BACKGROUND_ORDERS_MAX: usize = 2_000;

/// Own orders of one account that can trade.
pub const ACCOUNT_ORDERS_MAX: usize = 10_000;

/// Sequenced messages of one account kept for resumption, 60 bytes each.
pub const ACCOUNT_MESSAGES_MAX: usize = 2_000_000;

/// Messages re-sent for one request: the reply is at most this many datagrams, so that one lost
/// client can't occupy the server; it asks again for the rest.
pub const REPLAY_DATAGRAMS_MAX: usize = 16;

/// Pieces of output waiting for a client that does not read; when there are so many, it is
/// disconnected.
pub const CONNECTION_CHUNKS_MAX: usize = 4_096;

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 64;
