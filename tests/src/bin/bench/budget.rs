//! The budget: what each program may take at most, in `monitor-ebpf/budget.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::size::Size;

const BUDGET: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../monitor-ebpf/budget.toml"
));

/// One size of one program next to what is allowed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Verdict {
    program: String,
    size: &'static str,
    actual: u32,
    budget: u32,
}

impl Verdict {
    /// Whether the program keeps to its budget.
    pub(crate) fn is_kept(&self) -> bool {
        self.actual <= self.budget
    }
}

/// Compares with the budget. Fails where it lacks a program or names one that is not there.
pub(crate) fn compare(sizes: &BTreeMap<String, Size>) -> Result<Vec<Verdict>> {
    compare_with(BUDGET, sizes).context("monitor-ebpf/budget.toml")
}

fn compare_with(text: &str, sizes: &BTreeMap<String, Size>) -> Result<Vec<Verdict>> {
    let budgets: BTreeMap<String, Size> = toml::from_str(text)?;
    let programs = |map: &BTreeMap<String, Size>| map.keys().cloned().collect::<Vec<_>>();
    ensure!(
        programs(&budgets) == programs(sizes),
        "the budget is of {:?}, the programs are {:?}",
        programs(&budgets),
        programs(sizes)
    );
    let mut verdicts = Vec::new();
    for ((program, budget), actual) in budgets.iter().zip(sizes.values()) {
        let rows = [
            ("instructions", actual.instructions, budget.instructions),
            ("helper_calls", actual.helper_calls, budget.helper_calls),
            ("map_lookups", actual.map_lookups, budget.map_lookups),
            ("verified", actual.verified, budget.verified),
        ];
        verdicts.extend(rows.map(|(size, actual, budget)| Verdict {
            program: program.clone(),
            size,
            actual,
            budget,
        }));
    }
    Ok(verdicts)
}

/// The verdicts as a table for people or as one line of JSON.
pub(crate) fn show(verdicts: &[Verdict], json: bool) -> Result<String> {
    if json {
        return Ok(serde_json::to_string(verdicts)? + "\n");
    }
    let mut text = format!(
        "{:<17} {:<13} {:>8} {:>8} {:>6}\n",
        "program", "size", "actual", "budget", "used"
    );
    for verdict in verdicts {
        let Verdict {
            program,
            size,
            actual,
            budget,
        } = verdict;
        let used = 100.0 * f64::from(*actual) / f64::from(*budget);
        let mark = if verdict.is_kept() {
            ""
        } else {
            "  OVER BUDGET"
        };
        writeln!(
            text,
            "{program:<17} {size:<13} {actual:>8} {budget:>8} {used:>5.0}%{mark}"
        )?;
    }
    let over = verdicts.iter().filter(|verdict| !verdict.is_kept()).count();
    if over > 0 {
        writeln!(
            text,
            "{over} over budget: make the program smaller, or raise monitor-ebpf/budget.toml and say why there"
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        instructions: 100,
        helper_calls: 5,
        map_lookups: 3,
        verified: 1000,
    };
    const TEXT: &str = "[a]\ninstructions = 100\nhelper_calls = 5\nmap_lookups = 3\nverified = ";

    fn with(text: &str, size: Size) -> Result<Vec<Verdict>> {
        compare_with(text, &BTreeMap::from([("a".to_owned(), size)]))
    }

    #[test]
    fn one_size_over_its_budget_is_named() {
        let kept = with(&format!("{TEXT}1000"), SIZE).unwrap();
        assert!(kept.iter().all(Verdict::is_kept), "{kept:?}");
        let verdicts = with(&format!("{TEXT}999"), SIZE).unwrap();
        let over: Vec<_> = verdicts.iter().filter(|v| !v.is_kept()).collect();
        assert_eq!(over.len(), 1);
        assert_eq!((over[0].size, over[0].actual), ("verified", 1000));
        let text = show(&verdicts, false).unwrap();
        assert_eq!(text.matches("OVER BUDGET").count(), 1, "{text}");
    }

    #[test]
    fn a_program_without_a_budget_and_a_budget_without_a_program_are_errors() {
        assert!(with("", SIZE).is_err());
        let text = format!("{TEXT}1000\n{}", TEXT.replace("[a]", "[b]"));
        assert!(with(&format!("{text}1000"), SIZE).is_err());
        assert!(with("[a]\ninstructions = 100", SIZE).is_err(), "incomplete");
    }
}
