//! Files between the agent and the Vault worker, and the configuration of both.

use crate::credentials::read_credential;
use crate::worker_file::{WorkerFile, WorkerReport};
use agent_core::compose::top_level::is_name;
use agent_core::limits::{
    METADATA_LEN_MAX, SECRET_LEN_MAX, SECRETS_MAX, VAULT_CONFIG_LEN_MAX, VAULT_INTERVAL,
    VAULT_INTERVAL_MAX, VAULT_INTERVAL_MIN,
};
use agent_core::{versioned, web_url};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The credential that says where Vault is and what is wanted of it.
pub const CREDENTIAL: &str = "quietcore.vault";

/// Configuration of the Vault client.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub version: u32,
    /// Address of the Vault server: `https://HOST:PORT`.
    pub url: String,
    /// CA certificates for the Vault server, in PEM, besides Debian's list.
    #[serde(default)]
    pub authority: String,
    /// Vault Enterprise's namespace.
    pub namespace: Option<String>,
    /// Where AppRole is mounted.
    #[serde(default = "default_approle")]
    pub approle: String,
    pub role_id: String,
    pub secret_id: String,
    /// Between two looks.
    pub interval_seconds: Option<u64>,
    #[serde(rename = "secret")]
    pub secrets: Vec<Wanted>,
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
        let config: Self = versioned::parse(text)?;
        web_url::check_url(&config.url).context("url")?;
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

    /// Returns the names that the secrets have on this host.
    pub fn names(&self) -> BTreeSet<String> {
        self.secrets.iter().map(|wanted| wanted.name.clone()).collect()
    }

    /// Time between two reads.
    pub fn interval(&self) -> Duration {
        self.interval_seconds.map_or(VAULT_INTERVAL, Duration::from_secs)
    }
}

pub fn default_approle() -> String {
    "approle".into()
}

/// Secret to be read from Vault.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Name of the secret on this host.
    pub name: String,
    /// Where the engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    pub path: String,
    pub field: String,
    /// Whether the field has bytes in base64 instead of a text.
    #[serde(default)]
    pub base64: bool,
}

pub fn default_mount() -> String {
    "secret".into()
}

/// Where it puts things.
#[derive(Debug, Clone)]
pub struct VaultPaths {
    /// File of the secrets that were read, by name, in base64.
    pub fetched: PathBuf,
    /// File of the result of the last attempt.
    pub report: PathBuf,
    /// File of the CA certificates that the Vault client accepts.
    pub authority: PathBuf,
}

impl VaultPaths {
    /// In a directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            fetched: directory.join("secrets.json"),
            report: directory.join("report.json"),
            authority: directory.join("authority.pem"),
        }
    }
}

impl Default for VaultPaths {
    fn default() -> Self {
        Self::in_directory(Path::new("/run/quietcore/vault"))
    }
}

impl VaultPaths {
    /// File of the secrets that were read, by name, in base64.
    pub fn fetched_file(&self) -> WorkerFile<Fetched> {
        WorkerFile::new(&self.fetched, SECRETS_MAX as u64 * (2 * SECRET_LEN_MAX))
    }

    /// File of the result of the last attempt.
    pub fn report_file(&self) -> WorkerFile<WorkerReport> {
        WorkerFile::new(&self.report, METADATA_LEN_MAX)
    }
}

/// Secrets in base64, by name.
pub type Fetched = BTreeMap<String, String>;

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
