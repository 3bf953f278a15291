//! Client of one registry: manifests, referrers and blobs of one repository. Every answer is
//! bounded before it is read; a password goes to the host that it was given for and to no other.
//! Sources: OCI Distribution Specification 1.1; Distribution, "Token Authentication Specification".

use agent_core::limits::{
    CONNECT_TIMEOUT, METADATA_LEN_MAX, METADATA_TIMEOUT, REGISTRY_SILENCE, TOKEN_LEN_MAX,
    TRANSFER_LEN_MIN,
};
use agent_host::images::policy::{Login, Registry};
use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::distribution::Reference;
use oci_spec::image::{ImageIndex, MediaType};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, Request, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Manifests and indices, of OCI and of Docker.
pub const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Redirects that a blob may take: a registry's own, and one to where its blobs are.
const REDIRECTS_MAX: usize = 5;

/// Client of one repository at one host.
pub struct RegistryClient {
    http: Client,
    /// Beginning of its addresses: `https://HOST[:PORT]/v2/REPOSITORY`.
    base: String,
    host: String,
    repository: String,
    login: Option<Login>,
    /// Hosts that may see the password, besides the registry: they make its tokens.
    token_hosts: Vec<String>,
    plain_http: bool,
    authorization: Option<HeaderValue>,
}

/// Answer of a token server: the token under either name, or under both.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Demand of a registry for authorization (RFC 9110, "WWW-Authenticate").
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl RegistryClient {
    /// Client of the host, which is the registry or one of its mirrors.
    ///
    /// # Errors
    /// An authority is no certificate.
    pub fn new(
        host: &str,
        login: Option<&Login>,
        repository: &Reference,
        registry: &Registry,
    ) -> Result<Self> {
        let plain_http = registry.plain_http;
        let scheme = if plain_http { "http" } else { "https" };
        let redirects = move |attempt: Attempt<'_>| match attempt.url().scheme() {
            _ if attempt.previous().len() > REDIRECTS_MAX => attempt.error("too many redirects"),
            "http" if !plain_http => attempt.error("a redirect from https:// to http://"),
            _ => attempt.follow(),
        };
        let own = agent_host::credentials::HostPaths::default().authorities();
        let own = std::fs::read(own).unwrap_or_default();
        let given = registry.authority.iter().map(String::as_bytes);
        let mut certificates = Vec::new();
        for pem in given.chain([own.as_slice()]) {
            let read = Certificate::from_pem_bundle(pem).context("authority")?;
            certificates.extend(read);
        }
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(REGISTRY_SILENCE)
            .redirect(Policy::custom(redirects))
            .tls_certs_merge(certificates)
            .user_agent(concat!("quietcore/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("authority: no certificate in PEM")?;
        let repository_name = repository.repository().to_owned();
        // Docker Hub's API is at another name than its images'.
        let at = if host == "docker.io" { "registry-1.docker.io" } else { host };
        Ok(Self {
            http,
            base: format!("{scheme}://{at}/v2/{repository_name}"),
            host: host.into(),
            repository: repository_name,
            login: login.cloned(),
            token_hosts: registry.token_hosts.clone(),
            plain_http,
            authorization: None,
        })
    }

    /// Fetches a manifest or an index by its tag or digest; `None` if there is none.
    ///
    /// # Errors
    /// The registry's refusal, or an answer of more than [`METADATA_LEN_MAX`].
    pub async fn manifest(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let url = format!("{}/manifests/{name}", self.base);
        self.metadata(&url, &MANIFESTS.join(", "), METADATA_LEN_MAX).await
    }

    /// Lists the manifests that refer to a digest: by the API of that name, or where a registry
    /// does not have it by the tag in its place.
    ///
    /// # Errors
    /// As of [`Self::manifest`].
    pub async fn referrers(&mut self, digest: &str) -> Result<Option<ImageIndex>> {
        let url = format!("{}/referrers/{digest}", self.base);
        let index = MediaType::ImageIndex.to_string();
        let found = self.metadata(&url, &index, METADATA_LEN_MAX).await?;
        let found = match found {
            Some(found) => Some(found),
            None => self.manifest(&digest.replace(':', "-")).await?,
        };
        found.map(|bytes| ImageIndex::from_reader(&*bytes).context("the referrers")).transpose()
    }

    /// Fetches a small blob.
    ///
    /// # Errors
    /// As of [`Self::manifest`]; it is not there, or larger.
    pub async fn small_blob(&mut self, digest: &str, len_max: u64) -> Result<Vec<u8>> {
        let url = format!("{}/blobs/{digest}", self.base);
        let found = self.metadata(&url, "*/*", len_max).await?;
        found.with_context(|| format!("blob {digest} is not there"))
    }

    /// Asks for a blob from a byte on; the registry may send all of it.
    ///
    /// # Errors
    /// The registry's refusal.
    pub async fn blob(&mut self, digest: &str, from: u64) -> Result<Blob> {
        let url = format!("{}/blobs/{digest}", self.base);
        let request = self.http.get(url).header(ACCEPT, "*/*");
        let request = request.header(RANGE, format!("bytes={from}-"));
        let response = self.send(request).await?;
        let from = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => from,
            _ => bail!("blob {digest}: {}", refusal(response).await),
        };
        Ok(Blob { response, from, waited: Duration::ZERO, len: 0 })
    }

    async fn metadata(&mut self, url: &str, accept: &str, len_max: u64) -> Result<Option<Vec<u8>>> {
        let request = self.http.get(url).header(ACCEPT, accept);
        let answer = async {
            let response = self.send(request).await?;
            match response.status() {
                StatusCode::OK => body(response, len_max).await.map(Some),
                StatusCode::NOT_FOUND => Ok(None),
                _ => bail!("{}", refusal(response).await),
            }
        };
        let late = || format!("no whole answer within {} s", METADATA_TIMEOUT.as_secs());
        timeout(METADATA_TIMEOUT, answer).await.with_context(late)?.with_context(|| url.to_owned())
    }

    /// Sends a request, once more with authorization if the registry demands it.
    async fn send(&mut self, request: RequestBuilder) -> Result<Response> {
        let request = request.build()?;
        let again = request.try_clone().context("a request without a body")?;
        let response = self.execute(request).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = challenge(&response) else { return Ok(response) };
        drop(response);
        match self.authorize(&challenge).await? {
            Some(authorization) => self.authorization = Some(authorization),
            None => bail!("{} wants a password, and none was given for it", self.host),
        }
        self.execute(again).await
    }

    async fn execute(&self, mut request: Request) -> Result<Response> {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(self.http.execute(request).await?)
    }

    /// Answers a demand: with the password, or with a token that somebody gives out for it.
    async fn authorize(&self, challenge: &Challenge) -> Result<Option<HeaderValue>> {
        let (realm, service) = match challenge {
            Challenge::Basic => return self.login.as_ref().map(basic).transpose(),
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let mut url = Url::parse(realm).with_context(|| format!("token server {realm:?}"))?;
        let is_safe = url.scheme() == "https" || self.plain_http && url.scheme() == "http";
        ensure!(is_safe, "{}: token server {realm:?}: https:// is expected", self.host);
        let scope = format!("repository:{}:pull", self.repository);
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let mut request = self.http.get(url.clone());
        if let Some(login) = &self.login {
            ensure!(
                self.may_have_login(&url),
                "{} names {} for its tokens, which is not in token_hosts of this registry in \
                 quietcore.images; the password was not sent",
                self.host,
                authority(&url)
            );
            request = request.header(AUTHORIZATION, basic(login)?);
        }
        let ask = async {
            let response = request.send().await?;
            let status = response.status();
            ensure!(status.is_success(), "token server {}: {status}", authority(&url));
            body(response, TOKEN_LEN_MAX).await
        };
        let answer = timeout(METADATA_TIMEOUT, ask).await.context("token server: no answer")?;
        let answer = answer.context("token server")?;
        let answer: Token =
            serde_json::from_slice(&answer).context("answer of the token server")?;
        let token =
            answer.token.or(answer.access_token).context("a token server without a token")?;
        secret(format!("Bearer {token}")).map(Some)
    }

    /// Returns true if the password was given for the host of this address.
    fn may_have_login(&self, url: &Url) -> bool {
        let host = authority(url);
        let docker = self.host == "docker.io" && host == "auth.docker.io";
        host == self.host || docker || self.token_hosts.contains(&host)
    }
}

/// Blob on its way.
pub struct Blob {
    response: Response,
    /// The first byte that comes.
    pub from: u64,
    waited: Duration,
    len: u64,
}

impl Blob {
    /// Returns the next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection ended, or brings next to nothing: another source may be better.
    pub async fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>> {
        let start = Instant::now();
        let bytes = self.response.chunk().await?;
        self.waited += start.elapsed();
        self.len += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.waited > REGISTRY_SILENCE {
            let (len, seconds) = (self.len, self.waited.as_secs());
            ensure!(len >= TRANSFER_LEN_MIN || bytes.is_none(), "{len} bytes came in {seconds} s");
            (self.waited, self.len) = (Duration::ZERO, 0);
        }
        Ok(bytes)
    }
}

/// Host of an address, with its port if that is not the scheme's own.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// Authorization by a password (RFC 7617).
fn basic(login: &Login) -> Result<HeaderValue> {
    let Login { username, password } = login;
    secret(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn secret(text: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&text).ok().context("the authorization is no header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads an answer of at most so many bytes.
async fn body(mut response: Response, len_max: u64) -> Result<Vec<u8>> {
    let too_large = || format!("an answer of more than {len_max} bytes");
    ensure!(response.content_length().is_none_or(|len| len <= len_max), too_large());
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await? {
        ensure!((bytes.len() + piece.len()) as u64 <= len_max, too_large());
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Status of a refusal, and the beginning of what the registry says.
async fn refusal(mut response: Response) -> String {
    let said = response.chunk().await.ok().flatten().unwrap_or_default();
    let said: String = String::from_utf8_lossy(&said).chars().take(200).collect();
    let said: String = said.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    format!("{} {}", response.status(), said.trim())
}

fn challenge(response: &Response) -> Option<Challenge> {
    let demands = response.headers().get_all(WWW_AUTHENTICATE).iter();
    demands.filter_map(|demand| demand.to_str().ok()).find_map(parse_challenge)
}

/// The first demand in a header's value that this client can meet.
fn parse_challenge(value: &str) -> Option<Challenge> {
    let challenges = http_auth::parse_challenges(value).ok()?;
    challenges.into_iter().find_map(|challenge| {
        let parameter = |name: &str| {
            let mut all = challenge.params.iter();
            all.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|it| it.1.to_unescaped())
        };
        match challenge.scheme.to_ascii_lowercase().as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => Some(Challenge::Bearer {
                realm: parameter("realm")?,
                service: parameter("service"),
            }),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_are_read_as_registries_write_them() {
        let hub =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="x""#;
        let read = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
        };
        assert_eq!(parse_challenge(hub), Some(read));
        assert_eq!(parse_challenge("Basic realm=\"desk\""), Some(Challenge::Basic));
        assert_eq!(parse_challenge("Negotiate"), None);
        assert_eq!(parse_challenge("Bearer service=\"x\""), None);
    }
}
