//! Seeded loss, duplication and reordering of datagrams: what a network does, at a chosen rate.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// Rates of faults, in events per million datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates {
    /// Datagrams lost, per million.
    pub loss_ppm: u32,
    /// Datagrams sent twice, per million.
    pub duplicate_ppm: u32,
    /// Sent after the next one.
    pub reorder_ppm: u32,
}

/// One line's faults.
pub struct Faults {
    rates: FaultRates,
    rng: ChaCha8Rng,
    delayed: Option<Vec<u8>>,
}

impl Faults {
    /// Faults determined by `seed`.
    pub fn new(rates: FaultRates, seed: u64) -> Self {
        Self { rates, rng: ChaCha8Rng::seed_from_u64(seed), delayed: None }
    }

    fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.rng.next_u32() % 1_000_000 < ppm
    }

    /// Applies the faults to a datagram and returns the datagrams to send now, in order.
    pub fn pass(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let late = self.delayed.take();
        if self.happens(self.rates.reorder_ppm) {
            self.delayed = Some(datagram.to_vec());
        } else if !self.happens(self.rates.loss_ppm) {
            let copies = 1 + usize::from(self.happens(self.rates.duplicate_ppm));
            out.extend(std::iter::repeat_n(datagram.to_vec(), copies));
        }
        out.extend(late);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept_and_nothing_is_invented() {
        let rates = FaultRates { loss_ppm: 100_000, duplicate_ppm: 50_000, reorder_ppm: 50_000 };
        let mut faults = Faults::new(rates, 1);
        let sent: Vec<u32> = (0..20_000u32)
            .flat_map(|n| faults.pass(&n.to_be_bytes()))
            .map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
            .collect();
        let distinct: std::collections::HashSet<_> = sent.iter().collect();
        let lost = 20_000 - distinct.len();
        assert!((1_500..2_500).contains(&lost), "{lost} lost");
        let reordered = sent.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((500..1_500).contains(&reordered), "{reordered} out of order");
        assert!(sent.iter().all(|n| *n < 20_000));
    }

    #[test]
    fn without_rates_a_line_is_faithful() {
        let mut faults = Faults::new(FaultRates::default(), 1);
        assert_eq!(faults.pass(b"one"), [b"one"]);
    }
}
