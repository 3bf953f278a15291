//! Signatures as cosign makes them with a key (`cosign sign --key`): a JSON payload with the
//! image's digest in it, signed with ECDSA P-256 over its SHA-256. No network, no transparency log.
//! Source: cosign's `specs/SIGNATURE_SPEC.md`, "Simple Signing".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::Verifier;
use p256::pkcs8::DecodePublicKey;
use serde::{Deserialize, Serialize};

/// A signature's annotation on the layer that has its payload.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// A payload is half a kilobyte, with annotations a little more.
pub const PAYLOAD_LEN_MAX: u64 = 64 << 10;

/// Signature of an image as a registry has it, with the payload that it signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The bytes that were signed.
    pub payload: String,
    /// The signature over them: ASN.1, in base64.
    pub signature: String,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

/// Type of a payload that is about an image; a key may sign other things too.
const KIND: &str = "cosign container image signature";

/// Name of an image as policies have it: cosign writes Docker Hub's as `index.docker.io/…`
/// (go-containerregistry's `name.DefaultRegistry`).
fn canonical(reference: &str) -> String {
    match reference.strip_prefix("index.docker.io/") {
        Some(rest) => format!("docker.io/{rest}"),
        None => reference.to_owned(),
    }
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// A public key.
///
/// # Errors
/// The text is not an ECDSA P-256 public key in PEM.
pub fn key(pem: &str) -> Result<VerifyingKey, String> {
    VerifyingKey::from_public_key_pem(pem.trim())
        .map_err(|error| format!("no ECDSA P-256 public key in PEM: {error}"))
}

/// The tag under which a registry keeps the signatures of a digest.
pub fn tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// Checks that one of the keys signed this digest, and, if an identity is given, as this image.
///
/// # Errors
/// None did, in words.
pub fn verify(
    keys: &[VerifyingKey],
    digest: &str,
    identity: Option<&str>,
    signatures: &[Signature],
) -> Result<(), String> {
    if signatures.is_empty() {
        return Err("nobody signed it".into());
    }
    let signed = signatures.iter().filter(|signature| is_by_one_of(keys, signature));
    let mut others = Vec::new();
    for signature in signed {
        let Ok(payload) = serde_json::from_str::<Payload>(&signature.payload) else { continue };
        let Critical { identity: Identity { reference }, image, kind } = payload.critical;
        if kind != KIND {
            others.push(format!("{kind:?}, no image"));
            continue;
        }
        let is_it = |identity: &str| canonical(identity) == canonical(&reference);
        if image.digest == digest && identity.is_none_or(is_it) {
            return Ok(());
        }
        others.push(format!("{reference} with {}", image.digest));
    }
    match others.is_empty() {
        true => Err("none of its signatures is by a key that this host knows".into()),
        false => Err(format!("what is signed is {}", others.join(", "))),
    }
}

fn is_by_one_of(keys: &[VerifyingKey], signature: &Signature) -> bool {
    let Ok(der) = STANDARD.decode(signature.signature.trim()) else { return false };
    let Ok(der) = p256::ecdsa::DerSignature::from_bytes(&der) else { return false };
    keys.iter().any(|key| key.verify(signature.payload.as_bytes(), &der).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer;

    fn signed(key: &SigningKey, reference: &str, digest: &str) -> Signature {
        let payload = serde_json::json!({ "critical": {
            "identity": { "docker-reference": reference },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        }, "optional": null });
        let payload = payload.to_string();
        let signature: p256::ecdsa::DerSignature = key.sign(payload.as_bytes());
        Signature { payload, signature: STANDARD.encode(signature.as_bytes()) }
    }

    #[test]
    fn only_a_known_key_over_this_digest_counts() {
        let (own, other) =
            (SigningKey::from_slice(&[1; 32]).unwrap(), SigningKey::from_slice(&[2; 32]).unwrap());
        let keys = [*own.verifying_key()];
        let good = signed(&own, "r/a", "sha256:1");
        verify(&keys, "sha256:1", Some("r/a"), std::slice::from_ref(&good)).unwrap();
        let strange = signed(&other, "r/a", "sha256:1");
        let said = |signatures: &[Signature], identity| {
            verify(&keys, "sha256:1", identity, signatures).unwrap_err()
        };
        assert!(said(&[], None).contains("nobody"));
        assert!(said(std::slice::from_ref(&strange), None).contains("none of its signatures"));
        let elsewhere = signed(&own, "r/b", "sha256:1");
        assert!(said(&[elsewhere], Some("r/a")).contains("r/b with sha256:1"));
        assert!(said(&[signed(&own, "r/a", "sha256:2")], None).contains("sha256:2"));
        let bent = Signature { payload: good.payload.replace("r/a", "r/c"), ..good.clone() };
        assert!(said(&[bent], None).contains("none of its signatures"));
        verify(&keys, "sha256:1", None, &[strange, good.clone()]).unwrap();
        // The key signed something else of that digest.
        let kind = "atomic container signature";
        let payload = good.payload.replace("cosign container image signature", kind);
        let signature: p256::ecdsa::DerSignature = own.sign(payload.as_bytes());
        let other = Signature { payload, signature: STANDARD.encode(signature.as_bytes()) };
        assert!(said(&[other], None).contains("no image"));
        // Docker Hub by cosign's own name for it.
        let hub = signed(&own, "index.docker.io/library/nginx", "sha256:1");
        let hub = std::slice::from_ref(&hub);
        verify(&keys, "sha256:1", Some("docker.io/library/nginx"), hub).unwrap();
        assert!(said(hub, Some("docker.io/library/redis")).contains("nginx"));
    }
}
