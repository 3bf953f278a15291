//! Times of the last messages: one more may go out if as many as the limit lie a second behind it,
//! so that no second anywhere has more than the limit.

const SECOND_NS: u64 = 1_000_000_000;

/// Messages of the last second.
pub(super) struct RateWindow {
    /// Times at which the last messages stop counting, in nanoseconds: as many as the limit, up to
    /// the next power of two.
    until: Box<[u64]>,
    /// Number of messages so far.
    sent: usize,
}

impl RateWindow {
    /// A window without messages, for a limit of so many.
    pub(super) fn new(limit: usize) -> Self {
        // Written to, so that no order is the first to touch a page: zeros alone would not be.
        let mut until = std::hint::black_box(vec![u64::MAX; limit.next_power_of_two()]);
        until.fill(0);
        Self { until: until.into_boxed_slice(), sent: 0 }
    }

    /// Makes room for another limit; what was sent counts on.
    pub(super) fn make_room(&mut self, limit: usize) {
        if limit > self.until.len() {
            let mut wider = Self { sent: self.sent, ..Self::new(limit) };
            for back in 1..=self.until.len().min(self.sent) {
                let at = self.sent - back;
                wider.until[at % wider.until.len()] = self.until[at % self.until.len()];
            }
            *self = wider;
        }
    }

    /// Whether one more message keeps to a limit in any second.
    #[inline(always)]
    pub(super) fn has_room(&self, limit: usize, now_ns: u64) -> bool {
        let at = self.sent.wrapping_sub(limit) & (self.until.len() - 1);
        self.until.get(at).is_some_and(|until| *until <= now_ns)
    }

    /// Counts a message.
    #[inline(always)]
    pub(super) fn add(&mut self, now_ns: u64) {
        let at = self.sent & (self.until.len() - 1);
        if let Some(until) = self.until.get_mut(at) {
            *until = now_ns + SECOND_NS;
        }
        self.sent = self.sent.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_out_if_its_second_has_room_and_only_then() {
        let (mut window, mut times) = (RateWindow::new(3), Vec::new());
        let (mut now, mut refused) = (1_700_000_000_000_000_000_u64, 0);
        for step in 0..10_000 {
            now += [1_300_000, 0, 40_000_001, 999_999_999, 7_777_777][step % 5];
            let limit = [3, 2, 7][step / 3_500];
            window.make_room(limit);
            let within = times.iter().filter(|at| now - **at < SECOND_NS).count();
            assert_eq!(window.has_room(limit, now), within < limit, "step {step}");
            if within < limit {
                window.add(now);
                times.push(now);
            } else {
                refused += 1;
            }
        }
        assert!(refused > 1_000);
    }
}
