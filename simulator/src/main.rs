//! `quietcore-simulator`: seeds in, verdict out.

use anyhow::{Result, bail};
use clap::Parser;
use simulator::world::{Bench, Summary};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// Run the engine on a simulated machine that crashes, and check that nothing is lost or invented.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Run this seed only, and print what it came to.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the seeds from 0 on.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-simulator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(seed) = arguments.seed {
        return match Bench::new()?.run(seed) {
            Ok(summary) => {
                println!("seed {seed}: {summary:?}");
                Ok(())
            }
            Err(broken) => bail!("seed {seed}: {broken}"),
        };
    }
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let total = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn({
                    let next = &next;
                    move || work(next, arguments.seeds)
                })
            })
            .collect();
        workers.into_iter().try_fold(Summary::default(), |total, worker| {
            let part = worker.join().expect("a worker does not panic")?;
            let (crashes, orders) = (total.crashes + part.crashes, total.orders + part.orders);
            anyhow::Ok(Summary { crashes, orders, hash: 0 })
        })
    })?;
    println!(
        "{} seeds, {} crashes, {} orders: every promise was kept",
        arguments.seeds, total.crashes, total.orders
    );
    Ok(())
}

fn work(next: &AtomicU64, seeds: u64) -> Result<Summary> {
    let mut bench = Bench::new()?;
    let mut total = Summary::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds {
            return Ok(total);
        }
        match bench.run(seed) {
            Ok(summary) => {
                total.crashes += summary.crashes;
                total.orders += summary.orders;
            }
            Err(broken) => {
                next.store(seeds, Ordering::Relaxed);
                bail!("seed {seed}: {broken}; make sim SEED={seed} repeats it");
            }
        }
    }
}
