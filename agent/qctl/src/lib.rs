//! `qctl`: asks the agent on this host, or on others, for people and scripts.

/// `qctl apply`, `diff`, `get`, `describe`, `rollout`, `secret`.
mod apply;
/// Arguments of `qctl apply`.
mod apply_args;
/// `qctl audit`.
mod audit;
/// `qctl top --boot`.
mod boot;
/// `qctl ca`.
mod ca;
/// The way to an agent.
mod client;
/// Line numbers of compose files.
mod compose_file;
/// What a file leaves to where it is applied from.
mod compose_project;
/// `qctl config`.
mod config;
/// `qctl cpu`.
mod cpu;
/// `qctl debug`.
mod debug;
/// `qctl desired`.
mod desired;
/// Line diffs.
mod diff;
/// `qctl events`.
mod events;
/// `qctl apply --canary`.
mod fleet;
/// `qctl get` and `qctl describe`.
mod get;
/// The hosts that are known.
mod hosts;
/// `qctl image`.
mod image;
/// `qctl logs`.
mod logs;
/// Output formats.
mod output;
/// `qctl pcap`.
mod pcap;
/// `qctl rollout`.
mod rollout;
/// `qctl secret`.
mod secret;
/// Status as a page for a terminal.
mod status_page;
/// `qctl support`.
mod support;
/// The terminal that qctl runs in.
mod terminal;
/// Whether the host is tuned as it is to be.
mod tune;
/// `qctl tune`.
mod tuning;
/// `qctl update`, `qctl flash`.
mod update_flash;
/// `qctl apply --wait`.
mod wait;

use crate::client::{Client, healthy, unexpected, wait};
use crate::hosts::Target;
use crate::output::Output;
use agent_core::protocol::{Request, Response, SOCKET};
use agent_host::credentials;
use agent_host::flash::source::{ImageFile, split};
use anyhow::{Context, Result, bail, ensure};
use clap::{CommandFactory, Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Ask the agent of this host.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "qctl", version)]
struct Arguments {
    /// The agent's socket.
    #[arg(long, default_value = SOCKET, global = true)]
    socket: PathBuf,
    /// Ask these hosts of the file of hosts instead, one after the other.
    #[arg(long, global = true, value_delimiter = ',')]
    on: Vec<String>,
    /// Ask all hosts of that file that have these labels, NAME=VALUE.
    #[arg(long, global = true, value_delimiter = ',')]
    select: Vec<String>,
    #[command(subcommand)]
    command: Command,
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
        /// Until the agent answers, show how far the host's boot is.
        #[arg(long, hide = true)]
        boot: bool,
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
    Apply(apply_args::Apply),
    /// What was applied with --try stays.
    Keep,
    /// Compare a compose file with what is declared, line by line.
    Diff {
        /// The file.
        file: PathBuf,
        /// A profile whose services are wanted too; * for all.
        #[arg(long)]
        profile: Vec<String>,
    },
    /// One kind of thing that the host has.
    Get(get::Get),
    /// All that is known of a service.
    Describe {
        /// The service.
        name: String,
    },
    /// New versions of services: how they are doing, and what becomes of them.
    Rollout {
        #[command(subcommand)]
        what: rollout::Rollout,
    },
    /// What a group of hosts is to run, signed: GitOps, from a web server, a registry or a stick.
    Desired {
        #[command(subcommand)]
        what: desired::What,
    },
    /// Whether this host may be changed now, by its windows (quietcore.desired). Exit code 1 if not.
    Window,
    /// Which core is whose.
    Cpu {
        #[command(subcommand)]
        what: cpu::Cpu,
    },
    /// Secrets of containers.
    Secret {
        #[command(subcommand)]
        what: secret::Secret,
    },
    /// Who changed what on this host.
    Audit(audit::Audit),
    /// Collect what somebody needs who is to help: status, events, units, kernel, journal. No secrets.
    Support {
        /// The archive to write.
        archive: PathBuf,
    },
    /// The hosts that --on and --select know. Asks no agent.
    Hosts {
        #[command(subcommand)]
        what: Hosts,
    },
    /// Certificates for the agents' network side, and for who asks them. Asks no agent.
    Ca {
        #[command(subcommand)]
        what: ca::Ca,
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
    /// Run a program in a container that is thrown away when it ends: with an image of tools, or in a service's place. On
    /// housekeeping cores, as every container. Exit code 1 if it ends with another status than 0.
    Debug(debug::Debug),
    /// Take down packets of an interface, as tcpdump does, into a pcap file.
    Pcap(pcap::Pcap),
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
enum Hosts {
    /// Write a host down, or another one in its place.
    Add {
        /// Its name.
        name: String,
        /// https://HOST:PORT.
        url: String,
        /// Who vouches for it: the ca.pem of qctl ca.
        #[arg(long)]
        authority: PathBuf,
        /// Who asks: certificate and key, from qctl ca.
        #[arg(long)]
        identity: PathBuf,
        /// NAME=VALUE, to select it by.
        #[arg(long = "label")]
        labels: Vec<String>,
    },
    /// List them.
    Ls,
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
    let config = credentials::read(file)?;
    let plan = cpus.map(|cpus| config.check_cpus(cpus)).transpose();
    let plan = plan.with_context(|| file.display().to_string())?.flatten();
    let cores = plan.map_or(String::new(), |plan| {
        format!(" ({} hot, {} for everything else)", plan.hot(), plan.housekeeping())
    });
    println!("{}: valid, {}{cores}", file.display(), config.summary());
    Ok(())
}

fn top(client: &mut Client, colour: bool) -> Result<()> {
    loop {
        let page = status_page::page(&client.status()?, colour);
        let mut out = std::io::stdout();
        // Home, the page with the rest of each line cleared, then everything below.
        write!(out, "\x1b[H{}\x1b[J", page.replace('\n', "\x1b[K\r\n"))?;
        out.flush()?;
        std::thread::sleep(Duration::from_secs(1));
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
        _ => Err(unexpected("limits")),
    }
}

/// What needs no agent; says whether that was it.
fn act_here(command: &Command) -> Result<bool> {
    match command {
        Command::Tune { what } => tuning::act(what)?,
        Command::Host { what: Host::Check { file, cpus } } => check_host(file, *cpus)?,
        Command::Ca { what } => ca::act(what)?,
        Command::Desired { what: desired::What::Sign(wanted) } => desired::sign(wanted)?,
        Command::Hosts { what: Hosts::Ls } => hosts::list()?,
        Command::Hosts { what: Hosts::Add { name, url, authority, identity, labels } } => {
            let pair = |text: &String| {
                let (name, value) = text.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            };
            let pairs: Option<_> = labels.iter().map(pair).collect();
            let labels = pairs.context("--label: NAME=VALUE is expected")?;
            let (url, authority, identity) = (url.clone(), authority.clone(), identity.clone());
            hosts::add(name, hosts::Host { url, authority, identity, labels })?;
        }
        Command::Completion { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(*shell, &mut command, "qctl", &mut std::io::stdout());
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Arguments::command());
            page.render(&mut std::io::stdout()).context("write the page")?;
        }
        Command::Config { file, profile, cpus } => config::show(file, profile, *cpus)?,
        Command::Flash { image, disk, key, yes } => {
            update_flash::flash_image(image, disk, key.as_deref(), *yes)?;
        }
        Command::SplitImage { image, directory } => split(&ImageFile::open(image)?, directory)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn act_on(target: &Target, command: &Command) -> Result<()> {
    let seconds = Duration::from_secs;
    match command {
        Command::Ready { timeout } => {
            return wait(target, seconds(*timeout), "ready", |status| status.ready);
        }
        Command::Healthy { timeout } => return healthy(target, seconds(*timeout)),
        Command::Logs(wanted) => return logs::show(target, wanted),
        Command::Debug(wanted) => return debug::run(target, wanted),
        _ => {}
    }
    let mut client = match command {
        Command::Top { boot: true, .. } => boot::wait_for_agent(target)?,
        _ => Client::connect(target)?,
    };
    let client = &mut client;
    match command {
        Command::Status { output: Output::Table } => {
            print!("{}", status_page::page(&client.status()?, std::io::stdout().is_terminal()));
        }
        Command::Status { output } => output.print(&client.status()?)?,
        Command::Top { colour, .. } => top(client, *colour || std::io::stdout().is_terminal())?,
        Command::Apply(wanted) => apply::apply(client, wanted)?,
        Command::Keep => client.done(&Request::Keep {})?,
        Command::Diff { file, profile } => apply::diff(client, file, profile)?,
        Command::Get(wanted) => get::get(client, wanted)?,
        Command::Describe { name } => get::describe(client, name)?,
        Command::Rollout { what } => rollout::rollout(client, what)?,
        Command::Desired { what } => desired::act(client, what)?,
        Command::Window => desired::window(client)?,
        Command::Cpu { what: cpu::Cpu::Map { output } } => cpu::map(client, *output)?,
        Command::Secret { what } => secret::secret(client, what)?,
        Command::Audit(wanted) => audit::show(client, wanted)?,
        Command::Support { archive } => support::collect(client, archive)?,
        Command::Events(wanted) => events::show(client, wanted)?,
        Command::Pcap(wanted) => pcap::take(client, wanted)?,
        Command::Image { what } => image::act(client, what)?,
        Command::Kill => client.done(&Request::Control { kill: true, drain: false })?,
        Command::Drain => client.done(&Request::Control { kill: false, drain: true })?,
        Command::Resume => client.done(&Request::Control { kill: false, drain: false })?,
        Command::Limits { shard, changes } => limits(client, shard.as_ref(), changes)?,
        Command::Update { url: Some(url) } => update_flash::update(client, url)?,
        Command::Update { url: None } => update_flash::show_update(&client.status()?),
        Command::Reboot { holding } => client.done(&Request::Reboot { holding: *holding })?,
        _ => bail!("it asks no agent: leave --on and --select out"),
    }
    Ok(())
}

fn act(arguments: &Arguments) -> Result<()> {
    let is_here = arguments.on.is_empty() && arguments.select.is_empty();
    if is_here && act_here(&arguments.command)? {
        return Ok(());
    }
    if is_here {
        if let Command::Apply(apply_args::Apply { canary: Some(_), .. }) = arguments.command {
            bail!("--canary: of which hosts? Give --on or --select");
        }
        return act_on(&hosts::Target::Socket(arguments.socket.clone()), &arguments.command);
    }
    let targets = hosts::targets(&arguments.on, &arguments.select)?;
    if let Command::Apply(wanted) = &arguments.command
        && let Some(first) = wanted.canary
    {
        return fleet::apply(&targets, wanted, first, wanted.bake.unwrap_or_default());
    }
    let (many, mut failed) = (targets.len() > 1, 0);
    let one_file = matches!(arguments.command, Command::Support { .. } | Command::Pcap(_));
    ensure!(!(many && one_file), "one file has one host: name it with --on");
    for (name, target) in &targets {
        if many {
            println!("== {name}");
        }
        match act_on(target, &arguments.command) {
            Err(error) if many => {
                eprintln!("qctl: {name}: {error:#}");
                failed += 1;
            }
            other => other.with_context(|| name.clone())?,
        }
    }
    ensure!(failed == 0, "{failed} of {} hosts failed", targets.len());
    Ok(())
}

/// Whether the program was called by this name: one file is both programs.
pub fn is_called() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_name() == Some("qctl".as_ref()))
}

/// Runs it.
pub fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
