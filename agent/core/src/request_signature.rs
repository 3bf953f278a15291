//! Signatures of requests to the network API (RFC 9421, "HTTP Message Signatures"): the one form
//! that is accepted, and the text that is signed. The process that speaks TLS hands both on, so
//! that the agent itself sees who asks for what.

use crate::api_routes::{Ask, Refused, route};
use crate::protocol::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Components that a signature covers, in this order.
const COMPONENTS: &str = r#"("@method" "@authority" "@request-target" "content-digest")"#;
/// Label of the signature in both header fields.
const LABEL: &str = "quietcore";

/// Header field with the components and the nonce of a signature.
pub const SIGNATURE_INPUT: &str = "signature-input";
/// Header field with the signature itself.
pub const SIGNATURE: &str = "signature";
/// Header field with the digest of the body (RFC 9530).
pub const CONTENT_DIGEST: &str = "content-digest";

/// Request that the network's side of the agent passes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Call {
    /// Request for a reader, on the word of the process that passes it on.
    Unsigned {
        /// Name in the certificate.
        who: String,
        /// Request to be answered.
        request: Request,
    },
    /// Request with the proof of who asks for it.
    Signed(SignedRequest),
}

/// Signed request of an API client, as its connection handed it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRequest {
    /// Certificate chain of the connection, the client's first: DER in base64.
    pub certificates: Vec<String>,
    /// HTTP method, in capitals.
    pub method: String,
    /// Host and port that were asked, in lower case, without the port 443.
    pub authority: String,
    /// Path, and query with its question mark.
    pub target: String,
    /// Body in base64.
    pub body: String,
    /// Challenge of the agent, a point, and the number of the request that uses it.
    pub nonce: String,
    /// Signature of [`Self::base`] by the key of the first certificate, in base64; ECDSA as DER.
    pub signature: String,
}

impl SignedRequest {
    /// Returns the text that is signed (RFC 9421, 2.5).
    ///
    /// # Errors
    /// The body is no base64, or a part would end its line.
    pub fn base(&self) -> Result<String, Refused> {
        let digest = content_digest(&self.body()?);
        let Self { method, authority, target, nonce, .. } = self;
        let is_plain = |part: &String| part.bytes().all(|byte| byte.is_ascii_graphic());
        if ![method, authority, target, nonce].into_iter().all(is_plain) {
            return Err((400, "a part of the request is not visible ASCII".into()));
        }
        Ok(base(method, authority, target, &digest, nonce))
    }

    /// Returns the request to the agent that was signed.
    ///
    /// # Errors
    /// A status and one line: it is none, or one that the agent does not answer itself.
    pub fn request(&self) -> Result<Request, Refused> {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        match route(&self.method, path, query, &self.body()?, false)? {
            Ask::Agent(request) | Ask::Wrapped(request) => Ok(request),
            Ask::Terminal(name) => Ok(Request::Terminal { name, size: None }),
            _ => Err((400, format!("{path} takes no signature"))),
        }
    }

    fn body(&self) -> Result<Vec<u8>, Refused> {
        STANDARD.decode(&self.body).map_err(|_| (400, "the body is no base64".to_owned()))
    }
}

/// Returns the text that is signed for a request.
pub fn base(method: &str, authority: &str, target: &str, digest: &str, nonce: &str) -> String {
    format!(
        "\"@method\": {method}\n\"@authority\": {authority}\n\"@request-target\": {target}\n\
         \"{CONTENT_DIGEST}\": {digest}\n\"@signature-params\": {}",
        parameters(nonce)
    )
}

/// Returns a `Content-Digest` of a body.
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

/// Returns a `Signature-Input` with this nonce.
pub fn signature_input(nonce: &str) -> String {
    format!("{LABEL}={}", parameters(nonce))
}

/// Returns a `Signature` of these bytes.
pub fn signature(bytes: &[u8]) -> String {
    format!("{LABEL}=:{}:", STANDARD.encode(bytes))
}

fn parameters(nonce: &str) -> String {
    format!("{COMPONENTS};nonce=\"{nonce}\"")
}

/// Returns nonce and signature, in base64, of both header fields.
///
/// # Errors
/// 400 and one line with the form that is accepted.
pub fn parse(input: &str, signature: &str) -> Result<(String, String), Refused> {
    let head = format!("{LABEL}={COMPONENTS};nonce=\"");
    let nonce = input.strip_prefix(&head).and_then(|rest| rest.strip_suffix('"'));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    let nonce = nonce.filter(|nonce| (1..=64).contains(&nonce.len()) && nonce.bytes().all(plain));
    let nonce = nonce.ok_or_else(|| {
        (400, format!("{SIGNATURE_INPUT}: {} is expected", signature_input("...")))
    })?;
    let label = format!("{LABEL}=:");
    let signature = signature.strip_prefix(&label).and_then(|rest| rest.strip_suffix(':'));
    let signature =
        signature.ok_or_else(|| (400, format!("{SIGNATURE}: {LABEL}=:BASE64: is expected")))?;
    Ok((nonce.into(), signature.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_read_as_they_are_written() {
        let (input, signed) = (signature_input("ab12.7"), signature(b"\x00\xff"));
        assert_eq!(parse(&input, &signed), Ok(("ab12.7".into(), "AP8=".into())));
        for (input, signed) in [
            (input.replace("\"@method\" ", ""), signed.clone()),
            (input.replace("quietcore", "sig1"), signed.clone()),
            (input.clone() + ";created=1", signed.clone()),
            (signature_input("a\"b"), signed.clone()),
            (signature_input(""), signed.clone()),
            (input, "quietcore=AP8=".into()),
        ] {
            assert_eq!(parse(&input, &signed).unwrap_err().0, 400, "{input} {signed}");
        }
    }

    #[test]
    fn what_is_signed_is_what_is_asked() {
        let signed = SignedRequest {
            certificates: Vec::new(),
            method: "POST".into(),
            authority: "10.0.0.5:9443".into(),
            target: "/v1/engine/kill".into(),
            body: String::new(),
            nonce: "ab.1".into(),
            signature: String::new(),
        };
        assert_eq!(signed.request(), Ok(Request::Control { kill: true, drain: false }));
        let empty = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        let expected = format!(
            "\"@method\": POST\n\"@authority\": 10.0.0.5:9443\n\"@request-target\": /v1/engine/kill\n\
             \"content-digest\": {empty}\n\"@signature-params\": {COMPONENTS};nonce=\"ab.1\""
        );
        assert_eq!(signed.base(), Ok(expected));
        let status = SignedRequest { method: "GET".into(), target: "/metrics".into(), ..signed };
        assert_eq!(status.request().unwrap_err().0, 400);
    }
}
