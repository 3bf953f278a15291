//! `qctl`: asks the agent on this host, for people and scripts.

use agent::server::{Request, Response, SOCKET};
use agent::status::Status;
use agent::view;
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Ask the agent of this host. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The agent's socket.
    #[arg(long, default_value = SOCKET, global = true)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the host is doing.
    Status {
        /// How to show it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// The same, drawn anew each second.
    Top {
        /// Use colour although the output is not a terminal.
        #[arg(long)]
        colour: bool,
    },
    /// Wait until the engine trades and every container runs.
    Ready {
        /// Seconds to wait.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Run what a compose file declares.
    Apply {
        /// The file.
        file: PathBuf,
    },
    /// Cancel every order and send nothing more, until `qctl resume`.
    Kill,
    /// Cancel working orders and open no new ones, until `qctl resume`.
    Drain,
    /// Trade again, also after a limit stopped trading.
    Resume,
    /// Show the engine's risk limits, or put others in force until its next configuration.
    Limits {
        /// The shard, if the engine has several.
        #[arg(long)]
        shard: Option<String>,
        /// NAME=VALUE; none shows all.
        changes: Vec<String>,
    },
}

struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(socket: &PathBuf) -> Result<Self> {
        let stream = UnixStream::connect(socket);
        let stream = stream.with_context(|| {
            format!("reach the agent at {}; is quietcore-agent.service running?", socket.display())
        })?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    fn ask(&mut self, request: &Request) -> Result<Response> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).context("ask the agent")?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer).context("hear the agent")?;
        serde_json::from_str(&answer).context("the agent's answer")
    }

    fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::Status {})? {
            Response::Status(status) => Ok(*status),
            Response::Error(why) => bail!(why),
            _ => bail!("the agent answered something else than a status"),
        }
    }

    fn done(&mut self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Response::Error(why) => bail!(why),
            _ => Ok(()),
        }
    }
}

fn top(client: &mut Client, colour: bool) -> Result<()> {
    loop {
        let page = view::page(&client.status()?, colour);
        let mut out = std::io::stdout();
        // Home, the page with the rest of each line cleared, then everything below.
        write!(out, "\x1b[H{}\x1b[J", page.replace('\n', "\x1b[K\r\n"))?;
        out.flush()?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn ready(socket: &PathBuf, timeout: Duration) -> Result<()> {
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < timeout {
        match Client::connect(socket).and_then(|mut client| client.status()) {
            Ok(status) if status.ready => {
                let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
                println!(
                    "quietcore: ready, {} s after the kernel started",
                    uptime.split(' ').next().unwrap_or("?")
                );
                return Ok(());
            }
            other => last = Some(other),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    match last {
        Some(Ok(status)) => {
            bail!("not ready after {} s:\n{}", timeout.as_secs(), view::page(&status, false))
        }
        Some(Err(error)) => Err(error),
        None => bail!("no time to look"),
    }
}

fn limits(client: &mut Client, shard: Option<&String>, changes: &[String]) -> Result<()> {
    let change = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("{text}: NAME=VALUE"))?;
        let value = value.parse().with_context(|| format!("{text}: a whole number"))?;
        Ok((name.to_string(), value))
    };
    let changes = changes.iter().map(change).collect::<Result<_>>()?;
    match client.ask(&Request::Limits { shard: shard.cloned(), changes })? {
        Response::Limits(limits) => {
            limits.iter().for_each(|(name, value)| println!("{name:<24} {value:>20}"));
            Ok(())
        }
        Response::Error(why) => bail!(why),
        _ => bail!("the agent answered something else than limits"),
    }
}

fn act(arguments: &Arguments) -> Result<()> {
    if let Command::Ready { timeout } = arguments.command {
        return ready(&arguments.socket, Duration::from_secs(timeout));
    }
    let mut client = Client::connect(&arguments.socket)?;
    match &arguments.command {
        Command::Status { output: Output::Table } => {
            print!("{}", view::page(&client.status()?, std::io::stdout().is_terminal()))
        }
        Command::Status { output: Output::Json } => {
            println!("{}", serde_json::to_string_pretty(&client.status()?)?)
        }
        Command::Top { colour } => top(&mut client, *colour || std::io::stdout().is_terminal())?,
        Command::Apply { file } => {
            let compose = std::fs::read_to_string(file)
                .with_context(|| format!("read {}", file.display()))?;
            client.done(&Request::Apply { compose }).with_context(|| file.display().to_string())?;
        }
        Command::Kill => client.done(&Request::Control { kill: true, drain: false })?,
        Command::Drain => client.done(&Request::Control { kill: false, drain: true })?,
        Command::Resume => client.done(&Request::Control { kill: false, drain: false })?,
        Command::Limits { shard, changes } => limits(&mut client, shard.as_ref(), changes)?,
        Command::Ready { .. } => {}
    }
    Ok(())
}

fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
