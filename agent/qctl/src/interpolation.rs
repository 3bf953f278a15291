//! Variables in texts of a compose file (`${NAME}`). Source: Compose Specification,
//! "Interpolation".

use anyhow::{Context, Result, bail, ensure};
use serde_yaml_ng::Value;
use std::collections::BTreeMap;

/// Puts variables into every text of a value.
pub fn interpolate(
    value: &mut Value,
    variables: &BTreeMap<String, String>,
    at: &str,
) -> Result<()> {
    match value {
        Value::String(text) if text.contains('$') => {
            *text =
                put_in(text, variables).with_context(|| at.trim_start_matches('.').to_owned())?;
        }
        Value::Sequence(all) => {
            for (index, one) in all.iter_mut().enumerate() {
                interpolate(one, variables, &format!("{at}[{index}]"))?;
            }
        }
        Value::Mapping(all) => {
            for (key, one) in all.iter_mut() {
                let key = key.as_str().unwrap_or("?");
                interpolate(one, variables, &format!("{at}.{key}"))?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?why}`, `${NAME?why}`,
/// `${NAME:+other}`, `${NAME+other}`; `$$` is a dollar.
pub fn put_in(text: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let end = closing(after).with_context(|| format!("{text:?}: a ${{ is not closed"))?;
            out.push_str(&braced(&after[..end], variables)?);
            rest = &after[end + 1..];
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, after) = after.split_at(end.unwrap_or(after.len()));
            let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            ensure!(starts, "{text:?}: write $$ for a dollar");
            out.push_str(variable(name, variables)?);
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the brace closes that is open at the start.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn variable<'a>(name: &str, variables: &'a BTreeMap<String, String>) -> Result<&'a str> {
    // Compose puts nothing there and warns; on a host nobody reads the warning.
    let value = variables.get(name);
    Ok(value
        .with_context(|| format!("{name} is not set; set it, or write ${{{name}:-default}}"))?)
}

fn braced(inside: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, operator) = inside.split_at(end);
    let (colon, operator) = match operator.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, operator),
    };
    let set = variables.get(name).filter(|value| !colon || !value.is_empty());
    let mut characters = operator.chars();
    match (characters.next(), characters.as_str()) {
        (None, _) if !colon => variable(name, variables).map(Into::into),
        (Some('-'), default) => match set {
            Some(value) => Ok(value.clone()),
            None => put_in(default, variables),
        },
        (Some('?'), why) => match set {
            Some(value) => Ok(value.clone()),
            None => bail!("{name} is not set: {why}"),
        },
        (Some('+'), other) => match set {
            Some(_) => put_in(other, variables),
            None => Ok(String::new()),
        },
        _ => bail!(
            "${{{inside}}}: write ${{NAME}}, ${{NAME:-default}}, ${{NAME:?why}} or ${{NAME:+other}}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [("A", "one"), ("EMPTY", "")].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn variables_are_put_in_as_compose_does() {
        for (text, wanted) in [
            ("$A-${A}", "one-one"),
            ("$$A", "$A"),
            ("${B:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY-two}", ""),
            ("${B:-${A}}", "one"),
            ("${A:+yes}${B:+no}", "yes"),
            ("${A:?why}", "one"),
            ("x", "x"),
        ] {
            assert_eq!(put_in(text, &variables()).unwrap(), wanted, "{text}");
        }
        for (text, wanted) in [
            ("$B", "B is not set"),
            ("${B:?say it}", "say it"),
            ("${A", "not closed"),
            ("cost: 5$", "write $$"),
            ("${A:=x}", "write ${NAME}"),
        ] {
            let error = format!("{:#}", put_in(text, &variables()).unwrap_err());
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
