//! The API's configuration, the credential `quietcore.api`: where it listens, its certificate, and
//! who vouches for those who ask. `qctl ca` makes all of it.

use agent_host::api_config::{Config, certificates};
use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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
    let clock = Clock { earliest: api.earliest(image) };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(clock))
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

/// The host's clock, but never before the image and its own certificate were made: one without a
/// battery starts in the past, and would take certificates for ones of the future.
#[derive(Debug)]
struct Clock {
    earliest: SystemTime,
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().max(self.earliest);
        Some(UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).ok()?))
    }
}
