//! Configuration of the network API, the credential `quietcore.api`: address, certificate, key and
//! CA of clients.

use agent_core::limits::API_CONFIG_LEN_MAX;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;

/// Configuration of the network API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of the format, always 1.
    pub version: u32,
    /// Seconds since 1970 when it was made: the host's clock is not believed before.
    pub issued: u64,
    /// Address and port to listen on, such as `0.0.0.0:9443`.
    pub listen: SocketAddr,
    /// Its certificate and those up to the authority, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// The authority of those who ask, in PEM.
    pub clients: String,
}

impl Config {
    /// Reads and parses the configuration file at `path`.
    ///
    /// # Errors
    /// One line: the file, and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = crate::files::read_up_to(path, API_CONFIG_LEN_MAX)?;
        Self::parse(&String::from_utf8_lossy(&bytes)).with_context(|| path.display().to_string())
    }

    /// Reads its text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        ensure!(config.version == 1, "version {}, not 1", config.version);
        Ok(config)
    }
}

/// URI scheme of a role in a client certificate: `quietcore:ROLE:NAME`.
pub const SCHEME: &str = "quietcore";

/// Whether a text can be the name of who asks.
pub fn is_who(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}
