//! What expressions of dashboards may ask for.

use std::iter::Peekable;
use std::str::Chars;

use anyhow::{Result, bail, ensure};

/// Our metrics and their labels: a test holds this page to the code.
const PAGE: &str = include_str!("../../../docs/metrics.md");

/// Metrics of others: of the client library, and of Prometheus itself.
pub const OTHERS: &[(&str, &str)] = &[
    (
        "ALERTS",
        "alertname alertstate severity scope traffic direction",
    ),
    (
        "ALERTS_FOR_STATE",
        "alertname severity scope traffic direction",
    ),
    ("process_cpu_seconds_total", ""),
    ("process_resident_memory_bytes", ""),
    ("process_start_time_seconds", ""),
    ("up", ""),
];

/// Labels that Prometheus gives to all series of a target.
pub const TARGET: &[&str] = &["instance", "job", "site"];

/// Variables of Grafana's own.
pub const GRAFANA: &[&str] = &["__interval", "__range", "__rate_interval"];

/// Everything that a regular expression of alternatives stands for, `a_(b|c)` for `a_b` and `a_c`.
///
/// # Errors
///
/// When it has anything else, or a bracket does not end.
pub fn alternatives(pattern: &str) -> Result<Vec<String>> {
    let mut chars = pattern.chars().peekable();
    let all = alternation(&mut chars)?;
    match chars.next() {
        None => Ok(all),
        Some(c) => bail!("{pattern}: {c:?} is not understood"),
    }
}

/// Up to a closing bracket or the end.
fn alternation(chars: &mut Peekable<Chars<'_>>) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let mut heads = vec![String::new()];
    while let Some(c) = chars.next_if(|c| *c != ')') {
        match c {
            '|' => done.append(&mut std::mem::replace(&mut heads, vec![String::new()])),
            '(' => {
                let tails = alternation(chars)?;
                ensure!(chars.next() == Some(')'), "a bracket does not end");
                heads = heads
                    .iter()
                    .flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}")))
                    .collect();
            }
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | ';') => {
                for head in &mut heads {
                    head.push(c);
                }
            }
            c => bail!("{c:?} is not understood"),
        }
    }
    done.append(&mut heads);
    Ok(done)
}

/// The labels of a metric, without those of the target; `None` for one that there is not. What is recorded
/// has its labels in front of its name, `traffic_direction:…`, and is known by `recorded`.
#[must_use]
pub fn labels(metric: &str, recorded: &[String]) -> Option<Vec<String>> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    if let Some((level, _)) = metric.split_once(':') {
        let known = recorded.iter().any(|name| name == metric);
        // No label's name but this one has the character that joins them.
        let level = level.replace("blocked_by", "blocked by").replace('_', " ");
        return known.then(|| words(&level.replace("blocked by", "blocked_by")));
    }
    let find = |table: &[(&str, &str)], name: &str| {
        table
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, labels)| words(labels))
    };
    find(OTHERS, metric).or_else(|| documented(metric))
}

/// The labels of one of our metrics, as docs/metrics.md has them; the buckets of a histogram have one more.
fn documented(metric: &str) -> Option<Vec<String>> {
    let name = metric.strip_suffix("_bucket").unwrap_or(metric);
    let (_, section) = PAGE.split_once(&format!("\n### `{name}`\n\n"))?;
    let (_, labels) = section.lines().next()?.split_once("labels: ")?;
    let (labels, _) = labels.split_once(';')?;
    let quoted = labels.split('`').skip(1).step_by(2);
    let mut labels: Vec<_> = quoted.map(str::to_owned).collect();
    if name != metric {
        labels.push("le".to_owned());
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_are_told_one_by_one() {
        let all = alternatives("a_(b|c_(d|e)_f)|g").unwrap();
        assert_eq!(all, ["a_b", "a_c_d_f", "a_c_e_f", "g"]);
        for wrong in ["a_(b", "a_.*", "a)", "(a|b"] {
            assert!(alternatives(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_of_what_is_recorded_are_in_its_name() {
        let name = "site_traffic_direction_blocked_by:peerwatch_hosts_blocked:count".to_owned();
        let recorded = [name.clone()];
        let wanted = ["site", "traffic", "direction", "blocked_by"].map(str::to_owned);
        assert_eq!(labels(&name, &recorded), Some(wanted.to_vec()));
        assert_eq!(labels("site:peerwatch_hosts:sum", &recorded), None);
        assert_eq!(labels("peerwatch_hosts", &recorded), None);
        let wanted = ["traffic", "direction", "le"].map(str::to_owned).to_vec();
        assert_eq!(
            labels("peerwatch_handshake_seconds_bucket", &[]),
            Some(wanted)
        );
        assert_eq!(labels("peerwatch_conntrack_limit", &[]), Some(Vec::new()));
        assert_eq!(labels("up", &[]), Some(Vec::new()));
    }
}
