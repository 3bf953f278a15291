//! SoupBinTCP 3.00: the session that carries OUCH. Every packet type; no sockets, no timers.
//!
//! Source: "SoupBinTCP Version 3.00", NASDAQ. Every packet:
//!
//! ```text
//! 0        2      3
//! ┌────────┬──────┬──────────────┐   length counts the type and the payload, not itself
//! │ length │ type │ payload …    │   server → client: + A J S H Z      client → server: + L U R O
//! └────────┴──────┴──────────────┘
//! ```

use crate::field::Alpha;
use crate::mold::Session;
use crate::wire::{Field, WireError};

/// The longest payload the two-byte length can state.
pub const PAYLOAD_LEN_MAX: usize = u16::MAX as usize - 1;

/// Both sides send something at least this often (section 2.2.3 and 2.3.2).
pub const HEARTBEAT_INTERVAL_NS: u64 = 1_000_000_000;

/// A side that heard nothing for this long may take the link for dead (section 2.2.3).
pub const SILENCE_MAX_NS: u64 = 15_000_000_000;

layout! {
    /// Login Request payload (`L`).
    LoginRequest, 46 {
        username: Alpha<6>, password: Alpha<10>, requested_session: Session,
        requested_sequence: Alpha<20>,
    }

    /// Login Accepted payload (`A`): the next sequenced message will have `sequence`.
    LoginAccepted, 30 { session: Session, sequence: Alpha<20> }
}

code! {
    /// Why a login was refused.
    LoginRejectReason {
        /// Wrong username or password.
        NotAuthorized = b'A',
        /// The requested session does not exist.
        SessionUnavailable = b'S',
    }
}

/// One SoupBinTCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `+`: text for people, either way.
    Debug(&'a [u8]),
    /// `A`: the server accepts the login.
    LoginAccepted(LoginAccepted),
    /// `J`: the server refuses the login.
    LoginRejected(LoginRejectReason),
    /// `S`: the next sequenced message.
    Sequenced(&'a [u8]),
    /// `H`: the server is alive.
    ServerHeartbeat,
    /// `Z`: the session is over.
    EndOfSession,
    /// `L`: the client logs in.
    LoginRequest(LoginRequest),
    /// `U`: a client's message, unsequenced.
    Unsequenced(&'a [u8]),
    /// `R`: the client is alive.
    ClientHeartbeat,
    /// `O`: the client leaves.
    LogoutRequest,
}

impl<'a> Packet<'a> {
    fn kind(&self) -> u8 {
        match self {
            Self::Debug(_) => b'+',
            Self::LoginAccepted(_) => b'A',
            Self::LoginRejected(_) => b'J',
            Self::Sequenced(_) => b'S',
            Self::ServerHeartbeat => b'H',
            Self::EndOfSession => b'Z',
            Self::LoginRequest(_) => b'L',
            Self::Unsequenced(_) => b'U',
            Self::ClientHeartbeat => b'R',
            Self::LogoutRequest => b'O',
        }
    }

    /// Appends the packet, its length included.
    ///
    /// # Panics
    /// If the payload is longer than [`PAYLOAD_LEN_MAX`].
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        let reason;
        let (accepted, request);
        let payload: &[u8] = match self {
            Self::Debug(bytes) | Self::Sequenced(bytes) | Self::Unsequenced(bytes) => bytes,
            Self::LoginAccepted(login) => {
                accepted = login.to_bytes();
                &accepted
            }
            Self::LoginRejected(why) => {
                reason = [*why as u8];
                &reason
            }
            Self::LoginRequest(login) => {
                request = login.to_bytes();
                &request
            }
            _ => &[],
        };
        assert!(payload.len() <= PAYLOAD_LEN_MAX, "SoupBinTCP payload of {} bytes", payload.len());
        let length = payload.len() as u16 + 1;
        out.extend_from_slice(&length.to_be_bytes());
        out.push(self.kind());
        out.extend_from_slice(payload);
    }

    /// Reads the packet that `stream` starts with; `None` until all of it is there.
    /// The number is the bytes to take off the stream.
    ///
    /// # Errors
    /// [`WireError`]: the stream cannot be read any further, for the framing is lost.
    #[inline]
    pub fn decode(stream: &'a [u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((length, body)) = stream.split_first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            return Err(WireError::Length { what: "SoupBinTCP packet", need: 1, got: 0 });
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        let payload = &body[1..];
        let exact = |what, need| {
            if payload.len() == need {
                Ok(())
            } else {
                Err(WireError::Length { what, need, got: payload.len() })
            }
        };
        let packet = match body[0] {
            b'S' => Self::Sequenced(payload),
            b'U' => Self::Unsequenced(payload),
            b'+' => Self::Debug(payload),
            b'A' => {
                exact("Login Accepted", LoginAccepted::LEN)?;
                Self::LoginAccepted(LoginAccepted::decode(payload)?)
            }
            b'L' => {
                exact("Login Request", LoginRequest::LEN)?;
                Self::LoginRequest(LoginRequest::decode(payload)?)
            }
            b'J' => {
                exact("Login Rejected", 1)?;
                let bad = WireError::Value { what: "Login Rejected", field: "reason" };
                Self::LoginRejected(LoginRejectReason::get(payload).ok_or(bad)?)
            }
            kind @ (b'H' | b'Z' | b'R' | b'O') => {
                exact("SoupBinTCP packet without payload", 0)?;
                match kind {
                    b'H' => Self::ServerHeartbeat,
                    b'Z' => Self::EndOfSession,
                    b'R' => Self::ClientHeartbeat,
                    _ => Self::LogoutRequest,
                }
            }
            kind => return Err(WireError::Kind { protocol: "SoupBinTCP", kind }),
        };
        Ok(Some((packet, 2 + length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_packet() -> Vec<Packet<'static>> {
        let session = Session::new("S1").unwrap();
        vec![
            Packet::Debug(b"hello"),
            Packet::LoginAccepted(LoginAccepted {
                session,
                sequence: Alpha::decimal_right(1).unwrap(),
            }),
            Packet::LoginRejected(LoginRejectReason::NotAuthorized),
            Packet::Sequenced(b"message"),
            Packet::ServerHeartbeat,
            Packet::EndOfSession,
            Packet::LoginRequest(LoginRequest {
                username: Alpha::new("user").unwrap(),
                password: Alpha::new("secret").unwrap(),
                requested_session: Session::BLANK,
                requested_sequence: Alpha::decimal_right(0).unwrap(),
            }),
            Packet::Unsequenced(b""),
            Packet::ClientHeartbeat,
            Packet::LogoutRequest,
        ]
    }

    #[test]
    fn every_packet_survives_the_wire_and_waits_for_its_last_byte() {
        for packet in every_packet() {
            let mut bytes = Vec::new();
            packet.encode_to(&mut bytes);
            for end in 0..bytes.len() {
                assert_eq!(Packet::decode(&bytes[..end]), Ok(None), "{packet:?} cut at {end}");
            }
            bytes.extend_from_slice(b"next");
            assert_eq!(Packet::decode(&bytes), Ok(Some((packet, bytes.len() - 4))));
        }
    }

    #[test]
    fn broken_framing_is_an_error() {
        assert!(Packet::decode(&[0, 0]).is_err());
        assert!(matches!(Packet::decode(&[0, 1, b'?']), Err(WireError::Kind { kind: b'?', .. })));
        assert!(Packet::decode(&[0, 2, b'J', b'x']).is_err());
        assert!(Packet::decode(&[0, 2, b'H', b'x']).is_err());
    }
}
