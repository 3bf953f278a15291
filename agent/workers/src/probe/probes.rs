//! Health probes of ports on the loopback: TCP connect, HTTP GET, and metrics of an HTTP page.

use agent_core::compose::probe::Probe;
use agent_core::limits::{METRICS_LEN_MAX, PROBE_ANSWER_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(("127.0.0.1", port)).await;
    connected.map_err(|error| format!("port {port}: {error}"))
}

/// Asks a port by HTTP; at most so many bytes of what it answers, if that is well.
async fn get(port: u16, path: &str, len_max: u64, any_status: bool) -> Result<String, String> {
    let mut stream = connect(port).await?;
    // 1.0: what comes is not in chunks, and the connection ends with it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let said = |error: std::io::Error| format!("port {port}: {error}");
    stream.write_all(request.as_bytes()).await.map_err(said)?;
    let mut answer = Vec::new();
    stream.take(len_max).read_to_end(&mut answer).await.map_err(said)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let line = answer.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=399) => Ok(answer),
        Some(_) if any_status => Ok(answer),
        _ => Err(format!("port {port}{path}: {line:?}")),
    }
}

/// Probes a port of the loopback once.
///
/// # Errors
/// One line: the port and what is wrong with its answer.
pub async fn probe(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Tcp { port } => connect(*port).await.map(drop),
        Probe::Http { port, path, any_status } => {
            get(*port, path, PROBE_ANSWER_MAX, *any_status).await.map(drop)
        }
        Probe::Metrics { port, path, checks } => {
            let page = get(*port, path, METRICS_LEN_MAX, false).await?;
            let (_, metrics) = page.split_once("\r\n\r\n").unwrap_or_default();
            checks.iter().try_for_each(|check| check.evaluate(metrics))
        }
        Probe::File { path, .. } => Err(format!("{path}: no file is probed here, only ports")),
    }
}
