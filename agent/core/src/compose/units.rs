//! Numbers with units, as compose files have them.

use std::time::Duration;

/// `512m`, `2gb`, `4096`: bytes. Source: Compose Specification, "Specifying byte values".
pub fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok().filter(|n| *n <= u64::MAX >> (shift + 1)).map(|n| n << shift)
}

/// `1m30s`, `500ms`, `2h`. Source: Compose Specification, "Specifying durations".
pub fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(split);
        let number: u32 = number.parse().ok()?;
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let one = match unit {
            "us" => Duration::from_micros(1),
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        sum = sum.checked_add(one.checked_mul(number)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

/// Parses a decimal such as `0.25` into thousandths, further digits cut; none if malformed or 10000
/// or more.
pub fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = format!("{part:0<3}");
    let whole = whole.parse::<u64>().ok().filter(|whole| *whole < 10_000)?;
    Some(whole * 1000 + digits.get(..3)?.parse::<u64>().ok()?)
}

/// A signal by its name, with or without `SIG`, or by its number.
pub fn signal(text: &str) -> Option<u32> {
    let by_number = text.parse::<i32>().ok();
    let by_number = by_number.and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    by_number.or_else(|| name.parse().ok()).map(|signal| signal as u32)
}
