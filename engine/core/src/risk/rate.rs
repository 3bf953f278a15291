//! Messages of the last second, counted in slots of a 64th: the slots that are looked at cover a
//! second and at most a 64th more, so that no second anywhere has more than the limit.

/// Nanoseconds of a slot.
const SLOT_NS: u64 = 1_000_000_000 / 64;
/// Slots that a second can touch.
const SLOTS: usize = 65;

/// Counts of messages by slot.
pub(super) struct RateWindow {
    counts: [u32; SLOTS],
    /// Number of the newest slot since 1970.
    newest: u64,
    sum: u32,
}

impl RateWindow {
    /// A window without messages.
    pub(super) fn new() -> Self {
        Self { counts: [0; SLOTS], newest: 0, sum: 0 }
    }

    /// Returns the messages of the last second before this one.
    #[inline(always)]
    pub(super) fn count(&mut self, now_ns: u64) -> u32 {
        let slot = now_ns / SLOT_NS;
        if slot > self.newest {
            self.advance(slot);
        }
        self.sum
    }

    /// Counts a message at the time of the last [`Self::count`].
    #[inline(always)]
    pub(super) fn add(&mut self) {
        let count = &mut self.counts[(self.newest % SLOTS as u64) as usize];
        *count = count.saturating_add(1);
        self.sum = self.sum.saturating_add(1);
    }

    #[inline(never)]
    fn advance(&mut self, slot: u64) {
        let steps = (slot - self.newest).min(SLOTS as u64);
        for number in slot + 1 - steps..=slot {
            let count = &mut self.counts[(number % SLOTS as u64) as usize];
            self.sum -= std::mem::take(count);
        }
        self.newest = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_was_counted_and_none_counts_for_long() {
        let mut window = RateWindow::new();
        let mut times = Vec::new();
        // Steps that do not divide a slot, and one that is longer than a second.
        for step in 0..10_000_u64 {
            let last = times.last().copied().unwrap_or(1_700_000_000_000_000_000);
            let now = last + [1_300_000, 7_777_777, 40_000_001, 2_500_000_000][step as usize % 4];
            let counted = window.count(now);
            let within = |ns: u64| times.iter().filter(|at| now - **at < ns).count() as u32;
            assert!(counted >= within(1_000_000_000), "step {step}");
            assert!(counted <= within(1_000_000_000 + SLOT_NS), "step {step}");
            window.add();
            times.push(now);
            times.drain(..times.len().saturating_sub(200));
        }
    }
}
