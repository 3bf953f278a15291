//! Size check of a YAML text with its aliases expanded: a kilobyte of them can be gigabytes.
//! Measures while parsing and keeps no values.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Bytes counted for each value besides its text.
const NODE: u64 = 16;

/// Whether a text has at most so many bytes with its aliases put in, and a little for each value.
///
/// # Errors
/// It has more, or is no YAML.
pub fn check(text: &str, max: u64) -> Result<(), serde_yaml_ng::Error> {
    let mut left = max;
    let measured = Measure { left: &mut left };
    measured.deserialize(serde_yaml_ng::Deserializer::from_str(text))
}

struct Measure<'a> {
    left: &'a mut u64,
}

impl Measure<'_> {
    fn spend<E: Error>(&mut self, len: usize) -> Result<(), E> {
        let left = self.left.checked_sub(NODE + len as u64);
        *self.left =
            left.ok_or_else(|| E::custom("its aliases make it too large; write less of them"))?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Measure<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Measure<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("YAML without tags")
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.spend(text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut all: A) -> Result<(), A::Error> {
        self.spend(0)?;
        while all.next_element_seed(Measure { left: self.left })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut all: A) -> Result<(), A::Error> {
        self.spend(0)?;
        while all.next_key_seed(Measure { left: self.left })?.is_some() {
            all.next_value_seed(Measure { left: self.left })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_of_aliases_are_measured_and_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..6 {
            let of = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![of; 10].join(", "));
        }
        assert!(text.len() < 1000);
        let error = check(&text, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
        check("x: &x {a: 1, b: [true, ~, 0.5, -3]}\ny: {<<: *x}\n", 1 << 20).unwrap();
        assert!(check("a: \"", 1 << 20).is_err());
    }
}
