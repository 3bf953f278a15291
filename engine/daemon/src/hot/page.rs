//! Counters page as the hot thread publishes it.

use super::Hot;
use crate::port::Port;
use abi::counters::{Counter, INSTRUMENTS_SHOWN_MAX, Word};
use engine_core::strategy::Strategy;

impl<S: Strategy, P: Port> Hot<S, P> {
    /// Copies counters, instruments and events to the shared page.
    pub(super) fn publish(&mut self) {
        let counters = &mut self.core.counters;
        counters.set(Counter::Syscalls, self.port.syscalls());
        if let Some((khz, error_ppb)) = self.port.tsc() {
            counters.set(Counter::TscKhz, khz);
            counters.set(Counter::TscErrorPpb, error_ppb as u64);
        }
        counters.set(Counter::JournalRecords, self.journal.records);
        counters.set(Counter::JournalBytes, self.journal.bytes);
        counters.set(Counter::JournalDurable, self.journal.durable);
        for counter in Counter::ALL {
            self.page.set(*counter, counters.get(*counter));
        }
        for (event, value) in counters.drain_events() {
            self.page.raise(event, value);
        }
        for id in self.core.market().instruments().take(INSTRUMENTS_SHOWN_MAX) {
            self.page.show_instrument(usize::from(id.0), &self.core.instrument_view(id));
        }
        let in_force = self.core.order_entry().risk.limits().to_words();
        self.page.show_limits(&in_force, &self.configured_limits);
        self.page.set_word(Word::State, self.core.state() as u64);
        self.page.set_word(Word::Heartbeat, self.port.monotonic_ns());
    }
}
