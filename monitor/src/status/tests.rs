//! The document's form: what is written is read back, and docs/status.md tells of it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

/// docs/status.md.
pub(crate) const DOCUMENTATION: &str = include_str!("../../../docs/status.md");

/// 2026-11-23T02:48:12.771Z.
pub(crate) const NOW: f64 = 1_795_402_092.771;

/// A traffic and direction without any attempt.
pub(crate) fn quiet(traffic: &str, direction: Direction) -> TrafficState {
    TrafficState {
        traffic: traffic.to_owned(),
        direction,
        state: State::NoDemand,
        expect: Expect::Open,
        since: Some(NOW - 10_000.0),
        blocked_since: None,
        last_success: None,
        last_attempt: None,
        blocked_by: BlockedBy::None,
        window_seconds: 900.0,
        attempts: Attempts::default(),
        evidence_age_seconds: None,
        ruleset_change_before_block: None,
        top_failing: Some(Vec::new()),
    }
}

/// The block of the documentation.
pub(crate) fn blocked() -> TrafficState {
    let client = "10.7.1.2".parse().unwrap();
    let target = "10.7.2.2".parse().unwrap();
    let port = Some("tcp/7680".parse().unwrap());
    let (outcome, blocked_by) = (Outcome::Dropped, BlockedBy::LocalFirewall);
    TrafficState {
        state: State::Blocked,
        since: Some(1_795_400_065.25),
        blocked_since: Some(1_795_400_052.5),
        last_success: Some(1_795_400_040.125),
        last_attempt: Some(NOW - 4.0),
        blocked_by,
        attempts: Attempts {
            total: 20,
            success: 2,
            policy: 18,
            other: 0,
            outcomes: [(Outcome::Established, 2), (outcome, 18)].into(),
        },
        evidence_age_seconds: Some(4.0),
        ruleset_change_before_block: Some(12.0),
        top_failing: Some(vec![Pair {
            client,
            target,
            port,
            count: 18,
            outcome,
            blocked_by,
            commands: commands(
                client,
                target,
                port,
                Direction::Forwarded,
                outcome,
                blocked_by,
            ),
        }]),
        ..quiet("do_peer", Direction::Forwarded)
    }
}

/// The document of the documentation.
pub(crate) fn example() -> Document {
    Document {
        version: VERSION,
        time: rfc3339(Duration::from_millis(1_795_402_092_771)),
        timestamp: NOW,
        evaluated: Some(1_795_402_092.25),
        daemon: Daemon {
            version: "0.1.0".to_owned(),
            revision: "unknown".to_owned(),
            uptime_seconds: 10_020,
        },
        host: Host {
            kernel_release: "6.12.57+deb13-amd64".to_owned(),
            network_namespace: 4_026_531_840,
            uptime_seconds: 864_000,
        },
        configuration: Configuration {
            file: Some("/etc/peerwatch/peerwatch.toml".to_owned()),
            traffics: vec![TrafficConfiguration {
                name: "do_peer".to_owned(),
                ports: vec!["tcp/7680".parse().unwrap()],
                expect: Expect::Open,
                state_directions: vec![Direction::Outbound, Direction::Forwarded],
                thresholds: Thresholds {
                    window_seconds: 900.0,
                    hold_seconds: 86_400.0,
                    recovery_seconds: 15.0,
                    blocked_failures: 3,
                    blocked_percent: 50,
                    blocked_spread_seconds: 10.0,
                    failing_attempts: 3,
                    degraded_attempts: 20,
                    degraded_percent: 5,
                    lost_percent: 5,
                },
            }],
        },
        peers_shown: true,
        coverage: Coverage::new(
            vec![
                Hook {
                    hook: "drop".to_owned(),
                    interface: None,
                    attached: true,
                    mode: Some("tp_btf".to_owned()),
                    why: None,
                },
                Hook {
                    hook: "egress".to_owned(),
                    interface: Some("wan".to_owned()),
                    attached: false,
                    mode: None,
                    why: Some("the device is gone".to_owned()),
                },
            ],
            0,
            Vec::new(),
        ),
        ruleset_change: Some(RulesetChange {
            time: 1_795_400_040.5,
            kind: "rules".to_owned(),
            process: Some("nft".to_owned()),
            pid: Some(4711),
        }),
        conntrack: Some(Conntrack {
            entries: Some(812),
            limit: Some(262_144),
        }),
        states: vec![blocked(), quiet("do_peer", Direction::Outbound)],
    }
}

/// The text of the documentation's block in this language.
pub(crate) fn block(language: &str) -> &'static str {
    let begin = format!("\n```{language}\n");
    let (_, rest) = DOCUMENTATION.split_once(&begin).unwrap();
    rest.split_once("```").unwrap().0
}

/// The paths of everything that is no object: `states[].attempts.total`.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        // Its keys are outcomes, not fields.
        Value::Object(fields) if !path.ends_with(".outcomes") => {
            for (name, field) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                paths(field, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                paths(item, &format!("{path}[]"), found);
            }
        }
        // What an empty list may have is in one that is not.
        Value::Array(items) if items.is_empty() => {}
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn the_documentation_names_every_field_and_no_other() {
    let mut written = BTreeSet::new();
    paths(&serde_json::to_value(example()).unwrap(), "", &mut written);
    let (_, fields) = DOCUMENTATION.split_once("\n## Fields\n").unwrap();
    let (fields, _) = fields.split_once("\n## ").unwrap();
    let documented: BTreeSet<String> = fields
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(path, _)| path.to_owned())
        .collect();
    assert_eq!(documented, written);
}

#[test]
fn the_documentation_s_example_is_what_is_written() {
    assert_eq!(
        block("json").trim_end(),
        serde_json::to_string_pretty(&example()).unwrap()
    );
}

#[test]
fn what_is_written_is_read_back() {
    let document = example();
    let json = document.to_json().unwrap();
    assert_eq!(Document::parse(json.as_bytes()).unwrap(), document);
    let without = document.without_peers();
    let json = without.to_json().unwrap();
    assert!(!json.contains("10.7."), "{json}");
    assert!(!json.contains("top_failing"), "{json}");
    assert_eq!(Document::parse(json.as_bytes()).unwrap(), without);
}

#[test]
fn a_later_daemon_s_fields_are_left_out() {
    let mut value = serde_json::to_value(example()).unwrap();
    value["news"] = "x".into();
    value["states"][0]["news"] = "x".into();
    let json = value.to_string();
    assert_eq!(Document::parse(json.as_bytes()).unwrap(), example());
}

#[test]
fn what_is_no_document_is_explained() {
    let mut odd = serde_json::to_value(example()).unwrap();
    odd["states"][0]["state"] = "splendid".into();
    for (json, wanted) in [
        (
            "<html>".to_owned(),
            "is no JSON (expected value at line 1 column 1)",
        ),
        (String::new(), "is no JSON (EOF while parsing a value"),
        ("[1]".to_owned(), "is JSON, but no status of peerwatch"),
        (
            "{\"version\":\"1\"}".to_owned(),
            "is JSON, but no status of peerwatch",
        ),
        (
            "{\"version\":2}".to_owned(),
            "has version 2, and this peerwatch reads version 1",
        ),
        (
            "{\"version\":1}".to_owned(),
            "has version 1, but is no status of peerwatch (missing field `time`)",
        ),
        (
            odd.to_string(),
            "is no status of peerwatch (\"splendid\" is no state)",
        ),
    ] {
        let said = Document::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(said.starts_with(wanted) || said.ends_with(wanted), "{said}");
    }
}

#[test]
fn names_are_those_of_metrics() {
    fn check<T: Copy + Serialize>(all: &[T], as_str: impl Fn(T) -> &'static str) {
        for value in all {
            assert_eq!(serde_json::to_value(value).unwrap(), as_str(*value));
        }
    }
    check(State::ALL, State::as_str);
    check(Expect::ALL, Expect::as_str);
    check(Outcome::ALL, Outcome::as_str);
    check(BlockedBy::ALL, BlockedBy::as_str);
}

#[test]
fn the_nearest_change_before_a_block_is_told() {
    let changes = [100.0, 150.0, 161.0];
    assert_eq!(change_before_block(Some(160.0), changes), Some(10.0));
    assert_eq!(change_before_block(Some(161.0), changes), Some(0.0));
    assert_eq!(change_before_block(Some(300.0), changes), None);
    assert_eq!(change_before_block(None, changes), None);
    assert_eq!(change_before_block(Some(160.0), []), None);
}

#[test]
fn times_have_milliseconds() {
    let time = seconds(Duration::from_nanos(1_795_402_092_771_999_999));
    assert_eq!(time.to_string(), NOW.to_string());
}

#[test]
fn coverage_says_what_is_missing() {
    let coverage = example().coverage;
    assert!(!coverage.complete);
    assert_eq!(
        coverage.missing,
        ["hook egress of wan is not attached: the device is gone"]
    );
    assert!(Coverage::new(Vec::new(), 3, Vec::new()).complete);
    assert!(!Coverage::new(Vec::new(), 0, vec!["x".to_owned()]).complete);
}
