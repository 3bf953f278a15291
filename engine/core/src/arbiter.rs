//! Two feed lines and a request server become one sequence without holes (MoldUDP64 1.00).
//! Decides what to apply, hold, drop and ask for; sends nothing and reads no clock.

use crate::limits::HELD_PACKETS_MAX;
use abi::mold::{DATAGRAM_LEN_MAX, Packet, PacketKind, Request, Session};

/// Arbitration result for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Apply its messages from number `skip` on, then call [`Arbiter::advance`].
    Apply {
        /// Messages at its start that were applied before.
        skip: u16,
    },
    /// Kept until what is missing before it has come.
    Held,
    /// Everything in it was applied before, or it carries nothing new.
    Duplicate,
    /// Too many are held; it will be asked for again.
    WindowFull,
    /// Datagram of another session, or with a sequence number that overflows.
    Foreign,
    /// The session is over and all of it was applied.
    Ended,
}

/// A datagram kept for later.
#[derive(Clone)]
struct Held {
    sequence: u64,
    len: usize,
    bytes: [u8; DATAGRAM_LEN_MAX],
}

/// Arbitration and gap state of one feed.
pub struct Arbiter {
    session: Option<Session>,
    next: u64,
    /// One past the highest sequence number heard of.
    known_end: u64,
    gap_since: Option<u64>,
    requested_at: Option<u64>,
    heard: bool,
    held: Box<[Option<Held>]>,
    held_count: usize,
    /// When messages were applied last.
    advanced_at: u64,
    /// A snapshot is being taken in: everything is held.
    is_rebuilding: bool,
}

impl Arbiter {
    /// Starts before sequence number 1 of `session`, or of the first one heard.
    pub fn new(session: Option<Session>) -> Self {
        let held = vec![None; HELD_PACKETS_MAX].into_boxed_slice();
        Self {
            session,
            next: 1,
            known_end: 1,
            gap_since: None,
            requested_at: None,
            heard: false,
            held,
            held_count: 0,
            advanced_at: 0,
            is_rebuilding: false,
        }
    }

    /// The next sequence number to apply.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether the feed was heard and nothing heard of is missing.
    pub fn is_whole(&self) -> bool {
        self.heard && self.next == self.known_end && !self.is_rebuilding
    }

    /// For how long nothing could be applied because something is missing, and how many messages
    /// are.
    pub fn stuck(&self, now: u64) -> Option<(u64, u64)> {
        let since = self.gap_since?.max(self.advanced_at);
        Some((now.saturating_sub(since), self.known_end - self.next))
    }

    /// The session that is followed.
    pub fn session(&self) -> Option<Session> {
        self.session
    }

    /// Holds everything back until [`Self::end_rebuild`].
    pub fn begin_rebuild(&mut self) {
        self.is_rebuilding = true;
    }

    /// Goes on at `next`: all before it is in the books.
    pub fn end_rebuild(&mut self, next: u64, now: u64) {
        self.is_rebuilding = false;
        self.heard = true;
        (self.gap_since, self.requested_at) = (None, None);
        self.known_end = self.known_end.max(next);
        self.advance(next, now);
    }

    /// One past the last message of a datagram about which nothing is to be decided: it is the next
    /// one, nothing was missed before it, and nothing waits behind it.
    #[inline]
    pub fn plain_end(&self, packet: &Packet<'_>) -> Option<u64> {
        let is_plain = self.next == self.known_end
            && self.held_count == 0
            && self.heard
            && self.is_next(packet);
        let end = packet.header.sequence.checked_add(packet.message_count().into());
        end.filter(|_| is_plain)
    }

    /// Says that all messages of a plain datagram were applied.
    #[inline]
    pub fn advance_plainly(&mut self, end: u64, now: u64) {
        (self.next, self.known_end, self.advanced_at) = (end, end, now);
    }

    /// Whether a datagram's first message is the next one of the session.
    #[inline]
    pub fn is_next(&self, packet: &Packet<'_>) -> bool {
        packet.header.sequence == self.next
            && !self.is_rebuilding
            && packet.message_count() > 0
            && self.session == Some(packet.header.session)
    }

    /// Whether datagrams are held back.
    #[inline]
    pub fn is_holding(&self) -> bool {
        self.held_count > 0
    }

    /// All that a datagram which is neither applied nor held can change.
    pub fn knowledge(&self) -> (bool, u64, Option<u64>, Option<u64>) {
        (self.heard, self.known_end, self.gap_since, self.requested_at)
    }

    /// Judges a datagram. `bytes` are those `packet` was read from.
    #[inline]
    pub fn on_packet(&mut self, packet: &Packet<'_>, bytes: &[u8], now: u64) -> Arrival {
        let header = packet.header;
        if *self.session.get_or_insert(header.session) != header.session {
            return Arrival::Foreign;
        }
        self.heard = true;
        let count = u64::from(packet.message_count());
        let Some(end) = header.sequence.checked_add(count) else { return Arrival::Foreign };
        self.known_end = self.known_end.max(end);
        let arrival = self.place(packet, bytes, end);
        self.note_gap(now);
        arrival
    }

    fn place(&mut self, packet: &Packet<'_>, bytes: &[u8], end: u64) -> Arrival {
        let sequence = packet.header.sequence;
        match packet.kind() {
            PacketKind::EndOfSession if sequence == self.next => Arrival::Ended,
            PacketKind::Data if self.is_rebuilding => self.hold(sequence, bytes),
            PacketKind::Data if end <= self.next => Arrival::Duplicate,
            PacketKind::Data if sequence <= self.next => {
                Arrival::Apply { skip: (self.next - sequence) as u16 }
            }
            PacketKind::Data => self.hold(sequence, bytes),
            PacketKind::Heartbeat | PacketKind::EndOfSession => Arrival::Duplicate,
        }
    }

    fn hold(&mut self, sequence: u64, bytes: &[u8]) -> Arrival {
        let mut free = None;
        for slot in &mut self.held {
            match slot {
                Some(held) if held.sequence == sequence => return Arrival::Duplicate,
                Some(_) => {}
                None => free = Some(slot),
            }
        }
        let Some(slot) = free else { return Arrival::WindowFull };
        if bytes.len() > DATAGRAM_LEN_MAX {
            return Arrival::WindowFull;
        }
        let mut held = Held { sequence, len: bytes.len(), bytes: [0; DATAGRAM_LEN_MAX] };
        held.bytes[..bytes.len()].copy_from_slice(bytes);
        *slot = Some(held);
        self.held_count += 1;
        Arrival::Held
    }

    /// Says that all messages before `next` were applied.
    #[inline]
    pub fn advance(&mut self, next: u64, now: u64) {
        self.next = next;
        self.advanced_at = now;
        if self.next == self.known_end {
            self.gap_since = None;
            self.requested_at = None;
        } else {
            self.note_gap(now);
        }
    }

    /// Copies out a held datagram that can be applied now, and forgets it; forgets outdated ones.
    #[inline]
    pub fn take_ready(&mut self, out: &mut [u8; DATAGRAM_LEN_MAX]) -> Option<usize> {
        if self.held_count == 0 {
            return None;
        }
        let next = self.next;
        let ready =
            |slot: &&mut Option<Held>| slot.as_ref().is_some_and(|held| held.sequence <= next);
        let held = self.held.iter_mut().find(ready)?.take()?;
        self.held_count -= 1;
        out[..held.len].copy_from_slice(&held.bytes[..held.len]);
        Some(held.len)
    }

    fn note_gap(&mut self, now: u64) {
        if self.next < self.known_end && self.gap_since.is_none() {
            self.gap_since = Some(now);
        }
    }

    /// The re-request that is due, if any. `replayed` says that the request server just answered,
    /// so that the next piece of a long gap is asked for at once.
    pub fn due_request(
        &mut self,
        now: u64,
        wait_ns: u64,
        retry_ns: u64,
        replayed: bool,
    ) -> Option<Request> {
        let since = self.gap_since.filter(|_| !self.is_rebuilding)?;
        let waited = now.saturating_sub(since) >= wait_ns;
        let retry = self.requested_at.is_none_or(|at| now.saturating_sub(at) >= retry_ns);
        if !(waited && retry || replayed) {
            return None;
        }
        self.requested_at = Some(now);
        let missing_end = self.held.iter().flatten().map(|held| held.sequence).min();
        let end = missing_end.unwrap_or(self.known_end).max(self.next + 1);
        let count = (end - self.next).min(u64::from(abi::mold::END_OF_SESSION) - 1) as u16;
        Some(Request { session: self.session?, sequence: self.next, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::mold::PacketBuilder;

    fn datagram(sequence: u64, count: u16) -> Vec<u8> {
        let mut builder = PacketBuilder::new(Session::new("S").unwrap(), sequence);
        (0..count).for_each(|_| assert!(builder.push(b"m")));
        builder.finish()
    }

    fn arrive(arbiter: &mut Arbiter, sequence: u64, count: u16) -> Arrival {
        let bytes = datagram(sequence, count);
        let arrival = arbiter.on_packet(&Packet::decode(&bytes).unwrap(), &bytes, 5);
        if let Arrival::Apply { .. } = arrival {
            arbiter.advance(sequence + u64::from(count), 5);
        }
        arrival
    }

    #[test]
    fn the_second_line_is_a_duplicate_and_an_overlap_is_skipped() {
        let mut arbiter = Arbiter::new(None);
        assert_eq!(arrive(&mut arbiter, 1, 3), Arrival::Apply { skip: 0 });
        assert_eq!(arrive(&mut arbiter, 1, 3), Arrival::Duplicate);
        assert_eq!(arrive(&mut arbiter, 2, 4), Arrival::Apply { skip: 2 });
        assert_eq!(arbiter.next(), 6);
    }

    #[test]
    fn a_gap_holds_what_follows_and_is_requested_after_the_wait() {
        let mut arbiter = Arbiter::new(None);
        arrive(&mut arbiter, 1, 1);
        assert_eq!(arrive(&mut arbiter, 4, 2), Arrival::Held);
        assert_eq!(arrive(&mut arbiter, 4, 2), Arrival::Duplicate);
        assert!(!arbiter.is_whole());
        assert_eq!(arbiter.due_request(5, 10, 100, false), None);
        let request = arbiter.due_request(15, 10, 100, false).unwrap();
        assert_eq!((request.sequence, request.count), (2, 2));
        assert_eq!(arbiter.due_request(16, 10, 100, false), None);
        assert!(arbiter.due_request(115, 10, 100, false).is_some());
        assert_eq!(arrive(&mut arbiter, 2, 2), Arrival::Apply { skip: 0 });
        let mut out = [0; DATAGRAM_LEN_MAX];
        let len = arbiter.take_ready(&mut out).unwrap();
        assert_eq!(Packet::decode(&out[..len]).unwrap().header.sequence, 4);
        arbiter.advance(6, 20);
        assert!(arbiter.is_whole());
        assert_eq!(arbiter.due_request(1000, 10, 100, false), None);
    }

    #[test]
    fn a_heartbeat_reveals_a_lost_tail() {
        let mut arbiter = Arbiter::new(None);
        arrive(&mut arbiter, 1, 1);
        assert_eq!(arrive(&mut arbiter, 9, 0), Arrival::Duplicate);
        let request = arbiter.due_request(15, 10, 100, false).unwrap();
        assert_eq!((request.sequence, request.count), (2, 7));
    }

    #[test]
    fn everything_is_held_during_a_rebuild_and_applied_from_its_end_on() {
        let mut arbiter = Arbiter::new(None);
        assert_eq!(arrive(&mut arbiter, 50, 2), Arrival::Held);
        assert_eq!(arbiter.stuck(105), Some((100, 51)));
        arbiter.begin_rebuild();
        assert_eq!(arrive(&mut arbiter, 1, 2), Arrival::Held);
        assert_eq!(arrive(&mut arbiter, 52, 2), Arrival::Held);
        assert_eq!((arbiter.is_whole(), arbiter.due_request(1000, 10, 10, false)), (false, None));
        arbiter.end_rebuild(51, 9);
        let mut out = [0; DATAGRAM_LEN_MAX];
        let mut ready = Vec::new();
        while let Some(len) = arbiter.take_ready(&mut out) {
            let packet = Packet::decode(&out[..len]).unwrap();
            let end = packet.header.sequence + u64::from(packet.message_count());
            if end > arbiter.next() {
                arbiter.advance(end, 9);
            }
            ready.push(packet.header.sequence);
        }
        ready.sort_unstable();
        assert_eq!((ready, arbiter.next(), arbiter.is_whole()), (vec![1, 50, 52], 54, true));
    }

    #[test]
    fn another_session_and_a_full_window_are_told_apart() {
        let mut arbiter = Arbiter::new(Session::new("T"));
        assert_eq!(arrive(&mut arbiter, 1, 1), Arrival::Foreign);
        let mut arbiter = Arbiter::new(None);
        for index in 0..HELD_PACKETS_MAX as u64 {
            assert_eq!(arrive(&mut arbiter, 10 + index, 1), Arrival::Held);
        }
        assert_eq!(arrive(&mut arbiter, 500, 1), Arrival::WindowFull);
    }
}
