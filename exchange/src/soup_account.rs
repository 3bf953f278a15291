//! One SoupBinTCP account: its sequenced messages, which outlive connections, and its logins.

use abi::field::Alpha;
use abi::mold::Session;
use abi::soup::{LoginAccepted, LoginRejectReason, LoginRequest, Packet};

/// The messages sent to one account in one session.
pub struct SequencedLog {
    session: Session,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl SequencedLog {
    /// No messages yet.
    pub fn new(session: Session) -> Self {
        Self { session, bytes: Vec::new(), ends: Vec::new() }
    }

    /// Messages so far.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Keeps a message; returns it as a packet.
    pub fn push(&mut self, message: &[u8]) -> Vec<u8> {
        self.bytes.extend_from_slice(message);
        self.ends.push(self.bytes.len());
        let mut packet = Vec::new();
        Packet::Sequenced(message).encode_to(&mut packet);
        packet
    }

    /// Answers a login: the acceptance and everything from the requested message on, or a refusal.
    /// Number 0 asks for what comes next; a number past that is no session we have.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn login(&self, request: &LoginRequest) -> Result<Vec<u8>, LoginRejectReason> {
        let session = request.requested_session;
        let known =
            session == Session::BLANK || session.text().trim() == self.session.text().trim();
        let next = self.ends.len() as u64 + 1;
        let wanted = match request.requested_sequence.parse_decimal() {
            Some(0) => next,
            Some(sequence) if sequence <= next => sequence,
            _ => return Err(LoginRejectReason::SessionUnavailable),
        };
        if !known {
            return Err(LoginRejectReason::SessionUnavailable);
        }
        let sequence = Alpha::decimal_right(wanted).expect("20 digits hold any u64");
        let mut out = Vec::new();
        Packet::LoginAccepted(LoginAccepted { session: self.session, sequence })
            .encode_to(&mut out);
        for index in wanted as usize - 1..self.ends.len() {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            Packet::Sequenced(&self.bytes[start..self.ends[index]]).encode_to(&mut out);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(session: &str, sequence: u64) -> LoginRequest {
        LoginRequest {
            username: Alpha::BLANK,
            password: Alpha::BLANK,
            requested_session: Session::new(session).unwrap(),
            requested_sequence: Alpha::decimal_right(sequence).unwrap(),
        }
    }

    #[test]
    fn a_login_brings_what_was_missed() {
        let mut log = SequencedLog::new(Session::new("DAY").unwrap());
        let first = log.push(b"one");
        let second = log.push(b"two");
        let all = log.login(&request("", 1)).unwrap();
        assert!(all.ends_with(&[first, second.clone()].concat()));
        let rest = log.login(&request("DAY", 2)).unwrap();
        assert!(rest.ends_with(&second) && rest.len() < all.len());
        assert_eq!(log.login(&request("DAY", 0)), log.login(&request("DAY", 3)));
        assert_eq!(log.login(&request("DAY", 4)), Err(LoginRejectReason::SessionUnavailable));
        assert_eq!(log.login(&request("OLD", 1)), Err(LoginRejectReason::SessionUnavailable));
    }
}
