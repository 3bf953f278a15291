//! The servers that this host asks: what an address is, and who vouches for one: Debian's list, and what the host's
//! configuration adds.

use crate::limits::CONNECT_TIMEOUT;
use anyhow::{Result, ensure};
use std::path::Path;
use ureq::config::ConfigBuilder;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Debian's list of authorities (package ca-certificates).
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Checks the address of a file or directory on a web server.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<()> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let plain = url.len() <= 2048 && url.bytes().all(|byte| byte.is_ascii_graphic());
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    // It would stand in the status, in events and in the journal.
    ensure!(
        !host.contains('@'),
        "an address with a password in it; leave out what stands before @"
    );
    ensure!(plain && !host.is_empty(), "{url:?}: write http://HOST/PATH or https://HOST/PATH");
    Ok(())
}

/// A client that believes Debian's list and the certificates in these texts, in PEM. How long an answer may take is the
/// caller's.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["http://10.0.2.2:8000/releases/0.2.0", "https://example.org"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["", "ftp://x/", "http://", "https:///x", "http://x/a b", "x", "http://a:b@x/"] {
            assert!(
                check_url(bad).unwrap_err().to_string().contains(if bad.contains('@') {
                    "password"
                } else {
                    "http://HOST"
                }),
                "{bad}"
            );
        }
    }
}
