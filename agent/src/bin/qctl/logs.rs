//! `qctl logs`: what a container wrote, from the journal.

use anyhow::{Context, Result, ensure};
use clap::Args;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The journal's field with the container's name, as the agent's tracing layer writes it.
const FIELD: &str = "F_CONTAINER";

#[derive(Debug, Args)]
pub struct Logs {
    /// The container.
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

/// Shows them, in the place of this program.
pub fn show(logs: &Logs) -> Result<()> {
    let name = &logs.name;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    ensure!(!name.is_empty() && name.bytes().all(plain), "{name:?} is no container's name");
    let mut journal = Command::new("journalctl");
    journal.args(["--quiet", "--no-pager", "--output=cat", "--lines"]).arg(logs.lines.to_string());
    if logs.follow {
        journal.arg("--follow");
    }
    if let Some(since) = &logs.since {
        journal.arg("--since").arg(since);
    }
    Err(journal.arg(format!("{FIELD}={name}")).exec()).context("start journalctl")
}
