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
use vaultrs::auth::approle;
use vaultrs::client::{Client, VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use vaultrs::kv2;

/// Reads until it is ended.
///
/// # Errors
/// Its own files can't be written.
pub async fn run(config: &Config, paths: &VaultPaths) -> Result<()> {
    write_whole(&paths.authority, &config.authority)?;
    let (mut last, mut session, mut pause) = (Fetched::new(), None, config.interval());
    loop {
        let asked = timeout(VAULT_TIMEOUT, read_with_login(config, paths, &mut session)).await;
        let asked = asked
            .unwrap_or_else(|_| Err(anyhow!("no answer within {} s", VAULT_TIMEOUT.as_secs())));
        let asked = asked.with_context(|| config.url.clone());
        let report = WorkerReport::of(&asked);
        match (asked, &report.error) {
            (Ok(fetched), _) => {
                if fetched != last {
                    paths.fetched_file().write(&fetched)?;
                    info!("{} secrets from {}", fetched.len(), config.url);
                    last = fetched;
                }
                pause = config.interval();
            }
            (Err(_), error) => {
                // Whatever was wrong with the session, the next attempt begins anew.
                session = None;
                warn!("{}", error.as_deref().unwrap_or_default());
                pause = (pause * 2).min(DESIRED_PAUSE_MAX.max(config.interval()));
            }
        }
        paths.report_file().write(&report)?;
        tokio::time::sleep(pause).await;
    }
}

/// A client that has logged in, and when it has to again.
struct Session {
    client: VaultClient,
    until: Instant,
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
    // Not in its last third.
    let until = Instant::now() + Duration::from_secs(auth.lease_duration * 2 / 3);
    Ok(Session { client, until })
}

/// A token that was good may have been taken back: then once more, with another.
async fn read_with_login(
    config: &Config,
    paths: &VaultPaths,
    session: &mut Option<Session>,
) -> Result<Fetched> {
    let had_one = session.is_some();
    match read(config, paths, session).await {
        Err(error) if had_one => {
            info!("{error:#}; logging in again");
            *session = None;
            read(config, paths, session).await
        }
        other => other,
    }
}

async fn read(
    config: &Config,
    paths: &VaultPaths,
    session: &mut Option<Session>,
) -> Result<Fetched> {
    let session = match session.take().filter(|session| Instant::now() < session.until) {
        Some(good) => session.insert(good),
        None => session.insert(log_in(config, paths).await?),
    };
    let mut found: BTreeMap<(&String, &String), Map<String, Value>> = BTreeMap::new();
    let mut fetched = Fetched::new();
    for Wanted { name, mount, path, field, base64 } in &config.secrets {
        let named = || format!("secret {name}: {mount}/{path}");
        let values = match found.entry((mount, path)) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let values = kv2::read(&session.client, mount, path).await;
                place.insert(values.map_err(said).with_context(named)?)
            }
        };
        let value = values.get(field).and_then(Value::as_str);
        let value = value.with_context(|| format!("{}: it has no text {field}", named()))?;
        let secret = match base64 {
            true => STANDARD.decode(value.trim()).with_context(named)?,
            false => value.as_bytes().to_vec(),
        };
        let len = secret.len() as u64;
        ensure!(len <= SECRET_LEN_MAX, "{}: {len} bytes, at most {SECRET_LEN_MAX}", named());
        fetched.insert(name.clone(), STANDARD.encode(secret));
    }
    Ok(fetched)
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
