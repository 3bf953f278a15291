//! A run: the engine trades, the machine crashes, the engine starts again, and in the end
//! everything must add up between journal and exchange.

use crate::disk::{Crash, Disk, Failure};
use crate::exchange::Exchange;
use crate::machine::{Machine, Network};
use abi::control::{ControlPage, Orders};
use abi::counters::{Counter, CountersPage, State};
use abi::field::Symbol;
use abi::journal::Recovery;
use anyhow::{Context, Result};
use engine::arena::Arena;
use engine::config::{Config, Durability};
use engine::hot::{Hot, HotBuffers};
use engine::journal::Layout;
use engine::limits::{ARENA_LEN, TICK_INTERVAL_NS};
use engine::strategies::{AnyStrategy, Strategies};
use engine_core::pipeline::Core;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::path::Path;
use tempfile::TempDir;

const CONFIG: &str = r#"
version = 1
[host]
contract = "report"
[feed]
line_a = "239.192.0.1:31001"
line_b = "239.192.0.2:31002"
interface = "127.0.0.1"
request_server = "127.0.0.1:31003"
[orders]
server = "127.0.0.1:31010"
username = "quiet"
password = "core"
[book]
symbols = ["AAPL", "MSFT"]
orders_max = 4096
levels_max = 256
[risk]
order_shares_max = 1000
lot_shares = 1
order_notional_max = 1000000
price_collar_bps = 2000
position_shares_max = 3000
orders_open_max = 64
gross_notional_max = 10000000
net_notional_max = 10000000
messages_per_second_max = 100000
duplicate_window_ns = 0
feed_age_max_ns = 1000000000
rejects_in_a_row_max = 10
loss_max = 100000000
[strategy]
name = "maker"
quote_shares = 100
inventory_shares_max = 1000
requote_interval_ns = 1000000
[journal]
directory = "/nowhere"
segments = 8
segment_mib = 1
durability = "POLICY"
[pages]
directory = "/nowhere"
"#;

const FILES: usize = 8;
/// Small enough that a life runs over the end of a segment now and then.
const SEGMENT_LEN: usize = 128 << 10;
/// Background events a second.
const RATE: u32 = 1_000;
const LIFE_NS: u64 = 150_000_000;
/// Whatever is awaited takes less.
const PATIENCE_NS: u64 = 20_000_000_000;

/// Summary of a run in which every promise was kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// Crashes that the engine survived.
    pub crashes: u64,
    /// Orders and replacements that the exchange received.
    pub orders: u64,
    /// Inputs to the engine in its last life, to compare runs.
    pub hash: u64,
}

/// Fault that is injected on purpose, to show that the checks notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// No injected fault.
    None,
    /// The disk says that a write is finished, and drops it now and then.
    LyingDisk,
    /// The engine starts without knowing what it recorded before.
    Amnesia,
    /// The engine sends before its records are durable, although the policy forbids it.
    HastyOrders,
    /// The exchange loses a fill of the account.
    LostFill,
}

/// The memory and pages of one thread, used for one run after another.
pub struct Bench {
    memory: Option<HotBuffers>,
    directory: TempDir,
    configs: [Config; 2],
    strategies: Strategies,
    amnesia: bool,
}

/// An engine on its machine.
type Engine = Hot<AnyStrategy, Machine>;

impl Bench {
    /// Pages in a directory of its own.
    ///
    /// # Errors
    /// The directory or the memory can't be had.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory")?;
        let config = |policy| {
            Config::parse(&CONFIG.replace("POLICY", policy), Path::new("the simulator's own"))
        };
        Ok(Self {
            memory: Some(HotBuffers::new(&mut Arena::new(ARENA_LEN).context("map memory")?)),
            directory,
            configs: [config("async")?, config("durable-before-send")?],
            strategies: Strategies::reference(),
            amnesia: false,
        })
    }

    /// Runs a seed.
    ///
    /// # Errors
    /// The broken promise.
    pub fn run(&mut self, seed: u64) -> Result<Summary, String> {
        self.run_with(seed, Sabotage::None)
    }

    /// Runs a seed with something broken.
    ///
    /// # Errors
    /// The broken promise.
    pub fn run_with(&mut self, seed: u64, sabotage: Sabotage) -> Result<Summary, String> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let durable = rng.next_u32().is_multiple_of(2);
        let hasty = sabotage == Sabotage::HastyOrders;
        let durability =
            if durable || hasty { Durability::DurableBeforeSend } else { Durability::Async };
        let durable = durable && !hasty;
        let symbols = symbols();
        let mut machine = machine(seed, durability);
        machine.disk.lies = sabotage == Sabotage::LyingDisk;
        machine.exchange.loses_fills = sabotage == Sabotage::LostFill;
        self.amnesia = sabotage == Sabotage::Amnesia;
        let _ = std::fs::remove_file(self.directory.path().join("control"));
        let crashes = 1 + u64::from(rng.next_u32() % 3);
        for _ in 0..crashes {
            let after = 1 + u64::from(rng.next_u32() % 120);
            let mut engine = self.boot(machine, durable, after)?;
            self.live(&mut engine, LIFE_NS, |_| false);
            let kind = if rng.next_u32().is_multiple_of(2) { Crash::Kill } else { Crash::PowerCut };
            let promised = engine.durable();
            machine = self.part(engine);
            machine.end(kind);
            let kept = layout(&machine).next_sequence - 1;
            if kept < promised {
                return Err(format!("records up to {promised} were durable, {kept} are there"));
            }
            verdict(&machine)?;
            let pause = machine.now + 2_000_000;
            machine.advance(pause);
        }
        let mut engine = self.boot(machine, durable, u64::MAX)?;
        let compared = self.compare_with_exchange(&mut engine, &symbols);
        let hash = engine.core().counters.get(Counter::BboHash);
        let machine = self.part(engine);
        compared?;
        verdict(&machine)?;
        Ok(Summary { crashes, orders: machine.exchange.orders, hash })
    }

    /// Has the disk fail while the engine trades, for so long as the engine has patience, and says
    /// what became of it; then the disk is well again, and it may go on.
    ///
    /// # Errors
    /// The broken promise.
    pub fn run_failing(
        &mut self,
        seed: u64,
        durability: Durability,
        failure: Failure,
    ) -> Result<[Outcome; 2], String> {
        let machine = machine(seed, durability);
        let durable = durability == Durability::DurableBeforeSend;
        let mut engine = self.boot(machine, durable, u64::MAX)?;
        if !self.live(&mut engine, PATIENCE_NS, |e| e.core().state() == State::Trading) {
            return Err("it does not trade".into());
        }
        let outcomes = [Some(failure), None].map(|failure| {
            engine.port().disk.failure = failure;
            self.live(&mut engine, PATIENCE_NS, |_| false);
            Outcome::of(&mut engine)
        });
        verdict(&self.part(engine)).map(|()| outcomes)
    }

    fn boot(&mut self, mut machine: Machine, durable: bool, crash: u64) -> Result<Engine, String> {
        let config = &self.configs[usize::from(durable)];
        let strategy = self.strategies.make(&config.strategy, config.symbols.len());
        let core = Core::new(config.core.clone(), strategy.map_err(|error| error.to_string())?);
        let mut layout = layout(&machine);
        let floor = layout.recovery.user_ref_max.max(machine.exchange.user_ref_max);
        if self.amnesia {
            layout.recovery = Recovery::default();
        }
        machine.boot(crash, floor);
        let page = CountersPage::create(&self.directory.path().join("counters"));
        let page = page.map_err(|error| error.to_string())?;
        let control = ControlPage::open(&self.directory.path().join("control"));
        let control = control.map_err(|error| error.to_string())?;
        let memory = self.memory.take().expect("one engine at a time");
        Hot::new(config, core, layout, machine, page, control, memory)
            .map_err(|error| error.to_string())
    }

    fn part(&mut self, engine: Engine) -> Machine {
        let (_, machine, memory) = engine.into_parts();
        self.memory = Some(memory);
        machine
    }

    /// Lets the engine run until something, for so long, or until the machine crashes.
    fn live(&self, engine: &mut Engine, ns: u64, done: impl Fn(&mut Engine) -> bool) -> bool {
        let end = engine.port().now + ns;
        let mut tick = engine.port().now;
        while engine.port().now < end && !engine.port().crashed {
            if done(engine) {
                return true;
            }
            let now = engine.port().now;
            engine.turn(now).expect("the machine has no errors of its own");
            if engine.port().crashed {
                break;
            }
            tick = if tick <= now { now + TICK_INTERVAL_NS } else { tick };
            let next = engine.port().next_at().min(tick).max(now + 1);
            engine.port().advance(next);
        }
        false
    }

    /// Trades for a while, stops, and compares with the exchange.
    fn compare_with_exchange(&self, engine: &mut Engine, symbols: &[Symbol]) -> Result<(), String> {
        if !self.live(engine, PATIENCE_NS, |engine| engine.core().state() == State::Trading) {
            return Err(format!("it does not trade again: {:?}", engine.core().state()));
        }
        self.live(engine, LIFE_NS / 3, |_| false);
        let control = ControlPage::open(&self.directory.path().join("control"));
        let control = control.map_err(|error| error.to_string())?;
        control.set(Orders { kill: true, ..Orders::default() });
        let flat = |engine: &mut Engine| engine.core().order_entry().orders.open_count() == 0;
        let killed = |engine: &mut Engine| engine.core().state() == State::Killed;
        self.live(engine, PATIENCE_NS, killed);
        if !self.live(engine, PATIENCE_NS, flat) {
            return Err("orders stay open after the kill switch".into());
        }
        self.live(engine, LIFE_NS / 3, |_| false);
        let live = engine.port().exchange.live_count();
        if live > 0 || !flat(engine) {
            return Err(format!("{live} orders are open at the exchange, none should be"));
        }
        for (id, symbol) in engine.core().market().instruments().zip(symbols).collect::<Vec<_>>() {
            let ours = engine.core().order_entry().orders.position(id).shares;
            let theirs = engine.port().exchange.positions.get(symbol).copied().unwrap_or(0);
            if ours != theirs {
                return Err(format!("{symbol}: position {ours}, the exchange says {theirs}"));
            }
        }
        let nonsense =
            [Counter::OrderNonsense, Counter::SessionUnknownOrder, Counter::BooksUnsound];
        match nonsense.into_iter().find(|counter| engine.core().counters.get(*counter) > 0) {
            Some(counter) => Err(format!("{} is not 0", counter.metric())),
            None => Ok(()),
        }
    }
}

/// Where an engine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// State of the engine.
    pub state: State,
    /// Journal writes that failed.
    pub errors: u64,
    /// Inputs that were left to the network for want of room.
    pub stalled: u64,
    /// Orders that the exchange received.
    pub orders: u64,
    /// Orders that can trade at the exchange.
    pub live: usize,
}

impl Outcome {
    fn of(engine: &mut Engine) -> Self {
        let get = |counter| engine.core().counters.get(counter);
        let (errors, stalled) = (get(Counter::JournalErrors), get(Counter::JournalStalled));
        let state = engine.core().state();
        let exchange = &engine.port().exchange;
        Self { state, errors, stalled, orders: exchange.orders, live: exchange.live_count() }
    }
}

fn symbols() -> [Symbol; 2] {
    ["AAPL", "MSFT"].map(|symbol| Symbol::new(symbol).expect("four letters"))
}

fn machine(seed: u64, durability: Durability) -> Machine {
    let exchange = Exchange::new(&symbols(), RATE, seed);
    let rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let disk = Disk::new(FILES, SEGMENT_LEN);
    Machine::new(exchange, disk, durability, Network::HOSTILE, rng)
}

fn layout(machine: &Machine) -> Layout {
    Layout::after(FILES, SEGMENT_LEN as u64, machine.disk.segments().into_iter())
}

fn verdict(machine: &Machine) -> Result<(), String> {
    let reused = machine.exchange.reused.map(|number| format!("number {number} came twice"));
    machine.broken.clone().or(reused).map_or(Ok(()), Err)
}
