//! Recovery from the journal of earlier runs: how much of the order-entry session was received, and
//! which numbers were used. The core decides what follows from it.

use abi::control::Orders;
use abi::journal::session_stream::{SessionEvent, Stream};
use abi::journal::{Kind, Record, Recovery, Segment, StopReason};
use abi::mold::Session;
use abi::ouch::inbound::Message;
use abi::soup::Packet;
use abi::wire::Field;

/// The journal as far as it was read.
#[derive(Default)]
pub struct Past {
    session: Option<Session>,
    messages: u64,
    user_ref_max: u32,
    stopped: Option<StopReason>,
    stream: Stream,
    said: Vec<u8>,
}

impl Past {
    /// Reads a segment; returns the number of its last whole record, 0 for none. Whatever follows a
    /// damaged record was never certain to be on disk.
    pub fn read(&mut self, segment: &[u8]) -> u64 {
        let mut last = 0;
        for record in Segment::open(segment).into_iter().flatten().map_while(Result::ok) {
            last = record.sequence;
            self.take(&record);
        }
        last
    }

    /// Takes a record. Packets run over the ends of records, but not of connections.
    pub fn take(&mut self, record: &Record<'_>) {
        let mut stream = std::mem::take(&mut self.stream);
        stream.take(record, |heard| self.hear(heard));
        self.stream = stream;
        match record.kind {
            Kind::RunStarted | Kind::SessionConnected | Kind::SessionLost => self.said.clear(),
            // A stop counts until somebody resumes, whichever run it was in; a journal that could
            // not be written is tried again.
            Kind::Stopped => {
                let reason = StopReason::get(record.payload);
                self.stopped = reason.filter(|it| *it != StopReason::Journal).or(self.stopped);
            }
            Kind::Control => {
                let orders = Orders::from_bits(record.payload.first().copied().unwrap_or(0));
                if orders.kill {
                    self.stopped = self.stopped.or(Some(StopReason::Killed));
                } else if orders.resume {
                    self.stopped = None;
                }
            }
            Kind::Context => {
                // Its own record may be overwritten by now.
                self.stopped = Recovery::from_bytes(record.payload).and_then(|it| it.stopped);
                if let Some(now) = Recovery::from_bytes(record.payload)
                    && now.session != Session::BLANK.0
                    && self.session.is_none()
                {
                    // What came before is overwritten, and with it perhaps the beginning of a
                    // packet.
                    self.session = Some(abi::field::Alpha(now.session));
                    (self.messages, self.user_ref_max) = (now.messages, now.user_ref_max);
                    self.stream.lose_step();
                }
            }
            // What the runs before that one had left: their records may be overwritten by now.
            Kind::Recovered => {
                let before = Recovery::from_bytes(record.payload).unwrap_or_default();
                let session = (before.session != Session::BLANK.0)
                    .then_some(abi::field::Alpha(before.session));
                if self.session.is_none() || self.session == session {
                    self.session = session;
                    self.messages = self.messages.max(before.messages);
                    self.user_ref_max = self.user_ref_max.max(before.user_ref_max);
                }
            }
            Kind::SessionSent => {
                self.said.extend_from_slice(record.payload);
                while let Some(len) = self.next_said() {
                    self.said.drain(..len);
                }
            }
            _ => {}
        }
    }

    fn hear(&mut self, heard: SessionEvent<'_>) {
        match heard {
            SessionEvent::Login(session, next) => {
                if self.session != Some(session) {
                    (self.messages, self.user_ref_max) = (0, 0);
                }
                self.session = Some(session);
                // A run starts with the session's first message, however much was heard before it.
                self.messages = self.messages.max(next.saturating_sub(1));
            }
            SessionEvent::Message(_, number, _) => self.messages = self.messages.max(number),
        }
    }

    fn next_said(&mut self) -> Option<usize> {
        let (packet, len) = Packet::decode(&self.said).ok()??;
        if let Packet::Unsequenced(message) = packet {
            let user_ref = match Message::decode(message) {
                Ok((Message::EnterOrder(m), _)) => m.user_ref_num,
                Ok((Message::ReplaceOrder(m), _)) => m.user_ref_num,
                Ok((Message::MassCancel(m), _)) => m.user_ref_num,
                _ => 0,
            };
            self.user_ref_max = self.user_ref_max.max(user_ref);
        }
        Some(len)
    }

    /// Returns the session, message count and highest UserRefNum for the next run.
    pub fn recovery(&self) -> Recovery {
        let session = self.session.unwrap_or(Session::BLANK).0;
        let Self { messages, user_ref_max, stopped, .. } = *self;
        Recovery { session, messages, user_ref_max, stopped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::field::Alpha;
    use abi::soup::LoginAccepted;

    fn take(past: &mut Past, kind: Kind, payload: &[u8]) {
        past.take(&Record { kind, sequence: 1, time_ns: 0, payload });
    }

    fn bytes(packets: &[Packet<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        packets.iter().for_each(|packet| packet.encode_to(&mut bytes));
        bytes
    }

    /// The ring has come round in the middle of a run: its beginning, the login included, is gone.
    #[test]
    fn a_journal_without_its_runs_beginning_still_says_how_far_the_run_was() {
        let session = Session::new("DAY").unwrap();
        let context =
            Recovery { session: session.0, messages: 70, user_ref_max: 33, stopped: None };
        let mut past = Past::default();
        let rest_of_a_packet = &bytes(&[Packet::Sequenced(b"lost its head")])[4..];
        take(&mut past, Kind::SessionBytes, rest_of_a_packet);
        take(&mut past, Kind::Context, &context.to_bytes());
        take(&mut past, Kind::SessionBytes, &bytes(&[Packet::Sequenced(b"unnumbered")]));
        assert_eq!(past.recovery(), context);
        // From the next login on, everything counts again.
        let sequence = Alpha::decimal_right(72).unwrap();
        let login = Packet::LoginAccepted(LoginAccepted { session, sequence });
        take(&mut past, Kind::SessionConnected, &[]);
        let heard = bytes(&[login, Packet::Sequenced(b"72"), Packet::Sequenced(b"73")]);
        take(&mut past, Kind::SessionBytes, &heard);
        assert_eq!(past.recovery(), Recovery { messages: 73, ..context });
        // A later context, of a segment whose beginning is there, changes nothing.
        take(&mut past, Kind::Context, &context.to_bytes());
        assert_eq!(past.recovery().messages, 73);
    }

    #[test]
    fn what_the_run_before_had_found_counts_for_the_same_session_only() {
        let found =
            Recovery { session: *b"DAY       ", messages: 9, user_ref_max: 5, stopped: None };
        let mut past = Past::default();
        take(&mut past, Kind::Recovered, &found.to_bytes());
        assert_eq!(past.recovery(), found);
        let (session, sequence) = (Session::new("NEXT").unwrap(), Alpha::decimal_right(1).unwrap());
        take(&mut past, Kind::SessionConnected, &[]);
        let login = Packet::LoginAccepted(LoginAccepted { session, sequence });
        take(&mut past, Kind::SessionBytes, &bytes(&[login]));
        let fresh = Recovery { session: session.0, ..Recovery::default() };
        assert_eq!(past.recovery(), fresh);
    }

    #[test]
    fn a_stop_counts_until_somebody_resumes() {
        let mut past = Past::default();
        let stopped = |past: &Past| past.recovery().stopped;
        take(&mut past, Kind::Stopped, &[StopReason::Journal as u8]);
        assert_eq!(stopped(&past), None, "it is tried again");
        take(&mut past, Kind::Stopped, &[StopReason::Loss as u8]);
        take(&mut past, Kind::RunStarted, &[]);
        take(&mut past, Kind::Control, &[Orders::default().to_bits()]);
        assert_eq!(stopped(&past), Some(StopReason::Loss));
        let resume = Orders { resume: true, ..Orders::default() };
        take(&mut past, Kind::Control, &[resume.to_bits()]);
        assert_eq!(stopped(&past), None);
        let kill = Orders { kill: true, ..Orders::default() };
        take(&mut past, Kind::Control, &[kill.to_bits()]);
        assert_eq!(stopped(&past), Some(StopReason::Killed));
        // A segment whose records before are gone says it again, and an old one says nothing.
        let mut later = Past::default();
        let context = Recovery { stopped: Some(StopReason::Killed), ..Recovery::default() };
        take(&mut later, Kind::Context, &context.to_bytes());
        assert_eq!(stopped(&later), Some(StopReason::Killed));
        let old = &context.to_bytes()[..22];
        assert_eq!(Recovery::from_bytes(old), Some(Recovery::default()));
    }
}
