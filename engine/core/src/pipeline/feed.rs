//! The pipeline's feed side: arbitration, books, and the call of the strategy for what changed.

use super::{Core, Line, SESSION_SILENCE_NS, Verdict};
use crate::arbiter::Arrival;
use crate::bbo_changes::BBO_HASH_EMPTY;
use crate::counters::{Counter, Event};
use crate::market::{BookError, Change};
use crate::strategy::Strategy;
use abi::counters::State;
use abi::mold::Packet;

impl<S: Strategy> Core<S> {
    /// A datagram came in.
    #[inline]
    pub fn on_feed(&mut self, line: Line, datagram: &[u8], now: u64) -> Verdict {
        let Ok(packet) = Packet::decode(datagram) else {
            self.counters.count(Counter::FeedPacketsMalformed);
            return Verdict::Dropped;
        };
        let Some(end) = self.arbiter.plain_end(&packet) else {
            return self.on_unusual(line, &packet, datagram, now);
        };
        (self.own_session_heard_at, self.feed_heard_at) = (now, now);
        self.counters.count(Counter::FeedPackets);
        for bytes in packet.messages() {
            self.apply_message(bytes);
        }
        self.arbiter.advance_plainly(end, now);
        self.counters.set(Counter::FeedSequence, end);
        self.after_feed(now);
        Verdict::Accepted
    }

    /// A datagram that is not simply the next one.
    #[inline(never)]
    fn on_unusual(
        &mut self,
        line: Line,
        packet: &Packet<'_>,
        datagram: &[u8],
        now: u64,
    ) -> Verdict {
        if self.own_session_heard_at == 0 {
            self.own_session_heard_at = now;
        }
        // What is next in sequence is applied, and need not be compared.
        let before = (!self.arbiter.is_next(packet)).then(|| self.arbiter.knowledge());
        let was_whole = self.arbiter.is_whole();
        let applied = self.place(packet, datagram, now);
        let alive = self.own_session_heard_at == now;
        if was_whole && !self.arbiter.is_whole() && self.fed {
            self.counters.count(Counter::FeedGaps);
            self.counters.raise(Event::FeedGap, self.arbiter.next());
        }
        self.ask_for_gap(now, line == Line::Replay && applied);
        // A heartbeat or a datagram that can't be kept is an input too if it taught us of a gap.
        let learnt = applied || before != Some(self.arbiter.knowledge());
        // A sign of life is an input when the next order could be refused for the lack of it.
        let age = now.saturating_sub(self.feed_heard_at);
        let revived = alive && age >= self.order_entry.risk.limits().feed_age_max_ns / 4;
        if !learnt && !revived {
            return Verdict::Dropped;
        }
        if alive {
            self.feed_heard_at = now;
        }
        self.after_feed(now);
        Verdict::Accepted
    }

    /// Applies, holds or drops a datagram; `true` if it was applied or held.
    fn place(&mut self, packet: &Packet<'_>, datagram: &[u8], now: u64) -> bool {
        let arrival = self.arbiter.on_packet(packet, datagram, now);
        if arrival != Arrival::Foreign {
            self.own_session_heard_at = now;
        }
        match arrival {
            Arrival::Apply { skip } => {
                self.apply(packet, skip, now);
                self.apply_held(now);
                return true;
            }
            Arrival::Held => {
                self.counters.count(Counter::FeedReordered);
                return true;
            }
            Arrival::Duplicate => self.counters.count(Counter::FeedPacketsDuplicate),
            Arrival::WindowFull => self.counters.count(Counter::FeedWindowFull),
            Arrival::Foreign => {
                self.counters.count(Counter::FeedPacketsMalformed);
                self.rolled |= now.saturating_sub(self.own_session_heard_at) > SESSION_SILENCE_NS;
            }
            Arrival::Ended if !self.feed_ended => {
                self.feed_ended = true;
                self.counters.raise(Event::FeedEnded, self.arbiter.next());
                return true;
            }
            Arrival::Ended => {}
        }
        false
    }

    fn apply(&mut self, packet: &Packet<'_>, skip: u16, now: u64) {
        self.counters.count(Counter::FeedPackets);
        for bytes in packet.messages().skip(usize::from(skip)) {
            self.apply_message(bytes);
        }
        let next = packet.header.sequence + u64::from(packet.message_count());
        self.arbiter.advance(next, now);
        self.counters.set(Counter::FeedSequence, next);
    }

    pub(super) fn apply_held(&mut self, now: u64) {
        if !self.arbiter.is_holding() {
            return;
        }
        let mut held = self.held;
        while let Some(len) = self.arbiter.take_ready(&mut held) {
            let Ok(packet) = Packet::decode(&held[..len]) else { continue };
            let next = self.arbiter.next();
            if packet.header.sequence + u64::from(packet.message_count()) > next {
                self.apply(&packet, (next - packet.header.sequence) as u16, now);
            }
        }
    }

    #[inline]
    fn apply_message(&mut self, bytes: &[u8]) {
        self.counters.count(Counter::FeedMessages);
        let Self { market, touch, counters, strategy, .. } = self;
        let change = market.apply(bytes, |market, id| {
            touch.note(id, market.bbo(id), counters, strategy);
        });
        match change {
            Ok(Change::None | Change::MarketClosed) => {}
            Ok(Change::Status(id)) => self.touch.mark(id),
            Ok(Change::MarketOpened) => self.restart_bbo_sequence(),
            Err(error) => self.on_refused(bytes, error),
        }
    }

    /// A message that could not be applied: the books that it may have belonged to are not traded.
    #[cold]
    fn on_refused(&mut self, bytes: &[u8], error: BookError) {
        self.counters.count(match error {
            BookError::Malformed => Counter::FeedMessagesMalformed,
            BookError::UnknownOrder => Counter::BookUnknownOrder,
            _ => Counter::BookRefused,
        });
        let unsound = self.market.mark_unsound(bytes, error);
        if unsound > 0 {
            self.is_unsound = true;
            self.counters.add(Counter::BooksUnsound, unsound as u64);
            self.counters.raise(Event::BookUnsound, self.counters.get(Counter::BooksUnsound));
        }
    }

    /// The sequence is that of the changes since market hours started.
    fn restart_bbo_sequence(&mut self) {
        self.touch.hash = BBO_HASH_EMPTY;
        self.counters.set(Counter::BboChanges, 0);
    }

    pub(super) fn ask_for_gap(&mut self, now: u64, replayed: bool) {
        let (wait, retry) = (self.settings.gap_wait_ns, self.settings.request_retry_ns);
        if let Some(request) = self.arbiter.due_request(now, wait, retry, replayed) {
            self.request = Some(request);
            self.counters.count(Counter::FeedRequests);
        }
    }

    pub(super) fn after_feed(&mut self, now: u64) {
        if self.arbiter.is_whole() && !self.fed {
            self.fed = true;
            self.counters.raise(Event::FeedWhole, self.arbiter.next());
        }
        // In trading, nothing else that the feed says changes the state.
        if self.state != State::Trading || self.is_unsound {
            self.update_state(now);
        }
        while let Some(id) = self.touch.take_changed() {
            if self.may_trade() {
                self.run(now, |strategy, view, actions| strategy.on_bbo(view, id, actions));
            }
        }
    }
}
