//! Runs `systemctl`, the client of systemd.

use anyhow::{Context, Result, ensure};

/// Has `systemctl` do something, and says what it printed.
///
/// # Errors
/// What it says.
pub async fn systemctl(arguments: &[&str]) -> Result<String> {
    let output = tokio::process::Command::new("systemctl").args(arguments).output().await;
    let output = output.context("start systemctl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemctl {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
