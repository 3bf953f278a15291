//! `quietcore-backtest` with the reference strategies.

use engine::strategies::Strategies;
use std::process::ExitCode;

fn main() -> ExitCode {
    simulator::backtest::main(&Strategies::reference())
}
