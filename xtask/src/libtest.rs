//! Counting what ran: the output of test programs in libtest's format, and the closing line.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What one test program said.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Report {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Names of those that failed.
    pub(crate) failed: Vec<String>,
    /// What those that failed said, by their names; the beginning of it.
    pub(crate) said: BTreeMap<String, Vec<String>>,
    /// How many were left out, by the reason that was given; empty where none was.
    pub(crate) ignored: BTreeMap<String, usize>,
    /// Whether it came to its end: the line `test result:` was printed.
    pub(crate) complete: bool,
}

impl Report {
    /// Takes note of what a program prints; several results (documentation tests of several
    /// crates) add up.
    pub(crate) fn parse(output: &str) -> Self {
        let mut report = Self::default();
        // The list of names comes last and twice: first with each test's output, then alone.
        let mut names = Vec::new();
        let mut speaker = None;
        for line in output.lines() {
            if let Some(name) = headline(line) {
                speaker = Some(name.to_owned());
            } else if line == "failures:" || line.starts_with("test result: ") {
                speaker = None;
            } else if let Some(name) = &speaker
                && !line.is_empty()
            {
                let said = report.said.entry(name.clone()).or_default();
                if said.len() < SHOWN.0 {
                    said.push(line.chars().take(SHOWN.1).collect());
                }
            }
            if line == "failures:" {
                names.clear();
            } else if let Some(name) = line.strip_prefix("    ") {
                names.push(name.trim().to_owned());
            } else if let Some(reason) = ignored(line) {
                *report.ignored.entry(reason.to_owned()).or_default() += 1;
            } else if let Some(result) = line.strip_prefix("test result: ") {
                report.complete = true;
                report.passed += count(result, " passed");
                let failed = count(result, " failed");
                // Indented output of a test may look like names; those that count are the last.
                let names = names.split_off(names.len().saturating_sub(failed));
                report.failed.extend(names);
            }
        }
        report
    }
}

/// How much of what a failed test said is shown once more at the end: lines, and characters of each.
const SHOWN: (usize, usize) = (12, 400);

/// The name of the test whose output follows: `---- NAME stdout ----`, without `stdout` where the program
/// has no harness of its own.
fn headline(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

/// Why a test was left out, where the line says that one was: `test NAME ... ignored, REASON`, and with
/// the reason in brackets where the program has no harness of its own.
fn ignored(line: &str) -> Option<&str> {
    let (_, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let reason = outcome.strip_prefix("ignored")?;
    let reason = reason.trim_start_matches([',', ' ']);
    Some(
        reason
            .strip_prefix('(')
            .and_then(|inner| inner.strip_suffix(')'))
            .unwrap_or(reason),
    )
}

/// The number before a word: `ok. 3 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> usize {
    let before = result.split(';').find_map(|part| part.strip_suffix(word));
    before
        .and_then(|text| text.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// The sum over everything that ran.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
    said: BTreeMap<String, Vec<String>>,
    ignored: BTreeMap<String, usize>,
    phases: Vec<(String, Duration)>,
}

impl Tally {
    /// Adds a check, a build or a test.
    pub(crate) fn one(&mut self, name: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed.push(name.to_owned());
        }
    }

    /// Adds what a test program said; `success` is what its exit code said. A program that died,
    /// or failed without naming a test, counts as one failure.
    pub(crate) fn program(&mut self, name: &str, report: Report, success: bool) {
        self.passed += report.passed;
        for (reason, count) in report.ignored {
            let reason = if reason.is_empty() {
                "`--long` runs them".to_owned()
            } else {
                reason
            };
            *self.ignored.entry(format!("{name}: {reason}")).or_default() += count;
        }
        if !report.complete || (!success && report.failed.is_empty()) {
            self.failed
                .push(format!("{name} (did not come to its end)"));
        }
        let mut said = report.said;
        for test in report.failed {
            let full = format!("{name}: {test}");
            if let Some(lines) = said.remove(&test) {
                self.said.insert(full.clone(), lines);
            }
            self.failed.push(full);
        }
    }

    /// Adds what cannot be done on this machine, and why.
    pub(crate) fn left_out(&mut self, name: &str, reason: &str) {
        *self.ignored.entry(format!("{name}: {reason}")).or_default() += 1;
    }

    /// Takes note of how long a part took.
    pub(crate) fn phase(&mut self, name: &str, start: Instant) {
        self.took(name, start.elapsed());
    }

    /// As [`Tally::phase`], for a part that ran beside others.
    pub(crate) fn took(&mut self, name: &str, time: Duration) {
        self.phases.push((name.to_owned(), time));
    }

    /// How many there were, passed and failed.
    fn ran(&self) -> usize {
        self.passed + self.failed.len()
    }

    /// Whether there was nothing at all, not even something that was left out.
    pub(crate) fn is_empty(&self) -> bool {
        self.ran() == 0 && self.ignored.is_empty()
    }

    /// Prints times, how many tests were left out and why, all failures with what they said, and the closing
    /// line; true when nothing failed.
    pub(crate) fn close(&self) -> bool {
        println!("\ntimes:");
        for (name, time) in &self.phases {
            println!("  {:8.1} s  {name}", time.as_secs_f32());
        }
        if !self.ignored.is_empty() {
            println!("\nleft out:");
            for (reason, count) in &self.ignored {
                println!("  {count:8}  {reason}");
            }
        }
        if !self.failed.is_empty() {
            println!("\nfailed:");
            for name in &self.failed {
                println!("  {name}");
                for line in self.said.get(name).into_iter().flatten() {
                    println!("      {line}");
                }
            }
        }
        println!("\n{}", self.closing_line());
        self.failed.is_empty()
    }

    fn closing_line(&self) -> String {
        let (passed, failed) = (self.passed, self.failed.len());
        match self.ignored.values().sum::<usize>() {
            0 => format!("{passed} passed, {failed} failed"),
            left_out => format!("{passed} passed, {failed} failed, {left_out} left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "
running 3 tests
test a::good ... ok
test a::bad ... FAILED
test b with space ... FAILED

failures:

---- a::bad stdout ----
assertion failed
    at src/a.rs
failures:
    not a name

failures:
    a::bad
    b with space

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
    const GOOD: &str = "
running 12 tests
............
test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 1.00s
";

    #[test]
    fn passed_and_failed_are_counted_and_named() {
        let report = Report::parse(FAILED);
        assert!(report.complete);
        assert_eq!(report.passed, 1);
        assert_eq!(report.failed, ["a::bad", "b with space"]);
        // An output that speaks of failures itself ends early; that is all it costs.
        let said = ["assertion failed", "    at src/a.rs"].map(str::to_owned);
        assert_eq!(report.said["a::bad"], said);
        let mut tally = Tally::default();
        tally.program("x", report, false);
        assert_eq!(tally.said["x: a::bad"], said);
    }

    #[test]
    fn several_results_add_up() {
        let report = Report::parse(&format!("{GOOD}{FAILED}{GOOD}"));
        assert_eq!((report.passed, report.failed.len()), (25, 2));
    }

    #[test]
    fn what_was_left_out_is_said() {
        let output = "\nrunning 4 tests\ntest vm/a/ipv4 ... ignored (this kernel has no a)\n\
                      test vm/a/ipv6    ... ignored (this kernel has no a)\ntest b ... ignored, slow\n\
                      test c ... ignored\n\ntest result: ok. 0 passed; 0 failed; 4 ignored\n";
        let report = Report::parse(output);
        let reasons: Vec<_> = report
            .ignored
            .iter()
            .map(|(r, n)| (r.as_str(), *n))
            .collect();
        assert_eq!(reasons, [("", 1), ("slow", 1), ("this kernel has no a", 2)]);
        let mut tally = Tally::default();
        tally.program("x", report, true);
        assert_eq!(tally.closing_line(), "0 passed, 0 failed, 4 left out");
        tally.left_out("check y", "no compiler for y");
        assert_eq!(tally.closing_line(), "0 passed, 0 failed, 5 left out");
        assert!(!tally.is_empty() && Tally::default().is_empty());
        assert_eq!(Tally::default().closing_line(), "0 passed, 0 failed");
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let mut tally = Tally::default();
        tally.program(
            "x",
            Report::parse("running 3 tests\ntest a ... ok\n"),
            false,
        );
        tally.program("y", Report::parse(""), true);
        assert_eq!(tally.ran(), 2);
        assert!(!tally.close());
    }

    #[test]
    fn a_bad_exit_code_after_good_tests_is_a_failure() {
        let mut tally = Tally::default();
        tally.program("x", Report::parse(GOOD), false);
        assert_eq!((tally.passed, tally.failed.len()), (12, 1));
    }

    #[test]
    fn all_is_well_when_nothing_failed() {
        let mut tally = Tally::default();
        tally.one("check fmt", true);
        tally.program("x", Report::parse(GOOD), true);
        assert_eq!(tally.ran(), 13);
        assert!(tally.close());
    }
}
