//! The page docs/kernels.md: text of ours around tables that are made of what a run found.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result, ensure};

use super::{
    facts::Facts,
    kernels::Pin,
    table::{self, Outcome},
};

/// The page without its tables.
const TEXT: &str = include_str!("kernels.md");

/// Where the tables go in.
const TABLES: &str = "<!-- tables -->\n";

/// What one kernel gave.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) pin: &'a Pin,
    pub(super) facts: Facts,
    /// What it gave when it was locked down.
    pub(super) locked: Facts,
    pub(super) outcomes: BTreeMap<String, Outcome>,
}

impl Found<'_> {
    /// Whether it came so far as to say what it offers.
    pub(super) fn spoke(&self) -> bool {
        !self.facts.features.is_empty() && !self.facts.modes.is_empty()
    }
}

/// The page for the tests that ran on these kernels.
///
/// # Errors
///
/// When a kernel said nothing of itself: it did not come so far.
pub(super) fn render(tests: &[String], found: &[Found<'_>]) -> Result<String> {
    for one in found {
        ensure!(
            one.spoke(),
            "kernel {} did not say what it offers",
            one.pin.name
        );
    }
    let (before, after) = TEXT
        .split_once(TABLES)
        .context("a text without a place for tables")?;
    let mut page = before.to_owned();
    row(
        &mut page,
        "",
        found.iter().map(|one| format!("**{}**", one.pin.name)),
    );
    row(&mut page, "---", found.iter().map(|_| "---".to_owned()));
    row(&mut page, "release", label(found, "release"));
    row(
        &mut page,
        "distribution",
        found.iter().map(|one| one.pin.distribution.clone()),
    );
    row(
        &mut page,
        "package version",
        found.iter().map(|one| one.pin.version.clone()),
    );
    for hook in ["drop", "deliver", "egress", "ingress"] {
        let mode = |one: &Found<'_>| match one.facts.modes.get(hook) {
            Some(mode) => format!("`{mode}`"),
            None => "not attached".to_owned(),
        };
        row(&mut page, &format!("hook `{hook}`"), found.iter().map(mode));
    }
    row(
        &mut page,
        "hooks under `lockdown=confidentiality`",
        found.iter().map(|one| {
            let hooks: Vec<_> = one
                .locked
                .modes
                .keys()
                .map(|hook| format!("`{hook}`"))
                .collect();
            hooks.join(", ")
        }),
    );
    for (name, _) in &found.first().context("no kernel")?.facts.features {
        let has = |one: &Found<'_>| match one.facts.has(name) {
            Some(true) => "yes".to_owned(),
            Some(false) => "**no**".to_owned(),
            None => "?".to_owned(),
        };
        row(&mut page, &format!("`{name}`"), found.iter().map(has));
    }
    for (name, wanted) in [
        ("tests passed", Outcome::Passed),
        ("tests failed", Outcome::Failed),
        ("tests that this kernel cannot run", Outcome::Ignored),
    ] {
        let count = |one: &Found<'_>| {
            let outcomes = one.outcomes.values();
            outcomes
                .filter(|outcome| **outcome == wanted)
                .count()
                .to_string()
        };
        row(&mut page, name, found.iter().map(count));
    }
    page.push('\n');
    for one in found {
        let left_out = table::groups(tests, &one.outcomes, Outcome::Ignored);
        if !left_out.is_empty() {
            let names: Vec<_> = left_out.iter().map(|name| format!("`{name}`")).collect();
            writeln!(page, "- {} cannot run: {}.", one.pin.name, names.join(", "))?;
        }
    }
    page.push_str(after);
    Ok(page)
}

fn label<'a>(found: &'a [Found<'a>], name: &'a str) -> impl Iterator<Item = String> + 'a {
    found
        .iter()
        .map(move |one| one.facts.labels.get(name).cloned().unwrap_or_default())
}

fn row(page: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = std::iter::once(first.to_owned()).chain(cells).collect();
    page.push_str("| ");
    page.push_str(&cells.join(" | "));
    page.push_str(" |\n");
}

#[cfg(test)]
mod tests {
    use super::super::kernels;
    use super::*;

    const SAID: &str = "peerwatch guest says: feature tcx: missing (x); without it: y\n\
        peerwatch guest says: peerwatch_hook_info{hook=\"drop\",mode=\"tp_btf\"} 1\n";

    #[test]
    fn a_page_has_what_was_found_and_needs_it() {
        let pins = kernels::chosen(&[]).unwrap();
        let tests = ["in/a/tcp443/ipv4".to_owned(), "in/b/tcp443/ipv4".to_owned()];
        let outcomes = BTreeMap::from([
            (tests[0].clone(), Outcome::Passed),
            (tests[1].clone(), Outcome::Ignored),
        ]);
        let found = |said| Found {
            pin: &pins[0],
            facts: Facts::parse(said),
            locked: Facts::parse(said),
            outcomes: outcomes.clone(),
        };
        let page = render(&tests, &[found(SAID)]).unwrap();
        for line in [
            "| hook `drop` | `tp_btf` |",
            "| hook `egress` | not attached |",
            "| `tcx` | **no** |",
            "| tests passed | 1 |",
        ] {
            assert!(page.lines().any(|l| l == line), "{page}");
        }
        assert!(page.contains("cannot run: `in/b`"), "{page}");
        assert!(render(&tests, &[found("")]).is_err());
    }

    #[test]
    fn the_page_that_is_there_is_of_these_kernels_and_this_text() {
        let page = include_str!("../../../docs/kernels.md");
        let (before, after) = TEXT.split_once(TABLES).unwrap();
        let hint = "run `cargo xtask vm-test --write-page`";
        assert!(page.starts_with(before) && page.ends_with(after), "{hint}");
        for pin in kernels::chosen(&[]).unwrap() {
            assert!(page.contains(&pin.version), "{}: {hint}", pin.name);
        }
    }
}
