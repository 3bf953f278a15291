//! `quietcore-engine` with the reference strategies.

use engine::strategies::Strategies;
use std::process::ExitCode;

fn main() -> ExitCode {
    engine::program::main(&Strategies::reference())
}
