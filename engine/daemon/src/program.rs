//! The program `quietcore-engine`: reads the command line, checks the host, starts the hot thread.
//! A quant's own crate makes the same program with strategies of its own.

use crate::arena::Arena;
use crate::baseline::{self, Baseline};
use crate::config::{Config, ConfigError, Contract};
use crate::host_cpu::{self, Signals};
use crate::hot::{End, Hot, HotBuffers};
use crate::journal::{Files, Layout};
use crate::limits::ARENA_LEN;
use crate::port::Port;
use crate::ring::{Handles, Ring};
use crate::strategies::{AnyStrategy, Strategies};
use crate::{net, preflight, replay, report, shards, supervisor};
use abi::control::ControlPage;
use abi::counters::{Counter, CountersPage, Event, State, Word};
use abi::hostplan::{CorePlan, CpuSet};
use clap::{Parser, Subcommand};
use engine_core::pipeline::Core;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing::{info, warn};

/// The execution engine: one hot thread, one io_uring ring.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The configuration; without it, the systemd credential quietcore.engine.toml, or else
    /// /etc/quietcore/engine.toml.
    #[arg(long, default_value_os_t = default_config())]
    config: PathBuf,
    /// Check the configuration and leave.
    #[arg(long)]
    check_config: bool,
    /// Check the host and leave; exit code 3 if it breaks the contract.
    #[arg(long)]
    preflight: bool,
    /// Back end for I/O, for measurements: only io-uring is for trading.
    #[arg(long, value_enum, default_value = "io-uring")]
    backend: Backend,
    /// Record nothing, for measurements.
    #[arg(long)]
    no_journal: bool,
    /// Run one shard of the configuration; without it, all of them, each as a process of its own.
    #[arg(long)]
    shard: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    IoUring,
    Epoll,
    Spin,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play a journal's last run back through the engine and compare every output byte.
    Replay {
        /// The journal's directory.
        journal: PathBuf,
        /// Write every best bid and offer as CSV.
        #[arg(long)]
        bbo: Option<PathBuf>,
    },
    /// Write the times of a journal's orders as one HTML page.
    Report {
        /// The journal's directory.
        journal: PathBuf,
        /// The file to write.
        #[arg(long, default_value = "report.html")]
        output: PathBuf,
    },
}

fn default_config() -> PathBuf {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let given = credentials.map(|at| at.join("quietcore.engine.toml"));
    given.filter(|path| path.exists()).unwrap_or("/etc/quietcore/engine.toml".into())
}

/// The exit code of a configuration that is refused or not there: systemd does not try again.
const EXIT_CONFIG: u8 = 2;
/// The exit code of a host that breaks the contract: systemd shows it, and does not try again.
const EXIT_CONTRACT: u8 = 3;
/// The exit code of an exchange that started another session: systemd starts the engine anew.
const EXIT_ROLLED: u8 = 4;

/// Does what the command line says, with these strategies.
pub fn main(strategies: &Strategies) -> ExitCode {
    log_to_journald();
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Replay { journal, bbo }) => run_replay(journal, bbo.as_deref(), strategies),
        Some(Command::Report { journal, output }) => run_report(journal, output),
        None => run(&arguments, strategies),
    };
    done.unwrap_or_else(|error| {
        eprintln!("quietcore-engine: {}", chain(&*error));
        ExitCode::FAILURE
    })
}

/// Journald if it is there, else lines on standard error.
fn log_to_journald() {
    use tracing_subscriber::prelude::*;
    let on_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let journald = on_journal.then(tracing_journald::layer).and_then(Result::ok);
    let plain = journald
        .is_none()
        .then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time());
    tracing_subscriber::registry().with(journald).with(plain).init();
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    line
}

/// The configurations that the arguments ask for, by the names of their shards; one without a name
/// if there are none.
fn read_configs(arguments: &Arguments) -> Result<Vec<(String, Config)>, ConfigError> {
    let path = &arguments.config;
    let text = Config::read_text(path)?;
    let cores = host_cpu::core_plan().unwrap_or_else(|_| CorePlan::without_hot());
    let shards = shards::split(&text, path, &cores)?;
    let names = || shards.iter().map(|shard| shard.name.clone()).collect::<Vec<_>>().join(", ");
    match &arguments.shard {
        None if shards.is_empty() => Ok(vec![(String::new(), Config::parse(&text, path)?)]),
        Some(name) if !shards.iter().any(|shard| shard.name == *name) => {
            let message = format!("--shard {name}: the configuration's shards are: {}", names());
            Err(ConfigError::Schema { path: path.clone(), message })
        }
        wanted => shards
            .into_iter()
            .filter(|shard| wanted.as_ref().is_none_or(|name| *name == shard.name))
            .map(|shard| {
                let shown = format!("{}, shard {}", path.display(), shard.name);
                Ok((shard.name, Config::parse_made(&shard.text, Path::new(&shown))?))
            })
            .collect(),
    }
}

fn run(arguments: &Arguments, strategies: &Strategies) -> Result<ExitCode, Box<dyn Error>> {
    let configs = match read_configs(arguments) {
        Ok(configs) => configs,
        Err(error) => {
            eprintln!("quietcore-engine: {}", chain(&error));
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let mut made = Vec::with_capacity(configs.len());
    for (_, config) in &configs {
        match strategies.make(&config.strategy, config.symbols.len()) {
            Ok(strategy) => made.push(strategy),
            Err(error) => {
                eprintln!("quietcore-engine: {}: {error}", arguments.config.display());
                return Ok(ExitCode::from(EXIT_CONFIG));
            }
        }
    }
    if arguments.check_config {
        println!("{}: valid", arguments.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    let mut findings = Vec::new();
    for finding in configs.iter().flat_map(|(_, config)| preflight::findings(config)) {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    let enforced = configs.iter().any(|(_, config)| config.host.contract == Contract::Enforce);
    if arguments.preflight || enforced {
        findings.iter().for_each(|finding| eprintln!("quietcore-engine: {finding}"));
        if !findings.is_empty() {
            return Ok(ExitCode::from(EXIT_CONTRACT));
        }
    }
    if arguments.preflight {
        println!("the host keeps the engine's contract");
        return Ok(ExitCode::SUCCESS);
    }
    findings.iter().for_each(|finding| warn!("host contract: {finding}"));
    match (&configs[..], made.pop()) {
        ([(name, config)], Some(strategy)) if name.is_empty() || arguments.shard.is_some() => {
            if name.is_empty() {
                shards::prepare_pages(&config.pages.directory, &[])?;
            } else {
                // A shard does not outlive its parent, which would start it a second time.
                prctl::set_pdeathsig(Signal::SIGTERM)?;
            }
            trade(config, strategy, arguments)
        }
        _ => supervise(&configs, &arguments.config),
    }
}

/// Runs every shard as a process of its own, on behalf of one that sleeps.
fn supervise(configs: &[(String, Config)], path: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let names: Vec<_> = configs.iter().map(|(name, _)| name.as_str()).collect();
    let (_, first) = &configs[0];
    if let Some(root) = first.pages.directory.parent() {
        shards::prepare_pages(root, &names)?;
    }
    if let Some(cpu) = first.host.journal_cpus.as_ref().and_then(|cpus| cpus.last()) {
        host_cpu::pin_to(*cpu).map_err(|error| format!("host.journal_cpus: {error}"))?;
    }
    let program = std::env::current_exe()?;
    let hopeless = [EXIT_CONFIG, EXIT_CONTRACT];
    Ok(supervisor::supervise(&program, path, &names, &hopeless)?.into())
}

fn trade(
    config: &Config,
    strategy: AnyStrategy,
    arguments: &Arguments,
) -> Result<ExitCode, Box<dyn Error>> {
    std::fs::create_dir_all(&config.pages.directory)?;
    let page = CountersPage::create(&config.pages.directory.join("counters"))?;
    let control = ControlPage::open(&config.pages.directory.join("control"))?;
    let files = Files::open(
        &config.journal.directory,
        config.journal.segments,
        config.journal.segment_mib << 20,
    )?;
    if !files.direct {
        warn!("the journal's file system has no O_DIRECT; writes go through the page cache");
    }
    host_cpu::keep_memory();
    let handles = Handles {
        sockets: [
            net::line(config.feed.line_a, config.feed.interface)?,
            net::line(config.feed.line_b, config.feed.interface)?,
            net::requests(config.feed.request_server)?,
        ],
        servers: [Some(config.order_server), config.snapshot_server],
        signals: Signals::new()?,
        journal: files.files,
    };
    let core = Core::new(config.core.clone(), strategy);
    let mut arena = Arena::new(ARENA_LEN)?;
    let cpu = preflight::hot_cpu(config);
    if let Some(cpu) = cpu {
        host_cpu::pin_to(cpu).map_err(|error| format!("host.cpu: {error}"))?;
    }
    introduce(&page, cpu);
    let memory = HotBuffers::new(&mut arena);
    let parts = Parts { config, core, layout: files.layout, page, control, memory, arguments };
    match arguments.backend {
        Backend::IoUring => {
            let ring = Ring::new(&mut arena, handles, config.host.sqpoll_cpu)?;
            if let Some(spare) = spare_cores(config) {
                ring.keep_workers_on(spare.iter())?;
            }
            parts.run(ring)
        }
        Backend::Epoll => parts.run(Baseline::new(baseline::Kind::Epoll, handles)?),
        Backend::Spin => parts.run(Baseline::new(baseline::Kind::Spin, handles)?),
    }
}

/// Parts of the hot thread that do not depend on the back end.
struct Parts<'a> {
    config: &'a Config,
    core: Core<AnyStrategy>,
    layout: Layout,
    page: CountersPage,
    control: ControlPage,
    memory: HotBuffers,
    arguments: &'a Arguments,
}

impl Parts<'_> {
    fn run(self, port: impl Port) -> Result<ExitCode, Box<dyn Error>> {
        let Self { config, core, layout, page, control, memory, arguments } = self;
        let mut hot = Hot::new(config, core, layout, port, page, control, memory)?;
        if arguments.no_journal {
            warn!("no journal: nothing is recorded");
            hot.forgo_journal();
        }
        if let Err(error) = host_cpu::lock_memory() {
            warn!("memory is not locked: {error}; set LimitMEMLOCK=infinity");
        }
        info!("trading thread starts");
        match hot.run()? {
            End::Stopped => Ok(ExitCode::SUCCESS),
            End::SessionRolled => {
                info!("the exchange started another session; starting anew");
                Ok(ExitCode::from(EXIT_ROLLED))
            }
        }
    }
}

/// The hot cores besides the hot thread's own, where the journal's workers run; they share the core
/// of the thread that submits only if there is no other.
fn spare_cores(config: &Config) -> Option<CpuSet> {
    let plan = host_cpu::core_plan().ok()?;
    let own = preflight::hot_cpu(config)?;
    let named = config.host.journal_cpus.as_ref();
    let others: CpuSet = plan
        .hot()
        .iter()
        .filter(|cpu| *cpu != own && named.is_none_or(|named| named.contains(cpu)))
        .collect();
    let quiet = others.iter().filter(|cpu| Some(*cpu) != config.host.sqpoll_cpu).collect();
    [quiet, others].into_iter().find(|set| !set.is_empty())
}

fn introduce(page: &CountersPage, cpu: Option<u32>) {
    page.set_word(Word::Pid, std::process::id().into());
    page.set_word(Word::Started, host_cpu::now_ns());
    page.set_word(Word::HotCpu, cpu.map_or(u64::MAX, u64::from));
    page.set_word(Word::Emulated, host_cpu::is_emulated().into());
    page.set_word(Word::State, State::Starting as u64);
    page.raise(Event::Started, cpu.map_or(u64::MAX, u64::from));
}

fn run_replay(
    journal: &Path,
    bbo: Option<&Path>,
    strategies: &Strategies,
) -> Result<ExitCode, Box<dyn Error>> {
    let report = replay::replay(journal, strategies)?;
    if let Some(path) = bbo {
        std::fs::write(path, replay::bbo_csv(&report.core))?;
    }
    let quotes = report.core.counters.get(Counter::BboChanges);
    println!(
        "{} records, {} bytes of output came out again, {quotes} best bids and offers",
        report.records, report.output_bytes
    );
    Ok(ExitCode::SUCCESS)
}

fn run_report(journal: &Path, output: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let page = report::html(journal)?;
    let bytes = page.len();
    std::fs::write(output, page).map_err(|error| format!("write {}: {error}", output.display()))?;
    println!("{}: {bytes} bytes", output.display());
    Ok(ExitCode::SUCCESS)
}
