//! Desired state of a group of hosts, signed: a compose file in a DSSE envelope, which a host
//! follows from a web server, a registry or a USB stick. The carrier is not trusted. Source: Dead
//! Simple Signing Envelope 1.0.2 (secure-systems-lab/dsse, `protocol.md` and `envelope.md`).

/// When a host may change what it runs.
pub mod window;

use crate::desired::window::Windows;
use crate::limits::{
    COMPOSE_LEN_MAX, DESIRED_INTERVAL, DESIRED_INTERVAL_MAX, DESIRED_INTERVAL_MIN,
};
use crate::{versioned, web_url};
use abi::dsse::{Envelope, signed_bytes};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::DecodePublicKey;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Credential with the configuration of [`Config`].
pub const CREDENTIAL: &str = "quietcore.desired";
/// Payload type of the envelope.
const PAYLOAD_TYPE: &str = "application/vnd.quietcore.desired.v1+json";
/// The envelope itself, as a layer of an OCI artefact.
pub const ENVELOPE_TYPE: &str = "application/vnd.dsse.envelope.v1+json";

/// Desired state: the signed payload of an envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// Name of the group of hosts it is for; a host opens only its own name's.
    pub name: String,
    /// A host takes one with a higher number than it has, and no other.
    pub serial: u64,
    /// A compose file that stands for itself.
    pub compose: String,
    /// When it is no longer to be applied, in seconds since 1970: who is shown an old one for ever
    /// sees that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Serial that whoever signed it knew as the newest: a host that has a later one does not take
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<u64>,
}

/// A time in seconds since 1970 by RFC 3339.
pub fn time_text(seconds: u64) -> String {
    prost_types::Timestamp { seconds: seconds as i64, nanos: 0 }.to_string()
}

/// Each is tried with each key, over all of it, and who carries it says how many there are.
const SIGNATURES_MAX: usize = 8;
/// See [`SIGNATURES_MAX`]: the old one and the new one, of a few people.
const KEYS_MAX: usize = 8;

impl Desired {
    /// Signs the desired state and returns its DSSE envelope as JSON.
    ///
    /// # Errors
    /// It can't be written as JSON.
    pub fn seal(&self, key: &SigningKey) -> Result<String> {
        let payload = serde_json::to_vec(self)?;
        let sign = |bytes: &[u8]| key.sign(bytes).to_bytes().to_vec();
        Ok(serde_json::to_string(&Envelope::seal(PAYLOAD_TYPE, &payload, sign))?)
    }
}

/// Configuration of a host that follows a desired state, from the credential.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the desired state that this host follows.
    pub name: String,
    /// Where it is: `https://`, `http://` or `oci://REGISTRY/REPOSITORY:TAG`. Without one it comes
    /// by hand.
    pub url: Option<String>,
    /// Between two looks.
    pub interval: Duration,
    /// User name and password for the web server.
    pub login: Option<(String, String)>,
    /// CA certificates in PEM that a web server's TLS is checked against, besides Debian's list.
    pub authority: String,
    /// When it may be applied.
    pub windows: Windows,
    /// True if one without an expiry is refused.
    pub must_expire: bool,
    keys: Vec<VerifyingKey>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "version")]
    _version: u32,
    name: String,
    url: Option<String>,
    keys: Vec<String>,
    interval_seconds: Option<u64>,
    username: Option<String>,
    password: Option<String>,
    #[serde(default)]
    authority: String,
    #[serde(default)]
    windows: Vec<String>,
    #[serde(default)]
    must_expire: bool,
}

impl Config {
    /// Reads a configuration's text.
    ///
    /// # Errors
    /// What is wrong, and the remedy.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = versioned::parse(text)?;
        if let Some(url) = &file.url {
            check_url(url)?;
        }
        let keys = file.keys.iter().map(|pem| {
            VerifyingKey::from_public_key_pem(pem)
                .context("keys: an Ed25519 public key in PEM is expected")
        });
        let keys: Vec<_> = keys.collect::<Result<_>>()?;
        ensure!((1..=KEYS_MAX).contains(&keys.len()), "keys: give 1 to {KEYS_MAX} public keys");
        let interval = file.interval_seconds.map_or(DESIRED_INTERVAL, Duration::from_secs);
        let allowed = DESIRED_INTERVAL_MIN..=DESIRED_INTERVAL_MAX;
        ensure!(allowed.contains(&interval), "interval_seconds: 5 to 86400");
        let login = match (file.username, file.password) {
            (Some(name), Some(password)) => Some((name, password)),
            (None, None) => None,
            _ => bail!("give username and password, or neither"),
        };
        Ok(Self {
            name: file.name,
            url: file.url,
            interval,
            login,
            authority: file.authority,
            windows: Windows::parse(&file.windows)?,
            must_expire: file.must_expire,
            keys,
        })
    }

    /// Verifies an envelope and returns its desired state, if a known key signed it for this host's
    /// name.
    ///
    /// # Errors
    /// It is not for this host, and why.
    pub fn open(&self, envelope: &[u8]) -> Result<Desired> {
        let envelope: Envelope = serde_json::from_slice(envelope)
            // What it says could be as long as what came.
            .map_err(|error| {
                anyhow!(
                    "no DSSE envelope, column {}; make one with qctl desired sign",
                    error.column()
                )
            })?;
        ensure!(envelope.payload_type == PAYLOAD_TYPE, "its payloadType is not {PAYLOAD_TYPE:?}");
        let count = envelope.signatures.len();
        ensure!(count <= SIGNATURES_MAX, "it has {count} signatures, at most {SIGNATURES_MAX}");
        let payload = envelope.payload().context("payload: no base64")?;
        let signed = signed_bytes(PAYLOAD_TYPE, &payload);
        let signatures = envelope.signatures.iter().filter_map(|signature| {
            Signature::from_slice(&STANDARD.decode(&signature.sig).ok()?).ok()
        });
        let is_known = signatures.into_iter().any(|signature| {
            self.keys.iter().any(|key| key.verify_strict(&signed, &signature).is_ok())
        });
        ensure!(is_known, "it is not signed by a key of this host's {CREDENTIAL}");
        let desired: Desired = serde_json::from_slice(&payload).context("payload")?;
        ensure!(
            desired.name == self.name,
            "it is for {:?}, and this host is one of {:?}",
            desired.name,
            self.name
        );
        ensure!(
            desired.compose.len() as u64 <= COMPOSE_LEN_MAX,
            "its compose file has {} bytes, at most {COMPOSE_LEN_MAX}",
            desired.compose.len()
        );
        Ok(desired)
    }
}

fn check_url(url: &str) -> Result<()> {
    if let Some(name) = url.strip_prefix("oci://") {
        ensure!(
            name.parse::<oci_spec::distribution::Reference>().is_ok(),
            "{url:?}: write oci://REGISTRY/REPOSITORY:TAG"
        );
        return Ok(());
    }
    let said = "url: https://HOST/FILE, http://HOST/FILE or oci://REGISTRY/REPOSITORY:TAG; name and password stand in username and password";
    web_url::check_url(url).context(said)
}

/// Operator's command on the desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Hold: new desired states are kept and not applied until resume.
    Hold,
    /// Resume: new desired states are applied again.
    Resume,
    /// Sync: the newest desired state is applied now, outside its window too and over what was
    /// applied by hand.
    Sync,
}

/// State of the desired state on this host, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name that this host follows.
    pub name: String,
    /// Where it is from, if not by hand.
    pub url: Option<String>,
    /// Serial that was applied last; none before the first.
    pub serial: Option<u64>,
    /// Serial that is here and not applied yet.
    pub waiting: Option<u64>,
    /// Reason why it waits: a window's opening, `qctl desired resume` or the end of a trial; none
    /// if due at the next check.
    pub waits_for: Option<String>,
    /// Whether somebody holds it.
    pub held: bool,
    /// When the newest that is here expires, or expired (RFC 3339).
    #[serde(default)]
    pub expires: Option<String>,
    /// When it may be applied, in words.
    pub windows: String,
    /// When the next window opens; nothing if one is open.
    pub opens: Option<String>,
    /// Drift: services declared otherwise than the applied desired state has them, a line for each.
    pub drift: Vec<String>,
}

impl Report {
    /// In one line.
    pub fn text(&self) -> String {
        let serial =
            self.serial.map_or_else(|| "nothing yet".into(), |serial| format!("serial {serial}"));
        let waiting = self.waiting.map_or_else(String::new, |serial| {
            let why = self.waits_for.as_deref().unwrap_or("the next look");
            format!(", serial {serial} waits for {why}")
        });
        let drift = match self.drift.len() {
            0 => String::new(),
            _ => format!(", but {}", self.drift.join("; ")),
        };
        format!("{} {serial}{waiting}{drift}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::pkcs8::EncodePublicKey;
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;

    fn config(key: &SigningKey, more: &str) -> Result<Config> {
        let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
        Config::parse(&format!("version = 1\nname = \"ny4\"\nkeys = ['''{pem}''']\n{more}\n"))
    }

    #[test]
    fn only_what_a_known_key_signed_for_this_name_is_opened() {
        let (key, stranger) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let config = config(&key, "").unwrap();
        let desired = Desired {
            name: "ny4".into(),
            serial: 3,
            compose: "services: {}".into(),
            ..Desired::default()
        };
        let envelope = desired.seal(&key).unwrap();
        assert_eq!(config.open(envelope.as_bytes()).unwrap(), desired);
        let refused = |bytes: &[u8]| format!("{:#}", config.open(bytes).unwrap_err());
        assert!(refused(desired.seal(&stranger).unwrap().as_bytes()).contains("not signed by"));
        let other = Desired { name: "ld4".into(), ..desired };
        assert!(refused(other.seal(&key).unwrap().as_bytes()).contains("it is for \"ld4\""));
        assert!(refused(b"{}").contains("qctl desired sign"));
        // Each byte of the payload is signed, and so is its type.
        let mut changed: Envelope = serde_json::from_str(&envelope).unwrap();
        changed.payload = STANDARD.encode(r#"{"name":"ny4","serial":4,"compose":""}"#);
        assert!(refused(&serde_json::to_vec(&changed).unwrap()).contains("not signed by"));
        let typed = envelope.replace("desired.v1", "release.v1");
        assert!(refused(typed.as_bytes()).contains("payloadType"));
        let many = envelope.replace("[{", &format!("[{}{{", "{\"sig\":\"AAAA\"},".repeat(8)));
        assert!(refused(many.as_bytes()).contains("9 signatures, at most 8"));
        let long = format!("\"{}\"", "x".repeat(100_000));
        assert!(refused(long.as_bytes()).len() < 200);
    }

    #[test]
    fn a_configuration_says_what_is_wrong_with_it() {
        let key = SigningKey::from_bytes(&[7; 32]);
        for (more, wanted) in [
            ("url = \"https://a:b@x/y\"", "stand in username"),
            ("url = \"ftp://x/y\"", "https://HOST/FILE"),
            ("url = \"https:///y\"", "https://HOST/FILE"),
            ("url = \"oci://NOT A NAME\"", "oci://REGISTRY"),
            ("interval_seconds = 1", "5 to 86400"),
            ("username = \"a\"", "username and password"),
            ("windows = [\"Mon 25:00-26:00\"]", "25:00"),
            ("more = 1", "unknown field"),
        ] {
            let error = format!("{:#}", config(&key, more).unwrap_err());
            assert!(error.contains(wanted), "{more}: {error}");
        }
        assert!(Config::parse("version = 1\nname = \"a\"\nkeys = []").is_err());
        let good = "url = \"oci://r.example:5000/desk/ny4:production\"\ninterval_seconds = 5";
        config(&key, good).unwrap();
    }
}
