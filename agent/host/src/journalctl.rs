//! `journalctl` command lines for containers' logs.

use crate::journal::CONTAINER;
use agent_core::log_query::Query;
use std::process::Command;

/// Builds the journalctl command that prints what a query asks for.
pub fn journalctl(query: &Query) -> Command {
    let mut journal = Command::new("journalctl");
    journal.args(["--quiet", "--no-pager", "--output=cat"]);
    // Followed without a number they start at the end, and miss what comes meanwhile.
    journal.arg(format!("--lines={}", query.lines_text()));
    if query.follow {
        journal.arg("--follow");
    }
    if let Some(since) = &query.since {
        journal.arg(format!("--since={since}"));
    }
    journal.arg(format!("{CONTAINER}={}", query.container));
    journal
}
