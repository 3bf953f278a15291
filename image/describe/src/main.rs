//! `quietcore-describe`: says what a release is made of. Writes `manifest.json` (every Debian
//! package with its hash, every crate, the tools, the kernel, the commit) and software bills of
//! materials (CycloneDX 1.6), for the operating system and for each container image; the same
//! inputs give the same bytes. And holds a release back for what is known against its parts.

mod gate;
mod parts;
mod provenance;
mod sbom;

use abi::dsse::Envelope;
use abi::release::Artefact;
use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use gate::Severity;
use parts::{Crate, Crates, Package};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Say what a release is made of, and what is known against it.
#[derive(Debug, Parser)]
#[command(version)]
enum Arguments {
    /// Write manifest.json and the bills of materials.
    Release(Described),
    /// Print release.json for the artefacts of a directory.
    Artefacts {
        /// Profile of the image.
        #[arg(long)]
        variant: String,
        /// Version of the image.
        #[arg(long)]
        image_version: String,
        /// Directory with the artefacts, named quietcore_*.
        directory: PathBuf,
    },
    /// Print the provenance of a release: SLSA in an in-toto Statement in a DSSE envelope.
    Provenance {
        /// Private key in PEM (Ed25519, PKCS #8) that signs it.
        #[arg(long)]
        key: PathBuf,
        /// Directory of the release, with SHA256SUMS and manifest.json.
        release: PathBuf,
    },
    /// Hold a release back for what is known against its parts. Asks no network. Exit codes: 0
    /// nothing holds it back, 1 something does or can't be read, 2 wrong usage.
    Gate(Gated),
}

#[derive(Debug, Args)]
struct Gated {
    /// The release's manifest.json.
    #[arg(long)]
    manifest: PathBuf,
    /// Debian's security data: the tracker's JSON.
    #[arg(long)]
    debian: PathBuf,
    /// RustSec's advisory database, a directory.
    #[arg(long)]
    rustsec: PathBuf,
    /// Findings that are let pass, each with its end and its reason.
    #[arg(long)]
    waivers: Option<PathBuf>,
    /// Lowest severity that holds a release back.
    #[arg(long, value_enum, default_value = "high")]
    fail_at: Severity,
}

#[derive(Debug, Args)]
struct Described {
    /// mkosi's list of the packages in the image.
    #[arg(long)]
    base: PathBuf,
    /// The tools root that it was built in.
    #[arg(long)]
    tools: PathBuf,
    /// Where the packages of the image are kept.
    #[arg(long)]
    packages: PathBuf,
    /// The configuration of the image's kernel, if it is our own instead of a package's.
    #[arg(long)]
    kernel_config: Option<PathBuf>,
    /// The directory with the packages of firmware, if our own kernel brings some.
    #[arg(long, requires = "kernel_config")]
    firmware: Option<PathBuf>,
    /// The image's profile.
    #[arg(long)]
    variant: String,
    /// Version of the image.
    #[arg(long)]
    image_version: String,
    /// The keys that it is signed with: the public halves are inputs.
    #[arg(long)]
    keys: PathBuf,
    /// The files of the release.
    #[arg(long)]
    release: PathBuf,
}

/// Crates whose programs are on the host or in its initrd.
const SYSTEM: [&str; 3] = ["engine", "agent", "initrd"];

/// Container images and the package of their program.
const IMAGES: [(&str, &str); 3] =
    [("exchange", "exchange"), ("exporter", "containers"), ("dropcopy", "containers")];

/// A command's output, trimmed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
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

fn describe(arguments: &Described) -> Result<()> {
    let mut packages = parts::image_packages(&arguments.base, &arguments.packages)?;
    let tools = parts::tool_packages(&arguments.tools)?;
    let crates = Crates::of_lock(Path::new("Cargo.lock"))?;
    let packaged = packages.iter().find(|package| package.name.starts_with("linux-image-6"));
    let (kernel, kernel_config) = match &arguments.kernel_config {
        Some(own) => (Some(parts::kernel_version(own)?), parts::hash_of(own)?),
        None => (
            packaged.map(|package| package.version.clone()),
            parts::kernel_config(&arguments.packages)?,
        ),
    };
    if arguments.kernel_config.is_some() {
        packages.retain(|package| !package.name.starts_with("linux-image-"));
    }
    if let Some(firmware) = &arguments.firmware {
        packages.extend(parts::packages_in(firmware)?);
        packages.sort();
    }
    let manifest = json!({
        "format": 1,
        "image": "quietcore",
        "variant": arguments.variant,
        "version": arguments.image_version,
        "commit": commit()?,
        "rustc": output("rustc", &["--version"])?,
        "kernel": kernel,
        "kernel_config_sha256": kernel_config,
        "inputs": {
            "packages.lock": parts::hash_of(Path::new("image/packages.lock"))?,
            "Cargo.lock": parts::hash_of(Path::new("Cargo.lock"))?,
            "db.crt": parts::hash_of(&arguments.keys.join("db.crt"))?,
            "release.pub": parts::hash_of(&arguments.keys.join("release.pub"))?,
        },
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
    let system = sbom::of("operating-system", "quietcore", version, &packages, &of(&SYSTEM)?);
    write(&arguments.release, "os.cdx.json", &system)?;
    for (image, package) in IMAGES {
        let none: &[Package] = &[];
        let bill =
            sbom::of("container", &format!("quietcore/{image}"), version, none, &of(&[package])?);
        write(&arguments.release, &format!("{image}.cdx.json"), &bill)?;
    }
    Ok(())
}

fn artefacts(directory: &Path, variant: &str, version: &str) -> Result<()> {
    let named = || directory.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(named)? {
        let path = entry.with_context(named)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("quietcore_") {
            let size = path.metadata().with_context(|| path.display().to_string())?.len();
            found.push(Artefact { name, size, sha256: parts::hash_of(&path)? });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    let release = abi::release::Release {
        format: abi::release::FORMAT,
        image: abi::release::IMAGE.into(),
        variant: variant.into(),
        version: version.parse()?,
        artefacts: found,
    };
    release.check().with_context(named)?;
    println!("{}", serde_json::to_string_pretty(&release)?);
    Ok(())
}

/// Media type of an in-toto Statement.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";

fn provenance(release: &Path, key: &Path) -> Result<()> {
    let text = std::fs::read_to_string(key).with_context(|| format!("read {}", key.display()))?;
    let key = SigningKey::from_pkcs8_pem(&text).with_context(|| key.display().to_string())?;
    let read = |name: &str| {
        let path = release.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let manifest = serde_json::from_str(&read("manifest.json")?).context("manifest.json")?;
    let statement = provenance::of(&read("SHA256SUMS")?, &manifest)?.to_string() + "\n";
    // There is neither time nor chance in the signature: signing again gives the same bytes.
    let sign = |bytes: &[u8]| key.sign(bytes).to_bytes().to_vec();
    let envelope = Envelope::seal(STATEMENT_TYPE, statement.as_bytes(), sign);
    println!("{}", serde_json::to_string(&envelope)?);
    Ok(())
}

#[derive(Deserialize)]
struct Manifest {
    packages: Vec<Package>,
    crates: Vec<Crate>,
}

fn gate(arguments: &Gated) -> Result<()> {
    let path = &arguments.manifest;
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let mut findings = gate::debian(&manifest.packages, &arguments.debian)?;
    findings.extend(gate::rustsec(&manifest.crates, &arguments.rustsec)?);
    let waivers = arguments.waivers.as_deref().map(gate::waivers).transpose()?;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let said = gate::evaluate(&findings, &waivers.unwrap_or_default(), arguments.fail_at, today);
    said.iter().for_each(|(line, _)| println!("{line}"));
    let holding = said.iter().filter(|(_, holds)| *holds).count();
    ensure!(holding == 0, "{holding} findings from {} on hold this release", arguments.fail_at);
    println!(
        "{} packages and {} crates: nothing from {} on holds this release",
        manifest.packages.len(),
        manifest.crates.len(),
        arguments.fail_at
    );
    Ok(())
}

fn main() -> ExitCode {
    let done = match Arguments::parse() {
        Arguments::Release(described) => describe(&described),
        Arguments::Artefacts { variant, image_version, directory } => {
            artefacts(&directory, &variant, &image_version)
        }
        Arguments::Provenance { key, release } => provenance(&release, &key),
        Arguments::Gate(gated) => gate(&gated),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-describe: {error:#}");
            ExitCode::FAILURE
        }
    }
}
