//! Policy of images: allowed registries and required signatures, from the credential
//! `quietcore.images`, TOML. Without one, a host runs only images that came with the OS and those
//! of `qctl image load`.

use agent_core::cosign::{self, Signature};
use agent_core::versioned;
use oci_spec::distribution::{ParseError, Reference};
use serde::Deserialize;
use std::path::Path;
use thiserror::Error;

/// Name of the credential with the image policy.
pub const CREDENTIAL: &str = "quietcore.images";

/// A policy: registries with their keys and authorities.
const POLICY_LEN_MAX: u64 = 256 << 10;

/// Why an image is not taken.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The file can't be read.
    #[error("read {path}")]
    Read {
        /// Path of the credential's file.
        path: String,
        source: std::io::Error,
    },
    /// The file is not as it is to be.
    #[error("{path}: {what}")]
    Malformed {
        /// Path of the credential's file.
        path: String,
        /// Error and its place in the file.
        what: String,
    },
    /// A name that is none.
    #[error("image {name:?}: {what}; write REGISTRY/REPOSITORY@sha256:DIGEST")]
    Name {
        /// Name as it was written.
        name: String,
        /// Error of the parser.
        what: String,
    },
    /// A registry that nobody allowed.
    #[error(
        "image {name} is not on this host, and its registry {registry} is not in {CREDENTIAL}; \
         load it, correct its name, or allow the registry"
    )]
    Registry {
        /// Name of the image.
        name: String,
        /// Registry of the image, as in its name.
        registry: String,
    },
    /// A tag, where only digests are taken.
    #[error("image {name}: registry {registry} has no tags = true; write its digest, @sha256:...")]
    Tag {
        /// Name of the image.
        name: String,
        /// Registry of the image.
        registry: String,
    },
    /// Nobody whom this host trusts vouches for it.
    #[error("image {name}: {what}; sign it with a key of this host's {CREDENTIAL}")]
    Signature {
        /// Name of the image.
        name: String,
        /// Error of the verification: a missing or invalid signature, or another digest.
        what: String,
    },
}

/// User name and password for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// User name for the host.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl Login {
    fn of(username: Option<&String>, password: Option<&String>) -> Option<Self> {
        Some(Self { username: username?.clone(), password: password?.clone() })
    }
}

/// Host that has the images of a registry too. The registry's password is not its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected \"HOST:PORT\" or { host, username, password }")]
pub enum Mirror {
    /// Host and, if it is not the scheme's own, port.
    Host(String),
    /// The same with a login.
    WithLogin(MirrorLogin),
}

/// Mirror that wants a password.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorLogin {
    host: String,
    username: String,
    password: String,
}

impl Mirror {
    /// Host and, if it is not the scheme's own, port.
    pub fn host(&self) -> &str {
        match self {
            Self::Host(host) | Self::WithLogin(MirrorLogin { host, .. }) => host,
        }
    }

    /// Login for this mirror.
    pub fn login(&self) -> Option<Login> {
        match self {
            Self::Host(_) => None,
            Self::WithLogin(it) => Login::of(Some(&it.username), Some(&it.password)),
        }
    }
}

/// A registry that may be asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Host and, if it is not the scheme's own, port: as in images' names.
    pub name: String,
    /// Asked first, in this order.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// Speaks HTTP without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// CA certificates for the registry, in PEM, besides Debian's list.
    pub authority: Option<String>,
    /// User name for the registry; given with `password` or not at all.
    pub username: Option<String>,
    /// Its password or token.
    pub password: Option<String>,
    /// Hosts, besides the registry's own, that may be sent the password for a token.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// Public keys in PEM (ECDSA P-256, as `cosign generate-key-pair` makes them), of which one
    /// must have signed.
    #[serde(default)]
    pub signers: Vec<String>,
    /// Takes images that nobody signed.
    #[serde(default)]
    pub unsigned: bool,
    /// Takes names with a tag; what the tag means can change.
    #[serde(default)]
    pub tags: bool,
    /// Bytes a second, at most; as fast as it goes without one.
    pub rate_bytes_per_second: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "version")]
    _version: u32,
    #[serde(default)]
    registry: Vec<Registry>,
}

/// A host's policy. Holding one proves that its registries can be asked and its keys read.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    registries: Vec<Registry>,
}

impl Policy {
    /// Reads the credential, if this process has it.
    ///
    /// # Errors
    /// [`PolicyError`] names the line.
    pub fn read(credentials: Option<&Path>) -> Result<Self, PolicyError> {
        let found =
            credentials.and_then(|directory| crate::credentials::credential(directory, CREDENTIAL));
        let Some(path) = found else { return Ok(Self::default()) };
        let named = path.display().to_string();
        let read = |source| PolicyError::Read { path: named.clone(), source };
        let len = path.metadata().map_err(read)?.len();
        if len > POLICY_LEN_MAX {
            let what = format!("{len} bytes, at most {POLICY_LEN_MAX}");
            return Err(PolicyError::Malformed { path: named, what });
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|source| PolicyError::Read { path: named.clone(), source })?;
        Self::parse(&text).map_err(|what| PolicyError::Malformed { path: named, what })
    }

    /// Reads a policy's text.
    ///
    /// # Errors
    /// One line: where, what, the remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = versioned::parse(text).map_err(|error| error.to_string())?;
        for registry in &file.registry {
            registry.check().map_err(|what| format!("registry {:?}: {what}", registry.name))?;
        }
        Ok(Self { registries: file.registry })
    }

    /// The registry that somebody may ask for this name.
    ///
    /// # Errors
    /// Nobody may, and why.
    pub fn registry(&self, name: &str) -> Result<(Reference, &Registry), PolicyError> {
        let reference: Reference = name.parse().map_err(|error: ParseError| PolicyError::Name {
            name: name.into(),
            what: error.to_string(),
        })?;
        let registry = self.registries.iter().find(|known| known.name == reference.registry());
        let asked = reference.registry().to_owned();
        match registry {
            Some(registry) => Ok((reference, registry)),
            None => Err(PolicyError::Registry { name: name.into(), registry: asked }),
        }
    }

    /// The registry that an image may be fetched from.
    ///
    /// # Errors
    /// It may not, and why.
    pub fn admit(&self, name: &str) -> Result<(Reference, &Registry), PolicyError> {
        let (reference, registry) = self.registry(name)?;
        if reference.digest().is_none() && !registry.tags {
            let registry = registry.name.clone();
            return Err(PolicyError::Tag { name: name.into(), registry });
        }
        Ok((reference, registry))
    }

    /// Whether an image that was fetched may run.
    ///
    /// # Errors
    /// It may not, and why.
    pub fn verify(
        &self,
        name: &str,
        digest: &str,
        signatures: &[Signature],
    ) -> Result<(), PolicyError> {
        let (reference, registry) = self.admit(name)?;
        let refused = |what: String| PolicyError::Signature { name: name.into(), what };
        if let Some(wanted) = reference.digest()
            && wanted != digest
        {
            return Err(refused(format!("what was fetched is {digest}")));
        }
        if registry.signers.is_empty() {
            return Ok(());
        }
        // A digest says which image is meant; of a tag the signature must say it.
        let identity = format!("{}/{}", reference.registry(), reference.repository());
        let identity = reference.digest().is_none().then_some(identity.as_str());
        let keys = registry.signers.iter().filter_map(|pem| cosign::key(pem).ok());
        cosign::verify(&keys.collect::<Vec<_>>(), digest, identity, signatures).map_err(refused)
    }
}

impl Registry {
    /// Login for the registry itself.
    pub fn login(&self) -> Option<Login> {
        Login::of(self.username.as_ref(), self.password.as_ref())
    }

    fn check(&self) -> Result<(), String> {
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 255
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
        };
        let hosts =
            std::iter::once(self.name.as_str()).chain(self.mirrors.iter().map(Mirror::host));
        let hosts = hosts.chain(self.token_hosts.iter().map(String::as_str));
        if let Some(bad) = { hosts }.find(|name| !plain(name)) {
            return Err(format!("{bad:?}: write HOST or HOST:PORT, without a scheme"));
        }
        if self.username.is_some() != self.password.is_some() {
            return Err("give username and password, or neither".into());
        }
        if self.signers.is_empty() != self.unsigned {
            return Err("give signers = [...], or say unsigned = true".into());
        }
        if self.rate_bytes_per_second.is_some_and(|rate| rate < 1024) {
            return Err("rate_bytes_per_second: at least 1024".into());
        }
        self.signers.iter().try_for_each(|pem| cosign::key(pem).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn policy(lines: &str) -> Result<Policy, String> {
        Policy::parse(&format!("version = 1\n[[registry]]\nname = \"r.example:5000\"\n{lines}\n"))
    }

    #[test]
    fn only_registries_that_are_allowed_are_asked_and_for_digests() {
        let strict = policy("unsigned = true").unwrap();
        let said = |name: &str| strict.admit(name).unwrap_err().to_string();
        assert!(said("quietcore/x:1").contains("docker.io is not in quietcore.images"));
        assert!(said("r.example:5000/a/b:1").contains("write its digest"));
        assert!(said("Not a name").contains("write REGISTRY/"));
        strict.admit(&format!("r.example:5000/a/b@{DIGEST}")).unwrap();
        policy("unsigned = true\ntags = true").unwrap().admit("r.example:5000/a/b:1").unwrap();
        Policy::default().admit("r.example:5000/a/b:1").unwrap_err();
    }

    #[test]
    fn another_digest_than_the_one_asked_for_is_refused() {
        let policy = policy("unsigned = true").unwrap();
        let name = format!("r.example:5000/a/b@{DIGEST}");
        policy.verify(&name, DIGEST, &[]).unwrap();
        let error = policy.verify(&name, "sha256:00", &[]).unwrap_err().to_string();
        assert!(error.contains("what was fetched is sha256:00"), "{error}");
    }

    #[test]
    fn a_policy_says_what_is_wrong_with_it() {
        for (lines, wanted) in [
            ("", "give signers"),
            ("unsigned = true\nusername = \"a\"", "username and password"),
            ("unsigned = true\nmirrors = [\"http://x\"]", "without a scheme"),
            ("unsigned = true\nmirrors = [{ host = \"m:1\", user = \"a\" }]", "{ host, username"),
            ("unsigned = true\ntoken_hosts = [\"https://x\"]", "without a scheme"),
            ("unsigned = true\nrate_bytes_per_second = 1", "at least 1024"),
            ("signers = [\"x\"]", "public key"),
            ("unsigned = true\nsecure = false", "unknown field"),
        ] {
            let error = policy(lines).unwrap_err();
            assert!(error.contains(wanted), "{lines}: {error}");
        }
        assert!(Policy::parse("version = 2").unwrap_err().contains("version 1"));
    }
}
