//! `packets_total`, `bytes_total`, `drops_total`, `late_drops_total`, `fragments_total`.

use std::collections::BTreeMap;

use monitor_common::counter::{Count, Series, Slot};
use monitor_common::drop::{Class, DropKey, Group};
use monitor_common::{Direction, Family as AddressFamily, Flow, Verdict};

use super::family::Family;
use super::names::{BYTES, DROPS, FRAGMENTS, LATE_DROPS, PACKETS};
use crate::bpf::counters::Snapshot;
use crate::drop::ReasonTable;
use crate::traffic::{Traffic, Traffics};

/// Which hooks count here. What is not measured is absent, never 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) drop: bool,
    pub(super) deliver: bool,
    pub(super) egress: bool,
}

impl Measured {
    pub(super) fn allowed(self, direction: Direction) -> bool {
        match direction {
            Direction::Inbound => self.deliver,
            Direction::Outbound | Direction::Forwarded => self.egress,
        }
    }
}

type Label<'a> = (&'static str, &'a str);
type Labels<'a> = [Label<'a>; 5];

fn labels(traffic: &Traffic, series: Series) -> Labels<'_> {
    [
        ("traffic", &traffic.name),
        ("protocol", series.protocol.as_str()),
        ("family", series.family.as_str()),
        ("direction", series.direction.as_str()),
        ("flow", series.flow.as_str()),
    ]
}

/// Every series of the traffics: each protocol that a traffic has ports of, with every family,
/// direction and flow.
fn all_series(traffics: &Traffics) -> impl Iterator<Item = (&Traffic, Series)> {
    traffics.iter().flat_map(|traffic| {
        traffic.protocols().flat_map(move |protocol| {
            AddressFamily::ALL.iter().flat_map(move |&family| {
                Direction::ALL.iter().flat_map(move |&direction| {
                    Flow::ALL.iter().map(move |&flow| {
                        let series = Series {
                            traffic: traffic.index,
                            protocol,
                            family,
                            direction,
                            flow,
                        };
                        (traffic, series)
                    })
                })
            })
        })
    })
}

/// Whether a key is a drop before the verdict point.
fn is_drop(key: DropKey) -> bool {
    matches!(
        Group::from_code(key.group),
        Some(Group::Before | Group::Subtract)
    )
}

pub(super) fn families(
    snapshot: &Snapshot,
    traffics: &Traffics,
    reasons: &ReasonTable,
    measured: Measured,
    floors: &mut BTreeMap<u16, (u64, u64)>,
) -> Vec<Family> {
    let mut packets = Family::new(PACKETS);
    let mut bytes = Family::new(BYTES);
    let mut drops = Family::new(DROPS);
    let mut late = Family::new(LATE_DROPS);
    for (traffic, series) in all_series(traffics) {
        let labels = labels(traffic, series);
        let slot = Slot::of(&series);
        if measured.allowed(series.direction) {
            let count = snapshot.allowed.get(&slot).copied().unwrap_or_default();
            let floor = floors.entry(slot.0).or_default();
            floor.0 = floor.0.max(count.packets);
            floor.1 = floor.1.max(count.bytes);
            add_verdict(&mut packets, &labels, Verdict::Allowed, floor.0);
            add_verdict(&mut bytes, &labels, Verdict::Allowed, floor.1);
        }
        if !measured.drop {
            continue;
        }
        let mut dropped = Count::default();
        // A reason may come in two groups, and the metrics do not tell groups apart.
        let mut early_rows: BTreeMap<(u8, u32), u64> = BTreeMap::new();
        let mut late_rows = early_rows.clone();
        early_rows.insert((Class::Firewall.code(), reasons.firewall_reason()), 0);
        let first = DropKey {
            slot: slot.0,
            group: 0,
            class: 0,
            reason: 0,
        };
        let last = DropKey {
            slot: slot.0,
            group: u8::MAX,
            class: u8::MAX,
            reason: u32::MAX,
        };
        for (key, count) in snapshot.drops.range(first..=last) {
            if is_drop(*key) {
                dropped.packets += count.packets;
                dropped.bytes += count.bytes;
                *early_rows.entry((key.class, key.reason)).or_default() += count.packets;
            } else if key.group == Group::After.code() {
                *late_rows.entry((key.class, key.reason)).or_default() += count.packets;
            }
        }
        add_verdict(&mut packets, &labels, Verdict::Dropped, dropped.packets);
        add_verdict(&mut bytes, &labels, Verdict::Dropped, dropped.bytes);
        add_reasons(&mut drops, &labels, &early_rows, reasons);
        add_reasons(&mut late, &labels, &late_rows, reasons);
    }
    vec![packets, bytes, drops, late]
}

fn add_verdict(family: &mut Family, labels: &Labels<'_>, verdict: Verdict, value: u64) {
    let verdict = [("verdict", verdict.as_str())];
    family.add(&[labels.as_slice(), &verdict].concat(), value);
}

fn add_reasons(
    family: &mut Family,
    labels: &Labels<'_>,
    rows: &BTreeMap<(u8, u32), u64>,
    reasons: &ReasonTable,
) {
    for (&(class, reason), &value) in rows {
        let class = Class::from_code(class).unwrap_or(Class::Unspecified);
        let reason = reasons.name(reason);
        let why: [Label<'_>; 2] = [("class", class.as_str()), ("reason", &reason)];
        family.add(&[labels.as_slice(), &why].concat(), value);
    }
}

pub(super) fn fragments(snapshot: &Snapshot, inbound: bool, others: bool) -> Family {
    let mut family = Family::new(FRAGMENTS);
    for (&direction, &value) in Direction::ALL.iter().zip(&snapshot.fragments) {
        let measured = if direction == Direction::Inbound {
            inbound
        } else {
            others
        };
        if measured {
            family.add(&[("direction", direction.as_str())], value);
        }
    }
    family
}
