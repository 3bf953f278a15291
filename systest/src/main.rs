//! `systest`: runs the demonstration, the stories and the benches. Used by the Makefile.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use systest::{bench, demo, runner};

/// Boot, show and prove Quietcore in QEMU.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build, boot and show the engine trading.
    Run {
        /// End by itself so many seconds after the host is ready.
        #[arg(long, env = "SECONDS_TO_RUN")]
        seconds: Option<u64>,
    },
    /// Prove what a booted image promises.
    Stories {
        /// Only those whose names begin so.
        name: Option<String>,
    },
    /// Tell one story in this process.
    #[command(hide = true)]
    Tell {
        /// Its name.
        name: String,
        /// Where its report goes.
        directory: PathBuf,
    },
    /// Measure an area and write target/reports/AREA.json.
    Bench {
        /// image, engine, host or agent.
        area: String,
    },
    /// Print every report beside its bars.
    Report,
}

fn act(command: &Command) -> Result<()> {
    match command {
        Command::Run { seconds } => demo::run(*seconds),
        Command::Stories { name } => runner::run(name.as_deref()),
        Command::Tell { name, directory } => runner::tell(name, directory),
        Command::Bench { area } => bench::bench(area),
        Command::Report => bench::report(),
    }
}

fn main() -> ExitCode {
    match act(&Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("systest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
