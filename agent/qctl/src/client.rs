//! The way to an agent: its socket on this host, or HTTPS with a certificate to others.

use crate::hosts::Target;
use crate::remote_client::{RemoteClient, text};
use crate::status_page;
use crate::terminal_text::printable;
use agent_core::api_routes::{Ask, role_of, route};
use agent_core::limits::HEALTHY_FOR;
use agent_core::protocol::{Request, Response, Role};
use agent_core::status::Status;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Content type of requests.
const JSON: &str = "application/json";

/// Connection to an agent: its Unix socket, or HTTPS to another host.
pub enum Client {
    Local(BufReader<UnixStream>),
    Remote(RemoteClient),
}

impl Client {
    pub fn connect(target: &Target) -> Result<Self> {
        let socket = match target {
            Target::Host(host) => return RemoteClient::new(host).map(Self::Remote),
            Target::Socket(socket) => socket,
        };
        let stream = UnixStream::connect(socket).with_context(|| {
            format!("reach the agent at {}; is quietcore-agent.service running?", socket.display())
        })?;
        Ok(Self::Local(BufReader::new(stream)))
    }

    /// Asks; what the agent refuses is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        let response: Response = match self {
            Self::Local(stream) => {
                let mut line = serde_json::to_string(request)?;
                line.push('\n');
                stream.get_mut().write_all(line.as_bytes()).context("ask the agent")?;
                let mut answer = String::new();
                stream.read_line(&mut answer).context("hear the agent")?;
                parse(&answer).context("the agent's answer")?
            }
            Self::Remote(client) => {
                let body = serde_json::to_vec(request)?;
                let answer = match request.role() {
                    Role::Reader => client.send("POST", "/v1/ask", JSON, &body),
                    _ => client.send_signed("POST", "/v1/ask", JSON, &body),
                }?;
                let (status, text) = (answer.status(), text(answer)?);
                parse(&text).with_context(|| format!("status {status}: {}", printable(&text)))?
            }
        };
        match response.error() {
            Some(why) => Err(anyhow!(why.to_owned())),
            None => Ok(response),
        }
    }

    /// Streams the text that another host answers to a GET of `path`; `None` for the local host.
    pub fn stream(&mut self, path: &str) -> Result<Option<Box<dyn Read + Send>>> {
        let Self::Remote(client) = self else { return Ok(None) };
        let answer = match is_for_readers("GET", path) {
            true => client.send("GET", path, JSON, b""),
            false => client.send_signed("GET", path, JSON, b""),
        }?;
        if !answer.status().is_success() {
            let status = answer.status();
            bail!(
                "{path}: status {status}: {}",
                printable(text(answer).unwrap_or_default().trim())
            );
        }
        Ok(Some(Box::new(answer.into_body().into_reader())))
    }

    /// Sends a request of the HTTP API as it stands, signed, and returns the answer's text.
    pub fn api(&mut self, method: &str, target: &str, kind: &str, body: &[u8]) -> Result<String> {
        let client = match self {
            Self::Remote(client) => client,
            Self::Local(_) => {
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let asked = route(method, path, query, body, false);
                return match asked.map_err(|(_, why)| anyhow!(why))? {
                    Ask::Agent(request) | Ask::Wrapped(request) => {
                        Ok(serde_json::to_string(&self.ask(&request)?)? + "\n")
                    }
                    _ => bail!("{path}: the API has it, and the agent's socket does not; use --on"),
                };
            }
        };
        let answer = match is_for_readers(method, target) {
            true => client.send(method, target, kind, body),
            false => client.send_signed(method, target, kind, body),
        }?;
        let (status, text) = (answer.status(), text(answer)?);
        match status.is_success() {
            true => Ok(text),
            false => bail!("{method} {target}: status {status}: {}", printable(text.trim())),
        }
    }

    pub fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::Status {})? {
            Response::Status(status) => Ok(*status),
            _ => Err(unexpected("a status")),
        }
    }

    pub fn done(&mut self, request: &Request) -> Result<()> {
        self.ask(request).map(drop)
    }
}

/// Reads a response whose names and texts may come from anywhere: a worker, a container's name,
/// another host.
fn parse(text: &str) -> Result<Response> {
    fn clean(value: &mut Value) {
        match value {
            Value::String(text) => *text = printable(text),
            Value::Array(all) => all.iter_mut().for_each(clean),
            Value::Object(all) => {
                let pairs = std::mem::take(all).into_iter().map(|(name, mut value)| {
                    clean(&mut value);
                    (printable(&name), value)
                });
                *all = pairs.collect();
            }
            _ => {}
        }
    }
    let mut value = serde_json::from_str(text)?;
    clean(&mut value);
    Ok(serde_json::from_value(value)?)
}

/// Returns false for what is not known: it is signed.
fn is_for_readers(method: &str, target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    method == "GET" && role_of(method, path) == Some(Role::Reader)
}

/// The agent answered something else.
pub fn unexpected(wanted: &str) -> anyhow::Error {
    anyhow!("the agent answered something else than {wanted}; is it of another release?")
}

/// Looks until the status is as `wanted`; `what` is its name.
pub fn wait(
    target: &Target,
    timeout: Duration,
    what: &str,
    mut wanted: impl FnMut(&Status) -> bool,
) -> Result<()> {
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < timeout {
        match Client::connect(target).and_then(|mut client| client.status()) {
            Ok(status) if wanted(&status) => {
                let names: Vec<_> = status.containers.iter().map(|c| c.name.as_str()).collect();
                let names = names.join(" ");
                let sealed = if status.sealed { "sealed" } else { "not sealed" };
                let since = match target {
                    Target::Socket(_) => {
                        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
                        let uptime = uptime.split(' ').next().unwrap_or("?");
                        format!("{uptime} s after the kernel started; ")
                    }
                    Target::Host(_) => String::new(),
                };
                println!("quietcore: {what}, {since}containers: {names}; data {sealed}");
                return Ok(());
            }
            other => last = Some(other),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    match last {
        Some(Ok(status)) => {
            bail!(
                "not {what} after {} s:\n{}",
                timeout.as_secs(),
                status_page::page(&status, false)
            )
        }
        Some(Err(error)) => Err(error),
        None => bail!("no time to look"),
    }
}

/// Healthy without a break, with the same processes.
pub fn healthy(target: &Target, timeout: Duration) -> Result<()> {
    let mut since = None;
    wait(target, timeout, "healthy", |status| {
        let pids: Vec<u32> = status.engines.iter().map(|engine| engine.pid).collect();
        let restarts: u32 = status.containers.iter().map(|container| container.restarts).sum();
        let now = (pids, restarts);
        match &since {
            Some((what, at)) if status.healthy && *what == now => {
                Instant::now().duration_since(*at) >= HEALTHY_FOR
            }
            _ => {
                since = status.healthy.then(|| (now, Instant::now()));
                false
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_says_gives_no_orders_to_a_terminal() {
        let said = r#"{"error":"a\u001b[2Jb\u0007\u009b\tc\nd"}"#;
        let unknown = parse("{\"\\u001b]0;x\":1}").unwrap_err().to_string();
        assert!(!unknown.contains('\u{1b}'), "{unknown}");
        let response = parse(said).unwrap();
        assert_eq!(response.error(), Some("a\u{fffd}[2Jb\u{fffd}\u{fffd}\tc\nd"));
        assert!(parse("{").is_err());
    }
}
