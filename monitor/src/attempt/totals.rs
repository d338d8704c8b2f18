//! Attempts that ended, counted: what `attempts_total` and `handshake_seconds` show.

use std::collections::BTreeMap;
use std::time::Duration;

use monitor_common::{Direction, Family};
use serde::{Deserialize, Serialize};

use super::{BlockedBy, Finished, Outcome};

/// Upper bounds of the buckets of `handshake_seconds`, seconds.
pub const BOUNDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 7.0,
];

/// One series of `attempts_total`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct Series {
    /// Index of the traffic.
    pub traffic: u8,
    /// Address family.
    pub family: Family,
    /// Direction.
    pub direction: Direction,
    /// How the attempts ended.
    pub outcome: Outcome,
    /// Who ended them.
    pub blocked_by: BlockedBy,
}

/// Times of handshakes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Handshakes {
    /// How many are in each bucket of [`BOUNDS`] and in none below it.
    buckets: [u64; BOUNDS.len()],
    /// All of them together, seconds.
    pub sum: f64,
    /// How many there are.
    pub count: u64,
}

impl Handshakes {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        }
        self.sum += seconds;
        self.count = self.count.saturating_add(1);
    }

    /// Each bound, with how many are at or below it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut sum = 0_u64;
        BOUNDS.iter().zip(self.buckets).map(move |(bound, count)| {
            sum = sum.saturating_add(count);
            (*bound, sum)
        })
    }
}

/// Everything that ended.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Totals {
    attempts: BTreeMap<Series, u64>,
    handshakes: BTreeMap<(u8, Direction), Handshakes>,
}

impl Totals {
    /// Counts an attempt.
    pub fn add(&mut self, finished: &Finished) {
        let series = Series {
            traffic: finished.traffic,
            family: finished.family,
            direction: finished.direction,
            outcome: finished.outcome,
            blocked_by: finished.blocked_by,
        };
        let count = self.attempts.entry(series).or_default();
        *count = count.saturating_add(1);
        if let Some(time) = finished.handshake {
            self.handshakes
                .entry((finished.traffic, finished.direction))
                .or_default()
                .add(time);
        }
    }

    /// How many there are of a series.
    #[must_use]
    pub fn attempts(&self, series: &Series) -> u64 {
        self.attempts.get(series).copied().unwrap_or(0)
    }

    /// The series of a traffic that have counted.
    pub fn counted(&self, traffic: u8) -> impl Iterator<Item = Series> + '_ {
        self.attempts
            .keys()
            .filter(move |series| series.traffic == traffic)
            .copied()
    }

    /// The handshakes of a traffic in one direction.
    #[must_use]
    pub fn handshakes(&self, traffic: u8, direction: Direction) -> Handshakes {
        self.handshakes
            .get(&(traffic, direction))
            .cloned()
            .unwrap_or_default()
    }
}

/// Who can have ended an attempt with this outcome, in this direction: the series that are there from the
/// beginning.
#[must_use]
pub fn possible(outcome: Outcome, direction: Direction) -> &'static [BlockedBy] {
    use BlockedBy::{
        LocalConntrack, LocalFirewall, LocalHost, LocalOverload, LocalStack, Middlebox, None,
        RemoteHost, Unknown, Upstream,
    };
    let inbound = matches!(direction, Direction::Inbound);
    match outcome {
        Outcome::Offline if inbound => &[],
        Outcome::Established | Outcome::Offline => &[None],
        Outcome::Refused if inbound => &[LocalHost],
        Outcome::Refused => &[RemoteHost],
        Outcome::Rejected if inbound => &[LocalFirewall],
        Outcome::Rejected => &[LocalFirewall, RemoteHost, Middlebox],
        Outcome::Dropped | Outcome::ReplyDropped => {
            // Unknown: a drop whose class is `unspecified`.
            &[
                LocalFirewall,
                LocalStack,
                LocalOverload,
                LocalConntrack,
                Unknown,
            ]
        }
        Outcome::Unanswered if inbound => &[LocalOverload, Upstream],
        Outcome::Unanswered => &[Upstream, Unknown],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_every_bucket_that_is_not_below_it() {
        let mut handshakes = Handshakes::default();
        for millis in [0, 1, 40, 8_000] {
            handshakes.add(Duration::from_millis(millis));
        }
        let buckets: Vec<_> = handshakes.cumulative().map(|(_, count)| count).collect();
        assert_eq!(buckets, [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(handshakes.count, 4);
        assert!((handshakes.sum - 8.041).abs() < 1e-9);
    }
}
