//! The counters page: what a running engine tells the host. The engine writes; everyone else reads.
//!
//! ```text
//! word 0       64           192             448               704               1216
//! ┌────────────┬────────────┬───────────────┬─────────────────┬─────────────────┬────────
//! │ header     │ counters   │ tick-to-order │ 16 instruments  │ 256 events of   │ zeroes
//! │ magic, pid…│ one a word │ 256 buckets   │ of 16 words     │ 2 words         │
//! └────────────┴────────────┴───────────────┴─────────────────┴─────────────────┴────────
//! ```

use crate::field::{Price, Symbol};
use crate::page::{Page, PageError};
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

/// Says that the file is a counters page ("QCCNTR" and a version of the layout).
pub const MAGIC: u64 = u64::from_be_bytes(*b"QCCNTR\0\x01");
/// Words in the page: 16 KiB.
pub const PAGE_WORDS: usize = 2048;
/// Instruments that the page shows; an engine may trade more.
pub const INSTRUMENTS_SHOWN_MAX: usize = 16;
/// Buckets of the histogram: eight per power of two, up to 2^34 ns.
pub const BUCKETS: usize = 256;
/// Events kept in the ring. The agent reads it every second; the engine raises few a minute.
pub const EVENTS_KEPT: usize = 256;

/// An engine that is silent for longer is taken for dead; it gives a sign every 10 ms.
pub const SILENCE_MAX_NS: u64 = 5_000_000_000;

const COUNTERS_AT: usize = 64;
const HISTOGRAM_AT: usize = 192;
const INSTRUMENTS_AT: usize = 448;
const INSTRUMENT_WORDS: usize = 16;
const EVENTS_AT: usize = 704;
const _: () = assert!(Counter::COUNT <= HISTOGRAM_AT - COUNTERS_AT);
const _: () = assert!(HISTOGRAM_AT + BUCKETS <= INSTRUMENTS_AT);
const _: () = assert!(INSTRUMENTS_AT + INSTRUMENTS_SHOWN_MAX * INSTRUMENT_WORDS <= EVENTS_AT);
const _: () = assert!(EVENTS_AT + EVENTS_KEPT * 2 <= PAGE_WORDS);

macro_rules! counters {
    ($($name:ident = $id:literal, $metric:literal, $help:literal;)*) => {
        /// A number the engine keeps. The id is its place in the page and never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Counter { $( #[doc = $help] $name = $id, )* }

        impl Counter {
            /// Every counter, by id.
            pub const ALL: &[Counter] = &[$( Counter::$name ),*];
            /// Words that the counters take.
            pub const COUNT: usize = {
                let mut max = 0;
                $( if $id >= max { max = $id + 1; } )*
                max
            };
            /// The metric's name, without prefix. Names that end in `_total` only grow.
            pub fn metric(self) -> &'static str { match self { $( Self::$name => $metric, )* } }
            /// One sentence on what is counted.
            pub fn help(self) -> &'static str { match self { $( Self::$name => $help, )* } }
        }
    };
}

counters! {
    LoopWork = 0, "loop_work_total", "Turns of the hot loop that did work.";
    LoopIdle = 1, "loop_idle_total", "Turns of the hot loop that found nothing to do.";
    Syscalls = 2, "syscalls_total", "io_uring_enter calls made by the hot loop.";
    FeedPackets = 3, "feed_packets_total", "Market-data datagrams accepted, from either line or the request server.";
    FeedPacketsDuplicate = 4, "feed_packets_duplicate_total", "Datagrams whose messages had all been seen.";
    FeedPacketsMalformed = 5, "feed_packets_malformed_total", "Datagrams that are not MoldUDP64, of another session, or oversized.";
    FeedMessages = 6, "feed_messages_total", "ITCH messages applied, each once and in sequence.";
    FeedMessagesMalformed = 7, "feed_messages_malformed_total", "Messages in sequence that are not ITCH 5.0; they are skipped.";
    FeedGaps = 8, "feed_gaps_total", "Gaps found in the sequence after both lines were heard.";
    FeedRequests = 9, "feed_requests_total", "Re-requests sent to the request server.";
    FeedReordered = 10, "feed_packets_held_total", "Datagrams held back because an earlier one was missing.";
    FeedWindowFull = 11, "feed_packets_window_full_total", "Datagrams dropped because too many were held; the request server has them.";
    FeedSequence = 12, "feed_sequence_next", "The next feed sequence number expected.";
    BookUnknownOrder = 13, "book_unknown_order_total", "Messages that name an order the book does not hold.";
    BookRefused = 14, "book_refused_total", "Messages the book could not apply: table full, duplicate reference, more shares than there are.";
    BboChanges = 15, "bbo_changes", "Changes of a best bid or offer, in price or shares, since market hours started.";
    BboHash = 16, "bbo_hash", "FNV-1a over the best bids and offers that bbo_changes counts: equal hashes mean equal sequences.";
    BookOrders = 17, "book_orders", "Orders resting in all books.";
    OrdersSent = 18, "orders_sent_total", "New orders sent.";
    ReplacesSent = 19, "replaces_sent_total", "Replace requests sent.";
    CancelsSent = 20, "cancels_sent_total", "Cancel requests sent.";
    OrdersAccepted = 21, "orders_accepted_total", "Orders and replacements the exchange accepted.";
    OrdersRejected = 22, "orders_rejected_total", "Orders the exchange rejected.";
    OrdersCancelled = 23, "orders_cancelled_total", "Orders that ended by cancellation.";
    Executions = 24, "executions_total", "Executions received.";
    SharesFilled = 25, "shares_filled_total", "Shares bought and sold.";
    OrdersOpen = 26, "orders_open", "Orders that can still trade.";
    RiskRejected = 27, "risk_rejected_total", "Intents that pre-trade risk refused; nothing was sent for them.";
    SessionMessagesIn = 28, "session_messages_in_total", "OUCH messages received in sequence.";
    SessionMalformed = 29, "session_malformed_total", "Order-entry bytes that are not SoupBinTCP or OUCH; the session is reset.";
    SessionUnknownOrder = 30, "session_unknown_order_total", "OUCH messages about an order this engine never sent.";
    SessionConnects = 31, "session_connects_total", "Connections to the order-entry port that logged in.";
    SessionDisconnects = 32, "session_disconnects_total", "Order-entry connections lost.";
    SessionLoginRejected = 33, "session_login_rejected_total", "Logins that the exchange refused.";
    JournalRecords = 34, "journal_records_total", "Records written to the journal.";
    JournalBytes = 35, "journal_bytes_total", "Bytes submitted to the journal's files.";
    JournalDurable = 36, "journal_durable_sequence", "The last record known to be on disk.";
    JournalErrors = 37, "journal_errors_total", "Failed or short journal writes. Trading stops at the first.";
    JournalStalled = 38, "journal_stalled_total", "Times the journal's buffer was full. Nothing is sent meanwhile.";
    TradingAllowed = 39, "trading_allowed", "1 while the engine may send orders, else 0.";
    PnlTicks = 40, "pnl_ticks", "Profit and loss marked at the touch, in 1/10,000 of the currency, as two's complement.";
    Position = 41, "position_shares", "Net position over all instruments, in shares, as two's complement.";
    OutboxFull = 42, "outbox_full_total", "Intents dropped because bytes to the exchange were still waiting.";
    AdmissionRefused = 43, "orders_table_full_total", "Intents dropped because the order table was full.";
    LoopCyclesMax = 44, "loop_ns_max", "The longest turn of the hot loop, in nanoseconds.";
}

impl Counter {
    /// Whether the metric only grows.
    pub fn is_total(self) -> bool {
        self.metric().ends_with("_total")
    }

    /// Whether the word is a signed number.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::PnlTicks | Self::Position)
    }
}

macro_rules! words {
    ($($(#[$meta:meta])* $name:ident = $at:literal,)*) => {
        /// A word of the page's header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Word { $( $(#[$meta])* $name = $at, )* }
    };
}

words! {
    /// The engine's process id.
    Pid = 1,
    /// When it started: nanoseconds of `CLOCK_REALTIME`.
    Started = 2,
    /// The CPU of the hot thread.
    HotCpu = 3,
    /// See [`State`].
    State = 4,
    /// Nanoseconds of `CLOCK_MONOTONIC` at the last timer tick: the engine's heartbeat.
    Heartbeat = 5,
    /// Instruments shown.
    Instruments = 6,
    /// Events raised since the start.
    Events = 7,
    /// 1 if the machine is emulated, so that times say nothing about latency.
    Emulated = 8,
}

/// What the engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// Mapping memory, opening the journal.
    Starting = 0,
    /// Connecting, logging in, catching up with feed and session.
    Recovering = 1,
    /// Trading.
    Trading = 2,
    /// The control page says drain.
    Draining = 3,
    /// The kill switch is set.
    Killed = 4,
    /// Stopped by an error; the last event names it.
    Halted = 5,
}

impl State {
    /// The state as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Trading => "trading",
            Self::Draining => "draining",
            Self::Killed => "killed",
            Self::Halted => "halted",
        }
    }

    fn from_word(word: u64) -> Option<Self> {
        [
            Self::Starting,
            Self::Recovering,
            Self::Trading,
            Self::Draining,
            Self::Killed,
            Self::Halted,
        ]
        .into_iter()
        .find(|state| *state as u64 == word)
    }
}

code! {
    /// Something worth a line in the host's log. The hot thread only stores the number.
    Event {
        /// The order-entry session logged in.
        SessionUp = 1,
        /// The order-entry connection was lost; the value is the errno or 0.
        SessionDown = 2,
        /// The exchange refused the login; the value is its reason byte.
        LoginRejected = 3,
        /// A gap in the feed; the value is the first missing sequence number.
        FeedGap = 4,
        /// The feed is complete again; the value is the next sequence number.
        FeedWhole = 5,
        /// The feed's session ended; the value is the next sequence number.
        FeedEnded = 6,
        /// Trading may start; the value is the number of recovered session messages.
        TradingStarted = 7,
        /// Trading stopped; the value is the [`State`] it went to.
        TradingStopped = 8,
        /// A journal write failed; the value is the errno, 0 for a short write.
        JournalFailed = 9,
        /// The journal's buffer was full; the value counts such stalls.
        JournalStalled = 10,
        /// The engine started; the value is the hot CPU.
        Started = 11,
        /// The session's bytes made no sense; the value counts such resets.
        SessionMalformed = 12,
    }
}

/// One instrument as the page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstrumentView {
    /// Its symbol.
    pub symbol: Symbol,
    /// Best bid and the shares there.
    pub bid: Option<(Price, u32)>,
    /// Best offer and the shares there.
    pub ask: Option<(Price, u32)>,
    /// Net position in shares.
    pub position: i64,
    /// Profit and loss marked at the touch, 1/10,000 of the currency.
    pub pnl_ticks: i64,
}

/// The counters page, mapped.
pub struct CountersPage(Page);

impl CountersPage {
    /// Makes the page anew at `path`, for the engine that is starting.
    ///
    /// # Errors
    /// [`PageError`] if the file can't be made.
    pub fn create(path: &Path) -> Result<Self, PageError> {
        let page = Page::create(path, PAGE_WORDS)?;
        page.iter().for_each(|word| word.store(0, Relaxed));
        page[0].store(MAGIC, Release);
        Ok(Self(page))
    }

    /// Maps the page of a running engine for reading.
    ///
    /// # Errors
    /// [`PageError::Foreign`] if the file is another version's.
    pub fn open(path: &Path) -> Result<Self, PageError> {
        Page::open_readonly(path, PAGE_WORDS)?.expect(MAGIC, path).map(Self)
    }

    /// Adds to a counter. Only the hot thread writes, so a load and a store do.
    #[inline(always)]
    pub fn add(&self, counter: Counter, by: u64) {
        let word = &self.0[COUNTERS_AT + counter as usize];
        word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
    }

    /// Sets a gauge.
    #[inline(always)]
    pub fn set(&self, counter: Counter, value: u64) {
        self.0[COUNTERS_AT + counter as usize].store(value, Relaxed);
    }

    /// Reads a counter or gauge.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[COUNTERS_AT + counter as usize].load(Relaxed)
    }

    /// Writes a word of the header.
    #[inline(always)]
    pub fn set_word(&self, word: Word, value: u64) {
        self.0[word as usize].store(value, Relaxed);
    }

    /// Reads a word of the header.
    pub fn word(&self, word: Word) -> u64 {
        self.0[word as usize].load(Relaxed)
    }

    /// Whether the engine gave a sign of life in the last seconds before `now_ns` of `CLOCK_MONOTONIC`.
    /// The page outlives the process.
    pub fn is_alive(&self, now_ns: u64) -> bool {
        let heartbeat = self.word(Word::Heartbeat);
        heartbeat == 0 || now_ns.saturating_sub(heartbeat) < SILENCE_MAX_NS
    }

    /// What the engine is doing; `None` if a newer engine knows more states.
    pub fn state(&self) -> Option<State> {
        State::from_word(self.word(Word::State))
    }

    /// Counts one tick-to-order time.
    #[inline]
    pub fn record_tick_to_order(&self, nanos: u64) {
        let word = &self.0[HISTOGRAM_AT + bucket_of(nanos)];
        word.store(word.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The tick-to-order histogram: non-empty buckets as (lower bound in ns, count).
    pub fn tick_to_order(&self) -> Vec<(u64, u64)> {
        let counts =
            (0..BUCKETS).map(|i| (bucket_floor(i), self.0[HISTOGRAM_AT + i].load(Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Raises an event.
    pub fn raise(&self, event: Event, value: u64) {
        let raised = self.0[Word::Events as usize].load(Relaxed);
        let at = EVENTS_AT + (raised as usize % EVENTS_KEPT) * 2;
        self.0[at].store(event as u64, Relaxed);
        self.0[at + 1].store(value, Relaxed);
        self.0[Word::Events as usize].store(raised + 1, Release);
    }

    /// The event that was raised as number `index`, if the ring still has it.
    pub fn event(&self, index: u64) -> Option<(Event, u64)> {
        let at = EVENTS_AT + (index as usize % EVENTS_KEPT) * 2;
        let raised = self.0[Word::Events as usize].load(Acquire);
        let kept = index < raised && raised - index <= EVENTS_KEPT as u64;
        let (event, value) = (self.0[at].load(Relaxed), self.0[at + 1].load(Relaxed));
        fence(Acquire);
        let still = self.0[Word::Events as usize].load(Relaxed) - index <= EVENTS_KEPT as u64;
        let event = u8::try_from(event).ok().and_then(|byte| crate::wire::Field::get(&[byte]));
        event.filter(|_| kept && still).map(|event| (event, value))
    }

    /// Shows an instrument in slot `index`; slots past [`INSTRUMENTS_SHOWN_MAX`] are not shown.
    pub fn show_instrument(&self, index: usize, view: &InstrumentView) {
        if index >= INSTRUMENTS_SHOWN_MAX {
            return;
        }
        let slot = &self.0[INSTRUMENTS_AT + index * INSTRUMENT_WORDS..][..INSTRUMENT_WORDS];
        let odd = slot[0].load(Relaxed) | 1;
        slot[0].store(odd, Relaxed);
        fence(Release);
        let side = |side: Option<(Price, u32)>| {
            side.map_or(0, |(price, shares)| u64::from(price.0) << 32 | u64::from(shares))
        };
        let presence = u64::from(view.bid.is_some()) | u64::from(view.ask.is_some()) << 1;
        let words = [
            view.symbol.to_word(),
            presence,
            side(view.bid),
            side(view.ask),
            view.position as u64,
            view.pnl_ticks as u64,
        ];
        for (word, value) in slot[1..].iter().zip(words) {
            word.store(value, Relaxed);
        }
        slot[0].store(odd + 1, Release);
        if index as u64 >= self.word(Word::Instruments) {
            self.set_word(Word::Instruments, index as u64 + 1);
        }
    }

    /// Reads the instruments; one that is being written is read again, a few times.
    pub fn instruments(&self) -> Vec<InstrumentView> {
        let count = (self.word(Word::Instruments) as usize).min(INSTRUMENTS_SHOWN_MAX);
        (0..count).filter_map(|index| (0..1000).find_map(|_| self.read_instrument(index))).collect()
    }

    fn read_instrument(&self, index: usize) -> Option<InstrumentView> {
        let slot = &self.0[INSTRUMENTS_AT + index * INSTRUMENT_WORDS..][..INSTRUMENT_WORDS];
        let before = slot[0].load(Acquire);
        let [symbol, presence, bid, ask, position, pnl]: [u64; 6] =
            std::array::from_fn(|i| slot[1 + i].load(Relaxed));
        fence(Acquire);
        if before % 2 == 1 || slot[0].load(Relaxed) != before {
            return None;
        }
        let side = |bit: u64, word: u64| {
            (presence & bit != 0).then_some((Price((word >> 32) as u32), word as u32))
        };
        Some(InstrumentView {
            symbol: Symbol::from_word(symbol),
            bid: side(1, bid),
            ask: side(2, ask),
            position: position as i64,
            pnl_ticks: pnl as i64,
        })
    }
}

/// The bucket of a time: eight linear steps per power of two.
pub fn bucket_of(nanos: u64) -> usize {
    if nanos < 8 {
        return nanos as usize;
    }
    let exponent = nanos.ilog2() as usize;
    ((exponent - 2) * 8 + ((nanos >> (exponent - 3)) & 7) as usize).min(BUCKETS - 1)
}

/// The least time that falls into a bucket.
pub fn bucket_floor(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let exponent = bucket / 8 + 2;
    (8 + bucket as u64 % 8) << (exponent - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str) -> (CountersPage, CountersPage, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("quietcore-{name}-{}", std::process::id()));
        let engine = CountersPage::create(&path).unwrap();
        (engine, CountersPage::open(&path).unwrap(), path)
    }

    #[test]
    fn readers_see_what_the_engine_wrote() {
        let (engine, reader, path) = page("counters");
        engine.add(Counter::Executions, 2);
        engine.set(Counter::PnlTicks, -5i64 as u64);
        let view = InstrumentView {
            symbol: Symbol::new("AAPL").unwrap(),
            bid: Some((Price(5_853_300), 18)),
            ask: None,
            position: -100,
            pnl_ticks: -7,
        };
        engine.show_instrument(0, &view);
        assert_eq!(reader.get(Counter::Executions), 2);
        assert_eq!(reader.get(Counter::PnlTicks) as i64, -5);
        assert_eq!(reader.instruments(), [view]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_event_ring_forgets_the_oldest() {
        let (engine, reader, path) = page("events");
        for value in 0..EVENTS_KEPT as u64 + 1 {
            engine.raise(Event::FeedGap, value);
        }
        assert_eq!(reader.event(0), None);
        assert_eq!(reader.event(1), Some((Event::FeedGap, 1)));
        assert_eq!(reader.event(EVENTS_KEPT as u64 + 1), None);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn buckets_are_contiguous() {
        for nanos in (0..100_000).chain([1 << 33, u64::MAX]) {
            let bucket = bucket_of(nanos);
            assert!(bucket_floor(bucket) <= nanos);
            assert!(bucket == BUCKETS - 1 || nanos < bucket_floor(bucket + 1), "{nanos}");
        }
    }

    #[test]
    fn ids_and_names_are_unique() {
        let mut seen = std::collections::HashSet::new();
        assert!(Counter::ALL.iter().all(|c| seen.insert(c.metric())));
    }
}
