//! The process that reads secrets from HashiCorp Vault, or a server of the same API, and hands them to the agent, which seals
//! them: a host goes on with what it has when Vault is gone. It reaches the network and nothing else. Source: Vault's API,
//! "AppRole auth method" and "KV secrets engine, version 2".

use crate::compose::grants::is_name;
use crate::files::{cut, read_up_to, write_whole};
use crate::hostconfig::read_credential;
use crate::limits::{
    DESIRED_PAUSE_MAX, EVENT_TEXT_MAX, METADATA_LEN_MAX, SECRET_LEN_MAX, SECRETS_MAX,
    VAULT_CONFIG_LEN_MAX, VAULT_INTERVAL, VAULT_INTERVAL_MAX, VAULT_INTERVAL_MIN, VAULT_TIMEOUT,
};
use crate::web;
use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustify::errors::ClientError as Rest;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{info, warn};
use vaultrs::auth::approle;
use vaultrs::client::{Client, VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use vaultrs::kv2;

/// The credential that says where Vault is and what is wanted of it.
pub const CREDENTIAL: &str = "quietcore.vault";

/// It.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    version: u32,
    /// `https://HOST:PORT`.
    url: String,
    /// Who vouches for its certificate, in PEM, besides Debian's list.
    #[serde(default)]
    authority: String,
    /// Vault Enterprise's namespace.
    namespace: Option<String>,
    /// Where AppRole is mounted.
    #[serde(default = "default_approle")]
    approle: String,
    role_id: String,
    secret_id: String,
    /// Between two looks.
    interval_seconds: Option<u64>,
    #[serde(rename = "secret")]
    secrets: Vec<Wanted>,
}

fn default_approle() -> String {
    "approle".into()
}

/// One secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// What it is called on this host.
    name: String,
    /// Where the engine is mounted.
    #[serde(default = "default_mount")]
    mount: String,
    path: String,
    field: String,
    /// Whether the field has bytes in base64 instead of a text.
    #[serde(default)]
    base64: bool,
}

fn default_mount() -> String {
    "secret".into()
}

impl Config {
    /// This process's, if it was given one.
    ///
    /// # Errors
    /// One line: the file, what is wrong, the remedy.
    pub fn read(credentials: Option<&Path>) -> Result<Option<Self>> {
        read_credential(credentials, CREDENTIAL, VAULT_CONFIG_LEN_MAX, Self::parse)
    }

    /// Reads a configuration's text.
    ///
    /// # Errors
    /// What is wrong, and the remedy.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        ensure!(config.version == 1, "version {}: this release knows version 1", config.version);
        web::check_url(&config.url).context("url")?;
        // The client would not say what is wrong with it.
        url::Url::parse(&config.url).with_context(|| format!("url: {}", config.url))?;
        let is_private =
            config.url.starts_with("https://") || config.url.starts_with("http://127.0.0.1:");
        ensure!(is_private, "url: https:// is expected: everybody on the way reads http://");
        let interval = config.interval();
        ensure!(
            (VAULT_INTERVAL_MIN..=VAULT_INTERVAL_MAX).contains(&interval),
            "interval_seconds: {} to {}",
            VAULT_INTERVAL_MIN.as_secs(),
            VAULT_INTERVAL_MAX.as_secs()
        );
        let secrets = &config.secrets;
        ensure!((1..=SECRETS_MAX).contains(&secrets.len()), "secret: 1 to {SECRETS_MAX} of them");
        let names: BTreeSet<&str> = secrets.iter().map(|wanted| wanted.name.as_str()).collect();
        ensure!(names.len() == secrets.len(), "secret: two have one name");
        for Wanted { name, mount, path, .. } in secrets {
            ensure!(is_name(name), "secret {name:?}: 1 to 63 letters, digits, - _ or .");
            // Else whoever writes there would decide who may ask this host.
            ensure!(!name.starts_with("quietcore."), "secret {name}: it is this host's own");
            let is_plain = |path: &str| {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
                let parts = path.split('/').all(|part| !["", ".", ".."].contains(&part));
                parts && path.bytes().all(plain)
            };
            ensure!(is_plain(mount) && is_plain(path), "secret {name}: mount or path is no path");
        }
        Ok(config)
    }

    /// What the secrets are called on this host.
    pub fn names(&self) -> BTreeSet<String> {
        self.secrets.iter().map(|wanted| wanted.name.clone()).collect()
    }

    fn interval(&self) -> Duration {
        self.interval_seconds.map_or(VAULT_INTERVAL, Duration::from_secs)
    }
}

/// Where it puts things.
#[derive(Debug, Clone)]
pub struct Places {
    /// What it read: names and secrets, in base64.
    pub fetched: PathBuf,
    /// Why it could not, if so: a line.
    pub failed: PathBuf,
    /// Who vouches for Vault, for the client.
    pub authority: PathBuf,
}

impl Places {
    /// In a directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            fetched: directory.join("secrets.json"),
            failed: directory.join("failed"),
            authority: directory.join("authority.pem"),
        }
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::in_directory(Path::new("/run/quietcore/vault"))
    }
}

/// Names and secrets.
pub type Fetched = BTreeMap<String, String>;

impl Places {
    /// Why nothing comes, if it is so.
    pub fn wrong(&self) -> Option<String> {
        let said = read_up_to(&self.failed, METADATA_LEN_MAX).ok()?;
        Some(String::from_utf8_lossy(&said).trim().to_owned()).filter(|said| !said.is_empty())
    }

    /// What was read.
    ///
    /// # Errors
    /// The file is not what this process writes.
    pub fn read(&self) -> Result<Fetched> {
        let len_max = SECRETS_MAX as u64 * (2 * SECRET_LEN_MAX);
        let text = read_up_to(&self.fetched, len_max)?;
        serde_json::from_slice(&text).with_context(|| self.fetched.display().to_string())
    }
}

/// Reads until it is ended.
///
/// # Errors
/// Its own files can't be written.
pub async fn run(config: &Config, places: &Places) -> Result<()> {
    write_whole(&places.authority, &config.authority)?;
    let (mut last, mut session, mut pause) = (Fetched::new(), None, config.interval());
    loop {
        let asked = timeout(VAULT_TIMEOUT, look(config, places, &mut session)).await;
        let asked = asked
            .unwrap_or_else(|_| Err(anyhow!("no answer within {} s", VAULT_TIMEOUT.as_secs())));
        let failed = match asked {
            Ok(fetched) => {
                if fetched != last {
                    write_whole(&places.fetched, &serde_json::to_string(&fetched)?)?;
                    info!("{} secrets from {}", fetched.len(), config.url);
                    last = fetched;
                }
                pause = config.interval();
                String::new()
            }
            Err(error) => {
                // Whatever was wrong with it, the next look begins anew.
                session = None;
                let error = cut(&format!("{}: {error:#}", config.url), EVENT_TEXT_MAX);
                warn!("{error}");
                pause = (pause * 2).min(DESIRED_PAUSE_MAX.max(config.interval()));
                error
            }
        };
        write_whole(&places.failed, &failed)?;
        tokio::time::sleep(pause).await;
    }
}

/// A client that has logged in, and when it has to again.
struct Session {
    client: VaultClient,
    until: Instant,
}

async fn log_in(config: &Config, places: &Places) -> Result<Session> {
    let own = !config.authority.trim().is_empty();
    let settings = VaultClientSettingsBuilder::default()
        .address(&config.url)
        .ca_certs(own.then(|| places.authority.display().to_string()).into_iter().collect())
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
async fn look(config: &Config, places: &Places, session: &mut Option<Session>) -> Result<Fetched> {
    let had_one = session.is_some();
    match read(config, places, session).await {
        Err(error) if had_one => {
            info!("{error:#}; logging in again");
            *session = None;
            read(config, places, session).await
        }
        other => other,
    }
}

async fn read(config: &Config, places: &Places, session: &mut Option<Session>) -> Result<Fetched> {
    let session = match session.take().filter(|session| Instant::now() < session.until) {
        Some(good) => session.insert(good),
        None => session.insert(log_in(config, places).await?),
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

/// What Vault says of it, which the client's own text leaves out.
fn said(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::APIError { code, errors } => anyhow!("status {code}: {}", errors.join("; ")),
        ClientError::RestClientError { source: Rest::ServerResponseError { code, .. } } => {
            anyhow!("status {code}, and no answer of Vault's")
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "version = 1\nurl = \"https://vault.example:8200\"\nrole_id = \"r\"\nsecret_id = \"s\"\n[[secret]]\nname = \"key\"\npath = \"desk/ny4\"\nfield = \"password\"\n";

    #[test]
    fn a_configuration_says_what_is_wrong_with_it() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!((config.approle.as_str(), config.interval()), ("approle", VAULT_INTERVAL));
        for (from, to, wanted) in [
            ("version = 1", "version = 2", "version 2"),
            ("https://vault", "http://vault", "https:// is expected"),
            ("https://vault", "https://a:b@vault", "password"),
            ("https://vault.example", "https://[vault", "url: https://[vault"),
            ("\"key\"", "\"quietcore.api\"", "this host's own"),
            ("\"key\"", "\"../x\"", "letters, digits"),
            ("desk/ny4", "desk/../x", "no path"),
            ("desk/ny4", "desk?x", "no path"),
            ("field", "more = 1\nfield", "unknown field"),
            ("role_id", "interval_seconds = 1\nrole_id", "interval_seconds: 5"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let error = format!("{:#}", Config::parse(&text).unwrap_err());
            assert!(error.contains(wanted), "{to}: {error}");
        }
        let (head, secret) = GOOD.split_once("[[").unwrap();
        let twice = format!("{head}[[{secret}[[{secret}");
        assert!(Config::parse(&twice).unwrap_err().to_string().contains("two have one name"));
    }
}
