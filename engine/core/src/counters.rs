//! Counters and events of the core; the rim shows them to the host.

use crate::limits::EVENTS_MAX;

pub use abi::counters::{Counter, Event};

/// The counters of one core.
pub struct Counters {
    words: [u64; Counter::COUNT],
    events: Vec<(Event, u64)>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self { words: [0; Counter::COUNT], events: Vec::with_capacity(EVENTS_MAX) }
    }

    /// Adds one to `counter`.
    #[inline(always)]
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds `by` to `counter`, wrapping on overflow.
    #[inline(always)]
    pub fn add(&mut self, counter: Counter, by: u64) {
        let word = &mut self.words[counter as usize];
        *word = word.wrapping_add(by);
    }

    /// Sets a gauge.
    #[inline(always)]
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.words[counter as usize] = value;
    }

    /// Reads a counter or gauge.
    pub fn get(&self, counter: Counter) -> u64 {
        self.words[counter as usize]
    }

    /// Keeps an event for the rim; past [`EVENTS_MAX`] between two drains it is dropped.
    pub fn raise(&mut self, event: Event, value: u64) {
        if self.events.len() < EVENTS_MAX {
            self.events.push((event, value));
        }
    }

    /// The events raised since the last drain.
    pub fn drain_events(&mut self) -> impl Iterator<Item = (Event, u64)> + '_ {
        self.events.drain(..)
    }
}
