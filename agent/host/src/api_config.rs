//! Configuration of the network API, the credential `quietcore.api`: address, certificate, key and
//! CA of clients.

use crate::credentials::read_file;
use agent_core::limits::API_CONFIG_LEN_MAX;
use agent_core::protocol::Role;
use agent_core::versioned;
use anyhow::{Context, Result, ensure};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::EndEntityCert;

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

    /// Returns the time before which no clock is believed: when the image was made, by a file of
    /// it, or this configuration.
    pub fn earliest(&self, image: &Path) -> SystemTime {
        let made = image.metadata().and_then(|file| file.modified());
        made.unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH + Duration::from_secs(self.issued))
    }
}

/// Identity of an API client: the URI `quietcore:ROLE:NAME` in its certificate (RFC 5280, 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name in the certificate.
    pub who: String,
    /// Role in the certificate.
    pub role: Role,
}

impl Identity {
    /// Reads name and role from a client certificate that was verified already.
    ///
    /// # Errors
    /// The certificate names no role.
    pub fn of(certificate: &EndEntityCert<'_>) -> Result<Self> {
        let read = |uri: &str| {
            let (role, who) = uri.strip_prefix(SCHEME)?.strip_prefix(':')?.split_once(':')?;
            let role = serde_json::from_value(serde_json::Value::from(role)).ok()?;
            is_who(who).then(|| Self { who: who.into(), role })
        };
        let identity = certificate.valid_uri_names().find_map(read);
        identity.context("the certificate says no role: quietcore:ROLE:NAME as a URI")
    }
}

/// Certificates of a PEM text.
///
/// # Errors
/// The text is no PEM, or has no certificate.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.context("read PEM")?;
    ensure!(!read.is_empty(), "there is no certificate in it");
    Ok(read)
}

/// URI scheme of a role in a client certificate: `quietcore:ROLE:NAME`.
pub const SCHEME: &str = "quietcore";

/// Whether a text can be the name of who asks.
pub fn is_who(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}
