//! docs/metrics.md says what the code does.

use std::collections::{BTreeMap, BTreeSet};

use monitor_common::drop::Class;
use monitor_common::{Direction, Family, Flow, Protocol, Verdict};
use prometheus::proto::MetricType;

use super::{ALL, Lives, Name};
use crate::attempt::{BlockedBy, Outcome};
use crate::bpf::Hook;
use crate::bpf::state::Mode;

use crate::ruleset::Kind;
use crate::state::{AttemptResult, State};
use crate::traffic::Expect;

const PAGE: &str = include_str!("../../../../docs/metrics.md");

/// What the page says of one metric: the line with its type, labels and place, and its query.
fn sections() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let sections = PAGE.split("\n### `").skip(1);
    sections
        .map(|section| {
            let (name, rest) = section.split_once("`\n\n").expect("a name");
            let (facts, rest) = rest.split_once("\n\n").expect("facts");
            let (_, rest) = rest.split_once("```promql\n").expect("a query");
            let (query, _) = rest.split_once("\n```").expect("its end");
            (name, (facts, query))
        })
        .collect()
}

fn facts(name: &Name) -> String {
    let kind = match name.kind {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    let labels: Vec<_> = name
        .labels
        .iter()
        .map(|label| format!("`{label}`"))
        .collect();
    let labels = if labels.is_empty() {
        "none".to_owned()
    } else {
        labels.join(", ")
    };
    let lives = match name.lives {
        Lives::Maps => "kernel maps",
        Lives::State => "state file",
        Lives::Memory => "memory",
        Lives::Now => "asked",
    };
    format!("{kind}; labels: {labels}; lives: {lives}")
}

#[test]
fn the_page_has_every_metric_and_no_other() {
    let sections = sections();
    let named: BTreeSet<_> = sections.keys().copied().collect();
    let ours: BTreeSet<_> = ALL.iter().map(|name| name.full).collect();
    assert_eq!(named, ours);
    for name in ALL {
        let (said, query) = sections[name.full];
        assert_eq!(said, facts(name), "{}", name.full);
        assert!(query.contains(name.full), "the query of {}", name.full);
    }
}

/// The rows of the table of labels: the labels of each, and what is in back quotes behind them.
fn rows() -> Vec<(Vec<&'static str>, BTreeSet<&'static str>)> {
    let quoted = |text: &'static str| text.split('`').skip(1).step_by(2);
    let (_, table) = PAGE.split_once("## Labels\n").expect("the labels");
    table
        .lines()
        .skip_while(|line| !line.starts_with("| ---"))
        .skip(1)
        .take_while(|line| line.starts_with("| "))
        .map(|line| {
            let (labels, values) = line[2..].split_once(" | ").expect("two columns");
            (quoted(labels).collect(), quoted(values).collect())
        })
        .collect()
}

#[test]
fn the_page_has_every_label() {
    let rows = rows();
    let named: BTreeSet<_> = rows.iter().flat_map(|(labels, _)| labels.clone()).collect();
    let ours: BTreeSet<_> = ALL
        .iter()
        .flat_map(|name| name.labels.iter().copied())
        .collect();
    assert_eq!(named, ours);
}

#[test]
fn the_page_has_every_value_and_no_other() {
    fn texts<T: Copy>(all: &[T], text: impl Fn(T) -> &'static str) -> BTreeSet<&'static str> {
        all.iter().map(|one| text(*one)).collect()
    }
    let rows = rows();
    let all = [
        ("protocol", texts(Protocol::ALL, Protocol::as_str)),
        ("family", texts(Family::ALL, Family::as_str)),
        ("direction", texts(Direction::ALL, Direction::as_str)),
        ("flow", texts(Flow::ALL, Flow::as_str)),
        ("verdict", texts(Verdict::ALL, Verdict::as_str)),
        ("class", texts(Class::ALL, Class::as_str)),
        ("blocked_by", texts(BlockedBy::ALL, BlockedBy::as_str)),
        ("state", texts(State::ALL, State::as_str)),
        ("result", texts(AttemptResult::ALL, AttemptResult::as_str)),
        ("kind", texts(&Kind::ALL, Kind::as_str)),
        ("hook", texts(&Hook::ALL, Hook::as_str)),
        ("mode", texts(Mode::ALL, Mode::as_str)),
        ("expect", texts(Expect::ALL, Expect::as_str)),
    ];
    for (label, values) in all {
        let row = rows.iter().find(|(labels, _)| *labels == [label]);
        let (_, said) = row.unwrap_or_else(|| panic!("no row of {label}"));
        // A row may name an interface besides.
        let said: BTreeSet<_> = said
            .iter()
            .copied()
            .filter(|value| *value != "lo")
            .collect();
        assert_eq!(said, values, "{label}");
    }
    let (_, outcomes) = PAGE.split_once("| `outcome` | seen |").expect("outcomes");
    let said: BTreeSet<_> = outcomes
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(said, texts(Outcome::ALL, Outcome::as_str));
}
