//! What was counted, by the names of the series, and how it differs from what should have been.

use std::collections::BTreeMap;

use monitor_common::Verdict;
use monitor_common::counter::{Series, Slot};
use monitor_common::drop::{Class, Group};

use crate::bpf::Hook;
use crate::bpf::counters::Snapshot;
use crate::drop::ReasonTable;
use crate::traffic::Traffics;

/// Values of series, by name; those that are 0 are left out.
pub(super) type Counts = BTreeMap<String, u64>;

/// By how much a series should rise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rise {
    /// As Prometheus writes it.
    pub(super) series: String,
    /// The hook that counts it.
    pub(super) hook: Hook,
    /// By how much.
    pub(super) by: u64,
}

/// A series that did not rise as it should.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Difference {
    pub(super) series: String,
    pub(super) expected: u64,
    pub(super) counted: u64,
}

/// Names the series.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    /// The traffics that are watched.
    pub(super) traffics: &'a Traffics,
    /// The reasons of this kernel.
    pub(super) reasons: &'a ReasonTable,
    /// The reason of a firewall's drop. Where the class of such drops is not known there is none, and drops by class
    /// and reason are left out.
    pub(super) firewall: Option<u32>,
}

impl Names<'_> {
    fn labels(&self, series: Series) -> String {
        let traffic = self.traffics.get(series.traffic);
        format!(
            "traffic=\"{}\",protocol=\"{}\",family=\"{}\",direction=\"{}\",flow=\"{}\"",
            traffic.map_or("?", |traffic| &traffic.name),
            series.protocol.as_str(),
            series.family.as_str(),
            series.direction.as_str(),
            series.flow.as_str(),
        )
    }

    /// A series of `packets_total`.
    pub(super) fn packets(&self, series: Series, verdict: Verdict) -> String {
        format!(
            "peerwatch_packets_total{{{},verdict=\"{}\"}}",
            self.labels(series),
            verdict.as_str()
        )
    }

    /// A series of `drops_total`.
    pub(super) fn drops(&self, series: Series, class: Class, reason: u32) -> String {
        format!(
            "peerwatch_drops_total{{{},class=\"{}\",reason=\"{}\"}}",
            self.labels(series),
            class.as_str(),
            self.reasons.name(reason)
        )
    }

    /// What was counted. Drops after the verdict are left out: which there are depends on the kernel.
    pub(super) fn counts(&self, snapshot: &Snapshot) -> Counts {
        let mut counts = Counts::new();
        for (slot, count) in &snapshot.allowed {
            if let Some(series) = slot.series()
                && count.packets > 0
            {
                *counts
                    .entry(self.packets(series, Verdict::Allowed))
                    .or_default() += count.packets;
            }
        }
        for (key, count) in &snapshot.drops {
            let Some(series) = Slot(key.slot).series() else {
                continue;
            };
            let before = [Some(Group::Before), Some(Group::Subtract)];
            if count.packets == 0 || !before.contains(&Group::from_code(key.group)) {
                continue;
            }
            let class = Class::from_code(key.class).unwrap_or(Class::Unspecified);
            let by_reason = self.firewall.is_some();
            let by_reason = by_reason.then(|| self.drops(series, class, key.reason));
            let names = [Some(self.packets(series, Verdict::Dropped)), by_reason];
            for name in names.into_iter().flatten() {
                *counts.entry(name).or_default() += count.packets;
            }
        }
        counts
    }
}

/// The first series that did not rise as it should: of those that should, in their order, or else of those
/// that should not have risen at all. A series that fell counts as not risen.
pub(super) fn difference(expected: &[Rise], before: &Counts, now: &Counts) -> Option<Difference> {
    let rise = |series: &str| {
        let value = |counts: &Counts| counts.get(series).copied().unwrap_or(0);
        value(now).saturating_sub(value(before))
    };
    let wrong = expected
        .iter()
        .find(|wanted| rise(&wanted.series) != wanted.by);
    if let Some(wanted) = wrong {
        return Some(Difference {
            series: wanted.series.clone(),
            expected: wanted.by,
            counted: rise(&wanted.series),
        });
    }
    let is_wanted = |series: &String| expected.iter().any(|wanted| wanted.series == *series);
    let mut others = now.keys().filter(|series| !is_wanted(series));
    let extra = others.find(|series| rise(series) > 0)?;
    Some(Difference {
        series: extra.clone(),
        expected: 0,
        counted: rise(extra),
    })
}
