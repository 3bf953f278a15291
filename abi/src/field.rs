//! Field types of the exchange protocols: alpha, prices, time stamps, sides. No message stands
//! here.

use crate::wire::Field;
use std::fmt;

/// Left-justified ASCII, padded with spaces on the right (ITCH 5.0 §2, "Alpha").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alpha<const N: usize>(pub [u8; N]);

/// A stock symbol as ITCH and OUCH carry it.
pub type Symbol = Alpha<8>;

impl<const N: usize> Alpha<N> {
    /// Field that holds only spaces.
    pub const BLANK: Self = Self([b' '; N]);

    /// Pads `text` with spaces; `None` if it is longer than the field or not printable ASCII.
    pub fn new(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() > N || !bytes.iter().all(|b| (b' '..=b'~').contains(b)) {
            return None;
        }
        let mut field = [b' '; N];
        field[..bytes.len()].copy_from_slice(bytes);
        Some(Self(field))
    }

    /// Right-justified decimal, as SoupBinTCP writes sequence numbers; `None` if it does not fit.
    pub fn decimal_right(value: u64) -> Option<Self> {
        let mut field = [b' '; N];
        let mut left = value;
        for digit in field.iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                return Some(Self(field));
            }
        }
        None
    }

    /// The number that a right- or left-justified decimal field holds; `None` if it holds none.
    pub fn parse_decimal(&self) -> Option<u64> {
        std::str::from_utf8(&self.0).ok()?.trim_matches(' ').parse().ok()
    }

    /// The text without its padding; bytes that are not ASCII show as `?`.
    pub fn text(&self) -> String {
        let end = self.0.iter().rposition(|b| *b != b' ').map_or(0, |last| last + 1);
        let shown = self.0[..end].iter();
        shown
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '?' })
            .collect()
    }
}

impl<const N: usize> fmt::Debug for Alpha<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl<const N: usize> fmt::Display for Alpha<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl<const N: usize> Field for Alpha<N> {
    const LEN: usize = N;
    #[inline(always)]
    fn get(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
    #[inline(always)]
    fn put(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0);
    }
}

impl Alpha<8> {
    /// The symbol as one word, for shared pages.
    pub fn to_word(self) -> u64 {
        u64::from_be_bytes(self.0)
    }

    /// The inverse of [`Self::to_word`].
    pub fn from_word(word: u64) -> Self {
        Self(word.to_be_bytes())
    }
}

/// A price in 1/10,000 of the currency, four bytes in ITCH ("Price(4)"), eight in OUCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Price(pub u32);

impl Price {
    /// Units of a price per whole currency unit.
    pub const SCALE: u32 = 10_000;
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / Self::SCALE, self.0 % Self::SCALE);
        if part.is_multiple_of(100) {
            write!(f, "{whole}.{:02}", part / 100)
        } else {
            write!(f, "{whole}.{part:04}")
        }
    }
}

impl Field for Price {
    const LEN: usize = 4;
    #[inline(always)]
    fn get(bytes: &[u8]) -> Option<Self> {
        u32::get(bytes).map(Self)
    }
    #[inline(always)]
    fn put(&self, bytes: &mut [u8]) {
        self.0.put(bytes);
    }
}

/// A price in 1/100,000,000 of the currency: the market-wide circuit-breaker levels ("Price(8)").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Price8(pub u64);

impl Field for Price8 {
    const LEN: usize = 8;
    #[inline(always)]
    fn get(bytes: &[u8]) -> Option<Self> {
        u64::get(bytes).map(Self)
    }
    #[inline(always)]
    fn put(&self, bytes: &mut [u8]) {
        self.0.put(bytes);
    }
}

/// Nanoseconds since midnight in six bytes (ITCH 5.0 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time48(u64);

impl Time48 {
    /// Takes nanoseconds since midnight; `None` from 2^48 on (78 hours).
    pub fn new(nanos: u64) -> Option<Self> {
        (nanos < 1 << 48).then_some(Self(nanos))
    }

    /// Nanoseconds since midnight.
    pub fn nanos(self) -> u64 {
        self.0
    }
}

impl Field for Time48 {
    const LEN: usize = 6;
    #[inline(always)]
    fn get(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, d, e, f] = bytes.try_into().ok()?;
        Some(Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f])))
    }
    #[inline(always)]
    fn put(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.to_be_bytes()[2..]);
    }
}

code! {
    /// Side of the book that an ITCH order is on.
    Side {
        /// An order to buy.
        Buy = b'B',
        /// An order to sell.
        Sell = b'S',
    }
}

impl Side {
    /// The other side.
    pub fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_pads_and_refuses() {
        assert_eq!(Alpha::<8>::new("AAPL").unwrap().0, *b"AAPL    ");
        assert_eq!(Alpha::<4>::new("AAPL ").map(|a| a.text()), None);
        assert_eq!(Alpha::<4>::new("Aä"), None);
        assert_eq!(Alpha::<8>::from_word(Symbol::new("QQQ").unwrap().to_word()).text(), "QQQ");
    }

    #[test]
    fn decimals_are_right_justified() {
        assert_eq!(Alpha::<6>::decimal_right(42).unwrap().0, *b"    42");
        assert_eq!(Alpha::<6>::decimal_right(42).unwrap().parse_decimal(), Some(42));
        assert_eq!(Alpha::<2>::decimal_right(100), None);
        assert_eq!(Alpha::<4>(*b"1 2 ").parse_decimal(), None);
        assert_eq!(Alpha::<4>::BLANK.parse_decimal(), None);
    }

    #[test]
    fn prices_show_two_or_four_decimals() {
        assert_eq!(Price(5_853_300).to_string(), "585.33");
        assert_eq!(Price(12_345).to_string(), "1.2345");
    }

    #[test]
    fn time_is_six_bytes() {
        assert_eq!(Time48::new(1 << 48), None);
        let time = Time48::new(34_200_000_000_001).unwrap();
        let mut bytes = [0; 6];
        time.put(&mut bytes);
        assert_eq!(Time48::get(&bytes), Some(time));
    }
}
