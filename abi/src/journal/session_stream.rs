//! The order-entry stream as the journal has it: bytes as they came, cut into SoupBinTCP packets
//! again.

use super::{Kind, Record};
use crate::mold::Session;
use crate::soup::Packet;

/// One thing that the exchange said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent<'a> {
    /// A login was accepted; the next message has this number.
    Login(Session, u64),
    /// A sequenced message with its number in the session.
    Message(Session, u64, &'a [u8]),
}

/// Cuts the stream of one journal. Packets run over the ends of records, but not of connections.
#[derive(Default)]
pub struct Stream {
    bytes: Vec<u8>,
    /// Whether the stream has been read from a connection's start.
    is_in_step: bool,
    session: Option<Session>,
    next: u64,
}

impl Stream {
    /// Takes a record, and hands over what it completes.
    pub fn take(&mut self, record: &Record<'_>, mut on: impl FnMut(SessionEvent<'_>)) {
        match record.kind {
            Kind::RunStarted | Kind::SessionConnected | Kind::SessionLost => {
                self.bytes.clear();
                self.session = None;
                self.is_in_step = true;
            }
            Kind::SessionBytes if self.is_in_step => self.bytes.extend_from_slice(record.payload),
            _ => return,
        }
        let mut end = 0;
        while let Ok(Some((packet, len))) = Packet::decode(&self.bytes[end..]) {
            end += len;
            match (packet, self.session) {
                (Packet::LoginAccepted(login), _) => {
                    self.session = Some(login.session);
                    self.next = login.sequence.parse_decimal().unwrap_or(1);
                    on(SessionEvent::Login(login.session, self.next));
                }
                (Packet::Sequenced(message), Some(session)) => {
                    on(SessionEvent::Message(session, self.next, message));
                    self.next += 1;
                }
                _ => {}
            }
        }
        self.bytes.drain(..end);
    }

    /// Says that records are missing: nothing can be read before the next connection.
    pub fn lose_step(&mut self) {
        self.bytes.clear();
        self.is_in_step = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Alpha;
    use crate::soup::LoginAccepted;

    #[test]
    fn packets_run_over_records_and_end_with_their_connection() {
        let session = Session::new("DAY").unwrap();
        let mut bytes = Vec::new();
        let sequence = Alpha::decimal_right(7).unwrap();
        Packet::LoginAccepted(LoginAccepted { session, sequence }).encode_to(&mut bytes);
        Packet::Sequenced(b"one").encode_to(&mut bytes);
        Packet::ServerHeartbeat.encode_to(&mut bytes);
        Packet::Sequenced(b"two").encode_to(&mut bytes);
        let mut stream = Stream::default();
        let mut heard = Vec::new();
        let mut feed = |kind, payload: &[u8]| {
            let record = Record { kind, sequence: 1, time_ns: 0, payload };
            stream.take(&record, |what| {
                heard.push(match what {
                    SessionEvent::Login(_, next) => format!("login {next}"),
                    SessionEvent::Message(_, number, text) => {
                        format!("{number} {}", String::from_utf8_lossy(text))
                    }
                });
            });
        };
        feed(Kind::SessionBytes, &bytes);
        feed(Kind::SessionConnected, &[]);
        bytes.chunks(5).for_each(|part| feed(Kind::SessionBytes, part));
        feed(Kind::SessionBytes, &bytes[..3]);
        feed(Kind::SessionConnected, &[]);
        feed(Kind::SessionBytes, &bytes[..36]);
        assert_eq!(heard, ["login 7", "7 one", "8 two", "login 7"]);
    }
}
