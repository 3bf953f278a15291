//! A journal read back through the core: every output must come out again, byte for byte.

use crate::config::Config;
use crate::journal::{OpenError, segments};
use crate::strategies::{AnyStrategy, Strategies};
use abi::control::Orders;
use abi::journal::{JournalError, Kind, Record, Recovery, Refused, Segment};
use engine_core::book::Bbo;
use engine_core::counters::Counter;
use engine_core::market::InstrumentId;
use engine_core::pipeline::{Core, Line};
use engine_core::settings::RiskLimits;
use engine_core::strategy::{Actions, Execution, OrderUpdate, Strategy, View};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a journal can't be replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The files can't be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A segment is damaged.
    #[error("{path}: {source}")]
    Segment {
        /// Path of the segment file.
        path: PathBuf,
        /// Where and what.
        source: JournalError,
    },
    /// There is no run's beginning in it.
    #[error("{path}: no run starts in this journal; its first segments were overwritten")]
    NoRun {
        /// Directory of the journal.
        path: PathBuf,
    },
    /// The core says something else than it said then.
    #[error("record {sequence}: the replay says {now} where the journal has {then}")]
    Differs {
        /// Sequence number of the record.
        sequence: u64,
        /// Output of the replay: up to 64 bytes in hexadecimal digits, or the number of bytes too
        /// many.
        now: String,
        /// Output in the journal: up to 64 bytes in hexadecimal digits, or the kind of the record.
        then: String,
    },
    /// The recorded configuration is not one any more.
    #[error("record {sequence}: {message}")]
    Config {
        /// Sequence number of the record.
        sequence: u64,
        /// Error in the recorded configuration.
        message: String,
    },
}

/// The strategy of the run, with every best bid and offer written down.
pub struct Tap {
    strategy: AnyStrategy,
    /// Every state, from the start of the run.
    pub quotes: Vec<(InstrumentId, Bbo)>,
}

impl Strategy for Tap {
    fn on_quote(&mut self, instrument: InstrumentId, bbo: &Bbo) {
        self.quotes.push((instrument, *bbo));
        self.strategy.on_quote(instrument, bbo);
    }

    fn on_bbo(&mut self, view: &View<'_>, instrument: InstrumentId, actions: &mut Actions) {
        self.strategy.on_bbo(view, instrument, actions);
    }

    fn on_execution(&mut self, view: &View<'_>, execution: &Execution, actions: &mut Actions) {
        self.strategy.on_execution(view, execution, actions);
    }

    fn on_order(&mut self, view: &View<'_>, update: &OrderUpdate, actions: &mut Actions) {
        self.strategy.on_order(view, update, actions);
    }

    fn on_refused(&mut self, view: &View<'_>, refused: &Refused) {
        self.strategy.on_refused(view, refused);
    }

    fn on_timer(&mut self, view: &View<'_>, actions: &mut Actions) {
        self.strategy.on_timer(view, actions);
    }
}

/// Result of a replay.
pub struct Report {
    /// Number of records read.
    pub records: u64,
    /// Bytes of output that came out again.
    pub output_bytes: u64,
    /// The core at the end of the last run.
    pub core: Core<Tap>,
}

struct Player {
    core: Option<Core<Tap>>,
    last_sequence: u64,
    produced: Vec<u8>,
    records: u64,
    output_bytes: u64,
}

/// Replays the last run in a journal.
///
/// # Errors
/// [`ReplayError`] names the file, or the record that differs.
pub fn replay(directory: &Path, strategies: &Strategies) -> Result<Report, ReplayError> {
    let mut player =
        Player { core: None, last_sequence: 0, produced: Vec::new(), records: 0, output_bytes: 0 };
    let mut damage = None;
    for (_, path) in segments(directory)? {
        let read = |source| OpenError::Io { action: "read", path: path.clone(), source };
        let bytes = std::fs::read(&path).map_err(read)?;
        let damaged = |source| ReplayError::Segment { path: path.clone(), source };
        for record in Segment::open(&bytes).map_err(damaged)? {
            match record {
                Ok(record) => player.play(&record, strategies)?,
                // Damage ends the run that it is in; a later run is whole in itself.
                Err(source) => {
                    player.core = None;
                    damage = Some(damaged(source));
                }
            }
        }
    }
    let path = directory.to_path_buf();
    match player.core {
        Some(core) => {
            Ok(Report { records: player.records, output_bytes: player.output_bytes, core })
        }
        None => Err(damage.unwrap_or(ReplayError::NoRun { path })),
    }
}

impl Player {
    fn play(&mut self, record: &Record<'_>, strategies: &Strategies) -> Result<(), ReplayError> {
        let follows = record.sequence == self.last_sequence + 1;
        self.last_sequence = record.sequence;
        if !follows {
            // Part of the journal was overwritten or never written.
            self.core = None;
        }
        self.records += 1;
        if record.kind == Kind::RunStarted {
            self.produced.clear();
            self.core = Some(start(record, strategies)?);
            return Ok(());
        }
        let Some(core) = &mut self.core else { return Ok(()) };
        match record.kind {
            Kind::SessionSent
            | Kind::FeedRequested
            | Kind::SnapshotSent
            | Kind::RiskRefused
            | Kind::Stopped => {
                return self.compare(record);
            }
            Kind::Timing | Kind::Context => return Ok(()),
            _ => {}
        }
        if !self.produced.is_empty() {
            let now = format!("{} bytes more", self.produced.len());
            return Err(ReplayError::Differs {
                sequence: record.sequence,
                now,
                then: format!("{:?}", record.kind),
            });
        }
        let now = record.time_ns;
        match record.kind {
            Kind::FeedA => drop(core.on_feed(Line::A, record.payload, now)),
            Kind::FeedB => drop(core.on_feed(Line::B, record.payload, now)),
            Kind::FeedReplayed => drop(core.on_feed(Line::Replay, record.payload, now)),
            Kind::SessionBytes => core.on_session_bytes(record.payload, now),
            Kind::SessionConnected => core.on_session_connected(now),
            Kind::SessionLost => core.on_session_lost(now),
            Kind::SnapshotConnected => core.on_snapshot_connected(now),
            Kind::SnapshotBytes => core.on_snapshot_bytes(record.payload, now),
            Kind::SnapshotLost => core.on_snapshot_lost(),
            Kind::Tick => core.on_tick(now),
            Kind::Control => core
                .on_control(Orders::from_bits(record.payload.first().copied().unwrap_or(0)), now),
            Kind::Limits => core.on_limits(&limits(record.payload)),
            Kind::Recovered => {
                core.on_recovered(Recovery::from_bytes(record.payload).unwrap_or_default());
            }
            _ => {}
        }
        self.produced.append(core.session_out());
        if let Some(request) = core.take_request() {
            self.produced.extend_from_slice(&request.to_bytes());
        }
        if let Some(out) = core.snapshot_out() {
            self.produced.append(out);
        }
        core.take_snapshot_reset();
        core.take_refusals().for_each(|refused| self.produced.extend(refused.to_bytes()));
        core.take_stops().for_each(|reason| self.produced.push(reason as u8));
        core.take_reset();
        Ok(())
    }

    fn compare(&mut self, record: &Record<'_>) -> Result<(), ReplayError> {
        if !self.produced.starts_with(record.payload) {
            let hex = |bytes: &[u8]| {
                bytes.iter().take(64).map(|b| format!("{b:02x}")).collect::<String>()
            };
            let (now, then) = (hex(&self.produced), hex(record.payload));
            return Err(ReplayError::Differs { sequence: record.sequence, now, then });
        }
        self.produced.drain(..record.payload.len());
        self.output_bytes += record.payload.len() as u64;
        Ok(())
    }
}

/// Limits as the journal has them; a payload that is cut short reads as limits that are refused.
fn limits(payload: &[u8]) -> [u64; RiskLimits::WORDS] {
    let mut words = payload.chunks_exact(8).filter_map(|word| word.try_into().ok());
    std::array::from_fn(|_| words.next().map_or(0, u64::from_le_bytes))
}

fn start(record: &Record<'_>, strategies: &Strategies) -> Result<Core<Tap>, ReplayError> {
    let wrong = |message: String| ReplayError::Config { sequence: record.sequence, message };
    let text = std::str::from_utf8(record.payload).map_err(|error| wrong(error.to_string()))?;
    let config = Config::parse(text, Path::new("recorded configuration"))
        .map_err(|error| wrong(error.to_string()))?;
    let strategy = strategies
        .make(&config.strategy, config.symbols.len())
        .map_err(|error| wrong(error.to_string()))?;
    let strategy = Tap { strategy, quotes: Vec::new() };
    Ok(Core::new(config.core, strategy))
}

/// The best bids and offers since market hours started, as CSV in the columns of LOBSTER's
/// top-of-book file; an empty side is 0,0.
pub fn bbo_csv(core: &Core<Tap>) -> String {
    let quotes = &core.strategy().quotes;
    let count = core.counters.get(Counter::BboChanges) as usize;
    let mut csv = String::from("ask_price_1e4,ask_shares,bid_price_1e4,bid_shares\n");
    for (_, bbo) in &quotes[quotes.len().saturating_sub(count)..] {
        let side = |quote: Option<engine_core::book::Quote>| {
            quote.map_or((0, 0), |q| (q.price.0, q.shares))
        };
        let ((ask, ask_shares), (bid, bid_shares)) = (side(bbo.ask), side(bbo.bid));
        csv.push_str(&format!("{ask},{ask_shares},{bid},{bid_shares}\n"));
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::field::{Price, Symbol, Time48};
    use abi::itch::{AddOrder, Message, StockDirectory};
    use abi::mold::{PacketBuilder, Session};
    use engine_core::settings::{BookLimits, Login, Settings};
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Says every quote that it is told.
    struct Listener(Rc<RefCell<Vec<u32>>>);

    impl Strategy for Listener {
        fn on_quote(&mut self, _: InstrumentId, bbo: &Bbo) {
            self.0.borrow_mut().push(bbo.bid.map_or(0, |quote| quote.price.0));
        }

        fn on_bbo(&mut self, _: &View<'_>, _: InstrumentId, _: &mut Actions) {}
    }

    #[test]
    fn the_recorded_strategy_is_told_every_quote_of_a_datagram() {
        let stock = Symbol::new("AAPL").unwrap();
        let words = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1_000_000, 1, 1];
        let risk = RiskLimits::from_words(&words).unwrap();
        let login = Login::new("user", "pass").unwrap();
        let book = BookLimits { orders_max: 1_024, levels_max: 16 };
        let settings = Settings::new(vec![stock], risk, &[], login, None, book).unwrap();
        let quotes = Rc::new(RefCell::new(Vec::new()));
        let tap = Tap { strategy: Box::new(Listener(quotes.clone())), quotes: Vec::new() };
        let mut core = Core::new(settings, tap);
        let mut directory = [b' '; StockDirectory::LEN];
        directory[..5].copy_from_slice(&[b'R', 0, 1, 0, 0]);
        directory[11..19].copy_from_slice(&stock.0);
        let mut builder = PacketBuilder::new(Session::new("S").unwrap(), 1);
        assert!(builder.push(&directory));
        for (order_ref, price) in [(1, 1_000_000), (2, 1_000_100), (3, 1_000_200)] {
            let mut bytes = Vec::new();
            Message::AddOrder(AddOrder {
                stock_locate: 1,
                tracking_number: 0,
                timestamp: Time48::new(1).unwrap(),
                order_ref,
                side: abi::field::Side::Buy,
                shares: 5,
                stock,
                price: Price(price),
            })
            .encode_to(&mut bytes);
            assert!(builder.push(&bytes));
        }
        core.on_feed(Line::A, &builder.finish(), 5);
        assert_eq!(*quotes.borrow(), [1_000_000, 1_000_100, 1_000_200]);
        assert_eq!(core.strategy().quotes.len(), 3);
    }
}
