//! What the guest's test program said, and the table of kernels and tests.

use std::collections::BTreeMap;

/// How a test ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// As it should.
    Passed,
    /// Not run: this kernel lacks what the test is about, as the test program found out.
    Ignored,
    /// In any other way that was said.
    Failed,
}

/// The outcomes in the output of a test program, `test NAME ... ok`.
pub(super) fn outcomes(output: &str) -> BTreeMap<String, Outcome> {
    output
        .lines()
        .filter_map(|line| {
            let (name, end) = line.strip_prefix("test ")?.split_once(" ... ")?;
            let outcome = match end.trim() {
                "ok" => Outcome::Passed,
                end if end.starts_with("ignored") => Outcome::Ignored,
                _ => Outcome::Failed,
            };
            Some((name.trim().to_owned(), outcome))
        })
        .collect()
}

/// How many lines a table has at most that shows each test by itself.
const SINGLE_TESTS: usize = 60;

/// A line for each test, or for each group of tests where there are many, a column for each kernel, and
/// their sums. A test without an outcome did not run.
pub(super) fn render(tests: &[String], columns: &[(String, &BTreeMap<String, Outcome>)]) -> String {
    let mut lines: Vec<(&str, Vec<&String>)> = Vec::new();
    for test in tests {
        let group = if tests.len() > SINGLE_TESTS {
            group(test)
        } else {
            test
        };
        match lines.iter_mut().find(|(name, _)| *name == group) {
            Some((_, members)) => members.push(test),
            None => lines.push((group, vec![test])),
        }
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |first: &str, cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("  {cell:>12}")).collect();
        format!("{first:width$}{}\n", cells.concat())
    };
    let head = line(
        "test",
        columns.iter().map(|(name, _)| name.clone()).collect(),
    );
    let body = lines.iter().map(|(name, members)| {
        let cells = columns.iter();
        line(name, cells.map(|(_, all)| cell(members, all)).collect())
    });
    let all: Vec<&String> = tests.iter().collect();
    let sums = columns
        .iter()
        .map(|(_, outcomes)| {
            let count = |wanted| {
                let outcome = |test: &&&String| outcomes.get(test.as_str()) == Some(&wanted);
                all.iter().filter(outcome).count()
            };
            let (passed, ignored) = (count(Outcome::Passed), count(Outcome::Ignored));
            (passed, all.len() - passed - ignored, ignored)
        })
        .collect::<Vec<_>>();
    let row = |first: &str, pick: fn(&(usize, usize, usize)) -> usize| {
        line(
            first,
            sums.iter().map(|sum| pick(sum).to_string()).collect(),
        )
    };
    std::iter::once(head)
        .chain(body)
        .chain([
            row("passed", |sum| sum.0),
            row("failed", |sum| sum.1),
            row("not on this kernel", |sum| sum.2),
        ])
        .collect()
}

/// The groups all of whose tests ended so, in the order of the tests.
pub(super) fn groups<'a>(
    tests: &'a [String],
    outcomes: &BTreeMap<String, Outcome>,
    wanted: Outcome,
) -> Vec<&'a str> {
    let mut groups: Vec<(&str, bool)> = Vec::new();
    for test in tests {
        let is_wanted = outcomes.get(test) == Some(&wanted);
        let name = group(test);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => *all &= is_wanted,
            None => groups.push((name, is_wanted)),
        }
    }
    let all = groups.into_iter().filter(|(_, all)| *all);
    all.map(|(name, _)| name).collect()
}

/// What the tests of one scene share: their names end with port and family, in that order.
fn group(test: &str) -> &str {
    let mut end = test;
    for _ in 0..2 {
        let Some((start, last)) = end.rsplit_once('/') else {
            break;
        };
        let varies = last.starts_with("tcp") || last.starts_with("udp") || last.starts_with("ipv");
        if varies {
            end = start;
        }
    }
    end
}

/// What one kernel made of tests: a word where there is one, else how many passed of how many.
fn cell(tests: &[&String], outcomes: &BTreeMap<String, Outcome>) -> String {
    let count = |wanted| {
        let outcome = |test: &&&String| outcomes.get(test.as_str()) == wanted;
        tests.iter().filter(outcome).count()
    };
    let passed = count(Some(&Outcome::Passed));
    let ignored = count(Some(&Outcome::Ignored));
    let ran = tests.len() - ignored;
    if ran == 0 {
        "-".to_owned()
    } else if passed == ran && tests.len() == 1 {
        "ok".to_owned()
    } else if passed == ran {
        format!("ok {passed}")
    } else if count(None) == tests.len() {
        "not run".to_owned()
    } else if tests.len() == 1 {
        "FAILED".to_owned()
    } else {
        format!("FAILED {}/{ran}", ran - passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a/b  ... ok
test a/cc ... FAILED
test a/e  ... ignored, this kernel has no e
test a/d  ... 

failures:

---- a/cc ----
test: 1 ... 2
";

    #[test]
    fn only_ok_is_a_pass() {
        let found = outcomes(OUTPUT);
        assert_eq!(found.len(), 4);
        assert_eq!(found["a/b"], Outcome::Passed);
        assert_eq!(found["a/cc"], Outcome::Failed);
        assert_eq!(found["a/d"], Outcome::Failed);
    }

    #[test]
    fn a_test_that_did_not_run_is_shown_as_such() {
        let tests = ["a/b", "a/cc", "a/e"].map(str::to_owned);
        let (old, new) = (outcomes(OUTPUT), BTreeMap::new());
        let text = render(
            &tests,
            &[("6.1".to_owned(), &old), ("6.12".to_owned(), &new)],
        );
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                vec!["test", "6.1", "6.12"],
                vec!["a/b", "ok", "not", "run"],
                vec!["a/cc", "FAILED", "not", "run"],
                vec!["a/e", "-", "not", "run"],
                vec!["passed", "1", "0"],
                vec!["failed", "1", "3"],
                vec!["not", "on", "this", "kernel", "1", "0"],
            ]
        );
    }

    #[test]
    fn many_tests_are_shown_by_what_their_names_share() {
        let mut tests: Vec<String> = (0..SINGLE_TESTS).map(|n| format!("x/{n}")).collect();
        tests.extend(["in/a/tcp443/ipv4", "in/a/udp443/ipv6", "life/b/ipv4"].map(str::to_owned));
        let lines: Vec<_> = tests
            .iter()
            .map(|name| format!("test {name} ... ok"))
            .collect();
        let said = lines.join("\n");
        let text = render(&tests, &[("6.1".to_owned(), &outcomes(&said))]);
        let has = |line: &[&str]| {
            text.lines()
                .any(|l| l.split_whitespace().eq(line.iter().copied()))
        };
        assert!(has(&["in/a", "ok", "2"]), "{text}");
        assert!(has(&["life/b", "ok"]), "{text}");
        assert!(has(&["x/3", "ok"]), "{text}");
        let (_, outcome) =
            outcomes(&said.replace("in/a/tcp443/ipv4 ... ok", "in/a/tcp443/ipv4 ... FAILED"))
                .into_iter()
                .find(|(name, _)| name == "in/a/tcp443/ipv4")
                .unwrap();
        assert_eq!(outcome, Outcome::Failed);
    }
}
