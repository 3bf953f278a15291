//! Texts with a meaning: numbers with units, as compose files have them.

use std::time::Duration;

/// `512m`, `2gb`, `4096`: bytes. Source: Compose Specification, "Specifying byte values".
pub fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    // All are powers of 1024, with or without the i (go-units, `RAMInBytes`).
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match unit.strip_suffix('i').unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let bytes = whole.parse::<u64>().ok().filter(|n| *n <= u64::MAX >> (shift + 1))? << shift;
    if part.is_empty() {
        return (!number.ends_with('.')).then_some(bytes);
    }
    // Of a fraction what is less than a byte is cut.
    let is_short = part.len() <= 9 && part.bytes().all(|byte| byte.is_ascii_digit());
    let part = is_short.then(|| part.parse::<u64>().ok().map(|it| (it, part.len() as u32)))??;
    let part = (u128::from(part.0) << shift) / 10_u128.pow(part.1);
    Some(bytes + part as u64)
}

/// Words of a line, split as a shell splits it, without a shell: a variable stays text, and nothing
/// is a comment. `None` where a quote is not closed.
pub fn words(line: &str) -> Option<Vec<String>> {
    // What `shlex` takes for the start of a comment, out of its sight.
    const HASH: &str = "\u{e000}";
    let words = shlex::split(&line.replace('#', HASH))?;
    Some(words.into_iter().map(|word| word.replace(HASH, "#")).collect())
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

/// Text of a float as docker-compose writes it (Go's `%v`): below 0.0001 and from a million on with
/// an exponent.
pub fn float_text(value: f64) -> String {
    let exponential = format!("{value:e}");
    match exponential.split_once('e').and_then(|(digits, e)| Some((digits, e.parse::<i32>().ok()?)))
    {
        Some((digits, exponent)) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => value.to_string(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_docker_reads_them() {
        for (text, wanted) in [
            ("4096", Some(4096)),
            ("512m", Some(512 << 20)),
            ("2gb", Some(2 << 30)),
            ("1Gi", Some(1 << 30)),
            ("1 GiB", Some(1 << 30)),
            ("1.5g", Some(3 << 29)),
            ("0.001k", Some(1)),
            ("1t", Some(1 << 40)),
            ("", None),
            ("m", None),
            ("1.", None),
            (".5g", None),
            ("1.2.3m", None),
            ("1bb", None),
            ("-1", None),
            ("18446744073709551615t", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn floats_are_written_as_docker_compose_writes_them() {
        for (value, wanted) in [
            (1.0, "1"),
            (1.5, "1.5"),
            (123_456.75, "123456.75"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (12_345_678.25, "1.234567825e+07"),
            (1e21, "1e+21"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (0.0, "0"),
        ] {
            assert_eq!(float_text(value), wanted);
        }
    }

    #[test]
    fn a_line_is_split_as_a_shell_splits_it() {
        for (line, wanted) in [
            ("a  b", &["a", "b"][..]),
            ("sh -c 'echo \"$A\" | wc'", &["sh", "-c", "echo \"$A\" | wc"]),
            ("a \"b c\" d\\ e", &["a", "b c", "d e"]),
            ("a #b", &["a", "#b"]),
            ("", &[]),
        ] {
            assert_eq!(words(line).unwrap(), wanted, "{line}");
        }
        assert_eq!(words("a 'b"), None);
    }
}
