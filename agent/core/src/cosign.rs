//! Signatures as cosign makes them with a key (`cosign sign --key`), ECDSA P-256 over SHA-256: of a
//! JSON payload with the image's digest in it, or, since version 3, of an in-toto statement in a
//! Sigstore bundle. No network, no transparency log. Sources: cosign's `specs/SIGNATURE_SPEC.md`,
//! "Simple Signing", and `specs/BUNDLE_SPEC.md`; in-toto Attestation Framework, "Statement" 1.

use abi::dsse::{Envelope, signed_bytes};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::Verifier;
use p256::pkcs8::DecodePublicKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A signature's annotation on the layer that has its payload.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// A payload is half a kilobyte, with annotations a little more.
pub const PAYLOAD_LEN_MAX: u64 = 64 << 10;

/// Media types of Sigstore bundles begin so; the version follows.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle";

/// A bundle is some kilobytes, with certificates and entries of logs ten times that.
pub const BUNDLE_LEN_MAX: u64 = 256 << 10;

/// Signatures of each of the two kinds that are looked at.
pub const SIGNATURES_MAX: usize = 16;

/// Type of payload of a bundle's envelope.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";

/// Type of the predicate that says that an image is signed; others are attestations.
const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// Signature of an image as a registry has it, with the payload that it signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The payload: what is signed says [`Self::payload_type`].
    pub payload: String,
    /// The signature: ASN.1, in base64.
    pub signature: String,
    /// Type of the payload of an envelope (DSSE), of which the signature is; none for the bare
    /// payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_type: Option<String>,
}

impl Signature {
    /// Signature of the bare payload.
    pub fn simple(payload: String, signature: String) -> Self {
        Self { payload, signature, payload_type: None }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let payload = self.payload.as_bytes();
        match &self.payload_type {
            None => payload.to_vec(),
            Some(payload_type) => signed_bytes(payload_type, payload),
        }
    }
}

/// The signature in a Sigstore bundle; `None` if it holds something else.
pub fn bundle_signature(bundle: &[u8]) -> Option<Signature> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Bundle {
        dsse_envelope: Envelope,
    }
    let envelope = serde_json::from_slice::<Bundle>(bundle).ok()?.dsse_envelope;
    let payload = envelope.payload().filter(|it| it.len() as u64 <= PAYLOAD_LEN_MAX)?;
    let [signature] = envelope.signatures.try_into().ok()?;
    Some(Signature {
        payload: String::from_utf8(payload).ok()?,
        signature: signature.sig,
        payload_type: Some(envelope.payload_type),
    })
}

/// Statement of in-toto, as far as a signature of an image has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    name: Option<String>,
    digest: BTreeMap<String, String>,
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
        let Ok(claims) = claims(signature) else { continue };
        for claim in claims {
            match claim {
                Claim::Image { digest: of, reference } => {
                    let is_it = |identity: &str| {
                        reference.as_ref().is_some_and(|it| canonical(it) == canonical(identity))
                    };
                    if of == digest && identity.is_none_or(is_it) {
                        return Ok(());
                    }
                    let reference = reference.as_deref().unwrap_or("an image without a name");
                    others.push(format!("{reference} with {of}"));
                }
                Claim::Other(kind) => others.push(format!("{kind:?}, no image")),
            }
        }
    }
    match others.is_empty() {
        true => Err("none of its signatures is by a key that this host knows".into()),
        false => Err(format!("what is signed is {}", others.join(", "))),
    }
}

/// Claim of a payload that was signed.
enum Claim {
    /// Image of this digest, with the name that it was signed as.
    Image { digest: String, reference: Option<String> },
    /// Something else, by its type.
    Other(String),
}

fn claims(signature: &Signature) -> Result<Vec<Claim>, serde_json::Error> {
    let payload = &signature.payload;
    if signature.payload_type.is_none() {
        let Payload { critical } = serde_json::from_str(payload)?;
        let Critical { identity: Identity { reference }, image, kind } = critical;
        return Ok(vec![match kind == KIND {
            true => Claim::Image { digest: image.digest, reference: Some(reference) },
            false => Claim::Other(kind),
        }]);
    }
    if signature.payload_type.as_deref() != Some(STATEMENT_TYPE) {
        return Ok(vec![Claim::Other(signature.payload_type.clone().unwrap_or_default())]);
    }
    let statement: Statement = serde_json::from_str(payload)?;
    if statement.predicate_type != SIGN_PREDICATE {
        return Ok(vec![Claim::Other(statement.predicate_type)]);
    }
    let image = |Subject { name, digest }: Subject| {
        let digest = format!("sha256:{}", digest.get("sha256")?);
        Some(Claim::Image { digest, reference: name.filter(|name| !name.is_empty()) })
    };
    Ok(statement.subject.into_iter().filter_map(image).collect())
}

fn is_by_one_of(keys: &[VerifyingKey], signature: &Signature) -> bool {
    let Ok(der) = STANDARD.decode(signature.signature.trim()) else { return false };
    let Ok(der) = p256::ecdsa::DerSignature::from_bytes(&der) else { return false };
    let signed = signature.signed_bytes();
    keys.iter().any(|key| key.verify(&signed, &der).is_ok())
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
        Signature::simple(payload, STANDARD.encode(signature.as_bytes()))
    }

    /// A bundle as cosign 3 makes it with a key.
    fn bundle(key: &SigningKey, predicate: &str, subject: &serde_json::Value) -> Vec<u8> {
        let statement = serde_json::json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [subject],
            "predicateType": predicate,
            "predicate": {},
        });
        let sign = |bytes: &[u8]| {
            let signature: p256::ecdsa::DerSignature = key.sign(bytes);
            signature.as_bytes().to_vec()
        };
        let envelope = Envelope::seal(STATEMENT_TYPE, statement.to_string().as_bytes(), sign);
        let bundle = serde_json::json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": { "publicKey": { "hint": "x" } },
            "dsseEnvelope": envelope,
        });
        bundle.to_string().into_bytes()
    }

    #[test]
    fn a_bundle_counts_for_its_digest_and_attestations_do_not() {
        let key = SigningKey::from_slice(&[1; 32]).unwrap();
        let keys = [*key.verifying_key()];
        let one = serde_json::json!({ "digest": { "sha256": "1" }, "annotations": {} });
        let check = |bundle: &[u8], digest: &str, identity: Option<&str>| {
            verify(&keys, digest, identity, &[bundle_signature(bundle).unwrap()])
        };
        let signed = bundle(&key, SIGN_PREDICATE, &one);
        check(&signed, "sha256:1", None).unwrap();
        assert!(check(&signed, "sha256:2", None).unwrap_err().contains("with sha256:1"));
        // It names no image, which a tag needs.
        assert!(check(&signed, "sha256:1", Some("r/a")).unwrap_err().contains("without a name"));
        let named = serde_json::json!({ "name": "r/a", "digest": { "sha256": "1" } });
        check(&bundle(&key, SIGN_PREDICATE, &named), "sha256:1", Some("r/a")).unwrap();
        // Whoever attests something of an image does not sign it.
        let attested = bundle(&key, "https://spdx.dev/Document", &one);
        assert!(check(&attested, "sha256:1", None).unwrap_err().contains("no image"));
        let other = SigningKey::from_slice(&[2; 32]).unwrap();
        let strange = bundle(&other, SIGN_PREDICATE, &one);
        assert!(check(&strange, "sha256:1", None).unwrap_err().contains("none of its signatures"));
        // The bare payload is not what was signed.
        let bare = Signature { payload_type: None, ..bundle_signature(&signed).unwrap() };
        assert!(verify(&keys, "sha256:1", None, &[bare]).is_err());
        assert_eq!(bundle_signature(b"{\"messageSignature\":{}}"), None);
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
        let other = Signature::simple(payload, STANDARD.encode(signature.as_bytes()));
        assert!(said(&[other], None).contains("no image"));
        // Docker Hub by cosign's own name for it.
        let hub = signed(&own, "index.docker.io/library/nginx", "sha256:1");
        let hub = std::slice::from_ref(&hub);
        verify(&keys, "sha256:1", Some("docker.io/library/nginx"), hub).unwrap();
        assert!(said(hub, Some("docker.io/library/redis")).contains("nginx"));
    }
}
