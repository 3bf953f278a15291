//! The hot thread: one loop that reads the clock once, does bounded work and never blocks, logs or
//! allocates. What it finds goes into counters and a ring of events.

use crate::arena::{Arena, Region};
use crate::config::{Config, Durability};
use crate::host::{self, Signals, SteadyClock};
use crate::journal::{Files, Journal, Written};
use crate::limits::{COMPLETIONS_PER_TURN, JOURNAL_MEMORY, TICK_INTERVAL_NS};
use crate::ring::{Completion, Ring, Token};
use crate::wire::Link;
use abi::control::ControlPage;
use abi::counters::{Counter, CountersPage, Event, Word};
use abi::hostplan::CpuSet;
use abi::journal::Kind;
use engine_core::pipeline::{Core, Line, Verdict};
use engine_core::settings::RiskLimits;
use engine_core::strategy::Strategy;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const SLOT_LINE_A: u32 = 0;
const SLOT_LINE_B: u32 = 1;
const SLOT_REQUESTS: u32 = 2;
const SLOT_ORDERS: u32 = 3;
const SLOT_SIGNALS: u32 = 4;
const SLOT_JOURNAL: u32 = 5;

/// Records without an order are written when so many bytes have collected, or after so many ticks.
const BATCH_LEN: usize = 16 << 10;
const BATCH_TICKS: u64 = 10;

/// How long a stopping engine waits for its orders to be cancelled.
const STOP_WAIT_NS: u64 = 2_000_000_000;

/// Files that the hot thread uses.
pub struct Sockets {
    /// Line A, line B.
    pub lines: [OwnedFd; 2],
    /// The request server.
    pub requests: OwnedFd,
    /// `SIGTERM`, `SIGINT` and `SIGUSR1`.
    pub signals: Signals,
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A signal asked for it.
    Stopped,
    /// The exchange started another session.
    SessionRolled,
}

/// The hot cores besides the hot thread's own, where the journal's workers run.
fn spare_cores(config: &Config) -> Option<CpuSet> {
    let plan = host::core_plan().ok()?;
    let own = crate::preflight::hot_cpu(config)?;
    let spare: CpuSet = plan.hot().iter().filter(|cpu| *cpu != own).collect();
    (!spare.is_empty()).then_some(spare)
}

/// Everything that the hot thread owns.
pub struct Hot<S> {
    ring: Ring,
    core: Core<S>,
    link: Link,
    journal: Journal,
    page: CountersPage,
    control: ControlPage,
    control_generation: u64,
    limits_generation: u64,
    agent_silence_max_ns: Option<u64>,
    agent_silent: bool,
    killed_by_signal: bool,
    durability: Durability,
    /// The record that must be on disk before what waits may be sent.
    send_after: u64,
    request_region: Region,
    request_in_flight: bool,
    signals: Signals,
    started_ns: u64,
    /// Open as long as the ring, which is dropped before them.
    _sockets: [OwnedFd; 3],
    next_tick: u64,
    ticks: u64,
    last_now: u64,
    clock: SteadyClock,
    order_due_to_feed: bool,
    stopping_since: Option<u64>,
}

impl<S: Strategy> Hot<S> {
    /// Puts everything together. After this, nothing allocates.
    ///
    /// # Errors
    /// The step of the ring that failed.
    pub fn new(
        config: &Config,
        mut core: Core<S>,
        files: Files,
        sockets: Sockets,
        page: CountersPage,
        control: ControlPage,
        mut arena: Arena,
    ) -> io::Result<Self> {
        let slots = SLOT_JOURNAL + files.files().len() as u32;
        let mut ring = Ring::new(&mut arena, slots)?;
        if let Some(spare) = spare_cores(config) {
            ring.keep_workers_on(spare.iter())?;
        }
        ring.set_file(SLOT_LINE_A, sockets.lines[0].as_raw_fd())?;
        ring.set_file(SLOT_LINE_B, sockets.lines[1].as_raw_fd())?;
        ring.set_file(SLOT_REQUESTS, sockets.requests.as_raw_fd())?;
        ring.set_file(SLOT_SIGNALS, sockets.signals.as_raw_fd())?;
        for (index, file) in files.files().iter().enumerate() {
            ring.set_file(SLOT_JOURNAL + index as u32, file.as_raw_fd())?;
        }
        for slot in [SLOT_LINE_A, SLOT_LINE_B, SLOT_REQUESTS] {
            ring.receive(slot)?;
        }
        ring.await_readable(SLOT_SIGNALS, Token::Signal)?;
        let link = Link::new(config.order_server, SLOT_ORDERS, &mut arena);
        let request_region = arena.take(4096);
        let recovery = files.recovery;
        let mut journal = Journal::new(files, SLOT_JOURNAL, arena.take(JOURNAL_MEMORY));
        let clock = SteadyClock::new();
        journal.record(Kind::RunStarted, clock.now_ns(), config.text.as_bytes());
        journal.record(Kind::Recovered, clock.now_ns(), &recovery.to_bytes());
        core.on_recovered(recovery);
        let [line_a, line_b] = sockets.lines;
        Ok(Self {
            ring,
            core,
            link,
            journal,
            page,
            control_generation: control.generation().wrapping_sub(1),
            control,
            limits_generation: 0,
            agent_silence_max_ns: config.host.agent_silence_max_ms.map(|ms| ms * 1_000_000),
            agent_silent: false,
            killed_by_signal: false,
            durability: config.journal.durability,
            send_after: 0,
            request_region,
            request_in_flight: false,
            signals: sockets.signals,
            started_ns: host::monotonic_ns(),
            _sockets: [line_a, line_b, sockets.requests],
            next_tick: 0,
            ticks: 0,
            last_now: clock.now_ns(),
            clock,
            order_due_to_feed: false,
            stopping_since: None,
        })
    }

    /// Runs until a signal or the end of the exchange's session.
    ///
    /// # Errors
    /// What `io_uring_enter` says; nothing else ends the loop.
    pub fn run(&mut self) -> io::Result<End> {
        loop {
            let now = self.clock.now_ns();
            let work = self.turn(now)?;
            if work == 0 {
                self.core.counters.count(Counter::LoopIdle);
                std::hint::spin_loop();
            } else {
                self.core.counters.count(Counter::LoopWork);
            }
            if let Some(end) = self.ended(now) {
                self.finish()?;
                return Ok(end);
            }
        }
    }

    /// Writes what was recorded, takes nothing more, and waits for the disk, but not for ever.
    fn finish(&mut self) -> io::Result<()> {
        self.journal.seal();
        self.journal.submit(&mut self.ring)?;
        let deadline = self.clock.now_ns() + STOP_WAIT_NS;
        while !self.journal.is_idle() && !self.journal.lost && self.clock.now_ns() < deadline {
            self.ring.enter()?;
            while let Some(completion) = self.ring.next_completion() {
                if completion.token == Token::Journal {
                    self.journal.on_written(completion.number, completion.result);
                }
            }
        }
        self.publish();
        Ok(())
    }

    fn ended(&self, now: u64) -> Option<End> {
        if self.core.session_rolled() {
            return Some(End::SessionRolled);
        }
        let since = self.stopping_since?;
        let flat = self.core.desk().orders.open_count() == 0;
        (flat || now.saturating_sub(since) > STOP_WAIT_NS).then_some(End::Stopped)
    }

    /// One turn: completions, control page, timer, outputs, one `io_uring_enter` if there is a reason.
    #[inline]
    fn turn(&mut self, now: u64) -> io::Result<usize> {
        let mut work = self.complete(now)?;
        if self.control.generation() != self.control_generation && self.journal.has_reserve() {
            self.control_generation = self.control.generation();
            self.on_control(now);
            work += 1;
        }
        if self.control.limits_generation() != self.limits_generation && self.journal.has_room() {
            self.on_limits(now);
            work += 1;
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK_INTERVAL_NS;
            self.on_tick(now)?;
            work += 1;
        }
        if work > 0 {
            self.send(now)?;
        }
        if self.ring.wants_enter() {
            self.ring.enter()?;
            work += 1;
        }
        if self.order_due_to_feed {
            self.order_due_to_feed = false;
            self.page.record_tick_to_order(self.clock.now_ns().saturating_sub(now));
        }
        Ok(work)
    }

    fn complete(&mut self, now: u64) -> io::Result<usize> {
        let mut count = 0;
        while count < COMPLETIONS_PER_TURN {
            let Some(completion) = self.ring.next_completion() else { break };
            count += 1;
            match completion.token {
                Token::Receive => self.on_receive(completion, now)?,
                Token::Send if self.link.on_sent(completion.result) => self.on_lost(now),
                Token::Send => {}
                Token::Request => self.request_in_flight = false,
                Token::Connect => self.on_connect(completion.result, now)?,
                Token::Journal => self.on_written(completion, now),
                Token::Signal => self.on_signal(now)?,
            }
        }
        Ok(count)
    }

    fn on_receive(&mut self, completion: Completion, now: u64) -> io::Result<()> {
        let slot = completion.number;
        if let Some(buffer) = completion.buffer {
            let len = completion.result.max(0) as usize;
            if len > 0 {
                match slot {
                    SLOT_ORDERS => self.on_session_bytes(buffer, len, now),
                    _ => self.on_datagram(slot, buffer, len, now),
                }
            }
            self.ring.recycle(buffer);
        }
        if completion.more {
            return Ok(());
        }
        if slot != SLOT_ORDERS {
            // Out of buffers, or an ICMP error of the request server: receiving goes on.
            return self.ring.receive(slot);
        }
        if self.link.on_receive_ended(completion.result, &mut self.ring)? {
            self.on_lost(now);
        }
        Ok(())
    }

    /// Whether an input can be recorded, and so taken. One that can't is as if the network had lost it.
    fn may_take_input(&mut self) -> bool {
        let room = self.journal.has_room();
        if !room {
            self.core.counters.count(Counter::JournalStalled);
            if self.core.counters.get(Counter::JournalStalled).is_power_of_two() {
                self.core
                    .counters
                    .raise(Event::JournalStalled, self.core.counters.get(Counter::JournalStalled));
            }
        }
        room
    }

    #[inline]
    fn on_datagram(&mut self, slot: u32, buffer: u16, len: usize, now: u64) {
        if !self.may_take_input() {
            return;
        }
        let (line, kind) = match slot {
            SLOT_LINE_A => (Line::A, Kind::FeedA),
            SLOT_LINE_B => (Line::B, Kind::FeedB),
            _ => (Line::Replay, Kind::FeedReplayed),
        };
        let bytes = self.ring.received(buffer, len);
        if self.core.on_feed(line, bytes, now) == Verdict::Accepted {
            self.journal.record(kind, now, bytes);
        }
        self.order_due_to_feed |= !self.core.session_out().is_empty();
        self.take_outputs(now);
    }

    fn on_session_bytes(&mut self, buffer: u16, len: usize, now: u64) {
        if !self.link.is_up() {
            return;
        }
        if !self.may_take_input() {
            self.link.reset();
            return self.on_lost(now);
        }
        let bytes = self.ring.received(buffer, len);
        self.journal.record(Kind::SessionBytes, now, bytes);
        self.core.on_session_bytes(bytes, now);
        self.take_outputs(now);
    }

    fn on_connect(&mut self, result: i32, now: u64) -> io::Result<()> {
        if self.link.on_connected(result, now, &mut self.ring)? {
            self.journal.record(Kind::SessionConnected, now, &[]);
            self.core.on_session_connected(now);
            self.take_outputs(now);
        }
        Ok(())
    }

    fn on_lost(&mut self, now: u64) {
        self.journal.record(Kind::SessionLost, now, &[]);
        self.core.on_session_lost(now);
        self.take_outputs(now);
    }

    fn on_control(&mut self, now: u64) {
        let mut orders = self.control.orders();
        orders.drain |= self.stopping_since.is_some();
        orders.kill |= self.killed_by_signal;
        orders.agent_silent = self.agent_silent;
        self.journal.record(Kind::Control, now, &[orders.to_bits()]);
        self.core.on_control(orders, now);
        self.take_outputs(now);
    }

    /// `SIGUSR1` is the kill switch for a host whose agent is gone; any other signal ends the engine.
    fn on_signal(&mut self, now: u64) -> io::Result<()> {
        if self.signals.take_kill() {
            self.killed_by_signal = true;
            self.ring.await_readable(SLOT_SIGNALS, Token::Signal)?;
        } else {
            self.stopping_since.get_or_insert(now);
        }
        self.on_control(now);
        Ok(())
    }

    /// Limits that are being written are read at a later turn.
    fn on_limits(&mut self, now: u64) {
        let generation = self.control.limits_generation();
        if let Some(words) = self.control.limits(generation) {
            self.limits_generation = generation;
            let mut payload = [0; 8 * RiskLimits::WORDS];
            for (out, word) in payload.chunks_exact_mut(8).zip(words) {
                out.copy_from_slice(&word.to_le_bytes());
            }
            self.journal.record(Kind::Limits, now, &payload);
            self.core.on_limits(&words);
            self.take_outputs(now);
        }
    }

    /// Whether the agent's silence stops trading, looked at on every timer tick.
    fn watch_agent(&mut self, now: u64) {
        let Some(max) = self.agent_silence_max_ns else { return };
        let beat = self.control.heartbeat_ns().max(self.started_ns);
        let silent = host::monotonic_ns().saturating_sub(beat) > max;
        if silent != self.agent_silent && self.journal.has_reserve() {
            self.agent_silent = silent;
            self.on_control(now);
        }
    }

    fn on_written(&mut self, completion: Completion, now: u64) {
        if let Written::Failed(errno) =
            self.journal.on_written(completion.number, completion.result)
        {
            self.core.counters.count(Counter::JournalErrors);
            self.core.counters.raise(Event::JournalFailed, errno as u64);
            // From here on the core only cancels, without records, also after a new login.
            self.core.halt(now);
            self.take_outputs(now);
        }
    }

    fn on_tick(&mut self, now: u64) -> io::Result<()> {
        self.ticks += 1;
        self.watch_agent(now);
        if self.clock.take_step() {
            self.core.counters.count(Counter::ClockSteps);
        }
        if self.may_take_input() {
            self.journal.record(Kind::Tick, now, &[]);
            self.core.on_tick(now);
            self.take_outputs(now);
        }
        if self.journal.batch_len() >= BATCH_LEN || self.ticks.is_multiple_of(BATCH_TICKS) {
            self.journal.seal();
        }
        self.link.finish_closing(now, &mut self.ring);
        // A connection brings records; without room for them it could only be dropped again. A socket
        // that can't be had is tried for again a second later.
        if self.journal.has_room() {
            let _ = self.link.poll(now, &mut self.ring);
        }
        self.publish();
        Ok(())
    }

    /// Takes what the core wants to send: recorded first, sent by [`Self::send`].
    #[inline]
    fn take_outputs(&mut self, now: u64) {
        let mut overflow = false;
        let out = self.core.session_out();
        if !out.is_empty() {
            self.journal.record(Kind::SessionSent, now, out);
            let queued = self.link.queue(out);
            out.clear();
            self.send_after = self.journal.last_sequence();
            overflow = !queued;
        }
        if let Some(request) = self.core.take_request() {
            self.journal.record(Kind::FeedRequested, now, &request.to_bytes());
            if !self.request_in_flight {
                self.request_region.bytes_mut(0, 20).copy_from_slice(&request.to_bytes());
                let sent =
                    self.ring.send(SLOT_REQUESTS, &self.request_region, 0, 20, Token::Request);
                self.request_in_flight = sent.is_ok();
            }
        }
        for refused in self.core.take_refusals() {
            self.journal.record(Kind::RiskRefused, now, &refused.to_bytes());
        }
        for reason in self.core.take_stops() {
            self.journal.record(Kind::Stopped, now, &[reason as u8]);
        }
        if (self.core.take_reset() || overflow) && self.link.is_up() {
            self.link.reset();
            self.on_lost(now);
        }
    }

    /// Gives records to the disk and then bytes to the exchange, in this order.
    #[inline]
    fn send(&mut self, now: u64) -> io::Result<()> {
        if self.link.can_send() || self.journal.batch_len() >= BATCH_LEN {
            self.journal.seal();
        }
        self.journal.submit(&mut self.ring)?;
        let durable =
            self.durability == Durability::Async || self.journal.durable >= self.send_after;
        if durable || self.journal.lost {
            self.link.flush(&mut self.ring)?;
        }
        let turn_ns = now.saturating_sub(self.last_now);
        self.last_now = now;
        if turn_ns > self.core.counters.get(Counter::LoopCyclesMax) {
            self.core.counters.set(Counter::LoopCyclesMax, turn_ns);
        }
        Ok(())
    }

    /// Copies counters, instruments and events to the shared page.
    fn publish(&mut self) {
        let counters = &mut self.core.counters;
        counters.set(Counter::Syscalls, self.ring.enters);
        counters.set(Counter::JournalRecords, self.journal.records);
        counters.set(Counter::JournalBytes, self.journal.bytes);
        counters.set(Counter::JournalDurable, self.journal.durable);
        for counter in Counter::ALL {
            self.page.set(*counter, counters.get(*counter));
        }
        for (event, value) in counters.drain_events() {
            self.page.raise(event, value);
        }
        for id in self.core.market().instruments() {
            self.page.show_instrument(usize::from(id.0), &self.core.instrument_view(id));
        }
        self.page.show_limits(&self.core.desk().risk.limits().to_words());
        self.page.set_word(Word::State, self.core.state() as u64);
        self.page.set_word(Word::Heartbeat, host::monotonic_ns());
    }
}
