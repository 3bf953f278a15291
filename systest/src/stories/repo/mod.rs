//! Stories of this repository: commands of the README, reproducible builds.

/// Commands of the README.
pub mod readme_commands;
