//! Journal segments and records: what the engine heard and what it said, in the order it did.
//!
//! A journal is a ring of preallocated files of equal size, `00000000.qcj` and up. Integers are
//! little-endian. A file starts with one block of header; then come batches, each a whole number of
//! blocks, each written once:
//!
//! ```text
//! block 0   0       8         12           16             24         32                36
//!           ┌───────┬─────────┬────────────┬──────────────┬──────────┬─────────────────┬────────
//!           │ MAGIC │ VERSION │ BLOCK_LEN  │ segment (u64)│ run (u64)│ crc32c of 0..32 │ zeroes
//!           └───────┴─────────┴────────────┴──────────────┴──────────┴─────────────────┴────────
//! record    0        4        8           12    13       16          24          32
//!           ┌────────┬────────┬───────────┬─────┬────────┬───────────┬───────────┬──────────┐
//!           │ crc32c │ length │ mark      │kind │ zeroes │ sequence  │ time (ns) │ payload  │
//!           └────────┴────────┴───────────┴─────┴────────┴───────────┴───────────┴──────────┘
//!           length: bytes of the payload; the crc covers byte 4 to its end; records start on
//!           multiples of 8; a Pad record, or fewer than 32 bytes, fills a batch to its last block
//! ```
//! Sequence numbers run on over segments. The mark is made of segment and run, so that neither a
//! record left from the ring's last round nor one of a run that crashed before its header was on
//! disk can be taken for one of this run.

/// The files in their directory: listing them, following them.
pub mod files;
/// Session stream: the order-entry byte stream of the journal, cut into SoupBinTCP packets.
pub mod session_stream;

use crate::checksum::crc32c;
use crate::wire::Field;
use thiserror::Error;

/// The first bytes of a segment.
pub const MAGIC: [u8; 8] = *b"QCJOURN\0";
/// The version of the layout.
pub const VERSION: u32 = 2;
/// Batches start on multiples of this: a block of O_DIRECT on every disk in use.
pub const BLOCK_LEN: usize = 4096;
/// Bytes of a record before its payload.
pub const RECORD_HEAD_LEN: usize = 32;
/// The longest payload: one datagram or one read of the order-entry stream.
pub const PAYLOAD_LEN_MAX: usize = 16 * 1024;
/// Records start on multiples of this.
pub const RECORD_ALIGN: usize = 8;

const _: () = assert!(BLOCK_LEN.is_multiple_of(RECORD_ALIGN));

code! {
    /// Kind of a record. Inputs are below 64, outputs from 64 on.
    Kind {
        /// A run starts: the configuration's text.
        RunStarted = 1,
        /// A datagram from feed line A.
        FeedA = 2,
        /// A datagram from feed line B.
        FeedB = 3,
        /// A datagram from the request server.
        FeedReplayed = 4,
        /// Bytes from the order-entry connection.
        SessionBytes = 5,
        /// The order-entry connection stands.
        SessionConnected = 6,
        /// The order-entry connection is gone.
        SessionLost = 7,
        /// The timer ticked.
        Tick = 8,
        /// The control page changed: one byte, `control::Orders::to_bits`.
        Control = 9,
        /// Other risk limits: their words, little-endian.
        Limits = 10,
        /// Recovery from earlier runs: see [`Recovery`].
        Recovered = 11,
        /// The connection to the snapshot server stands.
        SnapshotConnected = 12,
        /// Bytes from the snapshot server.
        SnapshotBytes = 13,
        /// The connection to the snapshot server is gone.
        SnapshotLost = 14,
        /// Bytes sent to the order-entry connection.
        SessionSent = 64,
        /// A re-request sent to the request server.
        FeedRequested = 65,
        /// Risk refused an order: see [`Refused`].
        RiskRefused = 66,
        /// Trading was stopped: one byte, a [`StopReason`].
        Stopped = 67,
        /// When an order went through the engine: see [`Timing`]. Not an output of the core.
        Timing = 68,
        /// Progress of the run, repeated in each segment: see [`Recovery`]. Not an output of the
        /// core.
        Context = 69,
        /// Bytes sent to the snapshot server.
        SnapshotSent = 70,
        /// Nothing: the rest of the batch.
        Pad = 255,
    }
}

code! {
    /// Why risk did not let an order out.
    Refusal {
        /// The instrument is on the restricted list.
        Restricted = 1,
        /// The exchange does not trade the instrument.
        Halted = 2,
        /// A message about the instrument could not be applied to its book.
        Unsound = 3,
        /// The feed was silent for longer than `feed_age_max_ns`.
        Stale = 4,
        /// No shares, or more than `order_shares_max`.
        Shares = 5,
        /// No multiple of `lot_shares`.
        Lot = 6,
        /// No whole number of cents at a dollar or more (Reg NMS rule 612).
        Tick = 7,
        /// Price times shares above `order_notional_max`.
        Notional = 8,
        /// No best bid or offer to compare the price with, or they are crossed.
        NoReference = 9,
        /// Further from the middle than `price_collar_bps`.
        Collar = 10,
        /// Self-trade: the order would trade with an order of ours.
        SelfTrade = 11,
        /// A short sale at or below the best bid under a price-test restriction (Reg SHO rule 201).
        ShortSale = 12,
        /// The same order was sent less than `duplicate_window_ns` ago.
        Duplicate = 13,
        /// The position with all working orders would pass `position_shares_max`.
        Position = 14,
        /// `orders_open_max` orders are open.
        OpenOrders = 15,
        /// All positions and working orders would pass `gross_notional_max`.
        Gross = 16,
        /// The net of all positions would pass `net_notional_max`.
        Net = 17,
        /// More messages than `messages_per_second_max`.
        Rate = 18,
    }

    /// Why trading was stopped.
    StopReason {
        /// The exchange refused `rejects_in_a_row_max` orders in a row.
        Rejects = 1,
        /// The loss reached `loss_max`.
        Loss = 2,
        /// The exchange executed or broke a trade of which nothing is known here: the position is
        /// not certain.
        TradeUnknown = 3,
        /// The journal can't be written.
        Journal = 4,
        /// The agent gave no sign of life for longer than the configuration allows.
        AgentSilent = 5,
        /// The exchange has fewer messages in the session than the journal.
        ExchangeForgot = 6,
        /// The kill switch of an earlier run, which nobody has lifted.
        Killed = 7,
    }
}

/// A refused order in a `RiskRefused` record: little-endian, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Reason for the refusal.
    pub reason: Refusal,
    /// `B` or `S`.
    pub side: u8,
    /// The instrument's number in the configuration.
    pub instrument: u16,
    /// Shares of the refused order.
    pub shares: u32,
    /// Price in 1/10,000.
    pub price: u32,
    /// The order that was to be replaced, 0 for a new one.
    pub replaces: u32,
}

impl Refused {
    /// Bytes of the record's payload.
    pub const LEN: usize = 16;

    /// Returns the record's payload, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        (out[0], out[1]) = (self.reason as u8, self.side);
        out[2..4].copy_from_slice(&self.instrument.to_le_bytes());
        for (at, word) in [(4, self.shares), (8, self.price), (12, self.replaces)] {
            out[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Reads a payload; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Some(Self {
            reason: Refusal::get(&bytes[..1])?,
            side: bytes[1],
            instrument: u16::from_le_bytes([bytes[2], bytes[3]]),
            shares: word(4),
            price: word(8),
            replaces: word(12),
        })
    }
}

/// Order-entry session, message count and highest UserRefNum that a run found in the journal of
/// earlier runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The order-entry session that the journal speaks of; blank for none.
    pub session: [u8; 10],
    /// Sequenced messages of it that were recorded.
    pub messages: u64,
    /// The highest UserRefNum that was recorded as sent; 0 for none.
    pub user_ref_max: u32,
    /// Reason for which trading was stopped, if nobody has resumed it.
    pub stopped: Option<StopReason>,
}

impl Recovery {
    /// Bytes of the record's payload: session, messages, user_ref_max, little-endian; the stop
    /// reason, 0 for none.
    pub const LEN: usize = 23;
    /// The same without the stop reason, as version 0.1.0 wrote it at first.
    const LEN_WITHOUT_STOP: usize = 22;

    /// Returns the record's payload, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..10].copy_from_slice(&self.session);
        out[10..18].copy_from_slice(&self.messages.to_le_bytes());
        out[18..22].copy_from_slice(&self.user_ref_max.to_le_bytes());
        out[22] = self.stopped.map_or(0, |reason| reason as u8);
        out
    }

    /// Reads a payload; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if ![Self::LEN, Self::LEN_WITHOUT_STOP].contains(&bytes.len()) {
            return None;
        }
        Some(Self {
            stopped: bytes.get(22..).and_then(StopReason::get),
            session: *bytes.first_chunk()?,
            messages: u64::from_le_bytes(*bytes[10..].first_chunk()?),
            user_ref_max: u32::from_le_bytes(*bytes[18..].first_chunk()?),
        })
    }
}

/// When an order that followed from a datagram went through the engine: nanoseconds, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the kernel's receive time stamp to the loop's clock; 0 if there was no stamp.
    pub wire_to_loop_ns: u64,
    /// From the loop's clock to the order given to the kernel.
    pub loop_to_send_ns: u64,
}

impl Timing {
    /// Bytes of the record's payload.
    pub const LEN: usize = 16;

    /// Returns the record's payload, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.wire_to_loop_ns.to_le_bytes());
        out[8..].copy_from_slice(&self.loop_to_send_ns.to_le_bytes());
        out
    }

    /// Reads a payload; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let word = |at: usize| bytes[at..].first_chunk().map(|word| u64::from_le_bytes(*word));
        Some(Self { wire_to_loop_ns: word(0)?, loop_to_send_ns: word(8)? })
    }
}

/// Journal record: kind, sequence number, time and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Kind of the record.
    pub kind: Kind,
    /// Its place in the journal; runs on over segments.
    pub sequence: u64,
    /// When it was made: nanoseconds of `CLOCK_REALTIME`.
    pub time_ns: u64,
    /// Payload in the layout of the kind.
    pub payload: &'a [u8],
}

/// Why a segment can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JournalError {
    /// The file does not start as a segment does.
    #[error("not a journal segment: {0}")]
    Header(&'static str),
    /// A record's checksum does not fit its bytes.
    #[error(
        "record at byte {offset}: checksum does not fit; the file was changed or a write was torn"
    )]
    Checksum {
        /// Where the record starts.
        offset: usize,
    },
    /// A record's length or kind can't be.
    #[error("record at byte {offset}: {what}")]
    Malformed {
        /// Where the record starts.
        offset: usize,
        /// Error in the length or the kind.
        what: &'static str,
    },
}

/// Header of a segment file: its number and its run. Ordered by age: a number that was used twice,
/// because the first run crashed before anything of it was on disk, is older by its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// Its number: one more than the last one's.
    pub segment: u64,
    /// The run that wrote it, by its start: nanoseconds of `CLOCK_REALTIME`.
    pub run: u64,
}

impl Header {
    /// Returns the mark that every record of the segment carries, made of segment and run.
    pub fn mark(&self) -> u32 {
        let run = self.run ^ self.run >> 32;
        // Knuth's multiplier keeps neighbouring segments of one run apart from those of another.
        (self.segment as u32).wrapping_mul(0x9e37_79b1) ^ run as u32
    }

    /// The header block.
    pub fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&(BLOCK_LEN as u32).to_le_bytes());
        block[16..24].copy_from_slice(&self.segment.to_le_bytes());
        block[24..32].copy_from_slice(&self.run.to_le_bytes());
        let crc = crc32c(&block[..32]);
        block[32..36].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads a header block.
    ///
    /// # Errors
    /// [`JournalError::Header`] says what does not fit.
    pub fn decode(block: &[u8]) -> Result<Self, JournalError> {
        let short = JournalError::Header("shorter than its header");
        let head = block.first_chunk::<36>().ok_or(short)?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if head[..8] != MAGIC {
            return Err(JournalError::Header("wrong magic"));
        }
        if word(8) != VERSION || word(12) != BLOCK_LEN as u32 {
            return Err(JournalError::Header("another version of the layout"));
        }
        if word(32) != crc32c(&head[..32]) {
            return Err(JournalError::Header("checksum of the header does not fit"));
        }
        Ok(Self { segment: long(16), run: long(24) })
    }
}

/// Bytes that a record with such a payload takes.
#[inline]
pub fn record_len(payload_len: usize) -> usize {
    (RECORD_HEAD_LEN + payload_len).next_multiple_of(RECORD_ALIGN)
}

/// Writes a record at the start of `out`; returns [`record_len`] of its payload.
///
/// # Panics
/// If `out` is shorter than that, or the payload longer than [`PAYLOAD_LEN_MAX`].
#[inline]
pub fn encode_record(record: &Record<'_>, mark: u32, out: &mut [u8]) -> usize {
    assert!(record.payload.len() <= PAYLOAD_LEN_MAX, "payload of {} bytes", record.payload.len());
    let end = RECORD_HEAD_LEN + record.payload.len();
    let total = record_len(record.payload.len());
    let out = &mut out[..total];
    let (head, rest) = out.split_at_mut(RECORD_HEAD_LEN);
    let words = [
        u64::from(record.payload.len() as u32) << 32,
        u64::from(mark) | u64::from(record.kind as u8) << 32,
        record.sequence,
        record.time_ns,
    ];
    for (place, word) in head.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    // The padding is in the last word.
    if let Some(last) = rest.last_chunk_mut::<RECORD_ALIGN>() {
        *last = [0; RECORD_ALIGN];
    }
    rest[..record.payload.len()].copy_from_slice(record.payload);
    let crc = crc32c(&out[4..end]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    total
}

/// Fills the rest of a batch with a Pad record, so that it ends with a block.
pub fn encode_pad(rest: &mut [u8], mark: u32) {
    rest.fill(0);
    if rest.len() >= RECORD_HEAD_LEN {
        let length = (rest.len() - RECORD_HEAD_LEN) as u32;
        rest[4..8].copy_from_slice(&length.to_le_bytes());
        rest[8..12].copy_from_slice(&mark.to_le_bytes());
        rest[12] = Kind::Pad as u8;
        let crc = crc32c(&rest[4..]);
        rest[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads a segment's records; ends where its written part ends.
pub struct Segment<'a> {
    bytes: &'a [u8],
    mark: u32,
    offset: usize,
}

impl<'a> Segment<'a> {
    /// Starts behind the header of a segment file.
    ///
    /// # Errors
    /// [`JournalError::Header`] if it is none.
    pub fn open(bytes: &'a [u8]) -> Result<Self, JournalError> {
        Ok(Self::of(Header::decode(bytes)?, bytes, BLOCK_LEN))
    }

    /// Reads the records of a segment's part, from `offset` on.
    pub fn of(header: Header, bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, mark: header.mark(), offset }
    }

    /// Where the next record would be.
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn step(&mut self) -> Result<Option<Record<'a>>, JournalError> {
        let offset = self.offset;
        let malformed = |what| JournalError::Malformed { offset, what };
        let Some(head) = self.bytes[offset..].first_chunk::<RECORD_HEAD_LEN>() else {
            self.offset = self.bytes.len();
            return Ok(None);
        };
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (crc, length, mark) = (word(0), word(4) as usize, word(8));
        if (crc, length, head[12]) == (0, 0, 0) || mark != self.mark {
            self.offset = self.bytes.len();
            return Ok(None);
        }
        if length > PAYLOAD_LEN_MAX {
            return Err(malformed("longer than any record"));
        }
        let end = offset + RECORD_HEAD_LEN + length;
        let body = self.bytes.get(offset + 4..end).ok_or(malformed("runs past the file's end"))?;
        if crc32c(body) != crc {
            return Err(JournalError::Checksum { offset });
        }
        let kind =
            Kind::get(&head[12..13]).ok_or(malformed("a kind that this version does not have"))?;
        self.offset = offset + record_len(length);
        let left_in_block = self.offset.next_multiple_of(BLOCK_LEN) - self.offset;
        if left_in_block < RECORD_HEAD_LEN {
            self.offset += left_in_block;
        }
        let payload = &body[RECORD_HEAD_LEN - 4..];
        Ok(Some(Record { kind, sequence: long(16), time_ns: long(24), payload }))
    }
}

impl<'a> Iterator for Segment<'a> {
    type Item = Result<Record<'a>, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.offset < self.bytes.len() {
            match self.step() {
                Ok(Some(record)) if record.kind == Kind::Pad => {}
                Ok(record) => return record.map(Ok),
                Err(error) => {
                    self.offset = self.bytes.len();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
