//! What metrics and the status page show of the changes.

use serde::{Deserialize, Serialize};

use super::{Change, Kind};

/// How many changes there were of each kind, and the last one. A restart goes on with what was kept.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Changes {
    rules: OfKind,
    sets: OfKind,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct OfKind {
    total: u64,
    last: Option<Change>,
}

impl Changes {
    /// Takes a change.
    pub fn record(&mut self, change: Change) {
        let of_kind = match change.kind {
            Kind::Rules => &mut self.rules,
            Kind::Sets => &mut self.sets,
        };
        of_kind.total = of_kind.total.saturating_add(1);
        of_kind.last = Some(change);
    }

    /// How many there were of a kind: `ruleset_changes_total`.
    #[must_use]
    pub const fn total(&self, kind: Kind) -> u64 {
        self.of_kind(kind).total
    }

    /// The last one of a kind.
    #[must_use]
    pub const fn last(&self, kind: Kind) -> Option<&Change> {
        self.of_kind(kind).last.as_ref()
    }

    /// The last one of any kind; of a transaction that touched both, the one of rules.
    #[must_use]
    pub fn latest(&self) -> Option<&Change> {
        let (rules, sets) = (self.last(Kind::Rules), self.last(Kind::Sets));
        match (rules, sets) {
            (Some(rules), Some(sets)) if rules.monotonic < sets.monotonic => Some(sets),
            (Some(rules), _) => Some(rules),
            (None, sets) => sets,
        }
    }

    /// When the last one of any kind was, seconds since the beginning of 1970; 0 where there was none:
    /// `ruleset_last_change_timestamp_seconds`.
    #[must_use]
    pub fn latest_timestamp_seconds(&self) -> f64 {
        self.latest().map_or(0.0, |change| change.at.as_secs_f64())
    }

    const fn of_kind(&self, kind: Kind) -> &OfKind {
        match kind {
            Kind::Rules => &self.rules,
            Kind::Sets => &self.sets,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Backend;
    use super::*;

    #[test]
    fn changes_are_counted_by_kind_and_the_last_is_kept() {
        let change = |kind, seconds| Change {
            at: Duration::from_millis(1_700_000_000_500 + seconds * 1000),
            monotonic: Duration::from_secs(seconds),
            kind,
            by: None,
            backend: Backend::Nftables,
            tables: Vec::new(),
        };
        let mut changes = Changes::default();
        assert_eq!((changes.latest(), changes.total(Kind::Sets)), (None, 0));
        assert!(changes.latest_timestamp_seconds().abs() < f64::EPSILON);

        changes.record(change(Kind::Rules, 1));
        changes.record(change(Kind::Sets, 1));
        assert_eq!(changes.latest(), changes.last(Kind::Rules), "one moment");
        changes.record(change(Kind::Sets, 3));
        assert_eq!(changes.latest(), Some(&change(Kind::Sets, 3)));
        assert_eq!(changes.last(Kind::Rules), Some(&change(Kind::Rules, 1)));
        let totals = Kind::ALL.map(|kind| (kind.as_str(), changes.total(kind)));
        assert_eq!(totals, [("rules", 1), ("sets", 2)]);
        assert!((changes.latest_timestamp_seconds() - 1_700_000_003.5).abs() < 1e-3);
    }
}
