//! `quietcore-exchange`: reads the command line, chooses the market, runs the server.

use abi::field::Symbol;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use exchange::faults::FaultRates;
use exchange::market::Market;
use exchange::recorded_market::ReplayMarket;
use exchange::server::{ServerSettings, run};
use exchange::synthetic_market::FlowMarket;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// An exchange to test against: ITCH 5.0 over MoldUDP64 on two lines, OUCH 5.0 over SoupBinTCP.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Multicast group and port of line A.
    #[arg(long, default_value = "239.192.0.1:31001")]
    line_a: SocketAddrV4,
    /// Multicast group and port of line B.
    #[arg(long, default_value = "239.192.0.2:31002")]
    line_b: SocketAddrV4,
    /// Address of the interface that the lines leave by.
    #[arg(long, default_value = "127.0.0.1")]
    interface: Ipv4Addr,
    /// Where re-requests are answered (UDP).
    #[arg(long, default_value = "127.0.0.1:31003")]
    request: SocketAddrV4,
    /// Where orders are taken (TCP).
    #[arg(long, default_value = "127.0.0.1:31010")]
    orders: SocketAddrV4,
    /// Username and password of each account, at most 6 and 10 characters.
    #[arg(long, value_name = "USER:PASSWORD", value_delimiter = ',', default_value = "quiet:core", value_parser = login)]
    logins: Vec<(String, String)>,
    /// Where snapshots of the books are given (TCP, GLIMPSE 5.0), to the same account.
    #[arg(long)]
    snapshots: Option<SocketAddrV4>,
    /// Messages that the request server remembers; all of them if left out.
    #[arg(long)]
    request_window: Option<usize>,
    /// Symbols of the background flow.
    #[arg(long, value_delimiter = ',', default_value = "AAPL")]
    symbols: Vec<String>,
    /// Background events a second, over all symbols.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Seed of background flow and faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Play a length-prefixed ITCH 5.0 recording instead of background flow, if the file exists.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Use background flow if the recording is not there, instead of failing.
    #[arg(long, requires = "replay")]
    replay_optional: bool,
    /// Speed of the recording in percent of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    speed: u32,
    /// Open the market only when an account has logged in.
    #[arg(long)]
    wait_for_login: bool,
    /// Datagrams lost on each line, per million.
    #[arg(long, default_value_t = 0)]
    loss_ppm: u32,
    /// Datagrams sent twice on each line, per million.
    #[arg(long, default_value_t = 0)]
    duplicate_ppm: u32,
    /// Datagrams sent after the next one on each line, per million.
    #[arg(long, default_value_t = 0)]
    reorder_ppm: u32,
    /// Close the order-entry connection every so many seconds.
    #[arg(long)]
    disconnect_every: Option<u64>,
}

fn login(text: &str) -> Result<(String, String)> {
    let (username, password) = text.split_once(':').context("USER:PASSWORD")?;
    let fits = (1..=6).contains(&username.len()) && password.len() <= 10 && text.is_ascii();
    ensure!(fits, "at most 6 and 10 ASCII characters");
    Ok((username.into(), password.into()))
}

fn market(arguments: &Arguments) -> Result<Box<dyn Market>> {
    let recording =
        arguments.replay.as_ref().filter(|path| path.exists() || !arguments.replay_optional);
    if let Some(path) = recording {
        let file = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let market = ReplayMarket::read(&file, arguments.speed)
            .with_context(|| path.display().to_string())?;
        let symbols: Vec<_> = market.symbols().iter().map(ToString::to_string).collect();
        println!(
            "exchange: playing {} ({}) at {} %",
            path.display(),
            symbols.join(", "),
            arguments.speed
        );
        return Ok(Box::new(market));
    }
    let symbols = arguments.symbols.iter().map(|text| {
        Symbol::new(text)
            .filter(|_| !text.is_empty())
            .with_context(|| format!("--symbols: {text:?} is not 1 to 8 ASCII characters"))
    });
    let symbols: Vec<Symbol> = symbols.collect::<Result<_>>()?;
    ensure!(!symbols.is_empty(), "--symbols: name at least one");
    println!(
        "exchange: background flow in {}, seed {}",
        arguments.symbols.join(", "),
        arguments.seed
    );
    Ok(Box::new(FlowMarket::new(&symbols, arguments.rate, arguments.seed)))
}

fn serve(arguments: Arguments) -> Result<()> {
    let market = market(&arguments)?;
    let (loss_ppm, duplicate_ppm, reorder_ppm) =
        (arguments.loss_ppm, arguments.duplicate_ppm, arguments.reorder_ppm);
    let settings = ServerSettings {
        lines: [arguments.line_a, arguments.line_b],
        interface: arguments.interface,
        request: arguments.request,
        orders: arguments.orders,
        logins: arguments.logins,
        faults: FaultRates { loss_ppm, duplicate_ppm, reorder_ppm },
        disconnect_every: arguments
            .disconnect_every
            .map(|seconds| Duration::from_secs(seconds.max(1))),
        seed: arguments.seed,
        snapshots: arguments.snapshots,
        request_window: arguments.request_window,
        wait_for_login: arguments.wait_for_login,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(settings, market))
}

fn main() -> ExitCode {
    match serve(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-exchange: {error:#}");
            ExitCode::FAILURE
        }
    }
}
