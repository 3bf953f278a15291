//! The FIX session layer of an acceptor with one counterparty. Takes messages and the time, decides
//! what is sent; no sockets. Source: "FIX 4.4 with Errata 20030618", volume 2, "FIX Session
//! Protocol".

use super::fix::{BEGIN_STRING, Fields, tag, utc_timestamp};
use super::store::{Again, Report, Store};
use std::io;

/// Identifiers (`SenderCompID`) of the session's two parties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// `SenderCompID` of the drop copy.
    pub sender: String,
    /// `SenderCompID` of the counterparty.
    pub target: String,
}

/// The longest heartbeat interval that a counterparty may ask for: ten minutes.
const HEARTBEAT_MAX_S: u64 = 600;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody is logged on.
    Down,
    /// Reports are sent as they come.
    Up,
    /// We asked for the end, and wait for the counterparty's.
    Leaving,
}

/// Decision on the connection: keep it, or close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Connection stays open.
    Keep,
    /// Connection is closed once pending output is sent.
    Close,
}

/// Reports on their way: from `next` to `to`, and whether they were sent before.
#[derive(Debug, Clone, Copy)]
struct Sending {
    next: u64,
    to: u64,
    again: bool,
}

/// One session, over any number of connections.
pub struct Session {
    names: Names,
    store: Store,
    phase: Phase,
    heartbeat_ns: u64,
    heard_at: u64,
    sent_at: u64,
    /// A test request waits for its answer.
    testing: bool,
    /// A resend was asked for, up to here.
    missing_until: u64,
    /// Reports that are being sent, in parts.
    sending: Option<Sending>,
    out: Vec<u8>,
}

impl Session {
    /// A session that goes on where its store ends.
    pub fn new(names: Names, store: Store) -> Self {
        Self {
            names,
            store,
            phase: Phase::Down,
            heartbeat_ns: 0,
            heard_at: 0,
            sent_at: 0,
            testing: false,
            missing_until: 0,
            sending: None,
            out: Vec::new(),
        }
    }

    /// Whether a counterparty is logged on.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// The bytes to send, on disk now.
    ///
    /// # Errors
    /// The store can't be written; nothing may be sent.
    pub fn take_output(&mut self) -> io::Result<Vec<u8>> {
        self.store.commit()?;
        Ok(std::mem::take(&mut self.out))
    }

    /// A new connection; what it says first must be a logon.
    pub fn connected(&mut self, now: u64) {
        self.phase = Phase::Down;
        (self.heard_at, self.sent_at) = (now, now);
        self.out.clear();
        self.missing_until = 0;
        self.sending = None;
    }

    /// The connection is gone.
    pub fn lost(&mut self) {
        self.phase = Phase::Down;
        self.out.clear();
        self.sending = None;
    }

    /// Whether more reports wait to be sent, once what was sent is on its way.
    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Gives a report its number, and sends it if somebody is logged on; else he asks for it later.
    pub fn publish(&mut self, report: &Fields, now: u64) {
        let report = self.store.add_report(report, now);
        // What comes while others are on their way follows them.
        if let Some(sending) = &mut self.sending {
            sending.to = report.sequence;
        } else if self.is_up() {
            self.send_report(&report, false, now);
        }
    }

    fn header(&self, kind: &str, sequence: u64, now: u64) -> Fields {
        let mut fields = Fields::new();
        fields.add(tag::MSG_TYPE, kind);
        fields.add(tag::SENDER_COMP_ID, &self.names.sender);
        fields.add(tag::TARGET_COMP_ID, &self.names.target);
        fields.add(tag::MSG_SEQ_NUM, sequence).add(tag::SENDING_TIME, utc_timestamp(now));
        fields
    }

    fn send_report(&mut self, report: &Report, again: bool, now: u64) {
        let mut header = self.header("8", report.sequence, now);
        if again {
            header.add(tag::POSS_DUP_FLAG, "Y");
            header.add(tag::ORIG_SENDING_TIME, utc_timestamp(report.time_ns));
        }
        self.put(&header, &report.text, now);
    }

    fn put(&mut self, header: &Fields, body: &str, now: u64) {
        self.out.extend(header.encode(body));
        self.sent_at = now;
    }

    /// Sends a session message with the next number.
    fn send(&mut self, kind: &str, body: &Fields, now: u64) {
        let sequence = self.store.add_session_message(now);
        let header = self.header(kind, sequence, now);
        self.put(&header, &body.to_text(), now);
    }

    fn log_out(&mut self, text: &str, now: u64) -> Fate {
        let mut body = Fields::new();
        body.add(tag::TEXT, text);
        self.send("5", &body, now);
        self.phase = Phase::Down;
        Fate::Close
    }

    fn reject(&mut self, message: &Fields, reason: u32, text: &str, now: u64) {
        let mut body = Fields::new();
        body.add(tag::REF_SEQ_NUM, message.number(tag::MSG_SEQ_NUM).unwrap_or(0));
        body.add(tag::REF_MSG_TYPE, message.get(tag::MSG_TYPE).unwrap_or_default());
        body.add(tag::SESSION_REJECT_REASON, reason).add(tag::TEXT, text);
        self.send("3", &body, now);
    }

    /// Takes a message of the counterparty.
    ///
    /// # Errors
    /// The store can't be read or written.
    pub fn on_message(&mut self, message: &Fields, now: u64) -> io::Result<Fate> {
        self.heard_at = now;
        self.testing = false;
        let kind = message.get(tag::MSG_TYPE).unwrap_or_default();
        let names = (message.get(tag::SENDER_COMP_ID), message.get(tag::TARGET_COMP_ID));
        let expected = (Some(self.names.target.as_str()), Some(self.names.sender.as_str()));
        if self.phase == Phase::Down {
            if kind != "A" || names != expected {
                // To a stranger nothing is said (volume 2, "Logon": disconnect without a logout).
                return Ok(Fate::Close);
            }
            return self.log_on(message, now);
        }
        if names != expected {
            self.reject(message, 9, "CompID problem", now);
            return Ok(self.log_out("CompID problem", now));
        }
        let Some(sequence) = message.number(tag::MSG_SEQ_NUM) else {
            return Ok(self.log_out("MsgSeqNum (34) is missing", now));
        };
        if kind == "4" && !message.flag(tag::GAP_FILL_FLAG) {
            self.reset_incoming(message, now);
            return Ok(Fate::Keep);
        }
        let expected = self.store.next_in;
        if sequence < expected {
            if message.flag(tag::POSS_DUP_FLAG) {
                return Ok(Fate::Keep);
            }
            let text = format!("MsgSeqNum too low, expecting {expected} but received {sequence}");
            return Ok(self.log_out(&text, now));
        }
        if sequence > expected {
            // Two sides that both miss something must both be answered.
            if kind == "2" {
                self.resend(message, now)?;
            }
            self.ask_for(sequence, now);
            return Ok(if kind == "5" { self.log_out("", now) } else { Fate::Keep });
        }
        self.store.add_heard(sequence, now);
        self.act(kind, message, now)
    }

    fn log_on(&mut self, message: &Fields, now: u64) -> io::Result<Fate> {
        let Some(sequence) = message.number(tag::MSG_SEQ_NUM) else { return Ok(Fate::Close) };
        let interval = message.number(tag::HEART_BT_INT);
        let Some(interval) = interval.filter(|s| (1..=HEARTBEAT_MAX_S).contains(s)) else {
            return Ok(self.log_out("HeartBtInt (108) must be 1 to 600 seconds", now));
        };
        if message.get(tag::ENCRYPT_METHOD) != Some("0") {
            return Ok(self.log_out("EncryptMethod (98) must be 0", now));
        }
        let resets = message.flag(tag::RESET_SEQ_NUM_FLAG);
        if resets && sequence != 1 {
            return Ok(self.log_out("ResetSeqNumFlag (141) goes with MsgSeqNum (34) 1", now));
        }
        let expected = if resets { 1 } else { self.store.next_in };
        if sequence < expected {
            let text = format!("MsgSeqNum too low, expecting {expected} but received {sequence}");
            return Ok(self.log_out(&text, now));
        }
        self.heartbeat_ns = interval * 1_000_000_000;
        self.phase = Phase::Up;
        let mut body = Fields::new();
        body.add(tag::ENCRYPT_METHOD, 0).add(tag::HEART_BT_INT, interval);
        if resets {
            body.add(tag::RESET_SEQ_NUM_FLAG, "Y");
            self.restart(now)?;
            let header = self.header("A", 1, now);
            self.put(&header, &body.to_text(), now);
            self.send_parts(Sending { next: 2, to: self.store.next_out - 1, again: false }, now)?;
        } else {
            self.send("A", &body, now);
        }
        if sequence > expected {
            self.ask_for(sequence, now);
        } else {
            self.store.add_heard(sequence, now);
        }
        Ok(Fate::Keep)
    }

    /// Numbers start anew; the logon has the first, and all reports of the exchange's session that
    /// is under way follow it, marked `PossResend`.
    fn restart(&mut self, now: u64) -> io::Result<()> {
        self.store.commit()?;
        let mut last = None;
        self.store.restart(now, |report| {
            let fields = Fields::parse(&report.text).unwrap_or_default();
            let id = fields.get(tag::EXEC_ID).unwrap_or_default();
            let session = id.rsplit_once('-').map(|(session, _)| session.to_owned());
            let only_these = last.replace(session.clone()) != Some(session);
            let marked = if fields.flag(tag::POSS_RESEND) { "" } else { "97=Y\u{1}" };
            Again { only_these, text: format!("{marked}{}", report.text) }
        })
    }

    fn ask_for(&mut self, sequence: u64, now: u64) {
        if self.missing_until > self.store.next_in {
            return;
        }
        self.missing_until = sequence;
        let mut body = Fields::new();
        body.add(tag::BEGIN_SEQ_NO, self.store.next_in).add(tag::END_SEQ_NO, 0);
        self.send("2", &body, now);
    }

    fn reset_incoming(&mut self, message: &Fields, now: u64) {
        match message.number(tag::NEW_SEQ_NO) {
            Some(next) if next > self.store.next_in => self.store.add_heard(next - 1, now),
            Some(next) if next == self.store.next_in => {}
            _ => self.reject(message, 5, "NewSeqNo (36) may only go up", now),
        }
    }

    fn act(&mut self, kind: &str, message: &Fields, now: u64) -> io::Result<Fate> {
        match kind {
            "0" => {}
            "1" => {
                let mut body = Fields::new();
                body.add(tag::TEST_REQ_ID, message.get(tag::TEST_REQ_ID).unwrap_or_default());
                self.send("0", &body, now);
            }
            "2" => self.resend(message, now)?,
            "3" => {}
            "4" => self.reset_incoming(message, now),
            "5" => {
                if self.phase == Phase::Up {
                    return Ok(self.log_out("", now));
                }
                self.phase = Phase::Down;
                return Ok(Fate::Close);
            }
            "A" => self.reject(message, 99, "logged on already", now),
            // A drop copy takes no orders.
            _ => {
                let mut body = Fields::new();
                body.add(tag::REF_SEQ_NUM, message.number(tag::MSG_SEQ_NUM).unwrap_or(0));
                body.add(tag::REF_MSG_TYPE, kind).add(tag::BUSINESS_REJECT_REASON, 3);
                body.add(tag::TEXT, "a drop copy takes no application messages");
                self.send("j", &body, now);
            }
        }
        Ok(Fate::Keep)
    }

    /// Sends reports again; session messages between them are filled over.
    fn resend(&mut self, message: &Fields, now: u64) -> io::Result<()> {
        let from = message.number(tag::BEGIN_SEQ_NO).unwrap_or(0);
        let last = self.store.next_out - 1;
        let to = message.number(tag::END_SEQ_NO).filter(|to| *to > 0).unwrap_or(last).min(last);
        if from == 0 || from > to {
            self.reject(message, 5, "BeginSeqNo (7) and EndSeqNo (16) are no range", now);
            return Ok(());
        }
        self.send_parts(Sending { next: from, to, again: true }, now)
    }

    /// Sends the next part of what is on its way.
    ///
    /// # Errors
    /// The store can't be read or written.
    pub fn send_on(&mut self, now: u64) -> io::Result<()> {
        self.sending.take().map_or(Ok(()), |sending| self.send_parts(sending, now))
    }

    fn send_parts(&mut self, sending: Sending, now: u64) -> io::Result<()> {
        self.store.commit()?;
        let Sending { mut next, to, again } = sending;
        for report in self.store.reports(next, to)? {
            self.fill(next, report.sequence, now);
            self.send_report(&report, again, now);
            next = report.sequence + 1;
        }
        if self.store.has_reports(next, to) {
            self.sending = Some(Sending { next, to, again });
        } else {
            self.fill(next, to + 1, now);
        }
        Ok(())
    }

    fn fill(&mut self, from: u64, next: u64, now: u64) {
        if from < next {
            let mut header = self.header("4", from, now);
            header.add(tag::POSS_DUP_FLAG, "Y");
            header.add(tag::ORIG_SENDING_TIME, utc_timestamp(now));
            let mut body = Fields::new();
            body.add(tag::GAP_FILL_FLAG, "Y").add(tag::NEW_SEQ_NO, next);
            self.put(&header, &body.to_text(), now);
        }
    }

    /// Time has passed: heartbeats, and the end of a silent connection.
    pub fn tick(&mut self, now: u64) -> Fate {
        let silent = now.saturating_sub(self.heard_at);
        if self.phase == Phase::Down {
            // Ten seconds for a logon.
            return if silent > 10_000_000_000 { Fate::Close } else { Fate::Keep };
        }
        if silent > self.heartbeat_ns * 24 / 10 {
            return self.log_out("no answer to the test request", now);
        }
        if silent > self.heartbeat_ns * 12 / 10 && !self.testing {
            self.testing = true;
            let mut body = Fields::new();
            body.add(tag::TEST_REQ_ID, utc_timestamp(now));
            self.send("1", &body, now);
        } else if now.saturating_sub(self.sent_at) >= self.heartbeat_ns {
            self.send("0", &Fields::new(), now);
        }
        Fate::Keep
    }

    /// Asks the counterparty for the end of the session. A connection without a logon just ends.
    pub fn leave(&mut self, now: u64) -> Fate {
        if !self.is_up() {
            return Fate::Close;
        }
        let mut body = Fields::new();
        body.add(tag::TEXT, format!("{BEGIN_STRING} drop copy stops"));
        self.send("5", &body, now);
        self.phase = Phase::Leaving;
        Fate::Keep
    }
}

#[cfg(test)]
mod tests;
