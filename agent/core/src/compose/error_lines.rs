//! Places in a compose file of the things that errors name.

use saphyr_parser::{Event, Parser};

/// Returns the line, from 1 on, of what an error names by its path, as in `services.NAME.KEY: ...`:
/// that of the deepest key of it that is there, or, of a word that is none of those expected, the
/// word's. Nothing for an error without a path.
pub fn line_of(text: &str, said: &str) -> Option<usize> {
    let (path, rest) = said.split_once(": ").unwrap_or((said, ""));
    let quoted = |before| rest.split_once(before)?.1.split('`').next();
    let path = match quoted("unknown field `") {
        Some(field) => format!("{path}.{field}"),
        None => path.to_owned(),
    };
    let nodes = nodes(text);
    let is_within = |path: &str, node: &Node| {
        let rest = path.strip_prefix(&*node.path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    // A name may have points in it: the longest that fits.
    let named = nodes.iter().filter(|node| is_within(&path, node));
    let named = named.max_by_key(|node| node.path.len())?;
    let word = quoted("unknown variant `");
    let below = |node: &&Node| node.value.as_deref() == word && node.path.starts_with(&named.path);
    let word = word.and_then(|_| nodes.iter().find(below));
    Some(word.unwrap_or(named).line)
}

/// Mappings and lists inside each other that are looked at.
const DEPTH_MAX: usize = 64;

/// Key or list item of a file.
struct Node {
    /// Keys from the top, with points between them; items of lists as `[0]`.
    path: String,
    /// Line of the key or item, from 1 on.
    line: usize,
    /// Text of a scalar.
    value: Option<String>,
}

/// Mapping or list whose end has not come.
enum Open {
    /// Path, and the key whose value comes next.
    Mapping(String, Option<Node>),
    /// Path, and the number of the next item.
    List(String, usize),
}

impl Open {
    /// The node of the value that comes at this line; nothing for a mapping that waits for a key.
    fn take(&mut self, line: usize) -> Option<Node> {
        match self {
            Self::Mapping(_, key) => key.take(),
            Self::List(path, number) => {
                *number += 1;
                Some(Node { path: format!("{path}[{}]", *number - 1), line, value: None })
            }
        }
    }
}

/// Nodes of a text in their order, up to where it is no YAML.
fn nodes(text: &str) -> Vec<Node> {
    let (mut nodes, mut open): (Vec<Node>, Vec<Open>) = Default::default();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        // Paths are as long as they are deep, and nothing that is accepted is as deep.
        if open.len() > DEPTH_MAX {
            break;
        }
        let line = span.start.line();
        let mut begin = |open: &mut Vec<Open>| {
            let node = open.last_mut().and_then(|parent| parent.take(line));
            let path = node.as_ref().map_or_else(String::new, |node| node.path.clone());
            nodes.extend(node);
            path
        };
        match event {
            Event::MappingStart(..) => {
                let path = begin(&mut open);
                open.push(Open::Mapping(path, None));
            }
            Event::SequenceStart(..) => {
                let path = begin(&mut open);
                open.push(Open::List(path, 0));
            }
            Event::MappingEnd | Event::SequenceEnd => drop(open.pop()),
            Event::Alias(_) => drop(begin(&mut open)),
            Event::Scalar(word, ..) => match open.last_mut() {
                Some(Open::Mapping(path, key @ None)) => {
                    let path =
                        if path.is_empty() { word.to_string() } else { format!("{path}.{word}") };
                    *key = Some(Node { path, line, value: None });
                }
                Some(parent) => {
                    let node = parent.take(line);
                    nodes.extend(node.map(|node| Node { value: Some(word.into()), ..node }));
                }
                None => {}
            },
            _ => {}
        }
    }
    nodes
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
    ports: [
      {target: 1, mode: odd},
      {target: 2,
       mode: odder}]
  a.c:
    image: three
volumes:
  data: {}
";

    #[test]
    fn a_file_that_is_very_deep_takes_no_memory() {
        let text = format!("services:\n  {}x\n", "- ".repeat(500_000));
        assert_eq!(line_of(&text, "services.a: no"), Some(1));
    }

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
            ("services.a.ports[1].mode: no", Some(19)),
            ("services.a.ports: unknown variant `odder`, expected", Some(19)),
            ("services.a.c.image: no", Some(21)),
            ("volumes.data: no", Some(23)),
            ("unknown key `volumes`", None),
            ("mapping values are not allowed in this context at line 1 column 2", None),
        ] {
            assert_eq!(line_of(FILE, said), line, "{said}");
        }
    }
}
