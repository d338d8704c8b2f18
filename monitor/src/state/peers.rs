//! Which peers the attempts of a window are between.

use std::collections::HashMap;
use std::net::IpAddr;

use super::sample::{AttemptResult, Counts, Sample};
use crate::attempt::{BlockedBy, Outcome};
use crate::limits;

/// A client and a target, and how the attempts between them ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerPair {
    /// Who tried.
    pub client: IpAddr,
    /// Whom it tried to reach.
    pub target: IpAddr,
    /// How many attempts there are of each result.
    pub attempts: Counts,
    /// How the latest of those that failed ended.
    pub outcome: Outcome,
    /// Who ended it.
    pub blocked_by: BlockedBy,
}

/// What is known of a pair.
/// The most memory that the pairs of so many attempts take, bytes.
pub(super) const fn room(attempts: usize) -> usize {
    limits::hash_table::<((IpAddr, IpAddr), Known)>(attempts)
}

#[derive(Clone, Debug)]
struct Known {
    attempts: Counts,
    /// Of the latest attempt that failed; of the first one as long as none did.
    last: (Outcome, BlockedBy),
}

/// The pairs of some samples. The hash is keyed at random, so that a flood can't aim at it.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    known: HashMap<(IpAddr, IpAddr), Known>,
    /// How many pairs have an attempt of each result.
    pairs: Counts,
}

impl Peers {
    pub(super) fn add(&mut self, sample: &Sample) {
        let result = sample.result();
        let last = (sample.outcome, sample.blocked_by);
        let known = self
            .known
            .entry((sample.client, sample.target))
            .or_insert_with(|| Known {
                attempts: Counts::default(),
                last,
            });
        if result != AttemptResult::Success {
            known.last = last;
        }
        let count = known.attempts.slot(result);
        if *count == 0 {
            *self.pairs.slot(result) += 1;
        }
        *count += 1;
    }

    /// Takes a sample off that was added before.
    pub(super) fn remove(&mut self, sample: &Sample) {
        let key = (sample.client, sample.target);
        let Some(known) = self.known.get_mut(&key) else {
            return;
        };
        let result = sample.result();
        let count = known.attempts.slot(result);
        if *count == 1 {
            let pairs = self.pairs.slot(result);
            *pairs = pairs.saturating_sub(1);
        }
        *count = count.saturating_sub(1);
        if known.attempts.total() == 0 {
            self.known.remove(&key);
        }
    }

    /// Gives memory back after a flood.
    pub(super) fn shrink(&mut self) {
        if self.known.len() < self.known.capacity() / 8 {
            self.known.shrink_to(self.known.len() * 2);
        }
    }

    /// How many pairs have an attempt of each result; one can be in several.
    pub(super) fn counts(&self) -> Counts {
        self.pairs
    }

    /// The pairs with most failures, most first; of equals those with the lower addresses.
    pub(super) fn failing(&self, most: usize) -> Vec<PeerPair> {
        let mut top: Vec<(&(IpAddr, IpAddr), &Known)> = Vec::with_capacity(most + 1);
        for pair in &self.known {
            let failed = pair.1.attempts.failed();
            if failed == 0 {
                continue;
            }
            let place = top.partition_point(|(key, known)| {
                let other = known.attempts.failed();
                other > failed || (other == failed && *key < pair.0)
            });
            if place < most {
                top.insert(place, pair);
                top.truncate(most);
            }
        }
        top.into_iter()
            .map(|((client, target), known)| PeerPair {
                client: *client,
                target: *target,
                attempts: known.attempts,
                outcome: known.last.0,
                blocked_by: known.last.1,
            })
            .collect()
    }
}
