//! What expressions of dashboards may ask for.

use std::iter::Peekable;
use std::str::Chars;

use anyhow::{Result, bail, ensure};

/// Our metrics that dashboards use, without prefix, and their labels. A test compares the names with
/// docs/metrics.md; another one executes every expression and sees the labels in a real scrape.
pub const METRICS: &[(&str, &str)] = &[
    ("attempts_lost_total", "stream"),
    (
        "attempts_total",
        "traffic family direction outcome blocked_by",
    ),
    ("blocked_by", "traffic direction blocked_by"),
    ("blocked_since_timestamp_seconds", "traffic direction"),
    ("build_info", "version revision"),
    (
        "bytes_total",
        "traffic protocol family direction flow verdict",
    ),
    ("config_last_reload_successful", ""),
    ("conntrack_entries", ""),
    ("conntrack_limit", ""),
    (
        "drops_total",
        "traffic protocol family direction flow class reason",
    ),
    ("evaluation_timestamp_seconds", ""),
    ("events_lost_total", "stream"),
    ("fragments_total", "direction"),
    ("handshake_seconds", "traffic direction le"),
    ("hook_attached", "hook interface"),
    ("hook_info", "hook interface mode"),
    ("interface_packets_total", "interface direction verdict"),
    ("kernel_info", "release btf drop_reasons"),
    ("last_attempt_timestamp_seconds", "traffic direction"),
    ("last_success_timestamp_seconds", "traffic direction"),
    (
        "late_drops_total",
        "traffic protocol family direction flow class reason",
    ),
    ("log_suppressed_total", "stream"),
    ("map_capacity", "map"),
    ("map_entries", "map"),
    ("map_full_total", "map"),
    (
        "packets_total",
        "traffic protocol family direction flow verdict",
    ),
    ("ruleset_changes_total", "kind"),
    ("ruleset_last_change_timestamp_seconds", ""),
    ("state", "traffic direction state"),
    ("state_since_timestamp_seconds", "traffic direction"),
    ("traffic_info", "traffic expect"),
    ("window_attempts", "traffic direction result"),
    ("window_peer_pairs", "traffic direction result"),
];

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
    let ours = |name: &str| {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        find(METRICS, name)
    };
    find(OTHERS, metric).or_else(|| metric.strip_prefix("peerwatch_").and_then(ours))
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
        assert!(labels("peerwatch_handshake_seconds_bucket", &[]).is_some());
        assert_eq!(labels("up", &[]), Some(Vec::new()));
    }
}
