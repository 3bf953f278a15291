//! The README's commands, each run as it stands there.

use crate::harness::booted::Verdict;
use crate::harness::checkout::{ImageFiles, root, shared_data};
use crate::harness::guest_clock::limit_under_load;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Seconds that each `make run` goes on after the host is ready.
const SECONDS_TO_RUN: &str = "5";

/// Prefix of the README's commands that query the machine of [`RUN`] while it runs.
const ASK: &str = "target/run/qctl ";
const RUN: &str = "make run";
/// From an empty target directory.
const RUN_LIMIT: Duration = Duration::from_secs(1800);

/// Its command that is a story of its own, since it can be told beside others.
const REPRODUCIBLE: &str = "make reproducible";

/// The commands in the README's code blocks but [`REPRODUCIBLE`] and those that run anyway: `make
/// test`, which is what runs us, `make sim`, and a story. Those that measure, or the others.
fn commands(measure: bool) -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(root().join("README.md")).context("read README.md")?;
    ensure!(readme.lines().any(|line| line == REPRODUCIBLE), "no {REPRODUCIBLE} in the README");
    let others = ["make test", "make sim", "make story NAME=quiet-cores", REPRODUCIBLE];
    let lines = readme.lines().filter(|line| line.starts_with("make ") && !others.contains(line));
    let measures = |line: &&str| ["make bench", "make report"].iter().any(|m| line.starts_with(m));
    Ok(lines.filter(|line| measures(line) == measure).map(Into::into).collect())
}

/// Proves that the README's commands work, except those that measure.
pub fn commands_work(_: &ImageFiles) -> Result<Verdict> {
    work(&commands(false)?)
}

/// The story: figures, on a machine that does nothing else.
pub fn figures_are_measured(_: &ImageFiles) -> Result<Verdict> {
    work(&commands(true)?)
}

fn work(commands: &[String]) -> Result<Verdict> {
    ensure!(commands.len() >= 3, "only {} commands were found in the README", commands.len());
    let recording = shared_data()
        .map(|data| data.join("nasdaq-aapl-2012-06-21-open.itch"))
        .filter(|file| file.exists());
    let mut shown = false;
    let mut skipped = 0;
    for command in commands {
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
        let said = if line == RUN { run_and_ask()? } else { run(&line)? };
        println!("  {command} ({} s)", start.elapsed().as_secs());
        if !std::mem::replace(&mut shown, true) {
            println!("{}", end(&said, 32));
        }
    }
    Ok(Verdict::Proved(format!(
        "{} commands of the README ran as they stand there, {skipped} skipped",
        commands.len() - skipped
    )))
}

/// The image that is built twice and compared, where something has changed that the builds depend
/// on.
pub fn builds_are_reproducible(_: &ImageFiles) -> Result<Verdict> {
    let known = Command::new(root().join("image/reproducible")).arg("--is-known").status()?;
    if known.success() {
        return Ok(Verdict::Skipped(
            "nothing that a build depends on has changed since make reproducible passed (image/reproduced); make certify builds twice".into(),
        ));
    }
    let said = run(REPRODUCIBLE)?;
    let verdict = said.lines().find_map(|line| line.strip_prefix("reproducible: "));
    Ok(Verdict::Proved(verdict.context("make reproducible gave no verdict")?.to_owned()))
}

/// Runs the demonstration, asks it what the README does, and ends it with Ctrl-C; returns its
/// standard output.
fn run_and_ask() -> Result<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).context("read README.md")?;
    let commands: Vec<&str> = readme.lines().filter(|line| line.starts_with(ASK)).collect();
    ensure!(!commands.is_empty(), "no {ASK}in the README");
    let directory = std::env::temp_dir().join(format!("quietcore-run-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("said");
    let output = std::fs::File::create(&file)?;
    let mut demonstration = Command::new("sh")
        .args(["-c", RUN])
        .process_group(0)
        .current_dir(root())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let start = Instant::now();
    let mut ask = || -> Result<()> {
        let ready = format!("{ASK}ready --timeout 5");
        while let Err(error) = run(&ready) {
            let left = demonstration.try_wait()?.is_none()
                && start.elapsed() < limit_under_load(RUN_LIMIT);
            ensure!(left, "{RUN}: {error:#}");
            std::thread::sleep(Duration::from_millis(500));
        }
        for command in &commands {
            println!("  {command}\n{}", run(command)?.trim_end());
        }
        Ok(())
    };
    let asked = ask();
    let _ = killpg(Pid::from_raw(demonstration.id().cast_signed()), Signal::SIGINT);
    demonstration.wait()?;
    let said = std::fs::read_to_string(&file)?;
    std::fs::remove_dir_all(&directory)?;
    asked.with_context(|| end(&said, 40))?;
    ensure!(said.contains("\nended\n"), "{RUN} did not end by Ctrl-C:\n{}", end(&said, 40));
    Ok(said)
}

/// Runs a command, which must succeed; returns its standard output.
fn run(line: &str) -> Result<String> {
    let output = Command::new("sh")
        .args(["-c", line])
        .env("SECONDS_TO_RUN", SECONDS_TO_RUN)
        .current_dir(root())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "`{line}` ended with {}:\n{}", output.status, end(&text, 40));
    Ok(said)
}

fn end(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
