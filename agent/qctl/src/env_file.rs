//! Env files (`env_file`, `.env`) as docker-compose reads them: quotes, comments, escapes, values
//! over several lines, `${NAME}`. Source: compose-go's `dotenv` package; docker-compose 2.26.1 is
//! the judge of the tests.

use crate::interpolation::put_in;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;

/// Variables of a file, in the order of their names.
pub type Variables = BTreeMap<String, String>;

/// Parses an env file. A variable in a value is one of `process`, else one that the file has set
/// above.
///
/// # Errors
/// The line, and what is wrong with it.
pub fn parse(text: &str, process: &Variables) -> Result<Variables> {
    let (mut variables, mut known) = (Variables::new(), process.clone());
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let mut rest = text.as_str();
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        rest = &rest[start..];
        let number = text[..text.len() - rest.len()].matches('\n').count() + 1;
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        let named = || format!("line {number}");
        let (name, value, after) = entry(rest, &known).with_context(named)?;
        if let Some(value) = value {
            if !process.contains_key(&name) {
                known.insert(name.clone(), value.clone());
            }
            variables.insert(name, value);
        }
        rest = after;
    }
    Ok(variables)
}

/// Name, value and what comes behind them; a name alone has no value.
fn entry<'a>(text: &'a str, known: &Variables) -> Result<(String, Option<String>, &'a str)> {
    let text = text.strip_prefix("export ").map_or(text, str::trim_start);
    let line = text.split('\n').next().unwrap_or_default();
    let Some(end) = line.find(['=', ':']) else {
        let is_name = line.trim().chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        ensure!(is_name, "{:?}: write NAME=value", line.trim());
        return Ok((line.trim().to_owned(), None, &text[line.len()..]));
    };
    let name = line[..end].trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-[]".contains(c);
    ensure!(!name.is_empty() && name.chars().all(is_plain), "{name:?} is no name of a variable");
    let value = text[end + 1..].trim_start_matches([' ', '\t']);
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let (inside, after) = quoted(&value[1..], quote)?;
            let value = match quote {
                '"' => put_in(&inside, known)?,
                _ => inside,
            };
            Ok((name.to_owned(), Some(value), after))
        }
        _ => {
            let line = value.split('\n').next().unwrap_or_default();
            let comment = line.find(" #").or_else(|| line.find("\t#"));
            let plain = match line.starts_with('#') {
                true => "",
                false => line[..comment.unwrap_or(line.len())].trim_end(),
            };
            Ok((name.to_owned(), Some(put_in(plain, known)?), &value[line.len()..]))
        }
    }
}

/// Text up to the quote that closes, and what comes behind the rest of its line.
fn quoted(text: &str, quote: char) -> Result<(String, &str)> {
    let mut inside = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match (quote, characters.next().map(|(_, next)| next)) {
                ('"', Some('n')) => inside.push('\n'),
                ('"', Some('r')) => inside.push('\r'),
                ('"', Some('t')) => inside.push('\t'),
                // Put in later, a dollar that is escaped stays one.
                ('"', Some('$')) => inside.push_str("$$"),
                ('"', Some(other @ ('"' | '\\' | '\''))) => inside.push(other),
                ('\'', Some('\'')) => inside.push('\''),
                (_, Some(other)) => inside.extend(['\\', other]),
                (_, None) => bail!("a quote is not closed"),
            },
            _ if character == quote => {
                let after = &text[at + character.len_utf8()..];
                let end = after.find('\n').unwrap_or(after.len());
                let left = after[..end].trim_start();
                ensure!(left.is_empty() || left.starts_with('#'), "{left:?} behind a quote");
                return Ok((inside, &after[end..]));
            }
            other => inside.push(other),
        }
    }
    bail!("a quote is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Variables> {
        parse(text, &Variables::new())
    }

    #[test]
    fn values_are_what_docker_compose_says() {
        let text = "\
PLAIN=value # comment\nSINGLE='quoted' # comment\nDOUBLE=\"quoted\" # comment\n\
ESCAPED=\"line1\\nline2\"\nINNER=\"a \\\"b\\\" c\"\nHASH=abc#def\nCOLON: value\n\
REFER=${PLAIN}/x\nMULTI=\"first\nsecond\"\nSPACED = x\nexport EXPORTED=1\n\n# alone\n\
RAW='${PLAIN} \\n'\nEMPTY=\nDEFAULT=${NONE:-other}\nDOLLAR=\"\\$PLAIN\"\n";
        let read = read(text).unwrap();
        let value = |name: &str| read[name].as_str();
        for (name, wanted) in [
            ("PLAIN", "value"),
            ("SINGLE", "quoted"),
            ("DOUBLE", "quoted"),
            ("ESCAPED", "line1\nline2"),
            ("INNER", "a \"b\" c"),
            ("HASH", "abc#def"),
            ("COLON", "value"),
            ("REFER", "value/x"),
            ("MULTI", "first\nsecond"),
            ("SPACED", "x"),
            ("EXPORTED", "1"),
            ("RAW", "${PLAIN} \\n"),
            ("EMPTY", ""),
            ("DEFAULT", "other"),
            ("DOLLAR", "$PLAIN"),
        ] {
            assert_eq!(value(name), wanted, "{name}");
        }
    }

    #[test]
    fn the_process_counts_before_the_file() {
        let process = [("A".to_owned(), "process".to_owned())].into();
        let read = parse("A=file\nB=$A\nC=1\nC=2\nD=$C\n", &process).unwrap();
        assert_eq!([&*read["A"], &*read["B"], &*read["D"]], ["file", "process", "2"]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for (text, wanted) in [
            ("A=1\nB=\"open\n", "line 2"),
            ("A='x' y\n", "behind a quote"),
            ("a b=1\n", "no name"),
            ("=1\n", "no name"),
            ("what is this\n", "NAME=value"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
    }
}
