//! `quietcore-engine-bench`: the loops that `make bench AREA=engine` measures, each around one function
//! whose name starts with `measured_`, so that callgrind counts it and nothing else.

mod instructions;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// One loop of the engine, to be run under callgrind.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to run.
    what: What,
    /// ITCH 5.0 messages, each behind a two-byte big-endian length.
    input: PathBuf,
    /// How often the input is gone through, each time with an empty book.
    #[arg(long, default_value_t = 1)]
    passes: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Tell every message by type and length and read the order it is about.
    Parse,
    /// Read everything that a book needs.
    Decode,
    /// Decode every message and keep the full book with its best bid and offer.
    Book,
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
    let path = arguments.input.display();
    let file = std::fs::read(&arguments.input).with_context(|| format!("read {path}"))?;
    let input = instructions::Input::check(&file).with_context(|| path.to_string())?;
    if input.messages == 0 {
        bail!("{path}: no message in it");
    }
    let mut hash = 0;
    for _ in 0..arguments.passes {
        hash = match arguments.what {
            What::Parse => instructions::parse(&input),
            What::Decode => instructions::decode(&input),
            What::Book => instructions::book(&input)?,
        };
    }
    println!("messages {} hash {hash:016x}", input.messages * u64::from(arguments.passes));
    Ok(())
}
