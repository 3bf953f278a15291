//! Control inputs of the hot thread: the control page, risk limits, signals, the agent's silence.

use super::Hot;
use crate::port::Port;
use abi::journal::Kind;
use engine_core::settings::RiskLimits;
use engine_core::strategy::Strategy;
use std::io;

impl<S: Strategy, P: Port> Hot<S, P> {
    /// The page has changed, or is seen for the first time: that nobody asks for anything at the
    /// start resumes nothing.
    pub(super) fn on_page(&mut self, now: u64) {
        let asked = self.control.orders();
        let has_seen = std::mem::replace(&mut self.has_seen_page, true);
        let resume = has_seen && !asked.kill && !asked.drain;
        self.killed_by_signal &= !resume;
        self.tell_core(resume, now);
    }

    pub(super) fn on_control(&mut self, now: u64) {
        self.tell_core(false, now);
    }

    fn tell_core(&mut self, resume: bool, now: u64) {
        let mut orders = self.control.orders();
        orders.resume = resume;
        orders.drain |= self.stopping_since.is_some();
        orders.kill |= self.killed_by_signal;
        orders.agent_silent = self.agent_silent;
        self.journal.record(Kind::Control, now, &[orders.to_bits()]);
        self.core.on_control(orders, now);
        self.take_outputs(now);
    }

    /// `SIGUSR1` is the kill switch for a host whose agent is gone; any other signal ends the
    /// engine.
    pub(super) fn on_signal(&mut self, now: u64) -> io::Result<()> {
        if self.port.take_kill()? {
            self.killed_by_signal = true;
        } else {
            self.stopping_since.get_or_insert(now);
        }
        self.on_control(now);
        Ok(())
    }

    /// Limits that are being written are read at a later turn.
    pub(super) fn on_limits(&mut self, now: u64) {
        let generation = self.control.limits_generation();
        if let Some((words, configured)) = self.control.limits(generation) {
            self.limits_generation = generation;
            if configured != self.configured_limits {
                // They changed another configuration; this one was deployed since.
                return;
            }
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
    pub(super) fn watch_agent(&mut self, now: u64) {
        let Some(max) = self.agent_silence_max_ns else { return };
        let beat = self.control.heartbeat_ns().max(self.started_ns);
        let silent = self.port.monotonic_ns().saturating_sub(beat) > max;
        if silent != self.agent_silent && self.journal.has_reserve() {
            self.agent_silent = silent;
            self.on_control(now);
        }
    }
}
