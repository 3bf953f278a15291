//! `systest`: runs the demonstration, the stories and the benches. Used by the Makefile.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use systest::{attach, bench, run_demo, runner, story_process};

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
    /// Print the stories' names and the CPU seconds that each may take.
    List,
    /// A shell in a debug machine that is ready, from its snapshot; a script on standard input is
    /// run there.
    Shell {
        /// The directory of a machine that a story left (KEEP=1), instead of a new one.
        #[arg(long, env = "AT")]
        at: Option<PathBuf>,
    },
    /// The part of `shell` in namespaces of its own.
    #[command(hide = true)]
    ShellInside,
    /// Tell one story in this process.
    #[command(hide = true)]
    Tell {
        /// Name of the story.
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
        Command::Run { seconds } => run_demo::run(*seconds),
        Command::Stories { name } => runner::run(name.as_deref()),
        Command::List => runner::list(),
        Command::Shell { at: Some(directory) } => attach::attach(directory),
        Command::Shell { at: None } => attach::shell(),
        Command::ShellInside => attach::shell_inside(),
        Command::Tell { name, directory } => story_process::tell(name, directory),
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
