//! Where in a compose file the thing stands that an error names.

/// The line, from 1 on, of what an error names by its path, as in `services.NAME.KEY: ...`: that of
/// the deepest key of it that is found, or, of a word that is none of those expected, the word's.
/// Of a mapping in braces it is the line where that begins. Nothing for an error without a path.
pub fn line_of(text: &str, said: &str) -> Option<usize> {
    let (path, rest) = said.split_once(": ").unwrap_or((said, ""));
    let quoted = |before| rest.split_once(before)?.1.split('`').next();
    let path = match quoted("unknown field `") {
        Some(field) => format!("{path}.{field}"),
        None => path.to_owned(),
    };
    let lines: Vec<&str> = text.lines().collect();
    let (at, indent) = find(&lines, 0, None, &path)?;
    let word = quoted("unknown variant `");
    let inside = block(&lines, at + 1, Some(indent));
    let word = word.and_then(|word| inside.into_iter().find(|at| lines[*at].contains(word)));
    Some(word.unwrap_or(at) + 1)
}

/// The line of a path's deepest key below a parent with this indent, and the key's own indent.
fn find(lines: &[&str], from: usize, parent: Option<usize>, path: &str) -> Option<(usize, usize)> {
    let inside = block(lines, from, parent);
    let first = indent(lines[*inside.first()?]);
    let siblings = inside.into_iter().filter(|at| indent(lines[*at]) == first);
    let matching = siblings.filter_map(|at| {
        let rest = path.strip_prefix(key_of(lines[at])?)?;
        (rest.is_empty() || rest.starts_with('.')).then_some((at, rest))
    });
    // A name may have points in it: the longest that fits.
    let (at, rest) = matching.min_by_key(|(_, rest)| rest.len())?;
    let deeper = rest.strip_prefix('.').and_then(|rest| find(lines, at + 1, Some(first), rest));
    Some(deeper.unwrap_or((at, first)))
}

/// The lines with something in them that are below a parent with this indent. A list may stand as
/// far left as its key.
fn block(lines: &[&str], from: usize, parent: Option<usize>) -> Vec<usize> {
    let says = |at: &usize| !matches!(lines[*at].trim_start().chars().next(), None | Some('#'));
    let is_below = |at: &usize| {
        let line = lines[*at];
        parent.is_none_or(|parent| {
            indent(line) > parent || indent(line) == parent && line.trim_start().starts_with("- ")
        })
    };
    (from..lines.len()).filter(says).take_while(is_below).collect()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn key_of(line: &str) -> Option<&str> {
    let (key, rest) = line.trim_start().split_once(':')?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| key.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use crate::compose::error_lines::line_of;

    const FILE: &str = "# services:
name: x
services:
  a.b:
    image: one   # mem_limit: 1

    volumes:
    - /x:/y
    mem_limit: 3x
  a:
    image: two
    \"deploy\": {replicas: 3}
    healthcheck:
      test: [CMD, x]
    restart: ever
  a.c:
    image: three
volumes:
  data: {}
";

    #[test]
    fn what_an_error_names_is_found() {
        for (said, line) in [
            ("services.a.b.mem_limit: \"3x\": at least 1m", Some(9)),
            ("services.a.b.image: no", Some(5)),
            ("services.a.image: no", Some(11)),
            ("services.a.deploy.replicas: \"3\": 1", Some(12)),
            ("services.a.healthcheck: unknown field `tests`, expected `test`", Some(13)),
            ("services.a: unknown field `healthcheck`, expected one of", Some(13)),
            ("services.a: unknown variant `ever`, expected one of `no`", Some(15)),
            ("services.a.other: not there", Some(10)),
            ("services.a.c.image: no", Some(17)),
            ("volumes.data: no", Some(19)),
            ("unknown key `volumes`", None),
            ("mapping values are not allowed in this context at line 1 column 2", None),
        ] {
            assert_eq!(line_of(FILE, said), line, "{said}");
        }
    }
}
