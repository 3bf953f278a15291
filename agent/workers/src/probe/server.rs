//! The process that asks ports: the agent reaches no network, not even the loopback. A connection
//! to its socket brings one question in a line of JSON and takes one answer.

use crate::probe::probes::probe;
use agent_core::health::ProbeAnswer;
use agent_core::limits::{PROBE_QUESTION_MAX, PROBE_TIME_MAX};
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

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
    write
        .write_all(serde_json::to_string(&ProbeAnswer { wrong: probed.err() })?.as_bytes())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::compose::probe::Probe;
    use tokio::net::TcpListener;

    async fn ask(socket: &Path, probe: &Probe) -> Option<String> {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let question = serde_json::to_string(probe).unwrap() + "\n";
        stream.write_all(question.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        serde_json::from_slice::<ProbeAnswer>(&text).unwrap().wrong
    }

    #[tokio::test]
    async fn ports_are_probed_and_failures_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 503 No\r\n\r\n", ""] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 256];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let http = Probe::Http { port, path: "/metrics".into(), any_status: false };
        let temporary = tempfile::tempdir().unwrap();
        let socket = temporary.path().join("it");
        let path = socket.clone();
        tokio::spawn(async move { serve(&path).await });
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(&socket, &http).await, None);
        assert!(ask(&socket, &http).await.unwrap().contains("503"));
        // No answer at all, then nobody who listens.
        assert!(ask(&socket, &http).await.is_some());
        assert!(ask(&socket, &Probe::Tcp { port }).await.is_some());
        let file = Probe::File { path: "/etc/passwd".into(), max_age: PROBE_TIME_MAX };
        assert!(ask(&socket, &file).await.unwrap().contains("no file"));
    }
}
