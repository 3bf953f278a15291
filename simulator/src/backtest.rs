//! A strategy over a recorded day: the engine's own loop, book, risk and journal on virtual time,
//! against the exchange that replays the recording. What the exchange assumes about fills stands in
//! `exchange::recorded_market`; the result is no better than that.

use crate::disk::Disk;
use crate::exchange::Exchange;
use crate::machine::{Machine, Network};
use abi::control::{ControlPage, Orders};
use abi::counters::{Counter, CountersPage};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use engine::arena::Arena;
use engine::config::{Config, Durability};
use engine::hot::{Hot, HotBuffers};
use engine::journal::Layout;
use engine::limits::{ARENA_LEN, TICK_INTERVAL_NS};
use engine::strategies::{AnyStrategy, Strategies};
use engine_core::pipeline::Core;
use exchange::recorded_market::ReplayMarket;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run a strategy over a recording of ITCH 5.0 messages, each behind a two-byte big-endian length.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Recording to run the strategy over.
    recording: PathBuf,
    /// The engine's configuration: instruments, risk limits, strategy.
    #[arg(long, default_value = "engine/config/demo.toml")]
    config: PathBuf,
    /// A file with another [strategy] table.
    #[arg(long)]
    strategy: Option<PathBuf>,
    /// Between exchange and engine, one way, in microseconds.
    #[arg(long, default_value_t = 50)]
    latency_us: u64,
}

/// Runs what the command line asks for with these strategies.
pub fn main(strategies: &Strategies) -> ExitCode {
    match run(&Arguments::parse(), strategies) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-backtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const FILES: usize = 4;
const SEGMENT_LEN: usize = 1 << 20;
/// The exchange is given so long to answer after the recording's end.
const SETTLE_NS: u64 = 2_000_000_000;

type Engine = Hot<AnyStrategy, Machine>;

fn run(arguments: &Arguments, strategies: &Strategies) -> Result<()> {
    let config = configuration(arguments)?;
    let strategy = strategies.make(&config.strategy, config.symbols.len())?;
    let path = arguments.recording.display();
    let file = std::fs::read(&arguments.recording).with_context(|| format!("read {path}"))?;
    let market = ReplayMarket::read(&file, 100).with_context(|| path.to_string())?;
    let listed = market.symbols();
    if let Some(symbol) = config.symbols.iter().find(|symbol| !listed.contains(symbol)) {
        let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
        bail!("{symbol} is not in {path}, which has {}; change book.symbols", listed.join(", "));
    }
    let network = Network {
        latency_ns: arguments.latency_us * 1_000,
        jitter_ns: 0,
        loss: None,
        beat_ns: 1_000_000_000,
    };
    let exchange = Exchange::with(Box::new(market));
    let disk = Disk::new(FILES, SEGMENT_LEN);
    let rng = ChaCha8Rng::seed_from_u64(0);
    let mut machine = Machine::new(exchange, disk, Durability::Async, network, rng);
    machine.boot(u64::MAX, 0);
    let pages = tempfile::tempdir().context("make a directory")?;
    show(&trade(&config, strategy, machine, pages.path())?);
    Ok(())
}

/// The configuration, with the `[strategy]` table of another file in the place of its own.
fn configuration(arguments: &Arguments) -> Result<Config> {
    let path = &arguments.config;
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    let mut text = read(path)?;
    if let Some(other) = &arguments.strategy {
        let mut own = false;
        let kept = text.lines().filter(|line| {
            if line.starts_with('[') {
                own = *line == "[strategy]";
            }
            !own
        });
        text = kept.collect::<Vec<_>>().join("\n") + "\n" + &read(other)?;
    }
    Ok(Config::parse(&text, path)?)
}

fn trade(config: &Config, strategy: AnyStrategy, machine: Machine, pages: &Path) -> Result<Engine> {
    let page = CountersPage::create(&pages.join("counters"))?;
    let control = ControlPage::open(&pages.join("control"))?;
    let orders = ControlPage::open(&pages.join("control"))?;
    let memory = HotBuffers::new(&mut Arena::new(ARENA_LEN).context("map memory")?);
    let layout = Layout::after(FILES, SEGMENT_LEN as u64, std::iter::empty());
    let core = Core::new(config.core.clone(), strategy);
    let mut engine = Hot::new(config, core, layout, machine, page, control, memory)?;
    let mut end = None;
    let mut tick = 0;
    loop {
        let now = engine.port().now;
        orders.beat(now);
        if engine.port().exchange.is_over() && end.is_none() {
            // The day is over: nothing is left open.
            orders.set(Orders { kill: true, ..Orders::default() });
            end = Some(now + SETTLE_NS);
        }
        if end.is_some_and(|end| now >= end) {
            break;
        }
        engine.turn(now)?;
        tick = if tick <= now { now + TICK_INTERVAL_NS } else { tick };
        let next = engine.port().next_at().min(tick).max(now + 1);
        engine.port().advance(next);
    }
    let open = engine.core().order_entry().orders.open_count();
    ensure!(open == 0, "{open} orders are still open after the recording's end");
    Ok(engine)
}

fn show(engine: &Engine) {
    let core = engine.core();
    println!("{:<10} {:>10} {:>16}", "SYMBOL", "POSITION", "P&L AT THE TOUCH");
    for id in core.market().instruments() {
        let view = core.instrument_view(id);
        let pnl = view.pnl_ticks as f64 / 10_000.0;
        println!("{:<10} {:>10} {pnl:>16.2}", view.symbol.to_string(), view.position);
    }
    for counter in [
        Counter::FeedMessages,
        Counter::BboChanges,
        Counter::OrdersSent,
        Counter::ReplacesSent,
        Counter::CancelsSent,
        Counter::Executions,
        Counter::SharesFilled,
        Counter::RiskRejected,
        Counter::OrdersRejected,
    ] {
        println!("{:<28} {:>10}", counter.metric(), core.counters.get(counter));
    }
}
