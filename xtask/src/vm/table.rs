//! What the guest's test program said, and the table of kernels and tests.

use std::collections::BTreeMap;

/// How a test ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// As it should.
    Passed,
    /// In any other way that was said.
    Failed,
}

/// The outcomes in the output of a test program, `test NAME ... ok`.
pub(super) fn outcomes(output: &str) -> BTreeMap<String, Outcome> {
    output
        .lines()
        .filter_map(|line| {
            let (name, end) = line.strip_prefix("test ")?.split_once(" ... ")?;
            let outcome = if end.trim() == "ok" {
                Outcome::Passed
            } else {
                Outcome::Failed
            };
            Some((name.trim().to_owned(), outcome))
        })
        .collect()
}

/// A line for each test, a column for each kernel. A test without an outcome did not run.
pub(super) fn render(tests: &[String], columns: &[(&str, BTreeMap<String, Outcome>)]) -> String {
    let width = tests.iter().map(String::len).max().unwrap_or(0);
    let line = |first: &str, cells: Vec<&str>| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("  {cell:>8}")).collect();
        format!("{first:width$}{}\n", cells.concat())
    };
    let head = line("test", columns.iter().map(|(kernel, _)| *kernel).collect());
    let body = tests.iter().map(|test| {
        let words = columns
            .iter()
            .map(|(_, outcomes)| match outcomes.get(test) {
                Some(Outcome::Passed) => "ok",
                Some(Outcome::Failed) => "FAILED",
                None => "not run",
            });
        line(test, words.collect())
    });
    std::iter::once(head).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a/b  ... ok
test a/cc ... FAILED
test a/d  ... 

failures:

---- a/cc ----
test: 1 ... 2
";

    #[test]
    fn only_ok_is_a_pass() {
        let found = outcomes(OUTPUT);
        assert_eq!(found.len(), 3);
        assert_eq!(found["a/b"], Outcome::Passed);
        assert_eq!(found["a/cc"], Outcome::Failed);
        assert_eq!(found["a/d"], Outcome::Failed);
    }

    #[test]
    fn a_test_that_did_not_run_is_shown_as_such() {
        let tests = ["a/b", "a/cc", "a/e"].map(str::to_owned);
        let columns = [("6.1", outcomes(OUTPUT)), ("6.12", BTreeMap::new())];
        let text = render(&tests, &columns);
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
                vec!["a/e", "not", "run", "not", "run"],
            ]
        );
    }
}
