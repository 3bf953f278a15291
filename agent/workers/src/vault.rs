//! The process that reads secrets from HashiCorp Vault, or a server of the same API, and hands them
//! to the agent, which seals them: a host goes on with what it has when Vault is gone. It reaches
//! the network and nothing else. Source: Vault's API, "AppRole auth method" and "KV secrets engine,
//! version 2".

use agent_core::limits::{DESIRED_PAUSE_MAX, SECRET_LEN_MAX, VAULT_TIMEOUT};
use agent_host::files::write_whole;
use agent_host::vault_exchange::{Config, Fetched, VaultPaths, Wanted};
use agent_host::worker_file::WorkerReport;
use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustify::errors::ClientError as Rest;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{info, warn};
use vaultrs::api::AuthInfo;
use vaultrs::auth::approle;
use vaultrs::client::{Client, VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use vaultrs::{kv2, token};

/// Secrets that one attempt brought, and why the others are missing.
#[derive(Default)]
struct Answers {
    fetched: Fetched,
    missing: Vec<String>,
}

impl Answers {
    fn report(&self, url: &str) -> WorkerReport {
        match self.missing.as_slice() {
            [] => WorkerReport::default(),
            missing => WorkerReport::of::<()>(&Err(anyhow!("{url}: {}", missing.join("; ")))),
        }
    }
}

/// Reads until it is ended.
///
/// # Errors
/// Its own files can't be written.
pub async fn run(config: &Config, paths: &VaultPaths) -> Result<()> {
    write_whole(&paths.authority, &config.authority)?;
    let (mut last, mut session, mut pause) = (Fetched::new(), None, config.interval());
    loop {
        let asked = timeout(VAULT_TIMEOUT, read(config, paths, &mut session)).await;
        let asked = asked
            .unwrap_or_else(|_| Err(anyhow!("no answer within {} s", VAULT_TIMEOUT.as_secs())));
        let report = match asked.with_context(|| config.url.clone()) {
            Ok(answers) => {
                let report = answers.report(&config.url);
                if answers.fetched != last {
                    paths.fetched_file().write(&answers.fetched)?;
                    info!("{} secrets from {}", answers.fetched.len(), config.url);
                    last = answers.fetched;
                }
                pause = config.interval();
                report
            }
            Err(error) => {
                pause = (pause * 2).min(DESIRED_PAUSE_MAX.max(config.interval()));
                WorkerReport::of::<()>(&Err(error))
            }
        };
        if let Some(error) = &report.error {
            warn!("{error}");
        }
        paths.report_file().write(&report)?;
        tokio::time::sleep(pause).await;
    }
}

/// A client that has logged in, and when its token is to be renewed.
struct Session {
    client: VaultClient,
    /// Whether Vault makes the token's life longer; else another one takes its place.
    is_renewable: bool,
    /// None for a token without an end.
    renew_at: Option<Instant>,
}

impl Session {
    fn note(&mut self, auth: &AuthInfo) {
        self.is_renewable = auth.renewable;
        // Not in its last third.
        let lease = (auth.lease_duration > 0).then_some(auth.lease_duration);
        self.renew_at = lease.map(|it| Instant::now() + Duration::from_secs(it) * 2 / 3);
    }

    /// Renews the token if it is time: secret IDs may be good for a few logins only. Returns false
    /// if Vault does not renew it.
    async fn renew(&mut self) -> Result<bool> {
        if self.renew_at.is_none_or(|at| Instant::now() < at) {
            return Ok(true);
        }
        if !self.is_renewable {
            return Ok(false);
        }
        match token::renew_self(&self.client, None).await {
            Ok(auth) => self.note(&auth),
            Err(ClientError::APIError { code: 400..=499, .. }) => return Ok(false),
            Err(error) => return Err(said(error)).context("renew the token"),
        }
        Ok(true)
    }

    /// Returns false if Vault does not know the token any more.
    async fn is_known(&self) -> Result<bool> {
        match token::lookup_self(&self.client).await {
            Ok(_) => Ok(true),
            Err(ClientError::APIError { code: 403, .. }) => Ok(false),
            Err(error) => Err(said(error)).context("look the token up"),
        }
    }
}

async fn log_in(config: &Config, paths: &VaultPaths) -> Result<Session> {
    let own = !config.authority.trim().is_empty();
    let settings = VaultClientSettingsBuilder::default()
        .address(&config.url)
        .ca_certs(own.then(|| paths.authority.display().to_string()).into_iter().collect())
        .identity(None)
        .namespace(config.namespace.clone())
        .timeout(Some(VAULT_TIMEOUT))
        .token("")
        .verify(true)
        .build()
        .context("the client's settings")?;
    let mut client = VaultClient::new(settings).map_err(said)?;
    let (role, secret) = (&config.role_id, &config.secret_id);
    let login = approle::login(&client, &config.approle, role, secret).await;
    let auth = login.map_err(said).context("log in by AppRole")?;
    client.set_token(&auth.client_token);
    let mut session = Session { client, is_renewable: false, renew_at: None };
    session.note(&auth);
    Ok(session)
}

/// Reads every secret with the session's token, or with another if that one is no longer good.
async fn read(
    config: &Config,
    paths: &VaultPaths,
    session: &mut Option<Session>,
) -> Result<Answers> {
    if let Some(old) = session {
        if old.renew().await? {
            let answers = read_all(config, old).await?;
            // The token may have been taken back, or have no right to one of them.
            if !answers.is_denied || old.is_known().await? {
                return Ok(answers.answers);
            }
        }
        info!("the token is no longer good; logging in again");
    }
    let new = session.insert(log_in(config, paths).await?);
    Ok(read_all(config, new).await?.answers)
}

/// Answers, and whether one of them was that the token may not.
struct Read {
    answers: Answers,
    is_denied: bool,
}

/// Values at a path, or why there are none.
type AtPath = Result<Map<String, Value>, String>;

/// Reads every secret. One that is missing there, or is no secret, keeps none of the others.
async fn read_all(config: &Config, session: &Session) -> Result<Read> {
    let mut found = BTreeMap::<(&String, &String), AtPath>::new();
    let (mut answers, mut is_denied) = (Answers::default(), false);
    for wanted in &config.secrets {
        let (mount, path) = (&wanted.mount, &wanted.path);
        let values = match found.entry((mount, path)) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let values = match kv2::read(&session.client, mount, path).await {
                    Ok(values) => Ok(values),
                    Err(error) => {
                        let code = code_of(&error);
                        is_denied |= code == Some(403);
                        let error = said(error);
                        // What is not about this secret is about all.
                        if !matches!(code, Some(400 | 403 | 404)) {
                            return Err(error.context(format!("{mount}/{path}")));
                        }
                        Err(format!("{error:#}"))
                    }
                };
                place.insert(values)
            }
        };
        match values.as_ref().map_err(|error| anyhow!("{error}")).and_then(|it| secret(it, wanted))
        {
            Ok(secret) => drop(answers.fetched.insert(wanted.name.clone(), secret)),
            Err(error) => {
                let about = format!("secret {}: {mount}/{path}: {error:#}", wanted.name);
                answers.missing.push(about);
            }
        }
    }
    Ok(Read { answers, is_denied })
}

/// The secret in what stands at its path, in base64.
fn secret(values: &Map<String, Value>, wanted: &Wanted) -> Result<String> {
    let field = &wanted.field;
    let value = values.get(field).and_then(Value::as_str);
    let value = value.with_context(|| format!("it has no text {field}"))?;
    let secret = match wanted.base64 {
        true => STANDARD.decode(value.trim()).with_context(|| format!("{field}: base64"))?,
        false => value.as_bytes().to_vec(),
    };
    let len = secret.len() as u64;
    ensure!(len <= SECRET_LEN_MAX, "{len} bytes, at most {SECRET_LEN_MAX}");
    Ok(STANDARD.encode(secret))
}

/// HTTP status of an answer that is none of success.
fn code_of(error: &ClientError) -> Option<u16> {
    match error {
        ClientError::APIError { code, .. }
        | ClientError::RestClientError { source: Rest::ServerResponseError { code, .. } } => {
            Some(*code)
        }
        _ => None,
    }
}

/// Converts a client error to one with Vault's status and messages, which the client's own text
/// leaves out.
fn said(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::APIError { code, errors } => anyhow!("status {code}: {}", errors.join("; ")),
        ClientError::RestClientError { source: Rest::ServerResponseError { code, .. } } => {
            anyhow!("status {code}, and no answer of Vault's")
        }
        other => other.into(),
    }
}
