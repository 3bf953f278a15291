//! Verifies who asks over the network: the process that speaks TLS passes requests on, and what it
//! says counts for a reader's only. Everything above carries a signature by the key of a
//! certificate of the clients' authority, over a challenge that this process gave.

use agent_core::limits::{CHALLENGE_TIME, CHALLENGES_MAX, CLIENT_CHAIN_MAX};
use agent_core::protocol::{Request, Role};
use agent_core::request_signature::{Call, SignedRequest};
use agent_host::api_config::{Config, Identity, certificates, is_who};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// Name of whoever asks without a signature.
pub const UNSIGNED: &str = "unsigned";

/// A challenge, and the number of the last request that used it.
#[derive(Debug)]
struct Challenge {
    nonce: String,
    given: Instant,
    last: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The API's configuration in force; without one nobody asks over the network.
    config: Option<Config>,
    /// Challenges that may be used, the oldest first.
    challenges: VecDeque<Challenge>,
}

/// Verifier of requests that come over the network. Clones share their state.
#[derive(Debug, Clone)]
pub struct RequestVerifier {
    state: Arc<Mutex<State>>,
    /// A file of the image: no clock is believed before it was made.
    image: PathBuf,
}

impl RequestVerifier {
    /// Returns a verifier that refuses everything until it has a configuration.
    pub fn new(image: PathBuf) -> Self {
        Self { state: Arc::default(), image }
    }

    /// Puts the API's configuration in force, or none.
    pub fn set_config(&self, config: Option<Config>) {
        self.state().config = config;
    }

    /// Returns a new challenge: 32 hexadecimal digits, good for [`CHALLENGE_TIME`].
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn challenge(&self) -> Result<String> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .context("read /dev/urandom")?;
        let nonce = format!("{:032x}", u128::from_be_bytes(bytes));
        let mut state = self.state();
        let spare = (state.challenges.len() + 1).saturating_sub(CHALLENGES_MAX);
        state.challenges.drain(..spare);
        state.challenges.push_back(Challenge {
            nonce: nonce.clone(),
            given: Instant::now(),
            last: 0,
        });
        Ok(nonce)
    }

    /// Trading was stopped: nothing that was signed before counts any more, so that whoever passes
    /// requests on can't keep one that resumes it for later.
    pub fn forget_challenges(&self) {
        self.state().challenges.clear();
    }

    /// Returns who asks, in which role, and for what.
    ///
    /// # Errors
    /// A part of the proof is missing or wrong; the error is one line for the client.
    pub fn admit(&self, call: Call) -> Result<(Identity, Request)> {
        match call {
            Call::Unsigned { who, request } => {
                ensure!(is_who(&who), "the name of who asks is none");
                // The name is the word of whoever passes it on.
                Ok((Identity { who: UNSIGNED.into(), role: Role::Reader }, request))
            }
            Call::Signed(signed) => {
                let request = signed.request().map_err(|(_, why)| anyhow!(why))?;
                Ok((self.identity(&signed).context("signature")?, request))
            }
        }
    }

    fn identity(&self, signed: &SignedRequest) -> Result<Identity> {
        let base = signed.base().map_err(|(_, why)| anyhow!(why))?;
        let config = self.state().config.clone();
        let config = config.context("this host has no configuration of its API")?;
        ensure!(signed.certificates.len() <= CLIENT_CHAIN_MAX, "the certificate chain is too long");
        let decode = |text: &String| STANDARD.decode(text).map(CertificateDer::from);
        let chain: Result<Vec<_>, _> = signed.certificates.iter().map(decode).collect();
        let chain = chain.context("a certificate is no base64")?;
        let (first, between) = chain.split_first().context("there is no certificate")?;
        let client = EndEntityCert::try_from(first).context("read the certificate")?;
        let roots = certificates(&config.clients).context("clients")?;
        let roots: Result<Vec<_>, _> = roots.iter().map(anchor_from_trusted_cert).collect();
        let now = SystemTime::now().max(config.earliest(&self.image));
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH)?);
        let usage = KeyUsage::client_auth();
        client
            .verify_for_usage(ALL_VERIFICATION_ALGS, &roots?, between, now, usage, None, None)
            .context("the certificate is not one of the authority in force")?;
        let bytes = STANDARD.decode(&signed.signature).context("it is no base64")?;
        let verifies =
            |algorithm: &&_| client.verify_signature(*algorithm, base.as_bytes(), &bytes).is_ok();
        ensure!(
            ALL_VERIFICATION_ALGS.iter().any(verifies),
            "it is not the certificate's, or of another request"
        );
        is_this_host(&config, &signed.authority)?;
        self.use_challenge(&signed.nonce)?;
        Identity::of(&client)
    }

    /// Each number of a challenge counts once, and none below the last.
    fn use_challenge(&self, nonce: &str) -> Result<()> {
        let stale = "its challenge is not one of the last minute; GET /v1/challenge gives one";
        let (nonce, number) =
            nonce.split_once('.').context("nonce: CHALLENGE.NUMBER is expected")?;
        let number: u64 = number.parse().context("nonce: no number")?;
        let mut state = self.state();
        let found = state.challenges.iter_mut().find(|challenge| challenge.nonce == nonce);
        match found {
            Some(challenge) if challenge.given.elapsed() < CHALLENGE_TIME => {
                ensure!(number > challenge.last, "it was used before");
                challenge.last = number;
                Ok(())
            }
            _ => bail!(stale),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

/// Refuses a request that was signed for another host.
fn is_this_host(config: &Config, authority: &str) -> Result<()> {
    let own = certificates(&config.certificate).context("certificate")?;
    let own = EndEntityCert::try_from(own.first().context("certificate")?)?;
    let host = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let host = host.map_or(authority, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']'])).context("authority")?;
    own.verify_is_valid_for_subject_name(&name)
        .with_context(|| format!("it is for {authority}, and this is another host"))
}
