//! Configuration of the network API, the credential `quietcore.api`: address, certificate, key and
//! CA of clients.

use crate::credentials::read_file;
use agent_core::limits::API_CONFIG_LEN_MAX;
use agent_core::versioned;
use anyhow::Result;
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
        read_file(path, API_CONFIG_LEN_MAX, Self::parse)
    }

    /// Reads its text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        versioned::parse(text)
    }
}

/// URI scheme of a role in a client certificate: `quietcore:ROLE:NAME`.
pub const SCHEME: &str = "quietcore";

/// Whether a text can be the name of who asks.
pub fn is_who(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}
