//! `qctl events`: what happened on this host.

use crate::client::{Client, unexpected};
use crate::output::{self, Output};
use agent_core::protocol::types::{Event, Level};
use agent_core::protocol::{Request, Response};
use anyhow::Result;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Events {
    /// The last so many, up to 1000.
    #[arg(short = 'n', long, default_value_t = 50)]
    count: usize,
    /// And what happens from now on.
    #[arg(short, long)]
    follow: bool,
    /// Format of the output: lines, or one JSON or YAML document per event.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

pub fn show(client: &mut Client, wanted: &Events) -> Result<()> {
    let (mut after, mut count) = (0, wanted.count);
    loop {
        for event in ask(client, after, count)? {
            match wanted.output {
                output::Output::Table => println!("{}", line(&event)),
                output::Output::Json => println!("{}", serde_json::to_string(&event)?),
                output::Output::Yaml => print!("---\n{}", serde_yaml_ng::to_string(&event)?),
            }
            after = event.number;
        }
        if !wanted.follow {
            return Ok(());
        }
        count = usize::MAX;
        std::thread::sleep(Duration::from_millis(500));
    }
}

pub fn ask(client: &mut Client, after: u64, count: usize) -> Result<Vec<Event>> {
    match client.ask(&Request::Events { after, count })? {
        Response::Events(events) => Ok(events),
        _ => Err(unexpected("events")),
    }
}

/// `2026-11-26T01:02:03Z ! container a: ended`.
pub fn line(event: &Event) -> String {
    let time = prost_types::Timestamp { seconds: event.time as i64, nanos: 0 };
    let mark = match event.level {
        Level::Info => ' ',
        Level::Warning => '?',
        Level::Error => '!',
    };
    format!("{time} {mark} {}: {}", event.about, event.text)
}
