//! The process that asks ports: the agent reaches no network, not even the loopback. A connection to its socket brings one
//! question in a line of JSON and takes one answer.

use super::probe;
use crate::compose::health::Probe;
use crate::limits::{PROBE_ANSWER_MAX, PROBE_QUESTION_MAX, PROBE_TIME_MAX};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Where it listens.
pub const SOCKET: &str = "/run/quietcore/probe/probe.sock";

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    wrong: Option<String>,
}

/// Answers until it is ended.
///
/// # Errors
/// The socket can't be made.
pub async fn serve(path: &Path) -> Result<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await.context("take a question")?;
        // Who asks gives up after a time of its own; this only bounds what is left behind.
        tokio::spawn(tokio::time::timeout(PROBE_TIME_MAX, answer(stream)));
    }
}

async fn answer(stream: UnixStream) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(PROBE_QUESTION_MAX)).read_line(&mut line).await?;
    let probed = probe(&serde_json::from_str(&line)?).await;
    write.write_all(serde_json::to_string(&Answer { wrong: probed.err() })?.as_bytes()).await?;
    Ok(())
}

/// Has the process at a socket ask.
pub(super) async fn ask(socket: &Path, probe: &Probe) -> Result<(), String> {
    let said = |error: std::io::Error| format!("quietcore-probe.service: {error}");
    let mut stream = UnixStream::connect(socket).await.map_err(said)?;
    let question = serde_json::to_string(probe).map_err(|error| error.to_string())? + "\n";
    stream.write_all(question.as_bytes()).await.map_err(said)?;
    let mut text = Vec::new();
    stream.take(PROBE_ANSWER_MAX).read_to_end(&mut text).await.map_err(said)?;
    let answer: Answer = serde_json::from_slice(&text)
        .map_err(|error| format!("quietcore-probe.service: {error}"))?;
    answer.wrong.map_or(Ok(()), Err)
}
