//! HTTPS to the API of another host, with a client certificate; what a reader may not ask is
//! signed.

use crate::hosts::Host;
use crate::request_signer::RequestSigner;
use crate::terminal_text::printable;
use agent_core::limits::{API_ANSWER_MAX, REMOTE_TIMEOUT};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use ureq::http;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// Answer of another host.
pub type Answer = http::Response<ureq::Body>;

/// Client of another host's API.
#[derive(Debug)]
pub struct RemoteClient {
    agent: ureq::Agent,
    url: String,
    signer: RequestSigner,
}

impl RemoteClient {
    /// Reads the certificates of an entry of the hosts file; nothing is asked yet.
    ///
    /// # Errors
    /// A file can't be read, or has no certificate or key in it.
    pub fn new(host: &Host) -> Result<Self> {
        let read = |path: &PathBuf| -> Result<Vec<PemItem<'static>>> {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let items: Result<Vec<_>, _> = parse_pem(&pem).collect();
            items.with_context(|| path.display().to_string())
        };
        let (mut chain, mut key): (Vec<Certificate<'static>>, Option<PrivateKey<'static>>) =
            Default::default();
        for item in read(&host.identity)? {
            match item {
                PemItem::Certificate(certificate) => chain.push(certificate),
                PemItem::PrivateKey(found) => key = Some(found),
                _ => {}
            }
        }
        let shown = host.identity.display();
        let key = key.with_context(|| format!("{shown}: there is no private key in it"))?;
        ensure!(!chain.is_empty(), "{shown}: there is no certificate in it");
        let roots = read(&host.authority)?.into_iter().filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        });
        let roots: Vec<_> = roots.collect();
        let url = host.url.trim_end_matches('/').to_owned();
        let signer = RequestSigner::new(key.der(), &url).with_context(|| shown.to_string())?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from(roots))
            .client_cert(Some(ClientCert::new_with_certs(&chain, key)))
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .timeout_connect(Some(REMOTE_TIMEOUT))
            .timeout_recv_response(Some(REMOTE_TIMEOUT));
        Ok(Self { agent: ureq::Agent::new_with_config(config.build()), url, signer })
    }

    /// Sends a request that a reader may make.
    ///
    /// # Errors
    /// The host does not answer.
    pub fn send(&self, method: &str, target: &str, kind: &str, body: &[u8]) -> Result<Answer> {
        self.run(self.request(method, target, kind), body)
    }

    /// Sends a request with the proof of who asks.
    ///
    /// # Errors
    /// The host does not answer, or gives no challenge.
    pub fn send_signed(
        &self,
        method: &str,
        target: &str,
        kind: &str,
        body: &[u8],
    ) -> Result<Answer> {
        let mut request = self.request(method, target, kind);
        let challenge = self.send("GET", "/v1/challenge", kind, b"")?;
        let (status, text) = (challenge.status(), text(challenge)?);
        let said = printable(text.trim());
        ensure!(status.is_success(), "{}: status {status}: {said}", self.url);
        let challenge: String =
            serde_json::from_str(&text).with_context(|| format!("{}: its challenge", self.url))?;
        for (name, value) in self.signer.sign(method, target, body, &challenge)? {
            request = request.header(name, value);
        }
        self.run(request, body)
    }

    fn request(&self, method: &str, target: &str, kind: &str) -> http::request::Builder {
        let request = http::Request::builder().method(method).uri(format!("{}{target}", self.url));
        request.header("content-type", kind)
    }

    fn run(&self, request: http::request::Builder, body: &[u8]) -> Result<Answer> {
        let no_answer = || {
            format!(
                "{}: no answer; is the host there, and your certificate good and of its authority?",
                self.url
            )
        };
        match body {
            [] => self.agent.run(request.body(())?).with_context(no_answer),
            _ => self.agent.run(request.body(body)?).with_context(no_answer),
        }
    }
}

/// Reads an answer to its end.
///
/// # Errors
/// The answer breaks off, or is longer than [`API_ANSWER_MAX`].
pub fn text(mut answer: Answer) -> Result<String> {
    let read = answer.body_mut().with_config().limit(API_ANSWER_MAX).read_to_string();
    read.context("the answer breaks off")
}
