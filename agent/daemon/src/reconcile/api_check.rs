//! Check of a new API configuration by a process of its own: TLS libraries stay out of the agent's
//! process.

use anyhow::{Context, Result, ensure};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Checks with `quietcore-agent check-api-config` that a configuration's certificates and key can
/// be served with.
///
/// # Errors
/// The line that the check printed, or that it could not be run.
pub async fn check_api_config(config: &[u8]) -> Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg("check-api-config")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start the check of the API's configuration")?;
    let mut stdin = child.stdin.take().context("the check has no standard input")?;
    // A check that ends early is told by its status.
    let _ = stdin.write_all(config).await;
    drop(stdin);
    let output = child.wait_with_output().await.context("check the API's configuration")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("quietcore-agent: ");
    ensure!(output.status.success(), "{said}");
    Ok(())
}
