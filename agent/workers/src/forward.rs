//! The journal to others, by their push APIs: Loki and Elasticsearch. The journal itself is the
//! spool on disk, bounded as it is; each target has its place in it. An entry is sent again until
//! it is taken, and what makes it one entry there is the same each time. Sources: Grafana Loki HTTP
//! API, "Ingest logs"; Elasticsearch Guide, "Bulk API"; ECS 8.

use crate::http_client;
use agent_core::limits::{
    FORWARD_BATCH_BYTES, FORWARD_BATCH_MAX, FORWARD_BATCH_WAIT, FORWARD_CONFIG_LEN_MAX,
    FORWARD_LINES_WAITING, FORWARD_PAUSE, FORWARD_PAUSE_MAX, FORWARD_TIMEOUT,
};
use agent_core::log_entry::{Entry, Kind, Taken};
use agent_core::versioned;
use agent_host::credentials::read_file;
use agent_host::files::write_whole;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The credential `quietcore.logs`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(rename = "version")]
    _version: u32,
    target: Vec<Target>,
}

/// Target of log forwarding: Loki or Elasticsearch, with its credentials.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    /// Under which its place is kept.
    name: String,
    kind: Kind,
    /// `https://HOST:PORT`, or `http://` for one on this host or network.
    url: String,
    /// Elasticsearch's index or data stream.
    #[serde(default = "default_index")]
    index: String,
    username: Option<String>,
    password: Option<String>,
    /// Instead of a name and a password.
    token: Option<String>,
    /// Loki's tenant (`X-Scope-OrgID`), where it has several.
    tenant: Option<String>,
    /// CA certificates of the target in PEM, besides Debian's list.
    #[serde(default)]
    authority: String,
}

fn default_index() -> String {
    "quietcore".into()
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let config: Self = read_file(path, FORWARD_CONFIG_LEN_MAX, versioned::parse)?;
        let names: std::collections::BTreeSet<&str> =
            config.target.iter().map(|target| target.name.as_str()).collect();
        ensure!(names.len() == config.target.len(), "{}: two targets have one name", named());
        for target in &config.target {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            let good = !target.name.is_empty() && target.name.bytes().all(plain);
            ensure!(good, "{}: {:?} is no name: letters, digits, - and _", named(), target.name);
            let url = target.url.starts_with("https://") || target.url.starts_with("http://");
            ensure!(
                url,
                "{}: {}: {:?} is no http:// or https://",
                named(),
                target.name,
                target.url
            );
            let is_loki = target.kind == Kind::Loki;
            let tenant = target.tenant.as_deref();
            ensure!(is_loki || tenant.is_none(), "{}: {}: tenant is Loki's", named(), target.name);
            // Source: Grafana Mimir and Loki, "Tenant ID restrictions".
            let is_tenant = |id: &str| {
                let allowed =
                    |byte: u8| byte.is_ascii_alphanumeric() || b"!-_.*'()".contains(&byte);
                (1..=150).contains(&id.len()) && id.bytes().all(allowed) && id != "." && id != ".."
            };
            ensure!(
                tenant.is_none_or(is_tenant),
                "{}: {}: tenant: 1 to 150 letters, digits and !-_.*'() are expected",
                named(),
                target.name
            );
        }
        Ok(config)
    }
}

/// Forwards until it is ended; `places` has a file for each target.
///
/// # Errors
/// The configuration can't be read, or there is nobody to forward to.
pub fn run(config: &Path, positions: &Path) -> Result<()> {
    let config = Config::read(config)?;
    ensure!(!config.target.is_empty(), "there is no target");
    std::thread::scope(|scope| {
        for target in config.target {
            scope.spawn(move || forward(&target, positions));
        }
    });
    Ok(())
}

fn forward(target: &Target, positions: &Path) {
    let place = positions.join(format!("{}.cursor", target.name));
    loop {
        // journalctl ends with a journal that is damaged, or not at all.
        if let Err(error) = follow(target, &place) {
            warn!("forward to {}: {error:#}", target.name);
        }
        std::thread::sleep(FORWARD_PAUSE);
    }
}

fn follow(target: &Target, place: &PathBuf) -> Result<()> {
    let mut journalctl = Command::new("journalctl");
    journalctl.args(["--quiet", "--no-pager", "--all", "--output=json", "--follow", "--lines=all"]);
    let cursor = std::fs::read_to_string(place).unwrap_or_default();
    if !cursor.trim().is_empty() {
        journalctl.arg(format!("--after-cursor={}", cursor.trim()));
    }
    let child = journalctl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = Ended(child.context("start journalctl")?);
    let output = child.0.stdout.take().context("its output")?;
    // journalctl waits when this is full.
    let (lines, entries) = sync_channel(FORWARD_LINES_WAITING);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let sender = Sender::new(target);
    let mut last = agent_core::log_entry::of_cursor(&cursor);
    while let Some(batch) = next(&entries) {
        let Some(end) = batch.last() else { continue };
        let cursor = end.cursor.clone();
        for entry in &batch {
            if let Some(missing) = agent_core::log_entry::missing(last.as_ref(), entry) {
                let name = &target.name;
                warn!(
                    "forward to {name}: {missing} entries had left the journal before they could be forwarded"
                );
            }
            last = Some((entry.sequence_of.clone(), entry.sequence));
        }
        sender.send(&batch);
        // A full disk is no reason to send the same again.
        if let Err(error) = write_whole(place, &(cursor + "\n")) {
            warn!("forward to {}: its place: {error:#}", target.name);
        }
    }
    Ok(())
}

/// A journalctl that ends with who reads it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Receives entries until there are `FORWARD_BATCH_MAX`, or `FORWARD_BATCH_BYTES`, or
/// `FORWARD_BATCH_WAIT` has passed since the first; `None` at the end.
fn next(lines: &Receiver<String>) -> Option<Vec<Entry>> {
    let (mut batch, mut bytes, mut deadline) = (Vec::new(), 0, None::<Instant>);
    while batch.len() < FORWARD_BATCH_MAX && bytes < FORWARD_BATCH_BYTES {
        let line = match deadline {
            None => lines.recv().ok()?,
            Some(deadline) => {
                match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
        };
        deadline = deadline.or_else(|| Some(Instant::now() + FORWARD_BATCH_WAIT));
        match Entry::read(&line) {
            Some(entry) => {
                bytes += line.len();
                batch.push(entry);
            }
            None => warn!("journalctl says {line:.100}"),
        }
    }
    Some(batch)
}

struct Sender<'a> {
    target: &'a Target,
    agent: ureq::Agent,
    authorization: Option<String>,
}

impl<'a> Sender<'a> {
    fn new(target: &'a Target) -> Self {
        let config = http_client::client(&[target.authority.as_bytes()])
            .http_status_as_error(false)
            // A page to log in at would be taken for an answer.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(FORWARD_TIMEOUT));
        let basic = |user: &String| {
            let password = target.password.as_deref().unwrap_or_default();
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        };
        let token = target.token.as_ref().map(|token| match target.kind {
            Kind::Loki => format!("Bearer {token}"),
            Kind::Elasticsearch => format!("ApiKey {token}"),
        });
        let authorization = token.or_else(|| target.username.as_ref().map(basic));
        Self { target, agent: ureq::Agent::new_with_config(config.build()), authorization }
    }

    /// Sends entries until they are taken, or refused for what they are. Of a batch that is refused
    /// as a whole each half is sent: one bad entry does not take the others with it. What is said
    /// of a batch is one line, which is forwarded too.
    fn send(&self, batch: &[Entry]) {
        let (refused, why) = self.send_parts(batch);
        if refused > 0 {
            let (name, of) = (&self.target.name, batch.len());
            warn!("forward to {name}: {refused} of {of} entries are not taken: {why}");
        }
    }

    /// Returns the number of entries that were refused, and the last reason.
    fn send_parts(&self, batch: &[Entry]) -> (usize, String) {
        let (name, mut pause, mut failed) = (&self.target.name, FORWARD_PAUSE, false);
        let mut refused = (0, String::new());
        loop {
            match self.try_send(batch) {
                Ok(Taken::All) => break,
                Ok(Taken::But(count, why)) => {
                    refused = (count, why);
                    break;
                }
                Ok(Taken::Refused(why)) => {
                    refused = match batch.split_at(batch.len() / 2) {
                        ([], _) => (batch.len(), why),
                        (first, second) => {
                            let [first, second] = [first, second].map(|it| self.send_parts(it));
                            let why = if second.0 > 0 { second.1 } else { first.1 };
                            (first.0 + second.0, why)
                        }
                    };
                    break;
                }
                Ok(Taken::Later(why)) => self.wait(&why, &mut pause, &mut failed),
                Err(error) => self.wait(&format!("{error:#}"), &mut pause, &mut failed),
            }
        }
        if failed {
            info!("forward to {name}: goes on");
        }
        refused
    }

    /// Said once, and not at each try: what is said comes into the journal, too.
    fn wait(&self, why: &str, pause: &mut Duration, failed: &mut bool) {
        if !*failed {
            warn!("forward to {}: {why}; tries again", self.target.name);
        }
        *failed = true;
        std::thread::sleep(*pause);
        *pause = (*pause * 2).min(FORWARD_PAUSE_MAX);
    }

    fn try_send(&self, batch: &[Entry]) -> Result<Taken> {
        let base = self.target.url.trim_end_matches('/');
        let (url, kind, body) = match self.target.kind {
            Kind::Loki => (
                format!("{base}/loki/api/v1/push"),
                "application/json",
                agent_core::log_entry::loki(batch),
            ),
            Kind::Elasticsearch => {
                let body = agent_core::log_entry::bulk(batch, &self.target.index);
                (format!("{base}/_bulk"), "application/x-ndjson", body)
            }
        };
        let mut request = self.agent.post(&url).content_type(kind);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        if let Some(tenant) = &self.target.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        let mut answer = request.send(body).with_context(|| url.clone())?;
        let text = answer.body_mut().read_to_string().with_context(|| url.clone())?;
        Ok(agent_core::log_entry::taken(
            self.target.kind,
            answer.status().as_u16(),
            &text,
            batch.len(),
        ))
    }
}
