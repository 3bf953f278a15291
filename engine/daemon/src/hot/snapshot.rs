//! The connection to the snapshot server: made when the core wants one, recorded like every input.

use super::Hot;
use crate::port::{Port, SLOT_SNAPSHOT};
use abi::journal::Kind;
use engine_core::strategy::Strategy;
use std::io;

impl<S: Strategy, P: Port> Hot<S, P> {
    /// Connects or lets go, looked at on every timer tick.
    pub(super) fn tend_snapshot(&mut self, now: u64) {
        self.snapshot_link.finish_closing(now, &mut self.port);
        if !self.core.wants_snapshot() {
            self.snapshot_link.reset(&mut self.port);
        } else if self.journal.has_room() {
            self.snapshot_link.poll(now, &mut self.port);
        }
    }

    pub(super) fn on_snapshot_connect(&mut self, result: i32, now: u64) -> io::Result<()> {
        if self.snapshot_link.on_connected(result, now, &mut self.port)? {
            self.journal.record(Kind::SnapshotConnected, now, &[]);
            self.core.on_snapshot_connected(now);
            self.take_outputs(now);
        }
        Ok(())
    }

    pub(super) fn on_snapshot_bytes(&mut self, buffer: u16, len: usize, now: u64) {
        if !self.snapshot_link.is_up() {
            return;
        }
        if !self.may_take_input() {
            // It is asked for again, when there is room.
            self.snapshot_link.reset(&mut self.port);
            return self.on_snapshot_lost(now);
        }
        let bytes = self.port.received(buffer, len);
        self.journal.record(Kind::SnapshotBytes, now, bytes);
        self.core.on_snapshot_bytes(bytes, now);
        self.take_outputs(now);
    }

    pub(super) fn on_snapshot_receive_ended(&mut self, result: i32, now: u64) -> io::Result<()> {
        if self.snapshot_link.on_receive_ended(result, &mut self.port)? {
            self.on_snapshot_lost(now);
        }
        Ok(())
    }

    pub(super) fn on_snapshot_lost(&mut self, now: u64) {
        self.journal.record(Kind::SnapshotLost, now, &[]);
        self.core.on_snapshot_lost();
        self.take_outputs(now);
    }

    /// Takes what the core wants to send to the server: recorded first.
    pub(super) fn take_snapshot_outputs(&mut self, now: u64) {
        if let Some(out) = self.core.snapshot_out() {
            self.journal.record(Kind::SnapshotSent, now, out);
            self.snapshot_link.queue(out);
            out.clear();
        }
        if self.core.take_snapshot_reset() && self.snapshot_link.is_up() {
            self.snapshot_link.reset(&mut self.port);
            self.on_snapshot_lost(now);
        }
    }
}

/// Whether a completion is about the snapshot server.
pub(super) fn is_snapshot(number: u32) -> bool {
    number == SLOT_SNAPSHOT
}
