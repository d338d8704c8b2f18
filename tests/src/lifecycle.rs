//! Tests of more than one packet's fate: connections, bulk data, fragments, interfaces that come and
//! go, and what must not be counted.

mod bulk;
mod clock;
mod coalesced;
mod connections;
mod foreign;
mod fragments;
pub(crate) mod interfaces;
mod probe;
mod service;
mod tunnel;

use anyhow::Result;

use crate::expect::{Expected, Family, Kind};
use crate::lab::Lab;
use crate::needs::Feature;
use crate::packet::Protocol;
use crate::scrape::{Counts, Series};

/// One trial in a lab of its own.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Its name, after the family it is run in.
    pub name: &'static str,
    /// In which families it is run.
    pub families: &'static [Family],
    /// What it does.
    pub run: fn(&Lab, Family) -> Result<()>,
}

const BOTH: &[Family] = &[Family::V4, Family::V6];
const V4: &[Family] = &[Family::V4];

/// All trials.
pub const TRIALS: &[&[Trial]] = &[
    bulk::TRIALS,
    clock::TRIALS,
    coalesced::TRIALS,
    connections::TRIALS,
    foreign::TRIALS,
    fragments::TRIALS,
    interfaces::TRIALS,
    service::TRIALS,
    tunnel::TRIALS,
];

impl Trial {
    /// What the kernel must have for it, where not every kernel has it.
    #[must_use]
    pub fn needs(&self) -> Option<Feature> {
        const NEEDS: [(&str, Feature); 7] = [
            ("clock_steps", Feature::Clock),
            ("20_connections_", Feature::NetdevEgress),
            ("unchanged/tcpdump_beside", Feature::Tcx),
            ("service/second_instance_refused", Feature::Tcx),
            ("service/nothing_left_behind", Feature::Tcx),
            ("tun/virtio_", Feature::TunUso),
            ("first_fragments_dropped", Feature::DefragEnds),
        ];
        let mut needs = NEEDS.iter();
        let found = needs.find(|(part, _)| self.name.contains(part));
        found.map(|(_, feature)| *feature)
    }
}

/// Port 443 over UDP or TCP.
const HTTPS: u16 = 443;

const fn https(
    protocol: Protocol,
    family: Family,
    direction: &'static str,
    flow: &'static str,
) -> Kind {
    Kind {
        traffic: "https",
        protocol,
        family,
        direction,
        flow,
    }
}

/// Packets and bytes of one kind that were allowed.
fn allowed(rises: &Counts, kind: Kind) -> (u64, u64) {
    let mut labels = kind.labels();
    labels.push(("verdict", "allowed"));
    let value = |metric: &str| {
        rises
            .get(&Series::new(metric, &labels))
            .copied()
            .unwrap_or(0)
    };
    (
        value("peerwatch_packets_total"),
        value("peerwatch_bytes_total"),
    )
}

/// Fails when anything was counted as dropped, before the verdict or, unless `late_class` names what
/// may be, after it.
fn nothing_dropped(rises: &Counts, late_class: Option<&str>) -> Result<()> {
    let late = late_class.map(|class| format!("class=\"{class}\""));
    for (series, count) in rises {
        let text = series.to_string();
        let excused = series.metric() == "peerwatch_late_drops_total"
            && late.as_ref().is_some_and(|late| text.contains(late));
        let dropped =
            text.contains("verdict=\"dropped\"") || series.metric().contains("drops_total");
        anyhow::ensure!(!dropped || excused, "{series} rose by {count}");
    }
    Ok(())
}

/// Compares, with a sentence about what was done.
fn compare(what: &str, expected: &Expected, rises: &Counts) -> Result<()> {
    match expected.difference(rises) {
        None => Ok(()),
        Some(difference) => anyhow::bail!("{what}: counters differ:\n{difference}"),
    }
}
