//! Signatures of requests to other hosts, by the key of the client's certificate, each over a
//! challenge of its own.

use agent_core::request_signature::{
    CONTENT_DIGEST, SIGNATURE, SIGNATURE_INPUT, base, content_digest, signature, signature_input,
};
use anyhow::{Context, Result};
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use std::sync::Arc;

/// Schemes of every kind of key, the first that a key has is used.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// Signer of requests to one host.
#[derive(Debug)]
pub struct RequestSigner {
    key: Arc<dyn SigningKey>,
    /// Host and port, as the header field `Host` has them.
    authority: String,
}

impl RequestSigner {
    /// Returns a signer with a private key, for the host of a URL.
    ///
    /// # Errors
    /// The key is of no kind that TLS 1.3 signs with.
    pub fn new(key: &[u8], url: &str) -> Result<Self> {
        let key = PrivateKeyDer::try_from(key.to_vec()).map_err(anyhow::Error::msg)?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).context("private key")?;
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default().to_ascii_lowercase();
        let authority = authority.strip_suffix(":443").unwrap_or(&authority).to_owned();
        Ok(Self { key, authority })
    }

    /// Returns the header fields that sign a request.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn sign(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        challenge: &str,
    ) -> Result<[(&'static str, String); 3]> {
        let nonce = format!("{challenge}.1");
        let digest = content_digest(body);
        let base = base(method, &self.authority, target, &digest, &nonce);
        let signer = self.key.choose_scheme(&SCHEMES).context("no scheme for this key")?;
        let signed = signer.sign(base.as_bytes()).context("sign the request")?;
        Ok([
            (CONTENT_DIGEST, digest),
            (SIGNATURE_INPUT, signature_input(&nonce)),
            (SIGNATURE, signature(&signed)),
        ])
    }
}
