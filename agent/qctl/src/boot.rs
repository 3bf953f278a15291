//! Progress of this host's boot for `qctl top --boot`, until the agent answers: systemd's jobs, and
//! those that run now.

use crate::client::Client;
use crate::hosts::Target;
use agent_host::systemd::systemctl_blocking;
use anyhow::{Context, Result};
use std::io::Write;
use std::time::Duration;

/// Pause between two looks: each starts a program on a host that is busy with its boot.
const PAUSE: Duration = Duration::from_secs(2);

/// Names of running jobs that a line has room for.
const NAMES_MAX: usize = 3;

/// Waits until the agent answers, and shows the boot's progress until then: a line, and the end of
/// a page.
///
/// # Errors
/// The output can't be written.
pub fn wait_for_agent(target: &Target) -> Result<Client> {
    loop {
        if let Ok(mut client) = Client::connect(target)
            && client.status().is_ok()
        {
            return Ok(client);
        }
        // Without systemd's answer there is nothing to show, and nobody who could mend it.
        if let Ok(line) = progress() {
            let mut out = std::io::stdout();
            write!(out, "{line}\x1b[J")?;
            out.flush()?;
        }
        std::thread::sleep(PAUSE);
    }
}

fn progress() -> Result<String> {
    let all = systemctl_blocking(&["show", "--property=NInstalledJobs", "--value"])?;
    let jobs = systemctl_blocking(&["list-jobs", "--no-legend", "--plain", "--no-pager"])?;
    Ok(line(all.trim().parse().context("systemd's number of jobs")?, &jobs))
}

/// `booting: 61 of 80 units, waiting for containerd.service`, from the number of all jobs and the
/// lines of those that are left (`ID UNIT TYPE STATE`).
fn line(all: usize, jobs: &str) -> String {
    let left: Vec<Vec<&str>> = jobs.lines().map(|line| line.split_whitespace().collect()).collect();
    let running = left.iter().filter(|job| job.get(3) == Some(&"running"));
    let names: Vec<&str> = running.filter_map(|job| job.get(1).copied()).take(NAMES_MAX).collect();
    let waits = if names.is_empty() { String::new() } else { ", waiting for ".into() };
    format!("booting: {} of {all} units{waits}{}", all.saturating_sub(left.len()), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_done_and_what_runs() {
        let jobs = "44 containerd.service start running\n 1 graphical.target start waiting\n45 a.mount start running\n";
        let wanted = "booting: 77 of 80 units, waiting for containerd.service, a.mount";
        assert_eq!(line(80, jobs), wanted);
        assert_eq!(line(80, ""), "booting: 80 of 80 units");
    }
}
