//! `qctl rollout`: status and steps of trials.

use crate::client::Client;
use crate::table::Column::{Number, Text};
use crate::table::table;
use agent_core::protocol::{Request, RolloutStep};
use agent_core::status::{Container, Status};
use anyhow::{Result, ensure};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Show the rollouts of services.
    Status {
        /// Service to show; all if left out.
        name: Option<String>,
    },
    /// Hold the trial of a service's new version: it goes on until it is resumed, promoted or
    /// undone.
    Pause {
        /// Service whose trial to hold.
        name: String,
    },
    /// Judge the trial again.
    Resume {
        /// Service whose trial to resume.
        name: String,
    },
    /// The version on trial takes over now.
    Promote {
        /// Service whose new version to promote.
        name: String,
    },
    /// The version before comes back, and this one is not tried again until it is applied again.
    Undo {
        /// Service whose new version to undo.
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

pub fn rollouts(status: &Status, name: Option<&str>) -> Result<()> {
    let of = |container: &&Container| {
        name.is_none_or(|name| agent_core::instance::service_of(&container.name) == name)
    };
    let containers: Vec<&Container> = status.containers.iter().filter(of).collect();
    ensure!(!containers.is_empty(), "there is no service {}", name.unwrap_or("at all"));
    let columns =
        [Text("CONTAINER"), Number("GENERATION"), Text("STATE"), Text("IMAGE"), Text("ROLLOUT")];
    let rows = containers.into_iter().map(|container| {
        let Container { name, generation, image, state, rollout, .. } = container.clone();
        let state = container.health.clone().filter(|_| state == "running").unwrap_or(state);
        let rollout = rollout.unwrap_or_else(|| "proven".into());
        vec![name, generation.to_string(), state, image, rollout]
    });
    print!("{}", table(&columns, rows));
    Ok(())
}
