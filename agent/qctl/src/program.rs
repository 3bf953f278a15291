//! Program `qctl`: runs a subcommand on this host, or on others one after the other.

use crate::arguments::{Arguments, Command, Host, Hosts, command_line};
use crate::client::{Client, healthy, unexpected, wait};
use crate::hosts::{self, Target};
use crate::output::Output;
use crate::{
    api, apply, apply_args, audit, boot, ca, config, cpu, debug, desired, events, fleet, get,
    image, logs, pcap, rollout, secret, status_page, support, tuning, update_flash,
};
use agent_core::protocol::{Request, Response};
use agent_host::credentials;
use agent_host::flash::source::{ImageFile, split};
use anyhow::{Context, Result, bail, ensure};
use clap::FromArgMatches;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

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

/// Runs a subcommand that needs no agent; returns false if `command` needs one.
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
            clap_complete::generate(*shell, &mut command_line(), "qctl", &mut std::io::stdout());
        }
        Command::Man => {
            let page = clap_mangen::Man::new(command_line());
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
        Command::Api(wanted) => api::send(client, wanted)?,
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

/// Parses the command line and runs it; prints an error to standard error.
pub fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match act(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
