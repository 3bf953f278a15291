//! The README's commands, each run as it stands there.

use super::Verdict;
use crate::checkout::{ImageFiles, root, shared_data};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Instant;

/// How long each `make run` goes on after the host is ready.
const SECONDS_TO_RUN: &str = "5";

/// The commands in the README's code blocks but `make test`, which is what runs us.
fn commands() -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(root().join("README.md")).context("read README.md")?;
    let lines = readme.lines().filter(|line| line.starts_with("make ") && *line != "make test");
    Ok(lines.map(Into::into).collect())
}

/// The story.
pub fn commands_work(_: &ImageFiles) -> Result<Verdict> {
    let commands = commands()?;
    ensure!(commands.len() >= 5, "only {} commands were found in the README", commands.len());
    let recording = shared_data()
        .map(|data| data.join("nasdaq-aapl-2012-06-21-open.itch"))
        .filter(|file| file.exists());
    let mut shown = false;
    let mut skipped = 0;
    for command in &commands {
        let wants_recording = command.contains("file.itch") || command.contains("AREA=engine");
        let line = match (&recording, wants_recording) {
            (_, false) => command.clone(),
            (Some(file), true) => command.replace("file.itch", &file.display().to_string()),
            (None, true) => {
                println!("  {command}: SKIPPED, no recording in ../shared/data on this machine");
                skipped += 1;
                continue;
            }
        };
        let start = Instant::now();
        let output = Command::new("sh")
            .args(["-c", &line])
            .env("SECONDS_TO_RUN", SECONDS_TO_RUN)
            .current_dir(root())
            .output()?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(
            output.status.success(),
            "`{line}` ended with {}:\n{}",
            output.status,
            end(&text, 40)
        );
        println!("  {command} ({} s)", start.elapsed().as_secs());
        if !std::mem::replace(&mut shown, true) {
            println!("{}", end(&String::from_utf8_lossy(&output.stdout), 32));
        }
    }
    Ok(Verdict::Proved(format!(
        "{} commands of the README ran as they stand there, {skipped} skipped",
        commands.len() - skipped
    )))
}

fn end(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
