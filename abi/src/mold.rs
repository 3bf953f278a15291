//! MoldUDP64 1.00: the datagrams that carry ITCH, and the re-request. No sockets, no arbitration.
//!
//! Source: "MoldUDP64 Protocol Specification V 1.00", NASDAQ.
//!
//! ```text
//! downstream   0          10               18      20
//!              ┌──────────┬────────────────┬───────┬───────────────┬───────────────┬──
//!              │ session  │ sequence (u64) │ count │ len │ message  │ len │ message  │ …
//!              └──────────┴────────────────┴───────┴───────────────┴───────────────┴──
//!              count 0: heartbeat; count 0xFFFF: end of session; both name the *next* sequence
//! request      session, sequence, count: the same 20 bytes, client to server, nothing behind them
//! ```

use crate::field::Alpha;
use crate::wire::WireError;

/// A MoldUDP64 or SoupBinTCP session name.
pub type Session = Alpha<10>;

/// `count` of a packet that says the session is over.
pub const END_OF_SESSION: u16 = 0xffff;

/// The longest datagram that this project sends: an Ethernet MTU less IPv4 and UDP headers.
pub const DATAGRAM_LEN_MAX: usize = 1472;

layout! {
    /// The header of a downstream packet.
    Header, 20 { session: Session, sequence: u64, count: u16 }

    /// A request for messages that were missed.
    Request, 20 { session: Session, sequence: u64, count: u16 }
}

/// A downstream packet whose message blocks have all been found inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Session, first sequence number, count.
    pub header: Header,
    blocks: &'a [u8],
}

/// Kind of a downstream packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// `count` messages from `sequence` on.
    Data,
    /// Nothing to send; `sequence` is the next one to come.
    Heartbeat,
    /// The session is over; `sequence` is one past its last message.
    EndOfSession,
}

impl<'a> Packet<'a> {
    /// Reads a datagram and checks that every announced block lies inside it, with nothing left
    /// over.
    ///
    /// # Errors
    /// [`WireError::Length`] when a block is cut off or bytes are left over.
    #[inline]
    pub fn decode(datagram: &'a [u8]) -> Result<Self, WireError> {
        let header = Header::decode(datagram)?;
        let blocks = &datagram[Header::LEN..];
        let packet = Self { header, blocks };
        let mut end = 0;
        for _ in 0..packet.message_count() {
            let cut =
                WireError::Length { what: "MoldUDP64 block", need: end + 2, got: blocks.len() };
            let length = blocks.get(end..end + 2).ok_or(cut)?;
            end += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        }
        if end != blocks.len() {
            return Err(WireError::Length {
                what: "MoldUDP64 blocks",
                need: end,
                got: blocks.len(),
            });
        }
        Ok(packet)
    }

    /// Returns the kind of the packet.
    #[inline]
    pub fn kind(&self) -> PacketKind {
        match self.header.count {
            0 => PacketKind::Heartbeat,
            END_OF_SESSION => PacketKind::EndOfSession,
            _ => PacketKind::Data,
        }
    }

    /// Messages in the packet.
    #[inline]
    pub fn message_count(&self) -> u16 {
        if self.header.count == END_OF_SESSION { 0 } else { self.header.count }
    }

    /// The messages, in sequence.
    #[inline]
    pub fn messages(&self) -> Messages<'a> {
        Messages { rest: self.blocks }
    }
}

/// The messages of one packet.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, body) = self.rest.split_first_chunk::<2>()?;
        let (message, rest) = body.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.rest = rest;
        Some(message)
    }
}

/// Builds downstream packets.
#[derive(Debug, Clone)]
pub struct PacketBuilder {
    header: Header,
    bytes: Vec<u8>,
}

impl PacketBuilder {
    /// An empty packet that starts at `sequence`.
    pub fn new(session: Session, sequence: u64) -> Self {
        let header = Header { session, sequence, count: 0 };
        let mut bytes = Vec::with_capacity(DATAGRAM_LEN_MAX);
        bytes.extend_from_slice(&header.to_bytes());
        Self { header, bytes }
    }

    /// Adds a message; `false`, and nothing added, when the datagram would outgrow its limit.
    pub fn push(&mut self, message: &[u8]) -> bool {
        let fits = self.bytes.len() + 2 + message.len() <= DATAGRAM_LEN_MAX;
        let Ok(length) = u16::try_from(message.len()) else { return false };
        if !fits || self.header.count == END_OF_SESSION - 1 {
            return false;
        }
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(message);
        self.header.count += 1;
        true
    }

    /// Messages in the packet so far.
    pub fn count(&self) -> u16 {
        self.header.count
    }

    /// The datagram. With no message in it, it is a heartbeat.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[..Header::LEN].copy_from_slice(&self.header.to_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new("DAY0000001").unwrap()
    }

    #[test]
    fn a_packet_carries_its_messages() {
        let mut builder = PacketBuilder::new(session(), 7);
        assert!(builder.push(b"one") && builder.push(b"") && builder.push(b"three"));
        let datagram = builder.finish();
        let packet = Packet::decode(&datagram).unwrap();
        assert_eq!((packet.kind(), packet.header.sequence), (PacketKind::Data, 7));
        assert_eq!(packet.messages().collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn heartbeat_and_end_of_session_carry_none() {
        let heartbeat = PacketBuilder::new(session(), 9).finish();
        assert_eq!(Packet::decode(&heartbeat).unwrap().kind(), PacketKind::Heartbeat);
        let end = Header { session: session(), sequence: 9, count: END_OF_SESSION }.to_bytes();
        let packet = Packet::decode(&end).unwrap();
        assert_eq!((packet.kind(), packet.messages().count()), (PacketKind::EndOfSession, 0));
    }

    #[test]
    fn cut_and_overlong_datagrams_are_refused() {
        let mut builder = PacketBuilder::new(session(), 1);
        builder.push(b"message");
        let datagram = builder.finish();
        for end in 0..datagram.len() {
            assert!(Packet::decode(&datagram[..end]).is_err(), "cut at {end}");
        }
        assert!(Packet::decode(&[&datagram[..], b"!"].concat()).is_err());
    }

    #[test]
    fn a_full_packet_takes_no_more() {
        let mut builder = PacketBuilder::new(session(), 1);
        while builder.push(&[0; 40]) {}
        let datagram = builder.finish();
        assert!(datagram.len() <= DATAGRAM_LEN_MAX && datagram.len() + 42 > DATAGRAM_LEN_MAX);
        assert!(Packet::decode(&datagram).is_ok());
    }
}
