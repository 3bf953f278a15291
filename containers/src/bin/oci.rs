//! `quietcore-oci`: packs a static program as an OCI image archive. Used by image/build.

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;

/// Pack a static program as an OCI image.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The image's name.
    #[arg(long)]
    name: String,
    /// The image's tag.
    #[arg(long)]
    version: String,
    /// Static program to pack.
    #[arg(long)]
    program: PathBuf,
    /// The archive to write.
    #[arg(long)]
    output: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let archive = containers::oci::pack(&arguments.name, &arguments.version, &arguments.program)?;
    std::fs::write(&arguments.output, archive)
        .with_context(|| format!("write {}", arguments.output.display()))
}
