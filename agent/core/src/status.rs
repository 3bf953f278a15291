//! Status of a host for people and programs: one value, served as JSON.

use crate::desired::Report;
use crate::protocol::types::CoreCounts;
use crate::update_progress::Update;
use abi::counters::{Counter, CountersPage, State, Word};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Status of the whole host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The image's version.
    pub version: String,
    /// Whether the engine trades and every container that should run does.
    pub ready: bool,
    /// Whether the engine runs, past its preflight, and every container that should run does; the
    /// exchange may be closed.
    pub healthy: bool,
    /// The operating system's own version.
    pub update: Update,
    /// Desired state that this host follows, if any.
    #[serde(default)]
    pub desired: Option<Report>,
    /// Whether a compose file waits for the next boot.
    #[serde(default)]
    pub staged: bool,
    /// Whether the data partition is sealed by a TPM.
    pub sealed: bool,
    /// Whether the isolated partition stands.
    pub partition: bool,
    /// The engines that run: one, or one for each shard.
    pub engines: Vec<Engine>,
    /// Cores, by number.
    pub cores: Vec<Core>,
    /// Containers, by name.
    pub containers: Vec<Container>,
    /// Problems of the host, a line each.
    pub problems: Vec<String>,
}

/// The engine as its counters page shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Its shard's name; empty for an engine without shards.
    pub shard: String,
    /// State name, as in [`State`]; `unknown` if the page's value is none.
    pub state: String,
    /// Process ID of the engine.
    pub pid: u32,
    /// Hot core that the engine runs on.
    pub cpu: Option<u32>,
    /// Whether times say nothing about latency.
    pub emulated: bool,
    /// Every counter by its metric's name; signed ones as they are.
    pub counters: BTreeMap<String, i128>,
    /// Instruments of the engine, with prices and positions.
    pub instruments: Vec<Instrument>,
    /// Tick-to-order histogram: (lower bound in ns, count).
    pub tick_to_order_ns: Vec<(u64, u64)>,
}

/// One instrument. Prices are 1/10,000 of the currency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instrument {
    /// Symbol of the instrument.
    pub symbol: String,
    /// Best bid: price and shares.
    pub bid: Option<(u32, u32)>,
    /// Best offer: price and shares.
    pub ask: Option<(u32, u32)>,
    /// Net position in shares.
    pub position: i64,
    /// Profit and loss, 1/10,000 of the currency.
    pub pnl_ticks: i64,
}

/// Core of the host with its counts of interrupts and switches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Number of the CPU.
    pub cpu: u32,
    /// Whether it is hot.
    pub hot: bool,
    /// Counts since boot.
    pub counts: CoreCounts,
    /// Context switches to something else than the engine, since the engine started.
    pub foreign_switches: u64,
    /// Timer interrupts in the last second.
    pub timer_per_second: u64,
    /// Foreign context switches in the last second.
    pub foreign_per_second: u64,
}

/// Container of a service, as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Container name: `NAME` or `NAME.green`.
    pub name: String,
    /// Image name, as declared.
    pub image: String,
    /// `running`, `stopped`, `absent`, …
    pub state: String,
    /// Whether it runs, and well, or has done what it was to do.
    #[serde(default)]
    pub up: bool,
    /// `healthy`, `starting` or `unhealthy`, if it has a health check.
    pub health: Option<String>,
    /// Rollout state of its version: `on trial`, or why another was taken back.
    pub rollout: Option<String>,
    /// Restarts since the agent started.
    pub restarts: u32,
    /// CPUs it may run on, as a list such as `0-1`.
    pub cpuset: String,
    /// The number of its service's version: one more each time that another one is declared.
    #[serde(default)]
    pub generation: u64,
}

impl Engine {
    /// Reads a counters page.
    pub fn read(shard: String, page: &CountersPage) -> Self {
        let value = |counter: &Counter| {
            let word = page.get(*counter);
            if counter.is_signed() { i128::from(word as i64) } else { i128::from(word) }
        };
        let instruments = page.instruments().into_iter().map(|view| Instrument {
            symbol: view.symbol.to_string(),
            bid: view.bid.map(|(price, shares)| (price.0, shares)),
            ask: view.ask.map(|(price, shares)| (price.0, shares)),
            position: view.position,
            pnl_ticks: view.pnl_ticks,
        });
        Self {
            shard,
            state: page.state().map_or("unknown", State::name).into(),
            pid: page.word(Word::Pid) as u32,
            cpu: u32::try_from(page.word(Word::HotCpu)).ok(),
            emulated: page.word(Word::Emulated) != 0,
            counters: Counter::ALL
                .iter()
                .map(|counter| (counter.metric().to_string(), value(counter)))
                .collect(),
            instruments: instruments.collect(),
            tick_to_order_ns: page.tick_to_order(),
        }
    }

    /// A counter by name; 0 if there is none.
    pub fn counter(&self, name: &str) -> i128 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}
