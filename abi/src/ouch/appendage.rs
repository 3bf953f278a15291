//! The OUCH 5.0 appendage: optional values behind the fixed part, each under a tag.

use super::Price;
use crate::field::Alpha;
use crate::wire::{Field, WireError};

macro_rules! elements {
    ($($(#[$meta:meta])* $name:ident($ty:ty) = $tag:literal,)*) => {
        /// One optional value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Element<'a> {
            $( $(#[$meta])* $name($ty), )*
            /// A tag that this revision of the specification does not have.
            Unknown {
                /// Tag of the element.
                tag: u8,
                /// Bytes of the element's value.
                value: &'a [u8],
            },
        }

        impl<'a> Element<'a> {
            /// Every tag of the specification with the length of its value.
            pub const TAGS: &'static [(u8, usize)] = &[$( ($tag, <$ty as Field>::LEN) ),*];

            fn decode(tag: u8, value: &'a [u8]) -> Option<Self> {
                match tag {
                    $( $tag => (value.len() == <$ty as Field>::LEN)
                        .then(|| <$ty>::get(value)).flatten().map(Self::$name), )*
                    _ => Some(Self::Unknown { tag, value }),
                }
            }

            /// Appends the element: length, tag, value.
            ///
            /// # Panics
            /// If an unknown element's value is longer than 254 bytes.
            pub fn encode_to(&self, out: &mut Vec<u8>) {
                match self {
                    $( Self::$name(value) => {
                        out.extend_from_slice(&[1 + <$ty as Field>::LEN as u8, $tag]);
                        let at = out.len();
                        out.resize(at + <$ty as Field>::LEN, 0);
                        value.put(&mut out[at..]);
                    } )*
                    Self::Unknown { tag, value } => {
                        let length = u8::try_from(value.len() + 1).expect("element of at most 255 bytes");
                        out.extend_from_slice(&[length, *tag]);
                        out.extend_from_slice(value);
                    }
                }
            }
        }
    };
}

elements! {
    /// The reference number of a reserve order's new slice.
    SecondaryOrderRef(u64) = 1,
    /// The firm, if it is not the port's default.
    Firm(Alpha<4>) = 2,
    /// The least quantity to trade.
    MinQty(u32) = 3,
    /// `R` retail, `N` not retail, space for the port's default.
    CustomerType(u8) = 4,
    /// The displayed part of a reserve order.
    MaxFloor(u32) = 5,
    /// `L` limit, `P` market peg, `M` and `m` midpoint peg, `R` primary peg, `Q` market-maker peg.
    PriceType(u8) = 6,
    /// Distance from the peg, 1/10,000, signed.
    PegOffset(i32) = 7,
    /// The price up to which the order may trade undisplayed.
    DiscretionPrice(Price) = 9,
    /// As `PriceType`, for the discretion price.
    DiscretionPriceType(u8) = 10,
    /// Distance of a pegged discretion price, signed.
    DiscretionPegOffset(i32) = 11,
    /// `P` post-only, `N` not.
    PostOnly(u8) = 12,
    /// Spread of random reserve sizes.
    RandomReserves(u32) = 13,
    /// Where it was routed.
    Route(Alpha<4>) = 14,
    /// Seconds after midnight at which a good-till-time order ends.
    ExpireTime(u32) = 15,
    /// `Y` to trade resting interest at once.
    TradeNow(u8) = 16,
    /// Handling of cross, retail and extended-life orders.
    HandleInst(u8) = 17,
    /// Where the order stands to the NBBO.
    BboWeightIndicator(u8) = 18,
    /// The restated displayed quantity.
    DisplayQuantity(u32) = 22,
    /// The restated displayed price.
    DisplayPrice(Price) = 23,
    /// A group for mass cancels.
    GroupId(u16) = 24,
    /// `Y` if shares to sell short are located.
    SharesLocated(u8) = 25,
    /// The broker that located them.
    LocateBroker(Alpha<4>) = 26,
    /// The side that a mass cancel is for.
    Side(super::Side) = 27,
    /// The user-reference channel.
    UserRefIdx(u8) = 28,
    /// Action when the firm would trade with itself.
    AiqStrategy(u8) = 29,
    /// The group in which self-trade is prevented.
    AiqGroupId(Alpha<2>) = 30,
}

/// An appendage whose elements have all been found inside it and hold values of their types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appendage<'a> {
    elements: &'a [u8],
}

impl<'a> Appendage<'a> {
    /// Reads what stands behind a fixed part: nothing at all, or a length and that many bytes.
    ///
    /// # Errors
    /// [`WireError`] if the lengths do not add up or a known tag has a value of another length.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let Some((length, elements)) = bytes.split_first_chunk::<2>() else {
            let need = 2;
            return match bytes.len() {
                0 => Ok(Self::default()),
                got => Err(WireError::Length { what: "OUCH appendage length", need, got }),
            };
        };
        let need = usize::from(u16::from_be_bytes(*length));
        if need != elements.len() {
            return Err(WireError::Length { what: "OUCH appendage", need, got: elements.len() });
        }
        let mut rest = elements;
        while !rest.is_empty() {
            rest = Self::split(rest)?.1;
        }
        Ok(Self { elements })
    }

    fn split(bytes: &'a [u8]) -> Result<(Element<'a>, &'a [u8]), WireError> {
        let length = usize::from(bytes[0]);
        let cut = WireError::Length {
            what: "OUCH appendage element",
            need: 1 + length,
            got: bytes.len(),
        };
        let body = bytes.get(1..1 + length).ok_or(cut)?;
        let (tag, value) = body.split_first().ok_or(cut)?;
        let bad = WireError::Value { what: "OUCH appendage", field: "element" };
        Ok((Element::decode(*tag, value).ok_or(bad)?, &bytes[1 + length..]))
    }

    /// The elements, in the order of the wire.
    pub fn iter(&self) -> impl Iterator<Item = Element<'a>> + use<'a> {
        let mut rest = self.elements;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (element, after) = Self::split(rest).ok()?;
            rest = after;
            Some(element)
        })
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }
}

/// Appends an appendage's length and elements.
///
/// # Panics
/// If the elements take more than 65,535 bytes.
pub fn encode_to(elements: &[Element<'_>], out: &mut Vec<u8>) {
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    elements.iter().for_each(|element| element.encode_to(out));
    let length =
        u16::try_from(out.len() - length_at - 2).expect("appendage of at most 65,535 bytes");
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_count_their_tag_and_not_their_length() {
        let mut out = Vec::new();
        encode_to(&[Element::UserRefIdx(5), Element::ExpireTime(3600)], &mut out);
        assert_eq!(out, [0, 9, 2, 28, 5, 5, 15, 0, 0, 0x0e, 0x10]);
        let appendage = Appendage::decode(&out).unwrap();
        let read: Vec<_> = appendage.iter().collect();
        assert_eq!(read, [Element::UserRefIdx(5), Element::ExpireTime(3600)]);
    }

    #[test]
    fn unknown_tags_are_kept_and_wrong_lengths_refused() {
        let appendage = Appendage::decode(&[0, 4, 3, 99, 1, 2]).unwrap();
        assert_eq!(appendage.iter().next(), Some(Element::Unknown { tag: 99, value: &[1, 2] }));
        assert!(Appendage::decode(&[]).unwrap().is_empty());
        for bad in [&[0][..], &[0, 1], &[0, 1, 0], &[0, 2, 1, 28], &[0, 3, 3, 28, 1]] {
            assert!(Appendage::decode(bad).is_err(), "{bad:?}");
        }
    }
}
