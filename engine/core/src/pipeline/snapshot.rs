//! The pipeline's way back when too much was missed: the state of all books from a GLIMPSE 5.0
//! server. While one is taken in, the feed is held back and no strategy is called.

use super::Core;
use crate::counters::{Counter, Event};
use crate::settings::{Login, SnapshotSettings};
use crate::soup_session::{Client, Incoming};
use crate::strategy::Strategy;
use abi::glimpse::EndOfSnapshot;

/// The longest thing that is sent to the server: a login.
const OUT_LEN: usize = 64;

/// Between two snapshots for books that missed a message: all instruments stop trading for it.
const HEAL_INTERVAL_NS: u64 = 60_000_000_000;

/// A connection that brings nothing for so long is made anew.
const SILENCE_MAX_NS: u64 = 5_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is wrong.
    Idle,
    /// A connection is wanted.
    Wanted,
    /// The books are empty, and are being filled.
    Loading,
}

/// The client of the snapshot server.
pub(super) struct Snapshot {
    settings: SnapshotSettings,
    client: Client,
    out: Vec<u8>,
    phase: Phase,
    heard_at: u64,
    healed_at: u64,
    reset: bool,
}

impl Snapshot {
    pub fn new(settings: SnapshotSettings) -> Self {
        let client = Client::new(Login::clone(&settings.login));
        let out = Vec::with_capacity(OUT_LEN);
        let (phase, heard_at, healed_at, reset) = (Phase::Idle, 0, 0, false);
        Self { settings, client, out, phase, heard_at, healed_at, reset }
    }
}

/// Why a snapshot can't be used.
struct Unusable;

impl<S: Strategy> Core<S> {
    /// Whether a connection to the snapshot server is wanted now.
    pub fn wants_snapshot(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| snapshot.phase != Phase::Idle)
    }

    /// Bytes for the snapshot server; the rim sends and clears them after every input.
    pub fn snapshot_out(&mut self) -> Option<&mut Vec<u8>> {
        self.snapshot.as_mut().map(|snapshot| &mut snapshot.out).filter(|out| !out.is_empty())
    }

    /// Whether the connection to the snapshot server is to be closed.
    pub fn take_snapshot_reset(&mut self) -> bool {
        self.snapshot.as_mut().is_some_and(|snapshot| std::mem::take(&mut snapshot.reset))
    }

    /// Asks for a snapshot if the request server does not help any more, or a book is to be healed.
    pub(super) fn consider_snapshot(&mut self, now: u64) {
        let Some(snapshot) = &mut self.snapshot else { return };
        match snapshot.phase {
            Phase::Idle => {
                let SnapshotSettings { gap_age_max_ns, gap_messages_max, .. } = snapshot.settings;
                let lost = self.arbiter.stuck(now).is_some_and(|(age, messages)| {
                    age >= gap_age_max_ns || messages >= gap_messages_max
                });
                let heals =
                    self.is_unsound && now.saturating_sub(snapshot.healed_at) >= HEAL_INTERVAL_NS;
                if (lost || heals) && !self.feed_ended {
                    snapshot.phase = Phase::Wanted;
                    snapshot.healed_at = now;
                    snapshot.heard_at = now;
                }
            }
            Phase::Wanted | Phase::Loading => {
                // The request server may have answered after all.
                let helped = self.arbiter.is_whole() && !self.is_unsound;
                if snapshot.phase == Phase::Wanted && helped {
                    snapshot.phase = Phase::Idle;
                    snapshot.reset = true;
                } else if now.saturating_sub(snapshot.heard_at) > SILENCE_MAX_NS {
                    snapshot.heard_at = now;
                    snapshot.reset = true;
                }
            }
        }
    }

    /// The connection to the snapshot server stands.
    pub fn on_snapshot_connected(&mut self, now: u64) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.heard_at = now;
            snapshot.client.forget();
            snapshot.client.connected(now, &mut snapshot.out);
        }
    }

    /// The connection to the snapshot server is gone. Half a snapshot is none: another one is
    /// taken.
    pub fn on_snapshot_lost(&mut self) {
        let Some(snapshot) = &mut self.snapshot else { return };
        snapshot.out.clear();
        snapshot.client.lost();
        if snapshot.phase == Phase::Loading {
            self.on_unusable();
        }
    }

    fn on_unusable(&mut self) {
        self.counters.count(Counter::SnapshotsFailed);
        let count = self.counters.get(Counter::SnapshotsFailed);
        self.counters.raise(Event::SnapshotFailed, count);
        if let Some(snapshot) = &mut self.snapshot {
            // The books stay held back and empty until another attempt succeeds.
            snapshot.phase = Phase::Wanted;
            snapshot.reset = true;
        }
    }

    /// Bytes came from the snapshot server.
    pub fn on_snapshot_bytes(&mut self, bytes: &[u8], now: u64) {
        let Some(snapshot) = &mut self.snapshot else { return };
        snapshot.heard_at = now;
        let mut received = snapshot.client.receive(bytes, now).is_ok();
        while received {
            let Some(snapshot) = &mut self.snapshot else { return };
            received = match snapshot.client.next_incoming() {
                Ok(Incoming::Nothing) => return,
                Ok(Incoming::LoggedIn) => self.begin_snapshot().is_ok(),
                Ok(Incoming::Message) => match self.apply_snapshot_message() {
                    Ok(Some(next)) => return self.end_snapshot(next, now),
                    applied => applied.is_ok(),
                },
                Ok(Incoming::Idle) => true,
                Ok(Incoming::Refused(_) | Incoming::Ended) | Err(_) => false,
            };
        }
        self.on_unusable();
    }

    /// The books are emptied. A snapshot of another session is none of this feed.
    fn begin_snapshot(&mut self) -> Result<(), Unusable> {
        let Some(snapshot) = &mut self.snapshot else { return Err(Unusable) };
        if self.arbiter.session().is_some_and(|session| session != snapshot.client.session()) {
            return Err(Unusable);
        }
        snapshot.phase = Phase::Loading;
        self.arbiter.begin_rebuild();
        self.market.clear();
        Ok(())
    }

    /// Applies one message; the number of the first that the feed has to bring, when it was the
    /// last one.
    fn apply_snapshot_message(&mut self) -> Result<Option<u64>, Unusable> {
        let Self { snapshot, market, .. } = self;
        let Some(Snapshot { client, phase: Phase::Loading, .. }) = snapshot else {
            return Err(Unusable);
        };
        let bytes = client.message();
        if bytes.first() == Some(&EndOfSnapshot::KIND) {
            let end = EndOfSnapshot::decode(bytes).map_err(|_| Unusable)?;
            return end.sequence.parse_decimal().filter(|next| *next > 0).map(Some).ok_or(Unusable);
        }
        market.apply(bytes, |_, _| {}).map(|_| None).map_err(|_| Unusable)
    }

    fn end_snapshot(&mut self, next: u64, now: u64) {
        let Some(snapshot) = &mut self.snapshot else { return };
        (snapshot.phase, snapshot.reset) = (Phase::Idle, true);
        self.is_unsound = false;
        self.counters.set(Counter::BooksUnsound, 0);
        self.counters.count(Counter::SnapshotsLoaded);
        self.counters.raise(Event::SnapshotLoaded, next);
        self.arbiter.end_rebuild(next, now);
        self.counters.set(Counter::FeedSequence, next);
        for id in self.market.instruments() {
            self.touch.note(id, self.market.bbo(id), &mut self.counters, &mut self.strategy);
        }
        self.apply_held(now);
        self.after_feed(now);
    }
}
