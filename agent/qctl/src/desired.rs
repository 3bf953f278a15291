//! `qctl desired`: what a group of hosts is to run, signed.

use crate::apply_args::duration;
use crate::client::Client;
use crate::compose_project::{Surroundings, resolve};
use crate::output::{self, Output};
use agent_core::desired::{CREDENTIAL, Desired, Step, time_text};
use agent_core::protocol::Request;
use agent_host::files::write_whole;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Subcommand)]
pub enum What {
    /// Show what this host follows, has applied and waits for, and the drift.
    Status {
        /// Format of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Sign a compose file for hosts that follow NAME, after its variables, files and profiles were
    /// put in. Asks no agent.
    Sign(Sign),
    /// Bring what was signed, as from a stick. It waits for its window as any other.
    Deliver {
        /// Signed desired state to deliver.
        file: PathBuf,
    },
    /// Apply nothing more until resume.
    Hold,
    /// Apply what comes, and what came.
    Resume,
    /// Apply what is here now, whatever window it is and whatever was applied by hand.
    Sync,
}

#[derive(Debug, Args)]
pub struct Sign {
    /// The compose file.
    file: PathBuf,
    /// Name of the desired state, as in the hosts' credential.
    #[arg(long)]
    name: String,
    /// An Ed25519 private key, as `openssl genpkey -algorithm ed25519` makes one.
    #[arg(long)]
    key: PathBuf,
    /// Higher than the one before; the seconds since 1970 if left out.
    #[arg(long)]
    serial: Option<u64>,
    /// Time for which it may be applied, such as 30d: hosts that are shown an old one for ever say
    /// so.
    #[arg(long, value_parser = duration)]
    expires: Option<Duration>,
    /// The serial that is in force: a host that has a later one, which somebody else signed
    /// meanwhile, does not take this.
    #[arg(long)]
    follows: Option<u64>,
    /// A profile whose services are wanted too; * for all.
    #[arg(long)]
    profile: Vec<String>,
    /// Where it is written.
    #[arg(short, long)]
    output: PathBuf,
}

/// Signs a compose file as a desired state and writes it; needs no agent.
pub fn sign(wanted: &Sign) -> Result<()> {
    let pem = std::fs::read_to_string(&wanted.key);
    let pem = pem.with_context(|| format!("read {}", wanted.key.display()))?;
    let key = SigningKey::from_pkcs8_pem(&pem).with_context(|| {
        format!("{}: an Ed25519 private key in PEM is expected", wanted.key.display())
    })?;
    let compose = resolve(&wanted.file, &Surroundings::of(&wanted.file, &wanted.profile)?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let serial = wanted.serial.unwrap_or(now);
    let expires = wanted.expires.map(|time| now + time.as_secs());
    let follows = wanted.follows;
    let name = wanted.name.clone();
    let desired = Desired { name, serial, compose, expires, follows };
    write_whole(&wanted.output, &desired.seal(&key)?)?;
    let until = expires.map_or(String::new(), |time| format!(", until {}", time_text(time)));
    println!("{}: serial {serial} for {}{until}", wanted.output.display(), wanted.name);
    Ok(())
}

pub fn act(client: &mut Client, what: &What) -> Result<()> {
    let step = match what {
        What::Status { output } => return show(client, *output),
        What::Deliver { file } => {
            let envelope = std::fs::read_to_string(file);
            let envelope = envelope.with_context(|| format!("read {}", file.display()))?;
            client
                .done(&Request::Deliver { envelope })
                .with_context(|| file.display().to_string())?;
            return show(client, output::Output::Table);
        }
        What::Sign(_) => bail!("it asks no agent: leave --on and --select out"),
        What::Hold => Step::Hold,
        What::Resume => Step::Resume,
        What::Sync => Step::Sync,
    };
    client.done(&Request::Desired { step })?;
    show(client, output::Output::Table)
}

/// Says whether this host may be changed now; an error if not, for scripts.
pub fn window(client: &mut Client) -> Result<()> {
    let Some(report) = client.status()?.desired else {
        println!("always: this host has no {CREDENTIAL}");
        return Ok(());
    };
    match report.opens {
        None => println!("open: {}", report.windows),
        Some(next) => bail!("closed until {next}: {}", report.windows),
    }
    Ok(())
}

fn show(client: &mut Client, output: Output) -> Result<()> {
    let status = client.status()?;
    if output != output::Output::Table {
        return output.print(&status.desired);
    }
    let report = status.desired.with_context(|| {
        format!("this host follows nobody; give it the credential {CREDENTIAL}")
    })?;
    let or = |value: Option<String>, without: &str| value.unwrap_or_else(|| without.into());
    println!("name      {}", report.name);
    println!("from      {}", or(report.url, "nobody: qctl desired deliver"));
    println!("applied   {}", or(report.serial.map(|serial| format!("serial {serial}")), "nothing"));
    if let Some(serial) = report.waiting {
        println!("waiting   serial {serial}, for {}", or(report.waits_for, "the next look"));
    }
    if let Some(expires) = report.expires {
        println!("expires   {expires}");
    }
    println!("window    {}{}", report.windows, if report.held { ", held" } else { "" });
    report.drift.iter().for_each(|line| println!("drift     {line}"));
    status
        .problems
        .iter()
        .filter(|problem| problem.starts_with("desired state"))
        .for_each(|line| println!("! {line}"));
    Ok(())
}
