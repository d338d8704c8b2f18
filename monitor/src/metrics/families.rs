//! Building metric families, and those that say how the monitor itself fares.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::KernelInfo;
use super::attempts::Attempts;
use crate::bpf::attach::HookStates;
use crate::bpf::counters::{Fill, Snapshot};
use monitor_common::event::loss;

/// Name and help of every metric of the collector, in one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) full: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
}

macro_rules! names {
    ($($constant:ident: $kind:ident $name:literal $help:literal;)+) => {
        $(pub(super) const $constant: Name = Name {
            full: concat!("peerwatch_", $name), help: $help, kind: MetricType::$kind,
        };)+
        const ALL: &[Name] = &[$($constant,)+];
    };
}

names! {
    PACKETS: COUNTER "packets_total" "Packets of the watched traffics, by verdict. A coalesced packet counts as the packets on the wire that it stands for.";
    BYTES: COUNTER "bytes_total" "Bytes of the IP packets in peerwatch_packets_total; headers of a coalesced packet count once.";
    DROPS: COUNTER "drops_total" "Packets that the kernel dropped before their verdict point, by its reason.";
    LATE_DROPS: COUNTER "late_drops_total" "Packets that were allowed and lost after that, as in a full receive buffer or queue.";
    INTERFACE_PACKETS: COUNTER "interface_packets_total" "Packets of the watched traffics by interface: where an allowed one left or, inbound, came in; of a dropped one the device it was on.";
    FRAGMENTS: COUNTER "fragments_total" "TCP and UDP fragments other than the first: they carry no ports, so they belong to no traffic.";
    HOOK_ATTACHED: GAUGE "hook_attached" "Whether a hook that is wanted is attached.";
    HOOK_INFO: GAUGE "hook_info" "How an attached hook is attached.";
    MAP_ENTRIES: GAUGE "map_entries" "Entries of a map of the kernel programs.";
    MAP_CAPACITY: GAUGE "map_capacity" "The most entries that a map of the kernel programs holds.";
    MAP_FULL: COUNTER "map_full_total" "How often a map of the kernel programs had no room for a new entry.";
    EVENTS_LOST: COUNTER "events_lost_total" "Events that were thrown away: packets, because the ring buffer to the daemon was full; packet_log, because the reader of the log was too slow; drops, because an interrupt came while the drop program ran, so that freed packets of any kind were not looked at.";
    LOG_SUPPRESSED: COUNTER "log_suppressed_total" "Events that the rate limit kept out of the log.";
    ATTEMPTS: COUNTER "attempts_total" "Attempts to open a connection that ended, by how, and by who ended them. Repeated packets of one attempt add nothing.";
    HANDSHAKE: HISTOGRAM "handshake_seconds" "Time from the first packet of an established attempt to the answer that passed.";
    ATTEMPTS_LOST: COUNTER "attempts_lost_total" "Attempts that were not followed to their end: table, because newer ones took their place in a full table; collision, because another one had the same initial sequence number; refused, because no record could be made.";
    STATE: GAUGE "state" "1 for the state that a traffic is in, in one direction; 0 for the others.";
    BLOCKED_BY: GAUGE "blocked_by" "1 for who ended most of the failed attempts of the window; 0 for the others.";
    WINDOW_ATTEMPTS: GAUGE "window_attempts" "Attempts of the sliding window, by result.";
    WINDOW_PAIRS: GAUGE "window_peer_pairs" "Pairs of client and target with attempts in the sliding window, by result.";
    STATE_SINCE: GAUGE "state_since_timestamp_seconds" "Since when the state is what it is; 0 where it was never another.";
    BLOCKED_SINCE: GAUGE "blocked_since_timestamp_seconds" "The first failed attempt after the last success, while the state is blocked; 0 otherwise.";
    LAST_SUCCESS: GAUGE "last_success_timestamp_seconds" "When an attempt last succeeded; 0 for never.";
    LAST_ATTEMPT: GAUGE "last_attempt_timestamp_seconds" "When an attempt last ended; 0 for never.";
    EVALUATION: GAUGE "evaluation_timestamp_seconds" "When states were last computed.";
    CONNTRACK_ENTRIES: GAUGE "conntrack_entries" "Entries of the connection table of this network namespace.";
    CONNTRACK_LIMIT: GAUGE "conntrack_limit" "The most entries that the connection table takes.";
    RULESET_CHANGES: COUNTER "ruleset_changes_total" "Changes of firewall rules that were noticed: transactions that touched rules and chains, and those that touched sets.";
    RULESET_CHANGE: GAUGE "ruleset_last_change_timestamp_seconds" "When a change of firewall rules was last noticed; 0 for never.";
    BUILD_INFO: GAUGE "build_info" "Version and source revision of peerwatch.";
    KERNEL_INFO: GAUGE "kernel_info" "The running kernel, and whether it offers BTF and drop reasons.";
    RELOAD: GAUGE "config_last_reload_successful" "Whether the configuration was good when it was last loaded.";
}

/// The descriptors that a registry wants, to refuse two metrics of one name.
pub(super) fn descs() -> prometheus::Result<Vec<Desc>> {
    ALL.iter()
        .map(|name| {
            Desc::new(
                name.full.to_owned(),
                name.help.to_owned(),
                Vec::new(),
                HashMap::new(),
            )
        })
        .collect()
}

/// A metric family under construction.
#[derive(Debug)]
pub(super) struct Family {
    name: Name,
    metrics: Vec<Metric>,
}

impl Family {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            metrics: Vec::new(),
        }
    }

    /// Adds one series.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the format has floats; they are exact up to 2^53"
    )]
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        let mut metric = labelled(labels);
        if self.name.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value as f64);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// Adds one series of a gauge with a fraction.
    pub(super) fn add_fraction(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = labelled(labels);
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        self.metrics.push(metric);
    }

    /// Adds one series of a histogram: upper bounds with how many are at or below each, then the sum and
    /// the number of all.
    pub(super) fn add_histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (f64, u64)>,
        sum: f64,
        count: u64,
    ) {
        let mut metric = labelled(labels);
        let mut histogram = Histogram::default();
        let buckets = buckets.map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(count);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    pub(super) fn into_proto(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.full.to_owned());
        family.set_help(self.name.help.to_owned());
        family.set_field_type(self.name.kind);
        family.set_metric(self.metrics);
        family
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    Metric::from_label(
        labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect(),
    )
}

pub(super) fn hooks(states: &HookStates) -> [Family; 2] {
    let mut attached = Family::new(HOOK_ATTACHED);
    let mut info = Family::new(HOOK_INFO);
    for ((hook, interface), state) in states {
        let labels = [("hook", hook.as_str()), ("interface", interface.as_str())];
        attached.add(&labels, u64::from(state.is_ok()));
        if let Ok(mode) = state {
            info.add(&[labels[0], labels[1], ("mode", mode.as_str())], 1);
        }
    }
    [attached, info]
}

pub(super) fn maps(snapshot: &Snapshot, attempts: &Attempts) -> [Family; 3] {
    let mut entries = Family::new(MAP_ENTRIES);
    let mut capacity = Family::new(MAP_CAPACITY);
    let mut full = Family::new(MAP_FULL);
    let attempts = Fill {
        map: "attempts",
        entries: attempts.records,
        capacity: attempts.capacity,
        full: attempts.counted.refused,
    };
    for fill in snapshot.fills().into_iter().chain([attempts]) {
        let labels = [("map", fill.map)];
        entries.add(&labels, fill.entries);
        capacity.add(&labels, fill.capacity);
        full.add(&labels, fill.full);
    }
    [entries, capacity, full]
}

pub(super) fn losses(
    snapshot: &Snapshot,
    lines_lost: u64,
    attempts_suppressed: u64,
) -> [Family; 2] {
    let labels = [("stream", "packets")];
    let mut lost = Family::new(EVENTS_LOST);
    lost.add(&labels, snapshot.losses[loss::EVENT_LOST as usize]);
    lost.add(&[("stream", "packet_log")], lines_lost);
    // Older kernels run the program for the interrupt's packet too, and the first one's note is lost.
    let interrupted = snapshot.losses[loss::INTERRUPTED as usize];
    if let Some(missed) = snapshot.missed {
        lost.add(&[("stream", "drops")], missed + interrupted);
    }
    let mut suppressed = Family::new(LOG_SUPPRESSED);
    suppressed.add(&labels, snapshot.losses[loss::LOG_SUPPRESSED as usize]);
    suppressed.add(&[("stream", "attempts")], attempts_suppressed);
    [lost, suppressed]
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

pub(super) fn info(kernel: &KernelInfo, reload_successful: bool) -> [Family; 3] {
    let mut build = Family::new(BUILD_INFO);
    build.add(
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            (
                "revision",
                option_env!("PEERWATCH_REVISION").unwrap_or("unknown"),
            ),
        ],
        1,
    );
    let mut info = Family::new(KERNEL_INFO);
    info.add(
        &[
            ("release", &kernel.release),
            ("btf", yes_no(kernel.btf)),
            (
                "drop_reasons",
                kernel.drop_reasons.map_or("unknown", yes_no),
            ),
        ],
        1,
    );
    let mut reload = Family::new(RELOAD);
    reload.add(&[], u64::from(reload_successful));
    [build, info, reload]
}
