//! The SoupBinTCP 3.00 client: login, heartbeats, resume at the next sequence number. Takes bytes
//! and the time; writes bytes to send. Knows nothing of what OUCH says.

use crate::limits::STREAM_LEN;
use crate::settings::Login;
use abi::field::Alpha;
use abi::mold::Session;
use abi::soup::{HEARTBEAT_INTERVAL_NS, LoginRejectReason, LoginRequest, Packet, SILENCE_MAX_NS};
use abi::wire::WireError;

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Disconnected from the server.
    Down,
    /// Connected; the login waits, since one was refused.
    Waiting,
    /// Connected; login sent.
    LoginSent,
    /// Session with an accepted login.
    Up,
    /// The exchange said that the session is over.
    Ended,
}

/// Event read from the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Nothing whole yet.
    Nothing,
    /// The login was accepted.
    LoggedIn,
    /// The login was refused.
    Refused(LoginRejectReason),
    /// A sequenced message of so many bytes, now in [`Client::message`].
    Message,
    /// The server has had nothing to send for a while.
    Idle,
    /// The session is over.
    Ended,
}

/// The client's side of one session, over any number of connections.
pub struct Client {
    login: Login,
    phase: Phase,
    session: Session,
    next: u64,
    stream: Vec<u8>,
    consumed: usize,
    message: (usize, usize),
    heard_at: u64,
    sent_at: u64,
    /// Logins that were refused one after the other, and when the next one may be tried.
    refusals: u32,
    login_at: u64,
}

/// Wait after the first refused login; doubled with each, up to [`LOGIN_WAIT_MAX_NS`].
const LOGIN_WAIT_NS: u64 = 1_000_000_000;
/// Longest wait after a refused login: a session that opens is found within a minute.
const LOGIN_WAIT_MAX_NS: u64 = 64_000_000_000;

impl Client {
    /// A client that has heard nothing yet: its first login asks for message 1.
    pub fn new(login: Login) -> Self {
        Self {
            login,
            phase: Phase::Down,
            session: Session::BLANK,
            next: 1,
            stream: Vec::with_capacity(STREAM_LEN),
            consumed: 0,
            message: (0, 0),
            heard_at: 0,
            sent_at: 0,
            refusals: 0,
            login_at: 0,
        }
    }

    /// Forgets the session: the next login asks for message 1 of any.
    pub fn forget(&mut self) {
        (self.phase, self.session, self.next) = (Phase::Down, Session::BLANK, 1);
    }

    /// Where the session stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The session that was logged into; blank before the first login.
    pub fn session(&self) -> Session {
        self.session
    }

    /// Sequenced messages of the session that were received.
    pub fn received(&self) -> u64 {
        self.next - 1
    }

    /// The connection stands: logs in, asking for all that was not heard yet; after a refused login
    /// not before its wait is over.
    pub fn connected(&mut self, now: u64, out: &mut Vec<u8>) {
        self.phase = Phase::Waiting;
        self.stream.clear();
        self.consumed = 0;
        (self.heard_at, self.sent_at) = (now, now);
        if self.may_log_in(now) {
            self.log_in(now, out);
        }
    }

    /// A clock that was put back does not make a wait longer.
    fn may_log_in(&self, now: u64) -> bool {
        now >= self.login_at || self.login_at - now > LOGIN_WAIT_MAX_NS
    }

    /// The login was refused: a session that is not open yet, or wrong credentials, are not tried
    /// every second for ever.
    pub fn refused(&mut self, now: u64) {
        let wait = LOGIN_WAIT_NS << self.refusals.min(16);
        self.login_at = now + wait.min(LOGIN_WAIT_MAX_NS);
        self.refusals = self.refusals.saturating_add(1);
    }

    fn log_in(&mut self, now: u64, out: &mut Vec<u8>) {
        self.phase = Phase::LoginSent;
        (self.heard_at, self.sent_at) = (now, now);
        let request = LoginRequest {
            username: self.login.username,
            password: self.login.password,
            requested_session: self.session,
            requested_sequence: Alpha::decimal_right(self.next).expect("20 digits hold any u64"),
        };
        Packet::LoginRequest(request).encode_to(out);
    }

    /// The connection is gone.
    pub fn lost(&mut self) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Down;
        }
        self.stream.clear();
        self.consumed = 0;
    }

    /// Takes bytes from the connection. They are read by [`Self::next_incoming`].
    ///
    /// # Errors
    /// [`WireError`] if more bytes are waiting than any packet has.
    pub fn receive(&mut self, bytes: &[u8], now: u64) -> Result<(), WireError> {
        self.stream.drain(..self.consumed);
        self.consumed = 0;
        self.heard_at = now;
        let need = self.stream.len() + bytes.len();
        if need > STREAM_LEN {
            return Err(WireError::Length {
                what: "order-entry stream",
                need: STREAM_LEN,
                got: need,
            });
        }
        self.stream.extend_from_slice(bytes);
        Ok(())
    }

    /// The next thing in the stream.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not what the protocol allows now; the connection is to be
    /// reset.
    pub fn next_incoming(&mut self) -> Result<Incoming, WireError> {
        loop {
            let start = self.consumed;
            let Some((packet, len)) = Packet::decode(&self.stream[start..])? else {
                return Ok(Incoming::Nothing);
            };
            self.consumed += len;
            match (self.phase, packet) {
                (_, Packet::Debug(_)) | (Phase::Waiting, _) => {}
                (Phase::LoginSent, Packet::LoginAccepted(accepted)) => {
                    let wrong = |field| Err(WireError::Value { what: "Login Accepted", field });
                    if accepted.sequence.parse_decimal() != Some(self.next) {
                        return wrong("sequence");
                    }
                    if ![Session::BLANK, accepted.session].contains(&self.session) {
                        return wrong("session");
                    }
                    self.session = accepted.session;
                    self.refusals = 0;
                    self.phase = Phase::Up;
                    return Ok(Incoming::LoggedIn);
                }
                (Phase::LoginSent, Packet::LoginRejected(why)) => {
                    return Ok(Incoming::Refused(why));
                }
                (Phase::Up, Packet::Sequenced(payload)) => {
                    self.message = (start + len - payload.len(), start + len);
                    self.next += 1;
                    return Ok(Incoming::Message);
                }
                (Phase::Up, Packet::ServerHeartbeat) => return Ok(Incoming::Idle),
                (Phase::LoginSent, Packet::ServerHeartbeat) => {}
                (Phase::Up, Packet::EndOfSession) => {
                    self.phase = Phase::Ended;
                    return Ok(Incoming::Ended);
                }
                _ => return Err(WireError::Value { what: "SoupBinTCP packet", field: "type" }),
            }
        }
    }

    /// The sequenced message that [`Incoming::Message`] announced.
    pub fn message(&self) -> &[u8] {
        &self.stream[self.message.0..self.message.1]
    }

    /// Says that something else was sent, so that no heartbeat is due.
    pub fn note_sent(&mut self, now: u64) {
        self.sent_at = now;
    }

    /// Sends a heartbeat if one is due. `false` if the server has been silent for too long.
    pub fn tick(&mut self, now: u64, out: &mut Vec<u8>) -> bool {
        if matches!(self.phase, Phase::Down | Phase::Ended) {
            return true;
        }
        if self.phase == Phase::Waiting {
            if self.may_log_in(now) {
                self.log_in(now, out);
            }
            return true;
        }
        if now.saturating_sub(self.heard_at) > SILENCE_MAX_NS {
            return false;
        }
        if self.phase == Phase::Up && now.saturating_sub(self.sent_at) >= HEARTBEAT_INTERVAL_NS {
            Packet::ClientHeartbeat.encode_to(out);
            self.sent_at = now;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::soup::LoginAccepted;

    fn server(packets: &[Packet<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        packets.iter().for_each(|packet| packet.encode_to(&mut bytes));
        bytes
    }

    fn accepted(sequence: u64) -> Packet<'static> {
        let sequence = Alpha::decimal_right(sequence).unwrap();
        Packet::LoginAccepted(LoginAccepted { session: Session::new("DAY").unwrap(), sequence })
    }

    fn client() -> Client {
        Client::new(Login::new("user", "pass").unwrap())
    }

    #[test]
    fn a_reconnect_asks_for_the_next_message_of_the_same_session() {
        let (mut client, mut out) = (client(), Vec::new());
        client.connected(0, &mut out);
        client
            .receive(
                &server(&[accepted(1), Packet::Sequenced(b"one"), Packet::Sequenced(b"two")]),
                0,
            )
            .unwrap();
        assert_eq!(client.next_incoming(), Ok(Incoming::LoggedIn));
        assert_eq!(client.next_incoming(), Ok(Incoming::Message));
        assert_eq!(client.message(), b"one");
        assert_eq!(client.next_incoming(), Ok(Incoming::Message));
        assert_eq!(client.next_incoming(), Ok(Incoming::Nothing));
        client.lost();
        out.clear();
        client.connected(5, &mut out);
        let Ok(Some((Packet::LoginRequest(request), _))) = Packet::decode(&out) else { panic!() };
        assert_eq!(
            (request.requested_session.text(), request.requested_sequence.parse_decimal()),
            ("DAY".into(), Some(3))
        );
        client.receive(&server(&[accepted(4)]), 5).unwrap();
        assert!(client.next_incoming().is_err(), "the server skipped a message");
    }

    #[test]
    fn heartbeats_go_out_and_silence_is_noticed() {
        let (mut client, mut out) = (client(), Vec::new());
        client.connected(0, &mut out);
        client.receive(&server(&[accepted(1)]), 0).unwrap();
        client.next_incoming().unwrap();
        out.clear();
        assert!(client.tick(HEARTBEAT_INTERVAL_NS - 1, &mut out) && out.is_empty());
        assert!(client.tick(HEARTBEAT_INTERVAL_NS, &mut out));
        assert_eq!(out, server(&[Packet::ClientHeartbeat]));
        assert!(!client.tick(SILENCE_MAX_NS + 1, &mut out));
    }

    #[test]
    fn a_message_before_the_login_is_an_error() {
        let (mut client, mut out) = (client(), Vec::new());
        client.connected(0, &mut out);
        client.receive(&server(&[Packet::Sequenced(b"early")]), 0).unwrap();
        assert!(client.next_incoming().is_err());
    }
}
