//! YAML as far as a web configuration needs it: texts, lists and maps, each with its line.
//!
//! What makes one text mean another (anchors, aliases, tags, several documents) is refused: whoever reads
//! the file shall see what it says.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// How deep maps and lists may lie in each other.
const DEPTH: usize = 8;

/// What is wrong, and the line, from 1.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) problem: String,
}

impl Problem {
    fn new(line: usize, problem: impl Into<String>) -> Self {
        Self {
            line,
            problem: problem.into(),
        }
    }
}

/// A value and the line on which it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What YAML calls a node.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing: no text, `~` or `null`.
    Null,
    /// A scalar, whatever its type: keys know theirs.
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Node,
}

/// A list or map whose end has not come yet.
enum Open {
    List(usize, Vec<Node>),
    Map(usize, Keys),
}

/// What there is of a map.
#[derive(Default)]
struct Keys {
    entries: Vec<Entry>,
    /// The line of each key: a file with many must not take time that grows with their square.
    lines: HashMap<String, usize>,
    /// The key that waits for its value.
    waiting: Option<(String, usize)>,
}

/// Reads the one document of a text; an empty text is [`Value::Null`].
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut root = None;
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let line = error.marker().line();
            Problem::new(line, format!("this is not valid YAML ({})", error.info()))
        })?;
        let line = span.start.line();
        let done = match event {
            Event::Alias(_) => return Err(Problem::new(line, UNSUPPORTED)),
            Event::Scalar(_, _, anchor, ref tag)
            | Event::SequenceStart(anchor, ref tag)
            | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err(Problem::new(line, UNSUPPORTED));
            }
            Event::Scalar(text, style, ..) => {
                let text = text.into_owned();
                let is_null = matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
                let value = if style == ScalarStyle::Plain && is_null {
                    Value::Null
                } else {
                    Value::Text(text)
                };
                Node { line, value }
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if open.len() == DEPTH {
                    return Err(Problem::new(line, "this lies too deep"));
                }
                open.push(match event {
                    Event::SequenceStart(..) => Open::List(line, Vec::new()),
                    _ => Open::Map(line, Keys::default()),
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(line, items)) => Node {
                    line,
                    value: Value::List(items),
                },
                Some(Open::Map(line, keys)) => Node {
                    line,
                    value: Value::Map(keys.entries),
                },
                None => continue,
            },
            Event::DocumentStart(_) if root.is_some() => {
                return Err(Problem::new(
                    line,
                    "a second document begins here; there may be one",
                ));
            }
            _ => continue,
        };
        put(done, &mut open, &mut root)?;
    }
    Ok(root.unwrap_or(Node {
        line: 1,
        value: Value::Null,
    }))
}

const UNSUPPORTED: &str =
    "anchors, aliases and tags of YAML are not supported; write the value out";

/// Puts a finished value where it belongs.
fn put(done: Node, open: &mut [Open], root: &mut Option<Node>) -> Result<(), Problem> {
    match open.last_mut() {
        None => *root = Some(done),
        Some(Open::List(_, items)) => items.push(done),
        Some(Open::Map(_, keys)) => match (keys.waiting.take(), done) {
            (Some((key, line)), value) => keys.entries.push(Entry { key, line, value }),
            (
                None,
                Node {
                    line,
                    value: Value::Text(key),
                },
            ) => {
                if let Some(first) = keys.lines.insert(key.clone(), line) {
                    let problem = format!("`{key}` is here twice; line {first} has it too");
                    return Err(Problem::new(line, problem));
                }
                keys.waiting = Some((key, line));
            }
            (None, Node { line, .. }) => {
                return Err(Problem::new(line, "a key must be a text"));
            }
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_know_their_lines() {
        let root = parse("# x\na:\n  b: \"c: d\"\n  e: [f, 'null']\ng:\n").unwrap();
        let Value::Map(entries) = root.value else {
            panic!("{root:?}");
        };
        assert_eq!((entries[0].key.as_str(), entries[0].line), ("a", 2));
        let Value::Map(inner) = &entries[0].value.value else {
            panic!("{entries:?}");
        };
        assert_eq!(inner[0].line, 3);
        assert!(matches!(&inner[0].value.value, Value::Text(text) if text == "c: d"));
        let Value::List(items) = &inner[1].value.value else {
            panic!("{inner:?}");
        };
        assert!(matches!(&items[1].value, Value::Text(text) if text == "null"));
        assert!(matches!(entries[1].value.value, Value::Null));
        for nothing in ["", "# only this\n", "---\n", "~"] {
            assert!(matches!(parse(nothing).unwrap().value, Value::Null));
        }
    }

    #[test]
    fn what_is_refused_is_named_with_its_line() {
        let deep = "[".repeat(9);
        for (text, line, wanted) in [
            ("a: 1\na: 2\n", 2, "`a` is here twice; line 1 has it too"),
            ("a: &x 1\nb: *x\n", 1, "anchors, aliases and tags"),
            ("a: !!str 1\n", 1, "anchors, aliases and tags"),
            ("a: 1\n---\nb: 2\n", 2, "a second document"),
            ("a: 1\n  b: 2\n", 2, "this is not valid YAML ("),
            ("\na: \"b\n", 2, "this is not valid YAML ("),
            ("? [a]\n: b\n", 1, "a key must be a text"),
            (&deep, 1, "this lies too deep"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.problem.contains(wanted), "{text:?}: {problem:?}");
            assert!(problem.line.abs_diff(line) <= 1, "{text:?}: {problem:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-c:\\[\\]{}\\-?&*!|>'\"#,\n \t]{0,80}") {
            drop(parse(&text));
        }
    }
}
