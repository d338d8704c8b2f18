//! JSON on several lines.

use super::text::is_unsafe;

/// The same JSON, indented: order, numbers and unknown fields stay as they were received. Characters
/// that would steer a terminal are escaped, which means the same in JSON. The text must be valid JSON.
pub(super) fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut chars = json.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        if in_string {
            match c {
                '\\' => {
                    out.push(c);
                    out.extend(chars.next());
                }
                c if is_unsafe(c) => {
                    let mut units = [0_u16; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.extend(["\\u".to_owned(), format!("{unit:04x}")]);
                    }
                }
                c => {
                    in_string = c != '"';
                    out.push(c);
                }
            }
            continue;
        }
        match c {
            c if c.is_whitespace() => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_space_between_changes() {
        let text = "{\"b\" : 1.50,\"a\":[ ],\"c\":[{\"x\":\"a, {\\\"b\\\\\"},-2e3 ], \"d\":{\n}}";
        let wanted = "{\n  \"b\": 1.50,\n  \"a\": [],\n  \"c\": [\n    {\n      \"x\": \"a, {\\\"b\\\\\"\n    },\n    -2e3\n  ],\n  \"d\": {}\n}\n";
        assert_eq!(pretty(text), wanted);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&pretty(text)), value(text));
    }

    #[test]
    fn characters_that_steer_a_terminal_are_escaped() {
        assert_eq!(
            pretty("\"\u{9b}2J \u{202e} ü\""),
            "\"\\u009b2J \\u202e ü\"\n"
        );
    }
}
