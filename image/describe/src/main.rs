//! `quietcore-describe`: says what a release is made of. Writes `manifest.json` (every Debian package with its
//! hash, every crate, the tools, the kernel, the commit) and software bills of materials (CycloneDX 1.6), for the
//! operating system and for each container image. The same inputs give the same bytes.

mod parts;
mod sbom;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use parts::{Crates, Package};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Say what a release is made of.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// mkosi's list of the packages in the image.
    #[arg(long)]
    base: PathBuf,
    /// The tools root that it was built in.
    #[arg(long)]
    tools: PathBuf,
    /// Where the packages of the image are kept.
    #[arg(long)]
    packages: PathBuf,
    /// The image's profile.
    #[arg(long)]
    variant: String,
    /// Its version.
    #[arg(long)]
    image_version: String,
    /// The files of the release.
    #[arg(long)]
    release: PathBuf,
}

/// What stands on the host: these packages' programs, and the initrd's.
const SYSTEM: [&str; 3] = ["engine", "agent", "initrd"];

/// Container images and the package of their program.
const IMAGES: [(&str, &str); 3] =
    [("exchange", "sim"), ("exporter", "containers"), ("dropcopy", "containers")];

/// A command's output, trimmed.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The commit, and whether something is changed in the tree.
fn commit() -> Result<String> {
    let changed = !output("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let commit = output("git", &["rev-parse", "HEAD"])?;
    Ok(if changed { format!("{commit}-changed") } else { commit })
}

fn write(directory: &Path, name: &str, value: &Value) -> Result<()> {
    let path = directory.join(name);
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn describe(arguments: &Arguments) -> Result<()> {
    let packages = parts::image_packages(&arguments.base, &arguments.packages)?;
    let tools = parts::tool_packages(&arguments.tools)?;
    let crates = Crates::of_lock(Path::new("Cargo.lock"))?;
    let kernel = packages.iter().find(|package| package.name.starts_with("linux-image-6"));
    let manifest = json!({
        "format": 1,
        "image": "quietcore",
        "variant": arguments.variant,
        "version": arguments.image_version,
        "commit": commit()?,
        "rustc": output("rustc", &["--version"])?,
        "kernel": kernel.map(|package| &package.version),
        "packages": packages,
        "tools": tools,
        "crates": crates.all(),
    });
    write(&arguments.release, "manifest.json", &manifest)?;
    let of = |names: &[&str]| -> Result<Vec<_>> {
        let mut words = vec!["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}"];
        words.push("--target=x86_64-unknown-linux-gnu");
        names.iter().for_each(|name| words.extend(["--package", name]));
        crates.named_in(&output("cargo", &words)?)
    };
    let version = &arguments.image_version;
    let system = sbom::of("quietcore", version, &packages, &of(&SYSTEM)?);
    write(&arguments.release, "os.cdx.json", &system)?;
    for (image, package) in IMAGES {
        let none: &[Package] = &[];
        let bill = sbom::of(&format!("quietcore/{image}"), version, none, &of(&[package])?);
        write(&arguments.release, &format!("{image}.cdx.json"), &bill)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match describe(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-describe: {error:#}");
            ExitCode::FAILURE
        }
    }
}
