//! The API's configuration, the credential `quietcore.api`: where it listens, its certificate, and who vouches for those
//! who ask. `qctl ca` makes all of it.

use crate::limits::API_CONFIG_LEN_MAX;
use crate::protocol::Role;
use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// It.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// 1.
    pub version: u32,
    /// Seconds since 1970 when it was made: the host's clock is not believed before.
    pub issued: u64,
    /// `0.0.0.0:9443`.
    pub listen: SocketAddr,
    /// Its certificate and those up to the authority, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// The authority of those who ask, in PEM.
    pub clients: String,
}

/// Who asks: what stands in a certificate as the URI `quietcore:ROLE:NAME` (RFC 5280, 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub who: String,
    /// The role.
    pub role: Role,
}

/// How a role stands in a certificate.
pub const SCHEME: &str = "quietcore";

impl Config {
    /// Reads it.
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

    /// TLS 1.3 as it says, for those only who have a certificate of its authority.
    ///
    /// # Errors
    /// A certificate or the key can't be understood, or they do not belong together.
    pub fn tls(&self, image: &Path) -> Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.clients).context("clients")? {
            roots.add(certificate).context("clients")?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.build().context("clients")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("key")?;
        let chain = certificates(&self.certificate).context("certificate")?;
        let issued = UNIX_EPOCH + Duration::from_secs(self.issued);
        let mut config =
            ServerConfig::builder_with_details(provider, Arc::new(Clock::after(image, issued)))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .context("TLS 1.3")?
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
                .context("certificate and key")?;
        // A session that is taken up again is not asked for its certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.context("read PEM")?;
    ensure!(!read.is_empty(), "there is no certificate in it");
    Ok(read)
}

/// Whether a text can be the name of who asks.
pub fn is_who(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}

/// Who a certificate is of, which was verified already.
///
/// # Errors
/// It says no role.
pub fn identity(certificate: &CertificateDer<'_>) -> Result<Identity> {
    let certificate =
        webpki::EndEntityCert::try_from(certificate).context("read the certificate")?;
    let read = |uri: &str| {
        let (role, who) = uri.strip_prefix(SCHEME)?.strip_prefix(':')?.split_once(':')?;
        let role = serde_json::from_value(serde_json::Value::from(role)).ok()?;
        is_who(who).then(|| Identity { who: who.into(), role })
    };
    let identity = certificate.valid_uri_names().find_map(read);
    identity.context("the certificate says no role: quietcore:ROLE:NAME as a URI")
}

/// The host's clock, but never before the image and its own certificate were made: one without a battery starts in the past,
/// and would take certificates for ones of the future.
#[derive(Debug)]
struct Clock {
    earliest: SystemTime,
}

impl Clock {
    fn after(image: &Path, issued: SystemTime) -> Self {
        let made = image.metadata().and_then(|file| file.modified());
        Self { earliest: made.unwrap_or(UNIX_EPOCH).max(issued) }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().max(self.earliest);
        Some(UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).ok()?))
    }
}
