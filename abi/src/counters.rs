//! The counters page: what a running engine tells the host. The engine writes; everyone else reads.
//!
//! ```text
//! word 0       64           192             448               704             1216     1280
//! ┌────────────┬────────────┬───────────────┬─────────────────┬───────────────┬────────┬───────
//! │ header     │ counters   │ tick-to-order │ 16 instruments  │ 256 events of │ risk   │ zeroes
//! │ magic, pid…│ one a word │ 256 buckets   │ of 16 words     │ 2 words       │ limits │
//! └────────────┴────────────┴───────────────┴─────────────────┴───────────────┴────────┴───────
//! ```

use crate::control::{LIMIT_NAMES, LIMITS_WORDS_MAX};
use crate::field::{Price, Symbol};
use crate::histogram::{BUCKETS, bucket_floor, bucket_of};
use crate::journal::Refusal;
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
const LIMITS_AT: usize = 1216;
const CONFIGURED_AT: usize = LIMITS_AT + LIMITS_WORDS_MAX;
const _: () = assert!(EVENTS_AT + EVENTS_KEPT * 2 <= LIMITS_AT);
const _: () = assert!(CONFIGURED_AT + LIMITS_WORDS_MAX <= PAGE_WORDS);

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
    BboHash = 16, "bbo_hash", "A hash over the best bids and offers that bbo_changes counts: equal hashes mean equal sequences.";
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
    RefusedRestricted = 45, "risk_refused_restricted_total", "Orders refused: restricted instrument.";
    RefusedHalted = 46, "risk_refused_halted_total", "Orders refused: instrument not trading.";
    RefusedUnsound = 47, "risk_refused_unsound_total", "Orders refused: the instrument's book missed a message.";
    RefusedStale = 48, "risk_refused_stale_total", "Orders refused: feed silent for too long.";
    RefusedShares = 49, "risk_refused_shares_total", "Orders refused: shares of one order.";
    RefusedLot = 50, "risk_refused_lot_total", "Orders refused: lot size.";
    RefusedTick = 51, "risk_refused_tick_total", "Orders refused: tick size.";
    RefusedNotional = 52, "risk_refused_notional_total", "Orders refused: value of one order.";
    RefusedNoReference = 53, "risk_refused_no_reference_total", "Orders refused: no best bid and offer to compare with, or crossed ones.";
    RefusedCollar = 54, "risk_refused_collar_total", "Orders refused: price collar.";
    RefusedSelfTrade = 55, "risk_refused_self_trade_total", "Orders refused: would trade with an order of ours.";
    RefusedShortSale = 56, "risk_refused_short_sale_total", "Orders refused: short sale under a price-test restriction.";
    RefusedDuplicate = 57, "risk_refused_duplicate_total", "Orders refused: same order sent a moment ago.";
    RefusedPosition = 58, "risk_refused_position_total", "Orders refused: position limit.";
    RefusedOpenOrders = 59, "risk_refused_open_orders_total", "Orders refused: open-order limit.";
    RefusedGross = 60, "risk_refused_gross_total", "Orders refused: gross exposure.";
    RefusedNet = 61, "risk_refused_net_total", "Orders refused: net exposure.";
    RefusedRate = 62, "risk_refused_rate_total", "Orders refused: message rate.";
    OrderNonsense = 63, "order_nonsense_total", "OUCH messages that make no sense for the order's state; they change nothing.";
    TradesBroken = 64, "trades_broken_total", "Executions that the exchange took back.";
    BooksUnsound = 65, "books_unsound", "Instruments whose book missed a message; they are not traded until a snapshot or the next session.";
    ClockSteps = 66, "clock_steps_total", "Steps of CLOCK_REALTIME by more than a second; the engine's own clock goes on.";
    LimitsLoads = 67, "limits_loads_total", "Times that other risk limits were put in force.";
    TscKhz = 69, "tsc_khz", "The processor's time-stamp counter, measured against CLOCK_MONOTONIC_RAW at the start; 0 on an emulated machine.";
    TscErrorPpb = 70, "tsc_error_ppb", "How far the counter has gone apart from CLOCK_MONOTONIC_RAW since then, in parts per billion, as two's complement.";
    SnapshotsLoaded = 71, "snapshots_loaded_total", "Snapshots of all books that were taken in.";
    SnapshotsFailed = 72, "snapshots_failed_total", "Snapshots that could not be used; another one is taken.";
    MassCancelsSent = 73, "mass_cancels_sent_total", "Mass cancels sent: one message for all orders.";
    LimitsRefused = 68, "limits_refused_total", "Risk limits on the control page that are out of range; the old ones stay.";
}

impl Counter {
    /// The counter of a reason for refusing an order.
    pub fn of_refusal(reason: Refusal) -> Self {
        match reason {
            Refusal::Restricted => Self::RefusedRestricted,
            Refusal::Halted => Self::RefusedHalted,
            Refusal::Unsound => Self::RefusedUnsound,
            Refusal::Stale => Self::RefusedStale,
            Refusal::Shares => Self::RefusedShares,
            Refusal::Lot => Self::RefusedLot,
            Refusal::Tick => Self::RefusedTick,
            Refusal::Notional => Self::RefusedNotional,
            Refusal::NoReference => Self::RefusedNoReference,
            Refusal::Collar => Self::RefusedCollar,
            Refusal::SelfTrade => Self::RefusedSelfTrade,
            Refusal::ShortSale => Self::RefusedShortSale,
            Refusal::Duplicate => Self::RefusedDuplicate,
            Refusal::Position => Self::RefusedPosition,
            Refusal::OpenOrders => Self::RefusedOpenOrders,
            Refusal::Gross => Self::RefusedGross,
            Refusal::Net => Self::RefusedNet,
            Refusal::Rate => Self::RefusedRate,
        }
    }

    /// Whether the metric only grows.
    pub fn is_total(self) -> bool {
        self.metric().ends_with("_total")
    }

    /// Whether the word is a signed number.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::PnlTicks | Self::Position | Self::TscErrorPpb)
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
    /// State of the engine: see [`State`].
    State = 4,
    /// Nanoseconds of `CLOCK_MONOTONIC` at the last timer tick: the engine's heartbeat.
    Heartbeat = 5,
    /// Number of instruments shown.
    Instruments = 6,
    /// Events raised since the start.
    Events = 7,
    /// 1 if the machine is emulated, so that times say nothing about latency.
    Emulated = 8,
}

/// State of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// Mapping memory, opening the journal.
    Starting = 0,
    /// Connecting, logging in, catching up with feed and session.
    Recovering = 1,
    /// Trading in progress.
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
        /// Trading was stopped; the value is the `journal::StopReason`.
        Stopped = 13,
        /// An instrument's book missed a message; the value is its number in the configuration.
        BookUnsound = 14,
        /// Other risk limits are in force; the value counts such changes.
        LimitsLoaded = 15,
        /// Risk limits were refused: out of range; the value counts such refusals.
        LimitsRefused = 16,
        /// All books were taken from a snapshot; the value is the next sequence number.
        SnapshotLoaded = 17,
        /// A snapshot could not be used; the value counts such failures.
        SnapshotFailed = 18,
    }
}

/// One instrument as the page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstrumentView {
    /// Symbol of the instrument.
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

    /// Liveness of the engine: its heartbeat is less than [`SILENCE_MAX_NS`] before `now_ns` of
    /// `CLOCK_MONOTONIC`. The page outlives the process.
    pub fn is_alive(&self, now_ns: u64) -> bool {
        let heartbeat = self.word(Word::Heartbeat);
        heartbeat == 0 || now_ns.saturating_sub(heartbeat) < SILENCE_MAX_NS
    }

    /// Returns the state of the engine; `None` if a newer engine knows more states.
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

    /// Shows the risk limits in force and the configured ones, by the words of
    /// `control::LIMIT_NAMES`.
    pub fn show_limits(
        &self,
        words: &[u64; LIMIT_NAMES.len()],
        configured: &[u64; LIMIT_NAMES.len()],
    ) {
        for (at, words) in [(LIMITS_AT, words), (CONFIGURED_AT, configured)] {
            for (word, value) in self.0[at..].iter().zip(words) {
                word.store(*value, Relaxed);
            }
        }
    }

    /// The risk limits of the engine's configuration.
    pub fn configured_limits(&self) -> [u64; LIMIT_NAMES.len()] {
        std::array::from_fn(|at| self.0[CONFIGURED_AT + at].load(Relaxed))
    }

    /// The risk limits in force.
    pub fn limits(&self) -> [u64; LIMIT_NAMES.len()] {
        std::array::from_fn(|at| self.0[LIMITS_AT + at].load(Relaxed))
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

#[cfg(test)]
mod tests;
