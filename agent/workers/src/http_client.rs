//! The servers that this host asks: what an address is, and who vouches for one: Debian's list, and
//! what the host's configuration adds.

use agent_core::limits::CONNECT_TIMEOUT;
use std::path::Path;
use ureq::config::ConfigBuilder;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Debian's list of authorities (package ca-certificates).
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A client that believes Debian's list and the certificates in these texts, in PEM. How long an
/// answer may take is the caller's.
pub fn client(own: &[&[u8]]) -> ConfigBuilder<ureq::typestate::AgentScope> {
    ureq::Agent::config_builder()
        .tls_config(tls(own))
        .user_agent(concat!("quietcore/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
}

fn tls(own: &[&[u8]]) -> TlsConfig {
    let debian = std::fs::read(Path::new(AUTHORITIES)).unwrap_or_default();
    let pem = [&[debian.as_slice()], own].concat().concat();
    let mut tls = TlsConfig::builder();
    if !pem.is_empty() {
        let certificates = parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        tls = tls.root_certs(RootCerts::from(certificates));
    }
    tls.build()
}
