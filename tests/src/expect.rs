//! What a test expects of the counters, written as packets rather than as series.

use std::fmt::Write;
use std::net::IpAddr;

use crate::kernel;
use crate::packet::Protocol;
use crate::scrape::{Counts, Series};

/// The counters that every row compares, all series of them: without the prefix `peerwatch_`.
pub const COMPARED: [&str; 6] = [
    "packets_total",
    "bytes_total",
    "drops_total",
    "late_drops_total",
    "interface_packets_total",
    "fragments_total",
];

/// Address family.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As in the label `family`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Bytes of the IP header without options.
    #[must_use]
    pub const fn header(self) -> u64 {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The labels that a watched packet has whatever becomes of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kind {
    /// Label `traffic`.
    pub traffic: &'static str,
    /// Label `protocol`.
    pub protocol: Protocol,
    /// Label `family`.
    pub family: Family,
    /// Label `direction`.
    pub direction: &'static str,
    /// Label `flow`.
    pub flow: &'static str,
}

impl Kind {
    /// The same packet's answer, made by this host.
    #[must_use]
    pub const fn answer(self) -> Self {
        Self {
            direction: "outbound",
            flow: "reply",
            ..self
        }
    }

    pub(crate) fn labels(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("traffic", self.traffic),
            ("protocol", self.protocol.name()),
            ("family", self.family.name()),
            ("direction", self.direction),
            ("flow", self.flow),
        ]
    }
}

/// Expected rises of counters.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    counts: Counts,
}

impl From<Counts> for Expected {
    /// These rises, whatever they are.
    fn from(counts: Counts) -> Self {
        Self { counts }
    }
}

impl Expected {
    /// Nothing is counted.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// `count` packets of `bytes` in all were allowed, at this interface.
    pub fn allowed(&mut self, kind: Kind, interface: &str, count: u64, bytes: u64) {
        self.verdict(kind, "allowed", interface, count, bytes);
    }

    /// They were dropped before the verdict, at this interface.
    pub fn dropped(
        &mut self,
        kind: Kind,
        (class, reason): (&str, &str),
        interface: &str,
        count: u64,
        bytes: u64,
    ) {
        self.verdict(kind, "dropped", interface, count, bytes);
        self.reason("drops_total", kind, class, reason, count);
    }

    /// They were dropped after the verdict. That they were allowed is to be said besides.
    pub fn late(&mut self, kind: Kind, (class, reason): (&str, &str), count: u64) {
        self.reason("late_drops_total", kind, class, reason, count);
    }

    /// Non-first fragments were seen.
    pub fn fragments(&mut self, direction: &str, count: u64) {
        self.add("fragments_total", &[("direction", direction)], count);
    }

    /// Attempts of a traffic, family and direction ended in this way.
    pub fn ended(
        &mut self,
        (traffic, family, direction): (&str, Family, &str),
        (outcome, blocked_by): (&str, &str),
        count: u64,
    ) {
        let labels = [
            ("traffic", traffic),
            ("family", family.name()),
            ("direction", direction),
            ("outcome", outcome),
            ("blocked_by", blocked_by),
        ];
        self.add("attempts_total", &labels, count);
    }

    /// Attempts were not followed to their end.
    pub fn lost(&mut self, stream: &str, count: u64) {
        self.add("attempts_lost_total", &[("stream", stream)], count);
    }

    fn verdict(&mut self, kind: Kind, verdict: &str, interface: &str, count: u64, bytes: u64) {
        let mut labels: Vec<(&str, &str)> = kind.labels();
        labels.push(("verdict", verdict));
        self.add("packets_total", &labels, count);
        self.add("bytes_total", &labels, bytes);
        let labels = [
            ("interface", interface),
            ("direction", kind.direction),
            ("verdict", verdict),
        ];
        self.add("interface_packets_total", &labels, count);
    }

    /// `reason` is what kernels with reasons give.
    fn reason(&mut self, metric: &str, kind: Kind, class: &str, reason: &str, count: u64) {
        let reason = if kernel::gives_reasons() {
            reason
        } else {
            kernel::UNAVAILABLE
        };
        let mut labels: Vec<(&str, &str)> = kind.labels();
        labels.extend([("class", class), ("reason", reason)]);
        self.add(metric, &labels, count);
    }

    fn add(&mut self, metric: &str, labels: &[(&str, &str)], count: u64) {
        if count > 0 {
            let series = Series::new(&format!("peerwatch_{metric}"), labels);
            *self.counts.entry(series).or_default() += count;
        }
    }

    /// How much a series should rise.
    #[must_use]
    pub fn of(&self, series: &Series) -> u64 {
        self.counts.get(series).copied().unwrap_or(0)
    }

    /// True when every expected series rose at least as much as it should.
    #[must_use]
    pub fn reached_by(&self, rises: &Counts) -> bool {
        self.counts
            .iter()
            .all(|(series, count)| rises.get(series).is_some_and(|n| n >= count))
    }

    /// How the rises differ: one line for each series that is missing, wrong or unexpected. `None`
    /// when they are exactly the expected ones.
    #[must_use]
    pub fn difference(&self, rises: &Counts) -> Option<String> {
        let mut text = String::new();
        for (series, expected) in &self.counts {
            let got = rises.get(series).copied().unwrap_or(0);
            if got != *expected {
                // Writing to a string can't fail.
                let _ok = writeln!(text, "  {series}: expected {expected}, got {got}");
            }
        }
        for (series, got) in rises
            .iter()
            .filter(|(series, _)| !self.counts.contains_key(*series))
        {
            let _ok = writeln!(text, "  {series}: unexpected, got {got}");
        }
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_wrong_and_unexpected_series_are_told() {
        let kind = Kind {
            traffic: "https",
            protocol: Protocol::Udp,
            family: Family::V4,
            direction: "inbound",
            flow: "request",
        };
        let mut expected = Expected::nothing();
        expected.allowed(kind, "lan0", 3, 132);
        assert_eq!(expected.difference(&expected.counts), None);
        let mut other = Expected::nothing();
        other.dropped(kind, ("firewall", "NETFILTER_DROP"), "lan0", 3, 132);
        let text = expected.difference(&other.counts).unwrap();
        assert_eq!(
            text.lines().filter(|line| line.ends_with("got 0")).count(),
            3
        );
        assert_eq!(
            text.lines()
                .filter(|line| line.contains("unexpected"))
                .count(),
            4
        );
    }
}
