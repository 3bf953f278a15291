//! Who vouches for the servers that this host asks: Debian's list, and what the host's configuration adds.

use std::path::Path;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Debian's list of authorities (package ca-certificates).
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS for a client that believes Debian's list and the certificates in these texts, in PEM.
pub fn tls(own: &[&[u8]]) -> TlsConfig {
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
