//! The hot thread: one loop that reads the clock once, does bounded work and never blocks, logs or
//! allocates. What it finds goes into counters and a ring of events.

use crate::arena::{Arena, Region};
use crate::config::{Config, Durability};
use crate::journal::{Journal, Layout, Written};
use crate::limits::{COMPLETIONS_PER_TURN, JOURNAL_MEMORY, SEND_BUFFER, TICK_INTERVAL_NS};
use crate::port::{
    Completion, Port, SLOT_LINE_A, SLOT_LINE_B, SLOT_ORDERS, SLOT_REQUESTS, SLOT_SNAPSHOT, Token,
    is_stream,
};
use crate::stream::Link;
use abi::control::ControlPage;
use abi::counters::{Counter, CountersPage, Event, Word};
use abi::journal::{Kind, Timing};
use engine_core::pipeline::{Core, Line, Verdict};
use engine_core::settings::RiskLimits;
use engine_core::strategy::Strategy;
use snapshot::is_snapshot;
use std::io;

mod control;
mod page;
mod snapshot;

/// Records without an order are written when so many bytes have collected, or after so many ticks.
const BATCH_LEN: usize = 16 << 10;
const BATCH_TICKS: u64 = 10;

/// Longest wait of a stopping engine for its orders to be cancelled, and then for its journal
/// writes, in nanoseconds.
const STOP_WAIT_NS: u64 = 2_000_000_000;

/// Memory that the hot thread works in, besides the port's own.
pub struct HotBuffers {
    /// The journal's, [`JOURNAL_MEMORY`] bytes.
    pub journal: Region,
    /// Bytes on their way to the exchange, `SEND_BUFFER` bytes.
    pub sending: Region,
    /// Gap request on its way to the request server.
    pub request: Region,
    /// A login at the snapshot server.
    pub snapshot: Region,
}

impl HotBuffers {
    /// Takes the regions from an arena.
    pub fn new(arena: &mut Arena) -> Self {
        let (journal, sending) = (arena.take(JOURNAL_MEMORY), arena.take(SEND_BUFFER));
        Self { journal, sending, request: arena.take(4096), snapshot: arena.take(4096) }
    }
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A signal asked for it.
    Stopped,
    /// The exchange started another session.
    SessionRolled,
}

/// Everything that the hot thread owns.
pub struct Hot<S, P> {
    port: P,
    core: Core<S>,
    link: Link,
    snapshot_link: Link,
    journal: Journal,
    page: CountersPage,
    control: ControlPage,
    control_generation: u64,
    has_seen_page: bool,
    limits_generation: u64,
    configured_limits: [u64; RiskLimits::WORDS],
    agent_silence_max_ns: Option<u64>,
    agent_silent: bool,
    killed_by_signal: bool,
    durability: Durability,
    /// The segment that has a context record.
    context_in: u64,
    /// The record that must be on disk before what waits may be sent.
    send_after: u64,
    request_region: Region,
    request_in_flight: bool,
    started_ns: u64,
    next_tick: u64,
    ticks: u64,
    last_now: u64,
    /// Bytes were sent to the exchange in this turn.
    flushed: bool,
    /// When a datagram came that an order followed from, which is not sent yet, and how long the
    /// kernel had had it.
    order_due_to_feed: Option<(u64, u64)>,
    stopping_since: Option<u64>,
}

impl<S: Strategy, P: Port> Hot<S, P> {
    /// Puts everything together. After this, nothing allocates.
    ///
    /// # Errors
    /// The port can't receive.
    pub fn new(
        config: &Config,
        mut core: Core<S>,
        layout: Layout,
        mut port: P,
        page: CountersPage,
        control: ControlPage,
        memory: HotBuffers,
    ) -> io::Result<Self> {
        for slot in [SLOT_LINE_A, SLOT_LINE_B, SLOT_REQUESTS] {
            port.receive(slot)?;
        }
        let now = port.now_ns();
        let mut journal = Journal::new(layout, memory.journal, now);
        journal.record(Kind::RunStarted, now, config.text.as_bytes());
        journal.record(Kind::Recovered, now, &layout.recovery.to_bytes());
        core.on_recovered(layout.recovery);
        for reason in core.take_stops() {
            journal.record(Kind::Stopped, now, &[reason as u8]);
        }
        Ok(Self {
            link: Link::new(SLOT_ORDERS, memory.sending),
            snapshot_link: Link::new(SLOT_SNAPSHOT, memory.snapshot),
            journal,
            page,
            control_generation: control.generation().wrapping_sub(1),
            has_seen_page: false,
            control,
            limits_generation: 0,
            configured_limits: core.order_entry().risk.limits().to_words(),
            agent_silence_max_ns: config.host.agent_silence_max_ms.map(|ms| ms * 1_000_000),
            agent_silent: false,
            killed_by_signal: false,
            durability: config.journal.durability,
            context_in: layout.next_segment,
            send_after: 0,
            request_region: memory.request,
            request_in_flight: false,
            started_ns: port.monotonic_ns(),
            core,
            next_tick: 0,
            ticks: 0,
            last_now: now,
            port,
            flushed: false,
            order_due_to_feed: None,
            stopping_since: None,
        })
    }

    /// Takes the thread apart. Nothing may be under way in the machine.
    pub fn into_parts(self) -> (Core<S>, P, HotBuffers) {
        let (journal, sending) = (self.journal.into_memory(), self.link.into_memory());
        let (request, snapshot) = (self.request_region, self.snapshot_link.into_memory());
        (self.core, self.port, HotBuffers { journal, sending, request, snapshot })
    }

    /// Records nothing from now on: to measure what recording costs.
    pub fn forgo_journal(&mut self) {
        self.journal.lost = true;
    }

    /// The core, to look at.
    pub fn core(&self) -> &Core<S> {
        &self.core
    }

    /// The machine, to move it.
    pub fn port(&mut self) -> &mut P {
        &mut self.port
    }

    /// The last record known to be on disk.
    pub fn durable(&self) -> u64 {
        self.journal.durable
    }

    /// Runs until a signal or the end of the exchange's session.
    ///
    /// # Errors
    /// What `io_uring_enter` says; nothing else ends the loop.
    pub fn run(&mut self) -> io::Result<End> {
        loop {
            let now = self.port.now_ns();
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
        self.journal.submit(&mut self.port)?;
        let deadline = self.port.now_ns() + STOP_WAIT_NS;
        while !self.journal.is_idle() && !self.journal.lost && self.port.now_ns() < deadline {
            self.port.enter()?;
            while let Some(completion) = self.port.next_completion() {
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
        let flat = self.core.order_entry().orders.open_count() == 0;
        (flat || now.saturating_sub(since) > STOP_WAIT_NS).then_some(End::Stopped)
    }

    /// One turn: completions, control page, timer, outputs, one call of the machine if there is a
    /// reason. Returns how much was done.
    ///
    /// # Errors
    /// What the machine says; the loop can't go on then.
    #[inline]
    pub fn turn(&mut self, now: u64) -> io::Result<usize> {
        let mut work = self.complete(now)?;
        if self.control.generation() != self.control_generation && self.journal.has_reserve() {
            self.control_generation = self.control.generation();
            self.on_page(now);
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
        self.flushed = false;
        if work > 0 {
            self.send(now)?;
        }
        if self.port.wants_enter() {
            self.port.enter()?;
            work += 1;
        }
        if self.flushed
            && let Some((since, wire_to_loop_ns)) = self.order_due_to_feed.take()
        {
            let loop_to_send_ns = self.port.now_ns().saturating_sub(since);
            self.page.record_tick_to_order(loop_to_send_ns);
            // Times of an emulated machine say nothing, and are not kept.
            if self.page.word(Word::Emulated) == 0 {
                let timing = Timing { wire_to_loop_ns, loop_to_send_ns };
                self.journal.record(Kind::Timing, since, &timing.to_bytes());
            }
        }
        Ok(work)
    }

    fn complete(&mut self, now: u64) -> io::Result<usize> {
        let mut count = 0;
        while count < COMPLETIONS_PER_TURN {
            let Some(completion) = self.port.next_completion() else { break };
            count += 1;
            match completion.token {
                Token::Receive => self.on_receive(completion, now)?,
                Token::Send if is_snapshot(completion.number) => {
                    if self.snapshot_link.on_sent(completion.result, &mut self.port) {
                        self.on_snapshot_lost(now);
                    }
                }
                Token::Send if self.link.on_sent(completion.result, &mut self.port) => {
                    self.on_lost(now)
                }
                Token::Send => {}
                Token::Request => self.request_in_flight = false,
                Token::Connect if is_snapshot(completion.number) => {
                    self.on_snapshot_connect(completion.result, now)?;
                }
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
                    SLOT_SNAPSHOT => self.on_snapshot_bytes(buffer, len, now),
                    _ => self.on_datagram(slot, buffer, len, now),
                }
            }
            self.port.recycle(buffer);
        }
        if completion.more {
            return Ok(());
        }
        if !is_stream(slot) {
            // Out of buffers, or an ICMP error of the request server: receiving goes on.
            return self.port.receive(slot);
        }
        if is_snapshot(slot) {
            return self.on_snapshot_receive_ended(completion.result, now);
        }
        if self.link.on_receive_ended(completion.result, &mut self.port)? {
            self.on_lost(now);
        }
        Ok(())
    }

    /// Whether an input can be recorded, and so taken. One that can't is as if the network had lost
    /// it.
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
        let bytes = self.port.received(buffer, len);
        if self.core.on_feed(line, bytes, now) == Verdict::Accepted {
            self.journal.record(kind, now, bytes);
        }
        if !self.core.session_out().is_empty() {
            let stamp = self.port.received_at(buffer);
            let waited = stamp.map_or(0, |at| now.saturating_sub(at));
            self.order_due_to_feed.get_or_insert((now, waited));
        }
        self.take_outputs(now);
    }

    fn on_session_bytes(&mut self, buffer: u16, len: usize, now: u64) {
        if !self.link.is_up() {
            return;
        }
        if !self.may_take_input() {
            self.link.reset(&mut self.port);
            return self.on_lost(now);
        }
        let bytes = self.port.received(buffer, len);
        self.journal.record(Kind::SessionBytes, now, bytes);
        self.core.on_session_bytes(bytes, now);
        self.take_outputs(now);
    }

    fn on_connect(&mut self, result: i32, now: u64) -> io::Result<()> {
        if self.link.on_connected(result, now, &mut self.port)? {
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

    fn on_written(&mut self, completion: Completion, now: u64) {
        if let Written::Failed(errno) =
            self.journal.on_written(completion.number, completion.result)
        {
            self.core.counters.count(Counter::JournalErrors);
            self.core.counters.raise(Event::JournalFailed, errno as u64);
            // Orders that wait for their records are not sent any more: the connection is made
            // anew, and from then on the core only cancels, without records.
            if self.link.is_up() {
                self.link.reset(&mut self.port);
                self.on_lost(now);
            }
            self.core.halt(now);
            self.take_outputs(now);
        }
    }

    fn on_tick(&mut self, now: u64) -> io::Result<()> {
        self.ticks += 1;
        self.watch_agent(now);
        if self.port.take_clock_step() {
            self.core.counters.count(Counter::ClockSteps);
        }
        if self.may_take_input() {
            self.journal.record(Kind::Tick, now, &[]);
            self.core.on_tick(now);
            self.take_outputs(now);
        }
        if self.journal.segment() != self.context_in {
            self.context_in = self.journal.segment();
            let context = self.core.context();
            self.journal.record(Kind::Context, now, &context.to_bytes());
        }
        // Ticks alone can wait: what a crash loses of them had no consequence.
        let due = self.ticks.is_multiple_of(BATCH_TICKS) && !self.journal.has_only_ticks();
        if self.journal.batch_len() >= BATCH_LEN || due {
            self.journal.seal();
        }
        self.link.finish_closing(now, &mut self.port);
        // A connection brings records; without room for them it could only be dropped again. A
        // socket that can't be had is tried for again a second later.
        if self.journal.has_room() {
            self.link.poll(now, &mut self.port);
        }
        self.tend_snapshot(now);
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
                let sent = self.port.send(SLOT_REQUESTS, &self.request_region, 20, Token::Request);
                self.request_in_flight = sent.is_ok();
            }
        }
        self.take_snapshot_outputs(now);
        for refused in self.core.take_refusals() {
            self.journal.record(Kind::RiskRefused, now, &refused.to_bytes());
        }
        for reason in self.core.take_stops() {
            self.journal.record(Kind::Stopped, now, &[reason as u8]);
        }
        if (self.core.take_reset() || overflow) && self.link.is_up() {
            self.link.reset(&mut self.port);
            self.on_lost(now);
        }
    }

    /// Gives records to the disk and then bytes to the exchange, in this order.
    #[inline]
    fn send(&mut self, now: u64) -> io::Result<()> {
        if self.link.can_send() || self.journal.batch_len() >= BATCH_LEN {
            self.journal.seal();
        }
        self.journal.submit(&mut self.port)?;
        self.snapshot_link.flush(&mut self.port)?;
        let durable =
            self.durability == Durability::Async || self.journal.durable >= self.send_after;
        self.flushed = (durable || self.journal.lost) && self.link.flush(&mut self.port)?;
        let turn_ns = now.saturating_sub(self.last_now);
        self.last_now = now;
        if turn_ns > self.core.counters.get(Counter::LoopCyclesMax) {
            self.core.counters.set(Counter::LoopCyclesMax, turn_ns);
        }
        Ok(())
    }
}
