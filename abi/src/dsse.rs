//! Dead Simple Signing Envelope 1.0.2 (secure-systems-lab/dsse, `protocol.md` and `envelope.md`): a
//! payload with its type and its signatures, as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Signed payload, as it is carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// Payload in base64.
    pub payload: String,
    /// Media type of the payload.
    pub payload_type: String,
    /// Signatures of [`signed_bytes`].
    pub signatures: Vec<Signature>,
}

/// Signature of an envelope; the key is found by trying those that one knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Signature in base64.
    pub sig: String,
}

/// Bytes that are signed: type and payload, each behind its length ("PAE" of the protocol).
pub fn signed_bytes(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    /// Envelope of a payload with one signature by `sign`, which takes [`signed_bytes`].
    pub fn seal(payload_type: &str, payload: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        let sig = STANDARD.encode(sign(&signed_bytes(payload_type, payload)));
        Self {
            payload: STANDARD.encode(payload),
            payload_type: payload_type.into(),
            signatures: vec![Signature { sig }],
        }
    }

    /// Payload as bytes; `None` if it is no base64.
    pub fn payload(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_that_are_signed_are_those_of_the_specification() {
        // protocol.md, "Signature Definition".
        let signed = signed_bytes("http://example.com/HelloWorld", b"hello world");
        assert_eq!(signed, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        let envelope = Envelope::seal("a/b", b"{}", <[u8]>::to_vec);
        assert_eq!(envelope.payload().unwrap(), b"{}");
        let text = serde_json::to_string(&envelope).unwrap();
        assert_eq!(
            text,
            r#"{"payload":"e30=","payloadType":"a/b","signatures":[{"sig":"RFNTRXYxIDMgYS9iIDIge30="}]}"#
        );
    }
}
