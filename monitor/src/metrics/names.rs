//! Every metric of ours: its name, labels and help, and where it lives. docs/metrics.md says the same for
//! users, which a test holds it to.

use prometheus::proto::MetricType;

/// Where the value of a metric lives, and so what a restart of the daemon does to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lives {
    /// In maps of the kernel programs.
    Maps,
    /// In the state file, and the daemon's memory.
    State,
    /// In the daemon's memory.
    Memory,
    /// Nowhere: it is what is found when it is asked for.
    Now,
}

/// Name, labels and help of every metric of the collector, in one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) full: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    /// In the order in which they are shown.
    pub(super) labels: &'static [&'static str],
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by the test of the documentation")
    )]
    pub(super) lives: Lives,
}

macro_rules! names {
    ($($constant:ident: $kind:ident $lives:ident [$($label:literal),*] $name:literal $help:literal;)+) => {
        $(pub(super) const $constant: Name = Name {
            full: concat!("peerwatch_", $name), help: $help, kind: MetricType::$kind,
            labels: &[$($label),*], lives: Lives::$lives,
        };)+
        /// Every metric.
        #[cfg(test)]
        #[cfg(test)]
        pub(super) const ALL: &[Name] = &[$($constant,)+];
    };
}

names! {
    PACKETS: COUNTER Maps ["traffic", "protocol", "family", "direction", "flow", "verdict"] "packets_total" "Packets of the watched traffics, by verdict. A coalesced packet counts as the packets on the wire that it stands for.";
    BYTES: COUNTER Maps ["traffic", "protocol", "family", "direction", "flow", "verdict"] "bytes_total" "Bytes of the IP packets in peerwatch_packets_total; headers of a coalesced packet count once.";
    DROPS: COUNTER Maps ["traffic", "protocol", "family", "direction", "flow", "class", "reason"] "drops_total" "Packets that the kernel dropped before their verdict point, by its reason.";
    LATE_DROPS: COUNTER Maps ["traffic", "protocol", "family", "direction", "flow", "class", "reason"] "late_drops_total" "Packets that were allowed and lost after that, as in a full receive buffer or queue.";
    INTERFACE_PACKETS: COUNTER Maps ["interface", "direction", "verdict"] "interface_packets_total" "Packets of the watched traffics by interface: where an allowed one left or, inbound, came in; of a dropped one the device it was on.";
    FRAGMENTS: COUNTER Maps ["direction"] "fragments_total" "TCP and UDP fragments other than the first: they carry no ports, so they belong to no traffic.";
    HOOK_ATTACHED: GAUGE Now ["hook", "interface"] "hook_attached" "Whether a hook that is wanted is attached.";
    HOOK_INFO: GAUGE Now ["hook", "interface", "mode"] "hook_info" "How an attached hook is attached.";
    REATTACHMENTS: COUNTER State ["hook"] "reattachments_total" "How often a hook was attached again after somebody else had taken it off.";
    RESTART_GAP: GAUGE Now ["hook"] "restart_gap_seconds" "For how long a hook did not count before this daemon had it, at the interface where that was longest; 0 where counting went on.";
    MAP_ENTRIES: GAUGE Now ["map"] "map_entries" "Entries of a map of the kernel programs.";
    MAP_CAPACITY: GAUGE Now ["map"] "map_capacity" "The most entries that a map of the kernel programs holds.";
    MAP_FULL: COUNTER Maps ["map"] "map_full_total" "How often a map of the kernel programs had no room for a new entry.";
    PROGRAM_SECONDS: COUNTER State ["program"] "program_run_seconds_total" "Time that a kernel program took, what it goes on with included. Only where the kernel keeps BPF statistics (--bpf-stats).";
    PROGRAM_RUNS: COUNTER State ["program"] "program_runs_total" "How often a kernel program ran. Only where the kernel keeps BPF statistics (--bpf-stats).";
    EVENTS_LOST: COUNTER Maps ["stream"] "events_lost_total" "Events that were thrown away: packets, because the ring buffer to the daemon was full; packet_log, because the reader of the log was too slow; log_write, because the line could not be written, as on a full disk; diagnostics, because nobody read standard error or it could not be written, since the daemon started; drops, because an interrupt came while the drop program ran, so that freed packets of any kind were not looked at.";
    LOG_SUPPRESSED: COUNTER Maps ["stream"] "log_suppressed_total" "Events that the rate limit kept out of the log.";
    ATTEMPTS: COUNTER State ["traffic", "family", "direction", "outcome", "blocked_by"] "attempts_total" "Attempts to open a connection that ended, by how, and by who ended them. Repeated packets of one attempt add nothing.";
    HANDSHAKE: HISTOGRAM State ["traffic", "direction"] "handshake_seconds" "Time from the first packet of an established attempt to the answer that passed.";
    ATTEMPTS_LOST: COUNTER State ["stream"] "attempts_lost_total" "Attempts that were not followed to their end: table, because newer ones took their place in a full table; collision, because another one had the same initial sequence number; refused, because no record could be made; teredo, because packets found no room on their way to the daemon.";
    STATE: GAUGE State ["traffic", "direction", "state"] "state" "1 for the state that a traffic is in, in one direction; 0 for the others.";
    BLOCKED_BY: GAUGE State ["traffic", "direction", "blocked_by"] "blocked_by" "1 for who ended most of the failed attempts of the window; 0 for the others.";
    WINDOW_ATTEMPTS: GAUGE State ["traffic", "direction", "result"] "window_attempts" "Attempts of the sliding window, by result.";
    WINDOW_PAIRS: GAUGE State ["traffic", "direction", "result"] "window_peer_pairs" "Pairs of client and target with attempts in the sliding window, by result.";
    STATE_SINCE: GAUGE State ["traffic", "direction"] "state_since_timestamp_seconds" "Since when the state is what it is.";
    BLOCKED_SINCE: GAUGE State ["traffic", "direction"] "blocked_since_timestamp_seconds" "The first failed attempt after the last success, while the state is blocked; 0 otherwise.";
    LAST_SUCCESS: GAUGE State ["traffic", "direction"] "last_success_timestamp_seconds" "When an attempt last succeeded; 0 for never.";
    LAST_ATTEMPT: GAUGE State ["traffic", "direction"] "last_attempt_timestamp_seconds" "When an attempt last ended; 0 for never.";
    EVALUATION: GAUGE Memory [] "evaluation_timestamp_seconds" "When states were last computed.";
    CONNTRACK_ENTRIES: GAUGE Now [] "conntrack_entries" "Entries of the connection table of this network namespace.";
    CONNTRACK_LIMIT: GAUGE Now [] "conntrack_limit" "The most entries that the connection table takes.";
    RULESET_CHANGES: COUNTER State ["kind"] "ruleset_changes_total" "Changes of firewall rules that were noticed: transactions that touched rules and chains, and those that touched sets.";
    RULESET_CHANGE: GAUGE State [] "ruleset_last_change_timestamp_seconds" "When a change of firewall rules was last noticed; 0 for never.";
    BUILD_INFO: GAUGE Now ["version", "revision"] "build_info" "Version and source revision of peerwatch.";
    KERNEL_INFO: GAUGE Now ["release", "btf", "drop_reasons"] "kernel_info" "The running kernel, and whether it offers BTF and drop reasons.";
    SELF_TEST: GAUGE Memory [] "selftest_success" "Whether the self-test at the start counted every packet exactly; 0 also where it could not run. Only with --self-test.";
    TRAFFIC_INFO: GAUGE Now ["traffic", "expect"] "traffic_info" "1 for each traffic that is watched; expect says whether the site expects it to work (open) or wants it blocked (closed).";
    RELOAD: GAUGE Memory [] "config_last_reload_successful" "Whether the configuration was good when it was last loaded.";
}

#[cfg(test)]
mod tests;
