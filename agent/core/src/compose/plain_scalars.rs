//! Plain scalars that one YAML reader takes for another value than the next: `010` is text here
//! and 8 for docker-compose. They are refused, since after reading nobody sees the difference.
//! Source: YAML 1.1 and YAML 1.2, "Core Schema"; the resolver of Go's yaml.v3.

use crate::compose::ComposeError;
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Checks that each plain scalar of a text is the same to every reader. Values of `mode`, which are
/// octal everywhere, are left out.
///
/// # Errors
/// The line of the first that is not, or of what is no YAML.
pub fn check(text: &str) -> Result<(), ComposeError> {
    match find(text)?.first() {
        None => Ok(()),
        Some(Doubt { span, word, what }) => {
            let remedy = "write it in quotes, or the value that is meant";
            Err(at(span.start.line(), format!("{word}: {what}: {remedy}")))
        }
    }
}

/// Puts quotes around each plain scalar that [`check`] would refuse, in a text whose writer knows
/// it as text.
///
/// # Errors
/// The text is not YAML.
pub fn quote(text: &str) -> Result<String, ComposeError> {
    let mut characters = text.chars();
    let (mut quoted, mut done) = (String::new(), 0);
    for Doubt { span, word, .. } in find(text)? {
        quoted.extend(characters.by_ref().take(span.start.index() - done));
        quoted.extend(["'", &word, "'"]);
        characters.by_ref().take(word.chars().count()).for_each(drop);
        done = span.start.index() + word.chars().count();
    }
    quoted.extend(characters);
    Ok(quoted)
}

struct Doubt {
    span: Span,
    word: String,
    what: &'static str,
}

fn at(line: usize, said: String) -> ComposeError {
    ComposeError::At { line, error: ComposeError::Schema(said).into() }
}

fn find(text: &str) -> Result<Vec<Doubt>, ComposeError> {
    let (mut found, mut before) = (Vec::new(), String::new());
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| at(error.marker().line(), error.info().to_owned()))?;
        let Event::Scalar(word, style, _, tag) = event else {
            before.clear();
            continue;
        };
        let is_plain = style == ScalarStyle::Plain && tag.is_none() && before != "mode";
        if is_plain && let Some(what) = doubtful(&word) {
            found.push(Doubt { span, word: word.to_string(), what });
        }
        before = word.into_owned();
    }
    Ok(found)
}

/// Value that some readers take a word for.
fn doubtful(word: &str) -> Option<&'static str> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    let only = |of: &str| !digits.is_empty() && digits.chars().all(|c| of.contains(c));
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if only("0123456789_") && digits.starts_with('0') && digits.len() > 1 {
        return Some("octal to some readers");
    }
    let is_hex = digits.starts_with("0x") && only("0123456789abcdefABCDEFx_");
    if digits.contains('_')
        && (is_hex || only("0123456789_.eE+-") || only("01_b") || only("01234567_o"))
    {
        return Some("a number to some readers");
    }
    if only("0123456789") && word.parse::<i64>().is_err() && word.parse::<u64>().is_err() {
        return Some("more than 64 bits");
    }
    let mut parts = digits.splitn(3, '-');
    let number = |part: Option<&str>, len: &[usize]| {
        part.is_some_and(|part| {
            len.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let is_date = number(parts.next(), &[4]) && number(parts.next(), &[1, 2]);
    let day = parts.next().map(|day| day.split(['T', 't', ' ']).next().unwrap_or(day));
    (is_date && number(day, &[1, 2])).then_some("a date to some readers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_readers_differ_about_is_refused() {
        let value =
            |word: &str| check(&format!("services:\n  a:\n    environment: {{A: {word}}}\n"));
        for word in [
            "010",
            "08",
            "-010",
            "1_000",
            "1_0.5",
            "0x_1f",
            "2001-01-01",
            "2001-1-2T10:00:00Z",
            "99999999999999999999",
        ] {
            let error = value(word).unwrap_err().to_string();
            assert!(error.starts_with("line 3: ") && error.contains(word), "{word}: {error}");
        }
        for word in [
            "10",
            "0",
            "-0",
            "0.5",
            "0x1f",
            "1e3",
            "'010'",
            "\"2001-01-01\"",
            "!!str 010",
            "a_b",
            "1.2.3",
            "2001-01-01-b",
            "v1_0",
            "10.0.0.1",
            "18446744073709551615",
            "0-1",
            "5m",
        ] {
            value(word).unwrap();
        }
        check("a: {mode: 0440}\nb:\n  mode: 0440\n").unwrap();
        assert!(check("a: [\n").is_err());
        let text = "é: [2001-01-01, b]\nc: 010\nd: e\n";
        assert_eq!(quote(text).unwrap(), "é: ['2001-01-01', b]\nc: '010'\nd: e\n");
    }
}
