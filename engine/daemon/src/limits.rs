//! Every limit of the rim with its reason.

/// Submission queue entries: receives, sends and journal batches of one turn, with room to spare.
pub const RING_ENTRIES: u32 = 256;

/// Idle time after which the kernel's submitting thread sleeps and has to be woken by a system
/// call, in milliseconds: ten of the session's heartbeats.
pub const SQPOLL_IDLE_MS: u32 = 10_000;

/// Completions: one per datagram that can arrive while one turn runs.
pub const COMPLETIONS: u32 = 4096;

/// Completions handled in one turn, so that a burst cannot keep the timer and the sends waiting.
pub const COMPLETIONS_PER_TURN: usize = 64;

/// Receive buffers that the kernel picks from: a burst of 1,024 datagrams in one turn is dropped
/// last.
pub const BUFFERS: u16 = 1024;

/// Bytes of a receive buffer: one datagram of an Ethernet MTU, and a power of two.
pub const BUFFER_LEN: usize = 2048;

/// Bytes of the journal's memory: two seconds of a 2 MB/s feed while a disk stalls.
pub const JOURNAL_MEMORY: usize = 4 << 20;

/// Journal writes under way: a batch each, completed in any order. As many as the journal's memory
/// has blocks: 400 ms of 2,500 orders a second, each with a write of its own, while a disk stalls.
pub const JOURNAL_WRITES_MAX: usize = JOURNAL_MEMORY / abi::journal::BLOCK_LEN;

/// Of these, kept for what is recorded without asking for room: a lost connection, the kill switch.
pub const JOURNAL_WRITES_RESERVE: usize = 64;

/// Room in the journal's memory without which no input is taken: the longest input and the most
/// that the core can say to it.
pub const JOURNAL_RESERVE: usize = 256 << 10;

/// Bytes waiting for the order-entry connection: two outboxes of the core.
pub const SEND_BUFFER: usize = 2 * engine_core::limits::OUTBOX_LEN;

/// The timer: fine enough for heartbeats and gap retries, coarse enough to cost nothing.
pub const TICK_INTERVAL_NS: u64 = 10_000_000;

/// Between two attempts to reach the exchange.
pub const RECONNECT_INTERVAL_NS: u64 = 1_000_000_000;

/// Socket receive buffer asked for: 8 MiB hold 5,000 datagrams while the thread starts.
pub const RECEIVE_BUFFER: usize = 8 << 20;

/// HotBuffers in huge pages: receive buffers and their ring, send buffers, journal.
pub const ARENA_LEN: usize = 8 << 20;

const _: () = assert!(BUFFERS.is_power_of_two(), "the buffer ring is indexed by masking");
/// Bytes before a datagram in its buffer: the kernel's header and one control message.
pub const DATAGRAM_HEAD_LEN: usize = 16 + 64;

const _: () =
    assert!(BUFFER_LEN > abi::mold::DATAGRAM_LEN_MAX + DATAGRAM_HEAD_LEN, "a datagram must fit");
const _: () = assert!(
    BUFFERS as usize * (BUFFER_LEN + 16) + 2 * SEND_BUFFER + JOURNAL_MEMORY + 65536 <= ARENA_LEN,
    "everything must fit into the arena",
);
const _: () =
    assert!(JOURNAL_RESERVE > 2 * engine_core::limits::OUTBOX_LEN + abi::journal::PAYLOAD_LEN_MAX);
