//! The machine under the hot loop: virtual time, a network that loses and reorders, a disk, and the
//! exchange at the other end. Every promise about the journal is checked where it could be broken.

use crate::disk::{Crash, Disk, Failure, Write};
use crate::exchange::{Effects, Exchange};
use abi::journal::{BLOCK_LEN, Header, Kind, Segment};
use abi::ouch::inbound::Message;
use abi::soup::Packet;
use engine::arena::Region;
use engine::config::Durability;
use engine::limits::BUFFER_LEN;
use engine::port::{Completion, Port, SLOT_LINE_A, SLOT_LINE_B, SLOT_ORDERS, SLOT_REQUESTS, Token};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use std::collections::{BTreeMap, VecDeque};
use std::io;

const BUFFERS: usize = 256;
/// The errno of a failed write.
const EIO: i32 = 5;
/// Parameters of the simulated network: latency, jitter, loss, heartbeats.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// One way, for bytes of a connection and datagrams.
    pub latency_ns: u64,
    /// Datagrams take up to so much longer, each as long as it likes.
    pub jitter_ns: u64,
    /// One in so many datagrams is lost on each line; `None` for none.
    pub loss: Option<u32>,
    /// Between two signs of life of the exchange.
    pub beat_ns: u64,
}

impl Network {
    /// One that engines must survive.
    pub const HOSTILE: Self =
        Self { latency_ns: 100_000, jitter_ns: 200_000, loss: Some(100), beat_ns: 20_000_000 };
}

enum Happening {
    Datagram(u32, Vec<u8>),
    ToEngine(u64, Vec<u8>),
    ToExchange(Vec<u8>),
    ToRequestServer(Vec<u8>),
    Connected(u64),
    Closed,
    Done(Token),
    Written(u32),
    Market,
    Beat,
}

/// Simulated machine under the hot loop: time, network, disk and exchange.
pub struct Machine {
    /// Nanoseconds since the epoch.
    pub now: u64,
    /// Where orders go.
    pub exchange: Exchange,
    /// The journal's files.
    pub disk: Disk,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// The machine has crashed: whatever the loop still does in its turn never happened.
    pub crashed: bool,
    rng: ChaCha8Rng,
    durability: Durability,
    network: Network,
    happenings: BTreeMap<(u64, u64), Happening>,
    next_happening: u64,
    completions: VecDeque<Completion>,
    buffers: Vec<Vec<u8>>,
    free_buffers: Vec<u16>,
    receiving: [bool; 4],
    connection: Option<u64>,
    next_connection: u64,
    /// Journal boundaries passed: a write given to the disk, or finished.
    boundaries: u64,
    crash_at: u64,
    /// Bytes to the exchange that are in writes given to the disk, finished there, and sent.
    recorded: u64,
    header: Header,
    under_way: BTreeMap<u32, u64>,
    durable: BTreeMap<u32, u64>,
    durable_next: u32,
    durable_recorded: u64,
    sent: u64,
    last_len: i32,
    user_ref_floor: u32,
    /// A journal write failed in this life.
    journal_lost: bool,
}

impl Machine {
    /// A machine that has never run.
    pub fn new(
        exchange: Exchange,
        disk: Disk,
        durability: Durability,
        network: Network,
        rng: ChaCha8Rng,
    ) -> Self {
        let mut machine = Self {
            now: 1_000_000_000,
            exchange,
            disk,
            broken: None,
            crashed: false,
            rng,
            durability,
            network,
            happenings: BTreeMap::new(),
            next_happening: 0,
            completions: VecDeque::new(),
            buffers: vec![Vec::new(); BUFFERS],
            free_buffers: Vec::new(),
            receiving: [false; 4],
            connection: None,
            next_connection: 1,
            boundaries: 0,
            crash_at: u64::MAX,
            recorded: 0,
            header: Header { segment: 0, run: 0 },
            under_way: BTreeMap::new(),
            durable: BTreeMap::new(),
            durable_next: 0,
            durable_recorded: 0,
            sent: 0,
            last_len: 0,
            user_ref_floor: 0,
            journal_lost: false,
        };
        machine.plan(network.beat_ns, Happening::Beat);
        machine
    }

    /// Switches the machine on; it crashes after `crash_after` journal boundaries. No order may
    /// have a number up to `user_ref_floor`.
    pub fn boot(&mut self, crash_after: u64, user_ref_floor: u32) {
        (self.crashed, self.boundaries, self.crash_at) = (false, 0, crash_after);
        (self.recorded, self.durable_recorded, self.sent) = (0, 0, 0);
        self.durable.clear();
        self.under_way.clear();
        self.durable_next = 0;
        self.user_ref_floor = user_ref_floor;
        self.free_buffers = (0..BUFFERS as u16).collect();
    }

    /// The machine ends: nothing that was under way in it goes on.
    pub fn end(&mut self, crash: Crash) {
        self.disk.crash(crash, &mut self.rng);
        let powerless = crash == Crash::PowerCut;
        let on_the_wire = |happening: &Happening| match happening {
            Happening::ToExchange(_) | Happening::ToRequestServer(_) => !powerless,
            Happening::Market | Happening::Beat => true,
            _ => false,
        };
        self.happenings.retain(|_, happening| on_the_wire(happening));
        self.completions.clear();
        self.receiving = [false; 4];
        if self.connection.take().is_some() {
            self.plan(1_000_000, Happening::Closed);
        }
        self.crashed = true;
    }

    /// When something happens next.
    pub fn next_at(&self) -> u64 {
        self.happenings.keys().next().map_or(u64::MAX, |(at, _)| *at)
    }

    /// Lets everything happen that is due.
    pub fn advance(&mut self, to: u64) {
        self.now = to;
        while let Some((&(at, number), _)) = self.happenings.first_key_value()
            && at <= to
        {
            if let Some(happening) = self.happenings.remove(&(at, number)) {
                self.happen(happening);
            }
        }
    }

    fn plan(&mut self, after: u64, happening: Happening) {
        self.plan_at(self.now + after, happening);
    }

    fn plan_at(&mut self, at: u64, happening: Happening) {
        self.happenings.insert((at, self.next_happening), happening);
        self.next_happening += 1;
    }

    fn latency(&mut self) -> u64 {
        let jitter = self.network.jitter_ns.max(1);
        self.network.latency_ns + u64::from(self.rng.next_u32()) % jitter
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Datagram(slot, bytes) => self.deliver(slot, bytes),
            Happening::ToEngine(connection, bytes) if self.connection == Some(connection) => {
                bytes.chunks(BUFFER_LEN).for_each(|part| self.deliver(SLOT_ORDERS, part.to_vec()));
            }
            Happening::ToExchange(bytes) => {
                let effects = self.exchange.on_bytes(&bytes, self.now);
                self.take(effects);
                self.plan_market();
            }
            Happening::ToRequestServer(bytes) => {
                for datagram in self.exchange.replay(&bytes) {
                    let after = self.latency();
                    self.plan(after, Happening::Datagram(SLOT_REQUESTS, datagram));
                }
            }
            Happening::Connected(connection) if self.connection == Some(connection) => {
                self.complete(Token::Connect, SLOT_ORDERS, 0);
            }
            Happening::Closed => {
                let effects = self.exchange.on_gone(self.now);
                self.take(effects);
            }
            Happening::Done(token) => self.complete(token, SLOT_ORDERS, self.last_len),
            Happening::Written(number) => self.written(number),
            Happening::Market => {
                let effects = self.exchange.step(self.now);
                self.take(effects);
                self.plan_market();
            }
            Happening::Beat => {
                let effects = self.exchange.beat();
                self.take(effects);
                self.plan(self.network.beat_ns, Happening::Beat);
            }
            Happening::ToEngine(..) | Happening::Connected(_) => {}
        }
    }

    fn plan_market(&mut self) {
        let planned = self.happenings.values().any(|h| matches!(h, Happening::Market));
        if let (false, Some(at)) = (planned, self.exchange.next_at()) {
            self.plan_at(at.max(self.now + 1), Happening::Market);
        }
    }

    fn take(&mut self, effects: Effects) {
        for datagram in effects.datagrams {
            for line in [SLOT_LINE_A, SLOT_LINE_B] {
                let lost = |one_in| self.rng.next_u32().is_multiple_of(one_in);
                if !self.network.loss.is_some_and(lost) {
                    let after = self.latency();
                    self.plan(after, Happening::Datagram(line, datagram.clone()));
                }
            }
        }
        if let (Some(connection), false) = (self.connection, effects.bytes.is_empty()) {
            // One connection keeps its order: bytes follow each other at one latency.
            self.plan(self.network.latency_ns, Happening::ToEngine(connection, effects.bytes));
        }
    }

    fn complete(&mut self, token: Token, number: u32, result: i32) {
        self.completions.push_back(Completion { token, number, result, buffer: None, more: false });
    }

    /// A datagram without a buffer to take it is lost; bytes of a connection find one.
    fn deliver(&mut self, slot: u32, bytes: Vec<u8>) {
        if !self.receiving[slot as usize] {
            return;
        }
        let Some(buffer) = self.free_buffers.pop() else {
            assert_ne!(slot, SLOT_ORDERS, "more bytes for the engine than it has buffers");
            return;
        };
        let result = bytes.len() as i32;
        self.buffers[usize::from(buffer)] = bytes;
        let (token, buffer) = (Token::Receive, Some(buffer));
        self.completions.push_back(Completion { token, number: slot, result, buffer, more: true });
    }

    fn written(&mut self, number: u32) {
        match self.disk.failure {
            Some(Failure::Error) => {
                self.journal_lost = true;
                return self.complete(Token::Journal, number, -EIO);
            }
            Some(Failure::Short) => {
                self.journal_lost = true;
                let len = self.disk.finish(number).map_or(0, |write| write.bytes.len());
                return self.complete(Token::Journal, number, len as i32 / 2);
            }
            // It is asked again when the disk is well.
            Some(Failure::Silence) => return self.plan(1_000_000, Happening::Written(number)),
            None => {}
        }
        if let Some(write) = self.disk.finish(number) {
            self.complete(Token::Journal, number, write.bytes.len() as i32);
            self.durable.insert(number, self.under_way.remove(&number).unwrap_or(0));
            // Only what all earlier writes are finished with counts.
            while let Some(bytes) = self.durable.remove(&self.durable_next) {
                self.durable_recorded += bytes;
                self.durable_next += 1;
            }
            self.pass_boundary();
        }
    }

    fn pass_boundary(&mut self) {
        self.boundaries += 1;
        self.crashed |= self.boundaries >= self.crash_at;
    }

    fn break_promise(&mut self, what: String) {
        self.broken.get_or_insert(format!("at {} ns: {what}", self.now));
    }

    /// Looks at bytes that leave for the exchange.
    fn check_sent(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        let there = match self.durability {
            Durability::Async => self.recorded,
            Durability::DurableBeforeSend => self.durable_recorded,
        };
        // An engine that has lost its journal may cancel, and nothing else.
        if self.sent > there && !self.journal_lost {
            let (sent, policy) = (self.sent, self.durability);
            self.break_promise(format!("{sent} bytes sent, {there} recorded under {policy:?}"));
        }
        let mut rest = bytes;
        while let Ok(Some((packet, len))) = Packet::decode(rest) {
            rest = &rest[len..];
            let Packet::Unsequenced(message) = packet else { continue };
            let user_ref = match Message::decode(message) {
                Ok((Message::EnterOrder(m), _)) => m.user_ref_num,
                Ok((Message::ReplaceOrder(m), _)) => m.user_ref_num,
                _ => continue,
            };
            if self.journal_lost {
                self.break_promise(format!("order {user_ref} after the journal failed"));
            }
            if user_ref <= self.user_ref_floor {
                self.break_promise(format!("number {user_ref} was used before"));
            }
            self.user_ref_floor = user_ref;
        }
    }
}

/// Bytes to the exchange that a journal batch of the segment in `header` records.
fn recorded_bytes(write: &Write, header: Header) -> u64 {
    let start = if write.offset == 0 { BLOCK_LEN } else { 0 };
    let records = Segment::of(header, &write.bytes, start).map_while(Result::ok);
    let sent = records.filter(|record| record.kind == Kind::SessionSent);
    sent.map(|record| record.payload.len() as u64).sum()
}

impl Port for Machine {
    fn now_ns(&self) -> u64 {
        self.now
    }

    fn monotonic_ns(&self) -> u64 {
        self.now
    }

    fn take_clock_step(&mut self) -> bool {
        false
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        self.receiving[slot as usize] = true;
        Ok(())
    }

    fn received(&self, buffer: u16, len: usize) -> &[u8] {
        &self.buffers[usize::from(buffer)][..len]
    }

    fn recycle(&mut self, buffer: u16) {
        self.free_buffers.push(buffer);
    }

    fn send(&mut self, slot: u32, region: &Region, len: usize, token: Token) -> io::Result<()> {
        if self.crashed {
            return Ok(());
        }
        let bytes = region.bytes(0, len).to_vec();
        if slot == SLOT_REQUESTS {
            let after = self.latency();
            self.plan(after, Happening::ToRequestServer(bytes));
        } else if self.connection.is_some() {
            self.check_sent(&bytes);
            self.last_len = len as i32;
            self.plan(self.network.latency_ns, Happening::ToExchange(bytes));
        }
        self.plan(5_000, Happening::Done(token));
        Ok(())
    }

    fn connect(&mut self, slot: u32) -> io::Result<()> {
        if slot != SLOT_ORDERS {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        self.connection = Some(connection);
        let after = self.latency();
        self.plan(after, Happening::Connected(connection));
        Ok(())
    }

    fn disconnect(&mut self, _slot: u32) {
        if self.connection.take().is_some() {
            self.plan(self.network.latency_ns, Happening::Closed);
        }
        self.receiving[SLOT_ORDERS as usize] = false;
        self.complete(Token::Receive, SLOT_ORDERS, 0);
    }

    fn close(&mut self, _slot: u32) {
        self.connection = None;
    }

    fn write(
        &mut self,
        place: u32,
        region: &Region,
        at: usize,
        len: usize,
        offset: u64,
        number: u32,
    ) -> io::Result<()> {
        if self.crashed {
            return Ok(());
        }
        let bytes = region.bytes(at, len).to_vec();
        let write = Write { number, place: place as usize, offset: offset as usize, bytes };
        self.header = Header::decode(&write.bytes).unwrap_or(self.header);
        let recorded = recorded_bytes(&write, self.header);
        self.recorded += recorded;
        self.under_way.insert(number, recorded);
        self.disk.begin(write);
        let after = 50_000 + u64::from(self.rng.next_u32() % 3_000_000);
        self.plan(after, Happening::Written(number));
        self.pass_boundary();
        Ok(())
    }

    fn take_kill(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    fn wants_enter(&mut self) -> bool {
        false
    }

    fn enter(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn syscalls(&self) -> u64 {
        0
    }
}
