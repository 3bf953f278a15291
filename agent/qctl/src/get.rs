//! `qctl get` and `qctl describe`.

use crate::client::{Client, unexpected};
use crate::output::{self, Output};
use crate::rollout::rollouts;
use crate::secret::{Secret, secret};
use crate::status_page;
use agent_core::protocol::{Request, Response};
use anyhow::{Context, Result};
use clap::Args;

#[derive(Debug, Args)]
pub struct Get {
    /// containers, cores, engines, images, problems, rollouts or secrets.
    #[arg(value_parser = ["containers", "cores", "engines", "images", "problems", "rollouts", "secrets"])]
    what: String,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Shows one kind of thing.
pub fn get(client: &mut Client, wanted: &Get) -> Result<()> {
    let status = client.status()?;
    match (wanted.what.as_str(), wanted.output) {
        ("images", output) => crate::image::list(client, output),
        ("secrets", output::Output::Table) => secret(client, &Secret::Ls),
        ("secrets", output) => match client.ask(&Request::Secrets {})? {
            Response::Secrets(names) => output.print(&names),
            _ => Err(unexpected("names of secrets")),
        },
        ("rollouts", output::Output::Table) => rollouts(&status, None),
        ("problems", output::Output::Table) => {
            status.problems.iter().for_each(|problem| println!("{problem}"));
            Ok(())
        }
        (what, output::Output::Table) => {
            print!(
                "{}",
                match what {
                    "containers" => status_page::containers(&status),
                    "cores" => status_page::cores(&status),
                    _ => status_page::page(&status, false),
                }
            );
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
    for event in crate::events::ask(client, 0, 1000)? {
        let green = event.about.strip_suffix(".green").unwrap_or(&event.about);
        if about.iter().any(|about| about == green) {
            println!("  {}", crate::events::line(&event));
        }
    }
    let of = format!("{name}: ");
    for problem in status.problems.iter().filter(|problem| problem.contains(&of)) {
        println!("\n! {problem}");
    }
    Ok(())
}
