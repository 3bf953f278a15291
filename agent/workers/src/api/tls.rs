//! The API's configuration, the credential `quietcore.api`: where it listens, its certificate, and
//! who vouches for those who ask. `qctl ca` makes all of it.

use agent_core::protocol::Role;
use agent_host::api_config::{Config, SCHEME, is_who};
use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Identity of an API client: the URI `quietcore:ROLE:NAME` in its certificate (RFC 5280, 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name in the certificate.
    pub who: String,
    /// Role in the certificate.
    pub role: Role,
}

/// TLS 1.3 as it says, for those only who have a certificate of its authority.
///
/// # Errors
/// A certificate or the key can't be understood, or they do not belong together.
pub fn server_config(api: &Config, image: &Path) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&api.clients).context("clients")? {
        roots.add(certificate).context("clients")?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().context("clients")?;
    let key = PrivateKeyDer::from_pem_slice(api.key.as_bytes()).context("key")?;
    let chain = certificates(&api.certificate).context("certificate")?;
    let issued = UNIX_EPOCH + Duration::from_secs(api.issued);
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

/// Checks that a configuration's text can be served with.
///
/// # Errors
/// One line: what is wrong with it.
pub fn check(text: &str) -> Result<()> {
    server_config(&Config::parse(text)?, Path::new("/usr/lib/os-release")).map(drop)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.context("read PEM")?;
    ensure!(!read.is_empty(), "there is no certificate in it");
    Ok(read)
}

/// Reads name and role from a client certificate that was verified already.
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

/// The host's clock, but never before the image and its own certificate were made: one without a
/// battery starts in the past, and would take certificates for ones of the future.
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
