//! `qctl tune`: whether this host is tuned, and what makes a host tuned. Asks no agent.

use crate::output::{self, Output};
use crate::tune::{self, nics, noise_tracers};
use agent_host::credentials;
use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Tune {
    /// Compare every value of the plan with what is in force, and have the kernel's own judges of
    /// noise (the tracers osnoise, timerlat and hwlat) look at the hot cores where it has them and
    /// no engine runs there. Exit code 1 if something is not as it is to be.
    Verify {
        /// Seconds that each judge looks; 0 asks none.
        #[arg(long, default_value_t = 2)]
        trace: u64,
        /// Run the noise tracers only.
        #[arg(long)]
        only_tracers: bool,
        /// Format of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
        /// Only what is not as it is to be.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Do nothing as fast as it goes, in the place of an engine.
    #[command(hide = true)]
    Spin,
    /// Print the words of the kernel's command line that a host's configuration asks for.
    Words {
        /// The file that the host is given as the credential quietcore.host, with [cores].
        host: PathBuf,
        /// CPUs of the host; needed where the hot cores do not go to the last CPU (N).
        #[arg(long)]
        cpus: Option<u32>,
    },
    /// Make an addon of these words, for /loader/addons on the host's ESP. Needs ukify and
    /// osslsigncode.
    Addon {
        /// As for `words`.
        host: PathBuf,
        /// As for `words`.
        #[arg(long)]
        cpus: Option<u32>,
        /// Signing key in PEM; without it firmware with Secure Boot ignores the addon.
        #[arg(long, requires = "cert")]
        key: Option<PathBuf>,
        /// The key's certificate, in PEM.
        #[arg(long, requires = "key")]
        cert: Option<PathBuf>,
        /// Where to write it: NAME.addon.efi.
        #[arg(long, default_value = "cores.addon.efi")]
        output: PathBuf,
    },
}

/// Runs a subcommand of `qctl tune`.
///
/// # Errors
/// A file that can't be read, an addon that can't be made, or a host that is not tuned.
pub fn act(what: &Tune) -> Result<()> {
    let words = |host: &Path, cpus| {
        tune::addon::words(&credentials::read(host)?, cpus)
            .with_context(|| host.display().to_string())
    };
    match what {
        Tune::Verify { trace, only_tracers, output, quiet } => {
            verify(*output, *quiet, *only_tracers, Duration::from_secs(*trace))
        }
        Tune::Spin => loop {
            std::hint::spin_loop();
        },
        Tune::Words { host, cpus } => {
            println!("{}", words(host, *cpus)?.join(" "));
            Ok(())
        }
        Tune::Addon { host, cpus, key, cert, output } => {
            let words = words(host, *cpus)?;
            let signer = key.as_deref().zip(cert.as_deref());
            let signer = signer.map(|(key, certificate)| tune::addon::Signer { key, certificate });
            tune::addon::make(&words, signer, output)?;
            let signed =
                if signer.is_some() { "signed" } else { "not signed: Secure Boot leaves it out" };
            println!("{}: {}; {signed}", output.display(), words.join(" "));
            Ok(())
        }
    }
}

fn verify(output: Output, quiet: bool, only_tracers: bool, time: Duration) -> Result<()> {
    let plan = tune::of_this_host()?;
    let mut lines = Vec::new();
    if !only_tracers {
        lines.extend(plan.compare(Path::new("/")));
        lines.extend(nics::compare()?);
        lines.extend(plan.stray_tasks());
    }
    if !time.is_zero() {
        let judgement = noise_tracers::measure(plan.hot(), time)?;
        judgement.not_judged.iter().for_each(|why| eprintln!("noise not judged: {why}"));
        lines.extend(judgement.lines);
    }
    let bad = lines.iter().filter(|line| !line.is_met).count();
    let shown = || lines.iter().filter(|line| !quiet || !line.is_met);
    match output {
        output::Output::Table => shown().for_each(|line| {
            let mark = if line.is_met { "  " } else { "! " };
            let tune::Line { name, at, expected, found, why, .. } = line;
            println!("{mark}{name}: {at}: {found}; expected: {expected}; {why}");
        }),
        output => output.print(&shown().collect::<Vec<_>>())?,
    }
    ensure!(bad == 0, "{bad} of {} values are not as they are to be", lines.len());
    if let output::Output::Table = output
        && !lines.is_empty()
    {
        println!("quietcore: tuned, {} values are as they are to be", lines.len());
    }
    Ok(())
}
