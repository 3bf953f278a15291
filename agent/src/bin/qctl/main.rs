//! `qctl`: asks the agent on this host, for people and scripts.

use agent::compose::project::{Surroundings, resolve};
use agent::flash::disk::Disk;
use agent::flash::source::{ImageFile, check_sums, split};
use agent::flash::{self, Source};
use agent::hostconfig;
use agent::limits::{HEALTHY_FOR, INSTALLED_LEN_MIN, UPDATE_SILENCE_MAX};
use agent::server::{Request, Response, SOCKET};
use agent::status::Status;
use agent::update::{Progress, Stage};
use agent::view;
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// `qctl config`.
mod config;
/// `qctl events`.
mod events;
/// `qctl image`.
mod image;
/// `qctl logs`.
mod logs;
/// `qctl tune`.
mod tuning;

/// Ask the agent of this host.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "qctl", version)]
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
    /// Wait until the engine runs, past its preflight, and every container does, and all stay up for 10 s.
    /// The exchange may be closed.
    Healthy {
        /// Seconds to wait.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Fetch a release of the operating system and write it to the other slot; the next boot tries it. Trading
    /// goes on meanwhile. Without URL: how the last update went.
    Update {
        /// The release's directory, as http://HOST/PATH or https://HOST/PATH.
        url: Option<String>,
    },
    /// Restart the host: the engine cancels its orders first. Refused while it holds a position.
    Reboot {
        /// Although the engine holds a position.
        #[arg(long)]
        holding: bool,
    },
    /// Run what a compose file declares. Its variables, files of environment, extended services and profiles are put in
    /// here, from this environment and the files beside it.
    Apply {
        /// The file.
        file: PathBuf,
        /// A profile whose services are wanted too; * for all.
        #[arg(long)]
        profile: Vec<String>,
        /// Say whether the file would be accepted, and what would be another than now; change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a compose file and print what it means, as JSON, with everything put in. Asks no agent.
    Config {
        /// The file.
        file: PathBuf,
        /// A profile whose services are wanted too; * for all.
        #[arg(long)]
        profile: Vec<String>,
        /// CPUs for containers that the host has.
        #[arg(long, default_value_t = 2)]
        cpus: u32,
    },
    /// What happened on this host, oldest first.
    Events(events::Events),
    /// What a container wrote.
    Logs(logs::Logs),
    /// Print what a shell needs to complete qctl's words. Asks no agent.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print qctl's manual page, for `man -l -`. Asks no agent.
    Man,
    /// Images of containers.
    Image {
        #[command(subcommand)]
        what: image::Image,
    },
    /// Whether this host is tuned, and what makes a host tuned. Asks no agent.
    Tune {
        #[command(subcommand)]
        what: tuning::Tune,
    },
    /// Write a disk image to a stick or disk of this machine, and read it back. Asks no agent. Refused while
    /// anything uses the disk. One that was pulled out does not boot; a second try goes on.
    Flash {
        /// The image, a disk.raw.
        image: PathBuf,
        /// The whole disk, as /dev/sdb.
        disk: PathBuf,
        /// Who signed the SHA256SUMS beside the image: a release.pub.
        #[arg(long)]
        key: Option<PathBuf>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Put the parts of a disk image that are not the root in files, for a netboot UKI.
    #[command(hide = true)]
    SplitImage {
        /// The image.
        image: PathBuf,
        /// A directory.
        directory: PathBuf,
    },
    /// A host's configuration.
    Host {
        #[command(subcommand)]
        what: Host,
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

#[derive(Debug, Subcommand)]
enum Host {
    /// Check the file that a host is to be given as the credential quietcore.host. Asks no agent.
    Check {
        /// The file.
        file: PathBuf,
        /// CPUs of the host, to check its cores too.
        #[arg(long)]
        cpus: Option<u32>,
    },
}

fn check_host(file: &Path, cpus: Option<u32>) -> Result<()> {
    let config = hostconfig::read(file)?;
    let plan = cpus.map(|cpus| config.check_cpus(cpus)).transpose();
    let plan = plan.with_context(|| file.display().to_string())?.flatten();
    let cores = plan.map_or(String::new(), |plan| {
        format!(" ({} hot, {} for everything else)", plan.hot(), plan.housekeeping())
    });
    println!("{}: valid, {}{cores}", file.display(), config.summary());
    Ok(())
}

fn flash_image(image: &Path, path: &Path, key: Option<&Path>, yes: bool) -> Result<()> {
    let source = ImageFile::open(image)?;
    let disk = Disk::find(path, INSTALLED_LEN_MIN.max(source.size()))?;
    eprintln!("{}", check_sums(image, key)?);
    eprintln!("{}", disk.description());
    if !yes {
        ensure!(
            std::io::stdin().is_terminal(),
            "nobody to ask; give --yes to write without asking"
        );
        eprint!("all of it is lost: type its name again to write to it: ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        ensure!(Path::new(answer.trim()) == path, "not the same name; nothing was written");
    }
    let mut progress = flash::Progress::new(source.size());
    let written = flash::write(&source, &mut disk.open()?, |step, done| progress.tell(step, done))
        .with_context(|| path.display().to_string())?;
    println!(
        "{}: the image is on it, {} MiB were other ones before",
        path.display(),
        written >> 20
    );
    Ok(())
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

/// Looks until the status is as `wanted`; `what` is its name.
fn wait(
    socket: &PathBuf,
    timeout: Duration,
    what: &str,
    mut wanted: impl FnMut(&Status) -> bool,
) -> Result<()> {
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < timeout {
        match Client::connect(socket).and_then(|mut client| client.status()) {
            Ok(status) if wanted(&status) => {
                let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
                let uptime = uptime.split(' ').next().unwrap_or("?");
                let names: Vec<_> = status.containers.iter().map(|c| c.name.as_str()).collect();
                let names = names.join(" ");
                println!(
                    "quietcore: {what}, {uptime} s after the kernel started; containers: {names}; data {}",
                    if status.sealed { "sealed" } else { "not sealed" }
                );
                return Ok(());
            }
            other => last = Some(other),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    match last {
        Some(Ok(status)) => {
            bail!("not {what} after {} s:\n{}", timeout.as_secs(), view::page(&status, false))
        }
        Some(Err(error)) => Err(error),
        None => bail!("no time to look"),
    }
}

/// Healthy without a break, with the same processes.
fn healthy(socket: &PathBuf, timeout: Duration) -> Result<()> {
    let mut since = None;
    wait(socket, timeout, "healthy", |status| {
        let pids: Vec<u32> = status.engines.iter().map(|engine| engine.pid).collect();
        let restarts: u32 = status.containers.iter().map(|container| container.restarts).sum();
        let now = (pids, restarts);
        match &since {
            Some((what, at)) if status.healthy && *what == now => {
                Instant::now().duration_since(*at) >= HEALTHY_FOR
            }
            _ => {
                since = status.healthy.then(|| (now, Instant::now()));
                false
            }
        }
    })
}

/// Asks for an update and shows how it goes, until it is staged or has failed.
fn update(client: &mut Client, url: &str) -> Result<()> {
    client.done(&Request::Update { url: url.into() })?;
    let (mut shown, mut last) = (Progress::default(), Instant::now());
    loop {
        let progress = client.status()?.update.progress;
        if progress != shown {
            let Progress { stage, version, detail } = &progress;
            let version = version.map_or(String::new(), |version| format!(" {version}"));
            match stage {
                Stage::Failed => bail!("update: {detail}; the next boot is as before"),
                Stage::Staged => {
                    println!("staged{version}: {detail}; qctl reboot starts it");
                    return Ok(());
                }
                _ => println!("{stage:?}{version}: {detail}"),
            }
            (shown, last) = (progress, Instant::now());
        }
        if last.elapsed() > UPDATE_SILENCE_MAX {
            bail!(
                "no progress for {} s; journalctl -u quietcore-fetch -u quietcore-install says why",
                UPDATE_SILENCE_MAX.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn show_update(status: &Status) {
    let on_trial = if status.update.on_trial { ", on trial: it may still fall back" } else { "" };
    println!("running     {}{on_trial}", status.version);
    let Progress { stage, version, detail } = &status.update.progress;
    let version = version.map_or(String::new(), |version| format!("{version} "));
    println!("last update {version}{stage:?} {detail}");
    let failed = &status.update.failed;
    println!("failed here {}", if failed.is_empty() { "none".into() } else { failed.join(" ") });
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
    let (socket, seconds) = (&arguments.socket, Duration::from_secs);
    match arguments.command {
        Command::Ready { timeout } => {
            return wait(socket, seconds(timeout), "ready", |status| status.ready);
        }
        Command::Healthy { timeout } => return healthy(socket, seconds(timeout)),
        Command::Tune { ref what } => return tuning::act(what),
        Command::Host { what: Host::Check { ref file, cpus } } => return check_host(file, cpus),
        Command::Logs(ref wanted) => return logs::show(wanted),
        Command::Completion { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "qctl", &mut std::io::stdout());
            return Ok(());
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Arguments::command());
            return page.render(&mut std::io::stdout()).context("write the page");
        }
        Command::Config { ref file, ref profile, cpus } => {
            return config::show(file, profile, cpus);
        }
        Command::Flash { ref image, ref disk, ref key, yes } => {
            return flash_image(image, disk, key.as_deref(), yes);
        }
        Command::SplitImage { ref image, ref directory } => {
            return split(&ImageFile::open(image)?, directory);
        }
        _ => {}
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
        Command::Apply { file, profile, dry_run } => {
            let compose = resolve(file, &Surroundings::of(file, profile)?)?;
            let named = || file.display().to_string();
            let asked = client.ask(&Request::Apply { compose, dry_run: *dry_run });
            match asked.with_context(named)? {
                Response::Changes(changes) => changes.iter().for_each(|line| println!("{line}")),
                Response::Error(why) => return Err(anyhow!(why)).with_context(named),
                _ => bail!("the agent answered something else than changes"),
            }
        }
        Command::Events(wanted) => events::show(&mut client, wanted)?,
        Command::Image { what } => image::act(&mut client, what)?,
        Command::Kill => client.done(&Request::Control { kill: true, drain: false })?,
        Command::Drain => client.done(&Request::Control { kill: false, drain: true })?,
        Command::Resume => client.done(&Request::Control { kill: false, drain: false })?,
        Command::Limits { shard, changes } => limits(&mut client, shard.as_ref(), changes)?,
        Command::Update { url: Some(url) } => update(&mut client, url)?,
        Command::Update { url: None } => show_update(&client.status()?),
        Command::Reboot { holding } => client.done(&Request::Reboot { holding: *holding })?,
        Command::Ready { .. }
        | Command::Healthy { .. }
        | Command::Config { .. }
        | Command::Logs(_)
        | Command::Completion { .. }
        | Command::Man
        | Command::Flash { .. }
        | Command::SplitImage { .. }
        | Command::Host { .. }
        | Command::Tune { .. } => {}
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
