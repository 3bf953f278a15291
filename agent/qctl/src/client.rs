//! The way to an agent: its socket on this host, or HTTPS with a certificate to others.

use crate::hosts::{Host, Target};
use crate::status_page;
use agent_core::limits::{API_ANSWER_MAX, HEALTHY_FOR, REMOTE_TIMEOUT};
use agent_core::protocol::{Request, Response};
use agent_core::status::Status;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// Connection to an agent: its Unix socket, or HTTPS to another host.
pub enum Client {
    Local(BufReader<UnixStream>),
    Remote { agent: ureq::Agent, url: String },
}

impl Client {
    pub fn connect(target: &Target) -> Result<Self> {
        let socket = match target {
            Target::Host(host) => return remote(host),
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
                serde_json::from_str(&answer).context("the agent's answer")?
            }
            Self::Remote { agent, url } => {
                let url = format!("{url}/v1/ask");
                let body = serde_json::to_string(request)?;
                let answer = agent.post(&url).content_type("application/json").send(body);
                let mut answer = answer.with_context(|| no_answer(&url))?;
                let text = answer.body_mut().with_config().limit(API_ANSWER_MAX).read_to_string();
                let text = text.with_context(|| no_answer(&url))?;
                serde_json::from_str(&text)
                    .with_context(|| format!("{url}: status {}: {text}", answer.status()))?
            }
        };
        match response.error() {
            Some(why) => Err(anyhow!(why.to_owned())),
            None => Ok(response),
        }
    }

    /// Streams the text that another host answers to a GET of `path`; `None` for the local host.
    pub fn stream(&mut self, path: &str) -> Result<Option<Box<dyn Read + Send>>> {
        let Self::Remote { agent, url } = self else { return Ok(None) };
        let url = format!("{url}{path}");
        let mut answer = agent.get(&url).call().with_context(|| no_answer(&url))?;
        if !answer.status().is_success() {
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            bail!("{url}: status {}: {}", answer.status(), text.trim());
        }
        Ok(Some(Box::new(answer.into_body().into_reader())))
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

fn no_answer(url: &str) -> String {
    format!("{url}: no answer; is the host there, and your certificate good and of its authority?")
}

/// The agent answered something else.
pub fn unexpected(wanted: &str) -> anyhow::Error {
    anyhow!("the agent answered something else than {wanted}; is it of another release?")
}

fn remote(host: &Host) -> Result<Client> {
    let read = |path: &PathBuf| -> Result<Vec<PemItem<'static>>> {
        let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let items: Result<Vec<_>, _> = parse_pem(&pem).collect();
        items.with_context(|| path.display().to_string())
    };
    let (mut chain, mut key): (Vec<Certificate<'static>>, Option<PrivateKey<'static>>) =
        Default::default();
    for item in read(&host.identity)? {
        match item {
            PemItem::Certificate(certificate) => chain.push(certificate),
            PemItem::PrivateKey(found) => key = Some(found),
            _ => {}
        }
    }
    let shown = host.identity.display();
    let key = key.with_context(|| format!("{shown}: there is no private key in it"))?;
    ensure!(!chain.is_empty(), "{shown}: there is no certificate in it");
    let roots = read(&host.authority)?.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let roots: Vec<_> = roots.collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::from(roots))
        .client_cert(Some(ClientCert::new_with_certs(&chain, key)))
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        .http_status_as_error(false)
        .timeout_connect(Some(REMOTE_TIMEOUT))
        .timeout_recv_response(Some(REMOTE_TIMEOUT));
    let agent = ureq::Agent::new_with_config(config.build());
    Ok(Client::Remote { agent, url: host.url.trim_end_matches('/').to_owned() })
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
