//! `qctl logs`: what a container wrote, from the journal.

use crate::client::Client;
use crate::hosts::{self, Target};
use agent_core::log_query::Query;
use agent_host::journalctl::journalctl;
use anyhow::{Context, Result};
use clap::Args;
use std::os::unix::process::CommandExt;

#[derive(Debug, Args)]
pub struct Logs {
    /// Container whose output to show.
    name: String,
    /// The last so many lines.
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: u32,
    /// And what it writes from now on.
    #[arg(short, long)]
    follow: bool,
    /// Only since then, as journalctl understands it: "10 min ago".
    #[arg(long)]
    since: Option<String>,
}

/// Shows them: of this host in the place of this program, of others as they come.
pub fn show(target: &Target, logs: &Logs) -> Result<()> {
    let query = Query {
        container: logs.name.clone(),
        lines: Some(logs.lines),
        follow: logs.follow,
        since: logs.since.clone(),
    };
    query.check().map_err(anyhow::Error::msg)?;
    if let hosts::Target::Host(_) = target {
        let path = format!("/v1/logs/{}?{}", query.container, query.encode());
        let text = Client::connect(target)?.stream(&path)?.context("another host has a stream")?;
        return std::io::copy(&mut { text }, &mut std::io::stdout()).map(drop).context("hear it");
    }
    Err(journalctl(&query).exec()).context("start journalctl")
}
