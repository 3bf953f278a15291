//! Whether a release is one for this host: signed by who makes releases, newer than what runs, not
//! one that has failed here.

use crate::update::history::History;
use crate::update::{Running, UpdatePaths};
use abi::release::Release;
use anyhow::{Context, Result, ensure};
use ed25519_dalek::pkcs8::DecodePublicKey;
use ed25519_dalek::{Signature, VerifyingKey};
use std::path::Path;

/// File name of a release's description.
pub const RELEASE: &str = "release.json";
/// File name of the description's signature.
pub const SIGNATURE: &str = "release.json.sig";

/// Verifier of releases, from a host's release key, running version and update history.
pub struct ReleaseVerifier {
    key: VerifyingKey,
    running: Running,
    history: History,
}

impl ReleaseVerifier {
    /// Loads the verifier of this host: its own release key, or the image's.
    ///
    /// # Errors
    /// A part of it can't be read.
    pub fn of(paths: &UpdatePaths) -> Result<Self> {
        let path = if paths.own_key.exists() { &paths.own_key } else { &paths.key };
        let key = std::fs::read_to_string(path);
        let key = key.with_context(|| format!("read {}", path.display()))?;
        Ok(Self {
            key: VerifyingKey::from_public_key_pem(&key)
                .with_context(|| format!("{}: no Ed25519 public key", path.display()))?,
            running: Running::read(&paths.os_release)?,
            history: History::read(&paths.history)?,
        })
    }

    /// Takes a release, or says why not.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, text: &[u8], signature: &[u8]) -> Result<Release> {
        let signature =
            Signature::from_slice(signature).context("the signature is not 64 bytes")?;
        self.key.verify_strict(text, &signature).context(
            "the release is not signed by the key of this host; look at where it comes from",
        )?;
        let release: Release = serde_json::from_slice(text).context(RELEASE)?;
        release.check()?;
        let (version, running) = (release.version, &self.running);
        ensure!(
            release.variant == running.variant,
            "the release is of the profile {}, this host is a {}",
            release.variant,
            running.variant
        );
        ensure!(
            version > running.version,
            "the release {version} is not newer than {}, which runs; give a higher version",
            running.version
        );
        ensure!(
            !self.history.has_failed(version),
            "{version} was tried on this host and failed; give a higher version that mends it"
        );
        Ok(release)
    }

    /// [`Self::admit`] of what lies in a directory.
    ///
    /// # Errors
    /// Why not.
    pub fn admit_in(&self, directory: &Path) -> Result<Release> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).with_context(|| format!("read {}", path.display()))
        };
        self.admit(&read(RELEASE)?, &read(SIGNATURE)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::history::Outcome;
    use ed25519_dalek::{Signer, SigningKey};

    fn text(variant: &str, version: &str) -> Vec<u8> {
        let uuid = "8c953698-116d-06b5-9f7d-4f956bf75efb";
        let artefact = |part: &str| {
            let name = format!("quietcore_{version}.{part}");
            serde_json::json!({"name": name, "size": 1, "sha256": "00".repeat(32)})
        };
        let parts = [
            "efi".to_string(),
            format!("root-x86-64.{uuid}.raw"),
            format!("root-x86-64-verity.{uuid}.raw"),
        ];
        let artefacts: Vec<_> = parts.iter().map(|part| artefact(part)).collect();
        let release = serde_json::json!({
            "format": 1, "image": "quietcore", "variant": variant, "version": version,
            "artefacts": artefacts,
        });
        release.to_string().into_bytes()
    }

    #[test]
    fn only_a_newer_signed_release_of_the_same_profile_is_taken() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let running = Running { version: "0.2.0".parse().unwrap(), variant: "debug".into() };
        let mut history = History::default();
        let failed = "0.2.5".parse().unwrap();
        history.note(failed, "an earlier boot", Outcome::Failed);
        let judge = ReleaseVerifier { key: key.verifying_key(), running, history };
        let admit = |text: &[u8]| judge.admit(text, &key.sign(text).to_bytes());
        assert_eq!(admit(&text("debug", "0.3.0")).unwrap().version.to_string(), "0.3.0");
        let refused = |text: &[u8]| format!("{:#}", admit(text).unwrap_err());
        assert!(refused(&text("production", "0.3.0")).contains("profile production"));
        assert!(refused(&text("debug", "0.2.0")).contains("not newer"));
        assert!(refused(&text("debug", "0.1.9")).contains("not newer"));
        assert!(refused(&text("debug", "0.2.5")).contains("failed"));
        assert!(refused(b"{}").contains("release.json"));
        let (good, stranger) = (text("debug", "0.3.0"), SigningKey::from_bytes(&[8; 32]));
        let signature = stranger.sign(&good).to_bytes();
        let not_signed = |text: &[u8], signature: &[u8]| {
            format!("{:#}", judge.admit(text, signature).unwrap_err()).contains("sign")
        };
        assert!(not_signed(&good, &signature));
        assert!(not_signed(&good, b""));
        let signature = key.sign(&good).to_bytes();
        assert!(not_signed(&[&good[..], b" "].concat(), &signature));
    }
}
