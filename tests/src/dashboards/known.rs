//! What expressions of dashboards may ask for.

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

/// What the fleet's Prometheus keeps of a host; all that is recorded there comes from these.
pub const FLEET: &[&str] = &[
    "ALERTS",
    "ALERTS_FOR_STATE",
    "peerwatch_blocked_by",
    "peerwatch_blocked_since_timestamp_seconds",
    "peerwatch_hook_attached",
    "peerwatch_last_attempt_timestamp_seconds",
    "peerwatch_last_success_timestamp_seconds",
    "peerwatch_state",
    "peerwatch_state_since_timestamp_seconds",
    "peerwatch_traffic_info",
    "up",
];

/// Variables of Grafana's own.
pub const GRAFANA: &[&str] = &["__interval", "__range", "__rate_interval"];

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
