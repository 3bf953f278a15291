//! The configuration file: TOML, strict, with a version. What it says is checked before anything
//! starts.

use crate::strategies::StrategySettings;
use abi::field::Symbol;
use abi::mold::Session;
use engine_core::settings::{
    BookLimits, Login, RiskLimits, Settings, SettingsError, SnapshotSettings,
};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read {path}")]
    Read {
        /// Path of the configuration file.
        path: PathBuf,
        /// Error from reading the file.
        source: std::io::Error,
    },
    /// Text that is not TOML of this schema; the message has line and key.
    #[error("{path}: {message}")]
    Schema {
        /// Path of the configuration file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// Version other than 1.
    #[error("{path}: version = {version}: this engine reads version 1")]
    Version {
        /// Path of the configuration file.
        path: PathBuf,
        /// Version that was given.
        version: u32,
    },
    /// A value outside its range.
    #[error("{path}: {source}")]
    Value {
        /// Path of the configuration file.
        path: PathBuf,
        /// Setting that is refused, with its range.
        source: SettingsError,
    },
    /// A value that can't be what its key asks for.
    #[error("{path}: {key} = {value}: {remedy}")]
    Key {
        /// Path of the configuration file.
        path: PathBuf,
        /// Key with the refused value.
        key: &'static str,
        /// Value that was given.
        value: String,
        /// Value to write instead.
        remedy: &'static str,
    },
}

/// Action on a host that breaks the engine's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contract {
    /// Refuse to start.
    Enforce,
    /// Say so and start: development machines and tests.
    Report,
}

/// When an order may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Its record was given to the disk before it.
    Async,
    /// Its record is on the disk.
    DurableBeforeSend,
}

/// The host's part.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Action on a broken contract: see [`Contract`].
    pub contract: Contract,
    /// The CPU of the hot thread; absent, the first hot CPU of the kernel's plan.
    pub cpu: Option<u32>,
    /// The CPUs of the workers that write the journal; absent, all hot CPUs but the hot thread's.
    pub journal_cpus: Option<Vec<u32>>,
    /// The CPU of a kernel thread that makes the hot thread's system calls for it, and spins like
    /// it (`IORING_SETUP_SQPOLL`); another than the hot thread's. Absent, the hot thread makes them
    /// itself.
    pub sqpoll_cpu: Option<u32>,
    /// Nothing is sent but cancels while the agent has given no sign of life for so many
    /// milliseconds: 2,000 to 3,600,000. Absent, the engine trades without an agent.
    pub agent_silence_max_ms: Option<u64>,
}

/// Where market data comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// Multicast group and port of line A.
    pub line_a: SocketAddrV4,
    /// Multicast group and port of line B.
    pub line_b: SocketAddrV4,
    /// Address of the interface that both are received on.
    pub interface: Ipv4Addr,
    /// The MoldUDP64 request server.
    pub request_server: SocketAddrV4,
    /// The session to follow; absent, the first one heard.
    pub session: Option<String>,
    /// A GLIMPSE 5.0 server, for gaps that the request server does not fill.
    pub snapshot: Option<SnapshotServer>,
}

/// Where snapshots of all books come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotServer {
    server: SocketAddrV4,
    username: String,
    password: String,
    /// A gap in which nothing has moved for so many milliseconds is too old: 100 to 3,600,000.
    #[serde(default = "gap_age_max_ms")]
    gap_age_max_ms: u64,
    /// A gap of so many messages is not requested: 1,000 to 2^40.
    #[serde(default = "gap_messages_max")]
    gap_messages_max: u64,
}

/// Forty retries of a request.
fn gap_age_max_ms() -> u64 {
    2_000
}

/// Some seconds of requests; a snapshot of all books takes no longer.
fn gap_messages_max() -> u64 {
    1_000_000
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderEntry {
    server: SocketAddrV4,
    username: String,
    password: String,
}

/// Where the journal lies.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalSettings {
    /// Directory of the journal.
    pub directory: PathBuf,
    /// Files in the ring: 2 to 1,000. The oldest is overwritten.
    pub segments: usize,
    /// Bytes of a file in MiB: 1 to 16,384.
    pub segment_mib: u64,
    /// Condition for sending an order: see [`Durability`].
    pub durability: Durability,
}

/// Where the shared pages lie.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// A directory on tmpfs, with the files `counters` and `control`.
    pub directory: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    symbols: Vec<String>,
    /// Those of them that are watched and not traded.
    #[serde(default)]
    restricted: Vec<String>,
    orders_max: usize,
    #[serde(default = "levels_max")]
    levels_max: usize,
}

/// Several times what the widest book of a US stock shows.
fn levels_max() -> usize {
    4_096
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    host: Host,
    feed: Feed,
    orders: OrderEntry,
    book: Book,
    risk: RiskLimits,
    strategy: toml::Table,
    journal: JournalSettings,
    pages: Pages,
}

/// A configuration. Holding one proves that every value is in its range.
pub struct Config {
    /// The host's part.
    pub host: Host,
    /// Market-data feed: lines, request server and snapshot server.
    pub feed: Feed,
    /// The order-entry port.
    pub order_server: SocketAddrV4,
    /// The snapshot server.
    pub snapshot_server: Option<SocketAddrV4>,
    /// Journal directory, size and durability.
    pub journal: JournalSettings,
    /// Directory of the shared pages.
    pub pages: Pages,
    /// The core's part.
    pub core: Settings,
    /// Symbols of the traded instruments.
    pub symbols: Vec<Symbol>,
    /// Strategy name and settings.
    pub strategy: StrategySettings,
    /// The file's text, for the journal.
    pub text: String,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key and the remedy.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&Self::read_text(path)?, path)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`].
    pub fn read_text(path: &Path) -> Result<String, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        std::fs::read_to_string(path).map_err(read)
    }

    /// Checks a text that was made from a file's: its line numbers would say nothing.
    ///
    /// # Errors
    /// As [`Self::read`], without lines.
    pub fn parse_made(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse(text, path).map_err(|error| match error {
            ConfigError::Schema { path, message } => {
                let rest = message.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
                let message = rest.map_or(message.clone(), |(_, message)| message.to_owned());
                ConfigError::Schema { path, message }
            }
            error => error,
        })
    }

    /// Checks a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let one_line = |error: toml::de::Error| {
            let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
            let line = before.matches('\n').count() + 1;
            let message = format!("line {line}: {}", error.message().replace('\n', " "));
            ConfigError::Schema { path: path.into(), message }
        };
        let file: File = toml::from_str(text).map_err(one_line)?;
        if file.version != 1 {
            return Err(ConfigError::Version { path: path.into(), version: file.version });
        }
        if text.len() > abi::journal::PAYLOAD_LEN_MAX {
            let message = format!("{} bytes; the journal keeps at most 16384", text.len());
            return Err(ConfigError::Schema { path: path.into(), message });
        }
        file.check(path)?;
        let mut settings = file.strategy.clone();
        let Some(toml::Value::String(name)) = settings.remove("name") else {
            let message = "[strategy]: name = \"...\" is missing".into();
            return Err(ConfigError::Schema { path: path.into(), message });
        };
        let strategy = StrategySettings { name, settings };
        let value = |source| ConfigError::Value { path: path.into(), source };
        let parse = |key, texts: &[String]| {
            let parsed = texts.iter().map(|text| parse_symbol(key, text));
            parsed.collect::<Result<Vec<_>, _>>().map_err(value)
        };
        let symbols = parse("book.symbols", &file.book.symbols)?;
        let restricted = parse("book.restricted", &file.book.restricted)?;
        let session = file.feed.session.as_deref().map(parse_session).transpose().map_err(value)?;
        let login = Login::new(&file.orders.username, &file.orders.password).map_err(value)?;
        let book =
            BookLimits { orders_max: file.book.orders_max, levels_max: file.book.levels_max };
        let core = Settings::new(symbols.clone(), file.risk, &restricted, login, session, book)
            .map_err(value)?;
        let core = match &file.feed.snapshot {
            Some(snapshot) => with_snapshot(core, snapshot).map_err(value)?,
            None => core,
        };
        Ok(Self {
            snapshot_server: file.feed.snapshot.as_ref().map(|snapshot| snapshot.server),
            host: file.host,
            feed: file.feed,
            order_server: file.orders.server,
            journal: file.journal,
            pages: file.pages,
            core,
            symbols,
            strategy,
            text: text.into(),
        })
    }
}

fn with_snapshot(core: Settings, file: &SnapshotServer) -> Result<Settings, SettingsError> {
    let keys = ["feed.snapshot.username", "feed.snapshot.password"];
    core.with_snapshot(SnapshotSettings {
        login: Login::named(keys, &file.username, &file.password)?,
        gap_age_max_ns: file.gap_age_max_ms.saturating_mul(1_000_000),
        gap_messages_max: file.gap_messages_max,
    })
}

fn parse_symbol(key: &'static str, text: &str) -> Result<Symbol, SettingsError> {
    let bad = || SettingsError::Text { key, value: text.into(), max: 8 };
    Symbol::new(text).filter(|_| !text.is_empty()).ok_or_else(bad)
}

fn parse_session(text: &str) -> Result<Session, SettingsError> {
    let bad = || SettingsError::Text { key: "feed.session", value: text.into(), max: 10 };
    Session::new(text).ok_or_else(bad)
}

impl File {
    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let key = |key, value: &dyn ToString, remedy| {
            Err(ConfigError::Key { path: path.into(), key, value: value.to_string(), remedy })
        };
        let multicast = "an address from 224.0.0.0 to 239.255.255.255 with a port";
        if !self.feed.line_a.ip().is_multicast() {
            return key("feed.line_a", &self.feed.line_a, multicast);
        }
        if !self.feed.line_b.ip().is_multicast() {
            return key("feed.line_b", &self.feed.line_b, multicast);
        }
        if self.feed.line_a == self.feed.line_b {
            return key("feed.line_b", &self.feed.line_b, "another group or port than line A");
        }
        if let Some(ms) = self.host.agent_silence_max_ms
            && !(2_000..=3_600_000).contains(&ms)
        {
            return key("host.agent_silence_max_ms", &ms, "2000 to 3600000");
        }
        if let Some(cpu) = self.host.sqpoll_cpu
            && self.host.cpu == Some(cpu)
        {
            return key("host.sqpoll_cpu", &cpu, "another CPU than host.cpu");
        }
        if !(2..=1000).contains(&self.journal.segments) {
            return key("journal.segments", &self.journal.segments, "2 to 1000");
        }
        if !(1..=16_384).contains(&self.journal.segment_mib) {
            return key("journal.segment_mib", &self.journal.segment_mib, "1 to 16384");
        }
        Ok(())
    }
}
