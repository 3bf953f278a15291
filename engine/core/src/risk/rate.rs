//! Times of the last messages: one more may go out if as many as the limit lie a second behind it,
//! so that no second anywhere has more than the limit.

use crate::limits::ORDER_RATE_MAX;

const SECOND_NS: u64 = 1_000_000_000;
/// Messages whose times are kept: those of a second at the largest limit, and a power of two, so
/// that an index needs no check.
const KEPT: usize = (ORDER_RATE_MAX as usize).next_power_of_two();

/// Messages of the last second.
pub(super) struct RateWindow {
    /// Times at which each message stops counting, in nanoseconds; 0 for none.
    until: Box<[u64; KEPT]>,
    /// Number of messages so far.
    sent: usize,
}

impl RateWindow {
    /// A window without messages.
    pub(super) fn new() -> Self {
        let until = vec![0; KEPT].into_boxed_slice();
        Self { until: until.try_into().expect("it has so many"), sent: 0 }
    }

    /// Whether one more message keeps to a limit of 1 to [`ORDER_RATE_MAX`] in any second.
    #[inline(always)]
    pub(super) fn has_room(&self, limit: usize, now_ns: u64) -> bool {
        self.until[self.sent.wrapping_sub(limit) % KEPT] <= now_ns
    }

    /// Counts a message.
    #[inline(always)]
    pub(super) fn add(&mut self, now_ns: u64) {
        self.until[self.sent % KEPT] = now_ns + SECOND_NS;
        self.sent = self.sent.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_out_if_its_second_has_room_and_only_then() {
        let (mut window, mut times) = (RateWindow::new(), Vec::new());
        let (mut now, mut refused) = (1_700_000_000_000_000_000_u64, 0);
        for step in 0..10_000 {
            now += [1_300_000, 0, 40_000_001, 999_999_999, 7_777_777][step % 5];
            let limit = if step < 5_000 { 3 } else { 2 };
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
