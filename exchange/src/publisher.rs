//! The session's messages by sequence number, and the MoldUDP64 datagrams made of them.

use crate::limits::{MESSAGES_MAX, REPLAY_DATAGRAMS_MAX};
use abi::mold::{END_OF_SESSION, Header, PacketBuilder, Request, Session};

/// Everything published in one session.
pub struct Publisher {
    session: Session,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    published: usize,
    window: usize,
}

impl Publisher {
    /// A session without messages.
    pub fn new(session: Session) -> Self {
        let (bytes, ends) = (Vec::new(), Vec::new());
        Self { session, bytes, ends, published: 0, window: usize::MAX }
    }

    /// Answers re-requests for the last `window` messages only, as a request server does that
    /// forgets.
    pub fn forget_before(&mut self, window: usize) {
        self.window = window;
    }

    /// The session's name.
    pub fn session(&self) -> Session {
        self.session
    }

    /// Messages so far.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Whether no message can be added any more.
    pub fn is_full(&self) -> bool {
        self.ends.len() >= MESSAGES_MAX
    }

    /// Adds a message.
    pub fn push(&mut self, message: &[u8]) {
        self.bytes.extend_from_slice(message);
        self.ends.push(self.bytes.len());
    }

    fn message(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    /// The datagrams with messages `from..to` (indices, one less than sequence numbers).
    fn datagrams(&self, from: usize, to: usize) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let mut at = from;
        while at < to {
            let mut builder = PacketBuilder::new(self.session, at as u64 + 1);
            while at < to && builder.push(self.message(at)) {
                at += 1;
            }
            assert!(builder.count() > 0, "an ITCH message fits into a datagram");
            datagrams.push(builder.finish());
        }
        datagrams
    }

    /// The datagrams with everything that was added since the last call.
    pub fn take_new(&mut self) -> Vec<Vec<u8>> {
        let from = std::mem::replace(&mut self.published, self.ends.len());
        self.datagrams(from, self.published)
    }

    /// The heartbeat: what comes next.
    pub fn heartbeat(&self) -> Vec<u8> {
        PacketBuilder::new(self.session, self.published as u64 + 1).finish()
    }

    /// The session's end.
    pub fn end_of_session(&self) -> Vec<u8> {
        let sequence = self.published as u64 + 1;
        Header { session: self.session, sequence, count: END_OF_SESSION }.to_bytes().to_vec()
    }

    /// The answer to a re-request: at most [`REPLAY_DATAGRAMS_MAX`] datagrams, none for a request
    /// of another session or of messages that are not out.
    pub fn replay(&self, request: &Request) -> Vec<Vec<u8>> {
        let from = match usize::try_from(request.sequence) {
            Ok(sequence) if request.session == self.session && sequence >= 1 => sequence - 1,
            _ => return Vec::new(),
        };
        let to = from.saturating_add(usize::from(request.count)).min(self.published);
        let forgotten = self.published.saturating_sub(self.window);
        if from >= to || from < forgotten {
            return Vec::new();
        }
        let mut datagrams = self.datagrams(from, to.min(from + REPLAY_DATAGRAMS_MAX * 40));
        datagrams.truncate(REPLAY_DATAGRAMS_MAX);
        datagrams
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::mold::Packet;

    #[test]
    fn what_is_published_can_be_asked_for_again() {
        let mut publisher = Publisher::new(Session::new("S").unwrap());
        (0..200u8).for_each(|n| publisher.push(&[n; 36]));
        let live = publisher.take_new();
        assert!(live.len() > 1 && publisher.take_new().is_empty());
        publisher.push(b"not out yet");
        let request = |sequence, count| Request { session: publisher.session(), sequence, count };
        let again = publisher.replay(&request(1, 1000));
        assert_eq!(again, live);
        let one = publisher.replay(&request(5, 1));
        let packet = Packet::decode(&one[0]).unwrap();
        assert_eq!(packet.messages().collect::<Vec<_>>(), [[4u8; 36]]);
        assert!(publisher.replay(&request(201, 1)).is_empty());
        assert!(publisher.replay(&request(0, 1)).is_empty());
        let foreign = Request { session: Session::BLANK, sequence: 1, count: 1 };
        assert!(publisher.replay(&foreign).is_empty());
    }
}
