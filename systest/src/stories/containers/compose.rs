//! Compose files mean on a host what they mean to Docker: a corpus of files that we accept, each
//! read by Debian's docker-compose as well.

use crate::harness::booted::Verdict;
use crate::harness::checkout::{ImageFiles, program, root};
use crate::measure::compose_comparison::{compare_projects, control, read_json};
use crate::measure::compose_generated::compare_generated;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the files are.
const CORPUS: [&str; 3] = ["agent/bin/tests/compose", "containers/compose", "examples"];

/// Generated projects that are compared besides.
const GENERATED: u64 = 200;

fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for directory in CORPUS {
        for entry in std::fs::read_dir(root().join(directory)).context(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn said(mut command: Command) -> Result<Value> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", error.trim());
    read_json(&String::from_utf8_lossy(&output.stdout))
}

fn compare_file(image: &ImageFiles, file: &Path) -> Result<(usize, u32)> {
    let checkout = root();
    let name = file.strip_prefix(&checkout)?;
    let mut qctl = Command::new(program("qctl"));
    qctl.arg("config").arg(file);
    // All of it, since a file may extend another one's services.
    let mut docker = image.in_tools(&[(&checkout, "/files")]);
    docker
        .args(["sh", "-euc", "cd /files; docker-compose -f \"$0\" config --format json"])
        .arg(name);
    compare_projects(&said(qctl)?, &said(docker)?)
}

/// Proves that compose files mean the same here and to Debian's docker-compose.
pub fn files_mean_what_docker_says(image: &ImageFiles) -> Result<Verdict> {
    let files = files()?;
    let (mut services, mut compared) = (0, 0);
    for file in &files {
        let (s, c) = compare_file(image, file).with_context(|| file.display().to_string())?;
        services += s;
        compared += c;
    }
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let generated = compare_generated(image, seed, GENERATED)?;
    if let Some(first) = generated.different.first() {
        bail!(
            "{} of {GENERATED} generated projects are different: {first}",
            generated.different.len()
        );
    }
    control()?;
    Ok(Verdict::Proved(format!(
        "{} files with {services} services and {GENERATED} generated projects with {} mean the same here and to Debian's docker-compose, in {} values",
        files.len(),
        generated.services,
        compared + generated.values
    )))
}
