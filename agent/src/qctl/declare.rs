//! What a host is to run: applying, comparing, looking at what became of it.

use super::Output;
use super::client::{Client, unexpected};
use super::fleet::Share;
use super::settle;
use crate::compose::lines::line_of;
use crate::compose::project::{Surroundings, resolve};
use crate::protocol::{Request, Response, RolloutStep};
use crate::status::{Container, Status};
use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Apply {
    /// The file.
    file: PathBuf,
    /// A profile whose services are wanted too; * for all.
    #[arg(long)]
    profile: Vec<String>,
    /// Say whether the file would be accepted, and what would be another than now; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take it back after this time, as in 60s, unless qctl keep is heard before.
    #[arg(long = "try", value_parser = duration, conflicts_with = "dry_run")]
    try_for: Option<Duration>,
    /// Check it now and run it from the next boot on. What is applied before that takes its place.
    #[arg(long, conflicts_with_all = ["dry_run", "try_for"])]
    staged: bool,
    /// Wait until all of it runs and has proved itself, for this time at most; exit code 1 if it does not. An update's
    /// trial takes a minute if its file says nothing else.
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, require_equals = true, default_missing_value = "5m",
          conflicts_with_all = ["dry_run", "staged", "try_for"])]
    wait: Option<Duration>,
    /// Of several hosts, so many first, as 2 or 10%; the others once it has proved itself there. Who comes after one where it
    /// did not is not asked.
    #[arg(long, requires = "wait", value_name = "HOSTS")]
    pub canary: Option<Share>,
    /// Look at the first ones again after this time, before the others are asked.
    #[arg(long, requires = "canary", value_name = "TIME", value_parser = duration)]
    pub bake: Option<Duration>,
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    match number.parse::<u64>() {
        Ok(number @ 1..=86_400) if seconds > 0 => Ok(Duration::from_secs(number * seconds)),
        _ => Err("a time, as in 60s, 5m or 1h".into()),
    }
}

/// An error with the line of the file as it is written: what was read is what [`resolve`] made of it.
pub fn in_file(file: &Path, error: &anyhow::Error) -> anyhow::Error {
    let said = format!("{error:#}");
    let told = said.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let Some((_, what)) = told.filter(|(line, _)| line.parse::<usize>().is_ok()) else {
        return anyhow!("{}: {said}", file.display());
    };
    let own = std::fs::read_to_string(file).ok().and_then(|text| line_of(&text, what));
    let line = own.map_or_else(String::new, |line| format!(":{line}"));
    anyhow!("{}{line}: {what}", file.display())
}

/// Applies a file, after its variables, files and profiles were put in here.
pub fn apply(client: &mut Client, wanted: &Apply) -> Result<()> {
    let file = &wanted.file;
    let compose = resolve(file, &Surroundings::of(file, &wanted.profile)?)?;
    let try_seconds = wanted.try_for.map(|time| time.as_secs());
    let (dry_run, staged) = (wanted.dry_run, wanted.staged);
    let request = Request::Apply { compose, dry_run, try_seconds, staged };
    let answer = client.ask(&request).map_err(|error| in_file(file, &error))?;
    let Response::Changes(changes) = answer else { return Err(unexpected("changes")) };
    changes.iter().for_each(|line| println!("{line}"));
    if let Some(seconds) = try_seconds {
        println!("taken back in {seconds} s; qctl keep keeps it");
    }
    if staged {
        println!("staged: the next boot runs it");
    }
    wanted.wait.map_or(Ok(()), |limit| settle::wait(client, limit))
}

/// Shows how a file differs from what is declared, line by line.
pub fn diff(client: &mut Client, file: &Path, profiles: &[String]) -> Result<()> {
    let compose = resolve(file, &Surroundings::of(file, profiles)?)?;
    let Response::Declared(declared) = client.ask(&Request::Declared {})? else {
        return Err(unexpected("what is declared"));
    };
    print!("{}", crate::files::differences(&declared, &compose));
    let request = Request::Apply { compose, dry_run: true, try_seconds: None, staged: false };
    let answer = client.ask(&request).map_err(|error| in_file(file, &error))?;
    let Response::Changes(changes) = answer else { return Err(unexpected("changes")) };
    changes.iter().filter(|line| !line.starts_with('=')).for_each(|line| println!("{line}"));
    Ok(())
}

#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// How versions of services are doing.
    Status {
        /// One service.
        name: Option<String>,
    },
    /// Hold the trial of a service's new version: it goes on until it is resumed, promoted or undone.
    Pause {
        /// The service.
        name: String,
    },
    /// Judge the trial again.
    Resume {
        /// The service.
        name: String,
    },
    /// The version on trial takes over now.
    Promote {
        /// The service.
        name: String,
    },
    /// The version before comes back, and this one is not tried again until it is applied again.
    Undo {
        /// The service.
        name: String,
    },
}

pub fn rollout(client: &mut Client, what: &Rollout) -> Result<()> {
    let (name, step) = match what {
        Rollout::Status { name } => return rollouts(&client.status()?, name.as_deref()),
        Rollout::Pause { name } => (name, RolloutStep::Pause),
        Rollout::Resume { name } => (name, RolloutStep::Resume),
        Rollout::Promote { name } => (name, RolloutStep::Promote),
        Rollout::Undo { name } => (name, RolloutStep::Undo),
    };
    client.done(&Request::Rollout { name: name.clone(), step })
}

fn rollouts(status: &Status, name: Option<&str>) -> Result<()> {
    let of = |container: &&Container| {
        name.is_none_or(|name| crate::instance::service_of(&container.name) == name)
    };
    let containers: Vec<&Container> = status.containers.iter().filter(of).collect();
    ensure!(!containers.is_empty(), "there is no service {}", name.unwrap_or("at all"));
    println!("{:<16} {:>10}  {:<10} {:<48} ROLLOUT", "CONTAINER", "GENERATION", "STATE", "IMAGE");
    for container in containers {
        let Container { name, generation, image, state, rollout, .. } = container;
        let state = container.health.as_ref().filter(|_| state == "running").unwrap_or(state);
        let rollout = rollout.as_deref().unwrap_or("proven");
        println!("{name:<16} {generation:>10}  {state:<10} {image:<48} {rollout}");
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Keep a secret on the host, sealed, and give it to the containers that use it.
    Set {
        /// Its name.
        name: String,
        /// A file with it; standard input if left out.
        file: Option<PathBuf>,
    },
    /// The names of secrets.
    Ls,
    /// Forget a secret that no container uses.
    Rm {
        /// Its name.
        name: String,
    },
}

/// Standard input, which is there once for all hosts.
fn given() -> Result<Vec<u8>> {
    static GIVEN: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(given) = GIVEN.get() {
        return Ok(given.clone());
    }
    let mut secret = Vec::new();
    std::io::stdin().read_to_end(&mut secret).context("read standard input")?;
    Ok(GIVEN.get_or_init(|| secret).clone())
}

pub fn secret(client: &mut Client, what: &Secret) -> Result<()> {
    match what {
        Secret::Set { name, file } => {
            let secret = match file {
                Some(path) => {
                    std::fs::read(path).with_context(|| format!("read {}", path.display()))?
                }
                None => given()?,
            };
            ensure!(!secret.is_empty(), "the secret is empty");
            let secret = STANDARD.encode(secret);
            client.done(&Request::SetSecret { name: name.clone(), secret })
        }
        Secret::Rm { name } => client.done(&Request::RemoveSecret { name: name.clone() }),
        Secret::Ls => {
            let Response::Secrets(names) = client.ask(&Request::Secrets {})? else {
                return Err(unexpected("names of secrets"));
            };
            names.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
    }
}

#[derive(Debug, Args)]
pub struct Get {
    /// containers, cores, engines, images, problems, rollouts or secrets.
    #[arg(value_parser = ["containers", "cores", "engines", "images", "problems", "rollouts", "secrets"])]
    what: String,
    /// How to show it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Shows one kind of thing.
pub fn get(client: &mut Client, wanted: &Get) -> Result<()> {
    let status = client.status()?;
    match (wanted.what.as_str(), wanted.output) {
        ("images", output) => super::image::list(client, output),
        ("secrets", Output::Table) => secret(client, &Secret::Ls),
        ("secrets", output) => match client.ask(&Request::Secrets {})? {
            Response::Secrets(names) => output.print(&names),
            _ => Err(unexpected("names of secrets")),
        },
        ("rollouts", Output::Table) => rollouts(&status, None),
        ("problems", Output::Table) => {
            status.problems.iter().for_each(|problem| println!("{problem}"));
            Ok(())
        }
        (_, Output::Table) => {
            print!("{}", crate::view::page(&status, false));
            Ok(())
        }
        ("containers" | "rollouts", output) => output.print(&status.containers),
        ("cores", output) => output.print(&status.cores),
        ("engines", output) => output.print(&status.engines),
        (_, output) => output.print(&status.problems),
    }
}

/// All that is known of one service: what is declared, what runs, what happened.
pub fn describe(client: &mut Client, name: &str) -> Result<()> {
    let status = client.status()?;
    rollouts(&status, Some(name))?;
    let Response::Declared(declared) = client.ask(&Request::Declared {})? else {
        return Err(unexpected("what is declared"));
    };
    let file: serde_yaml_ng::Value = serde_yaml_ng::from_str(&declared)?;
    let service = file.get("services").and_then(|services| services.get(name));
    let service = service.with_context(|| format!("there is no service {name}"))?;
    println!("\ndeclared:");
    serde_yaml_ng::to_string(service)?.lines().for_each(|line| println!("  {line}"));
    let about =
        [format!("container {name}"), format!("rollout {name}"), format!("health of {name}")];
    println!("\nevents:");
    for event in super::events::ask(client, 0, 1000)? {
        let green = event.about.strip_suffix(".green").unwrap_or(&event.about);
        if about.iter().any(|about| about == green) {
            println!("  {}", super::events::line(&event));
        }
    }
    let of = format!("{name}: ");
    for problem in status.problems.iter().filter(|problem| problem.contains(&of)) {
        println!("\n! {problem}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::in_file;
    use anyhow::anyhow;

    #[test]
    fn an_error_has_the_line_of_the_file_as_it_is_written() {
        let file = std::env::temp_dir().join(format!("qctl-lines-{}.yaml", std::process::id()));
        std::fs::write(&file, "services:\n  a:\n    extends: {service: b}\n    cpus: 9\n").unwrap();
        for (said, shown) in [
            ("line 49: services.a.cpus: \"9\": no", ":4: services.a.cpus: \"9\": no"),
            ("line 49: volumes.a: no", ": volumes.a: no"),
            ("not there at line 3", ": not there at line 3"),
        ] {
            let error = in_file(&file, &anyhow!("{said}")).to_string();
            assert_eq!(error, format!("{}{shown}", file.display()));
        }
        std::fs::remove_file(file).unwrap();
    }
}
