//! `quietcore-engine-bench`: the loops that `make bench AREA=engine` measures, each around one
//! function whose name starts with `measured_`, so that callgrind counts it and nothing else.

mod counterpart;
mod instructions;
mod live;
mod path;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// One loop of the engine, to be run under callgrind.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

/// A file of ITCH 5.0 messages, each behind a two-byte big-endian length.
#[derive(Debug, clap::Args)]
struct Recording {
    /// File to read.
    input: PathBuf,
    /// Passes over the file, each with an empty book.
    #[arg(long, default_value_t = 1)]
    passes: u32,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Tell every message by type and length and read the order it is about.
    Parse(Recording),
    /// Read everything that a book needs.
    Decode(Recording),
    /// Decode every message and keep the full book with its best bid and offer.
    Book(Recording),
    /// A tick that changes the touch, through book, strategy, risk and journal to an order.
    Path {
        /// Ticks, in pairs.
        rounds: u64,
    },
    /// The whole engine, tick to order, over each back end in turn.
    Live {
        /// The engine's program.
        engine: PathBuf,
        /// Runs of each variant.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Ticks in each run.
        #[arg(long, default_value_t = 2_000)]
        samples: u32,
    },
    /// All risk checks of an order that passes.
    Risk {
        /// Orders to check.
        rounds: u64,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-engine-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Parse(recording) => go_through(recording, |input| Ok(instructions::parse(input))),
        What::Decode(recording) => go_through(recording, |input| Ok(instructions::decode(input))),
        What::Book(recording) => go_through(recording, instructions::book),
        What::Path { rounds } => {
            println!("units {}", path::path(*rounds)?);
            Ok(())
        }
        What::Live { engine, rounds, samples } => live::live(engine, *rounds, *samples),
        What::Risk { rounds } => {
            println!("units {}", path::risk(*rounds)?);
            Ok(())
        }
    }
}

fn go_through(
    recording: &Recording,
    pass: impl Fn(&instructions::Input<'_>) -> Result<u64>,
) -> Result<()> {
    let path = recording.input.display();
    let file = std::fs::read(&recording.input).with_context(|| format!("read {path}"))?;
    let input = instructions::Input::check(&file).with_context(|| path.to_string())?;
    if input.messages == 0 {
        bail!("{path}: no message in it");
    }
    let mut hash = 0;
    for _ in 0..recording.passes {
        hash = pass(&input)?;
    }
    println!("units {} hash {hash:016x}", input.messages * u64::from(recording.passes));
    Ok(())
}
