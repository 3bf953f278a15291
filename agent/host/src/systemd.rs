//! Calls of `systemctl`, the client of systemd.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Output};

/// Runs `systemctl` and returns its output.
///
/// # Errors
/// The arguments and what `systemctl` prints on standard error.
pub async fn systemctl(arguments: &[&str]) -> Result<String> {
    let output = tokio::process::Command::new("systemctl").args(arguments).output().await;
    text_of(arguments, output.context("start systemctl")?)
}

/// [`systemctl`] for programs without a runtime.
///
/// # Errors
/// The arguments and what `systemctl` prints on standard error.
pub fn systemctl_blocking(arguments: &[&str]) -> Result<String> {
    let output = Command::new("systemctl").args(arguments).output();
    text_of(arguments, output.context("start systemctl")?)
}

fn text_of(arguments: &[&str], output: Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemctl {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns true if a unit is active; false also if systemd does not answer.
pub fn is_active(unit: &str) -> bool {
    systemctl_blocking(&["is-active", "--quiet", unit]).is_ok()
}

/// Returns true if the host is shutting down; false also if systemd does not answer.
pub async fn is_stopping() -> bool {
    // Its exit status is not 0 then.
    let output = tokio::process::Command::new("systemctl").arg("is-system-running").output().await;
    output.is_ok_and(|output| output.stdout.starts_with(b"stopping"))
}
