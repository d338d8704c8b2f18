//! What a state needs to know of an attempt, and sums of it.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt::{BlockedBy, Finished, Outcome, is_policy_failure};

/// How long after its last packet an attempt without an answer is judged.
pub const UNANSWERED_AFTER: Duration = Duration::from_secs(7);

/// What an attempt counts as: the label `result`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum AttemptResult {
    /// It was established.
    Success,
    /// A policy made it fail.
    Policy,
    /// It failed otherwise.
    Other,
}

impl AttemptResult {
    /// Every value.
    pub const ALL: &'static [Self] = &[Self::Success, Self::Policy, Self::Other];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Policy => "policy",
            Self::Other => "other",
        }
    }

    /// What an outcome counts as.
    #[must_use]
    pub const fn of(outcome: Outcome, blocked_by: BlockedBy) -> Self {
        if matches!(outcome, Outcome::Established) {
            Self::Success
        } else if is_policy_failure(outcome, blocked_by) {
            Self::Policy
        } else {
            Self::Other
        }
    }
}

/// An attempt, as far as a state needs it. Times are on the monotonic clock, since boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Sample {
    /// When its first packet was seen.
    pub first: Duration,
    /// The moment that it tells of: when the answer came, or the last packet that failed went out.
    pub at: Duration,
    /// When its outcome was known.
    pub ended: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Who ended it.
    pub blocked_by: BlockedBy,
    /// Who tried.
    pub client: IpAddr,
    /// Whom it tried to reach.
    pub target: IpAddr,
}

impl Sample {
    /// What it counts as.
    #[must_use]
    pub const fn result(&self) -> AttemptResult {
        AttemptResult::of(self.outcome, self.blocked_by)
    }

    /// Whether it may be where a block begins. Of a refusal and of a target that is off line the
    /// reason is known, and it is no block.
    pub(super) const fn may_begin_block(&self) -> bool {
        !matches!(
            self.outcome,
            Outcome::Established | Outcome::Refused | Outcome::Offline
        )
    }
}

impl From<&Finished> for Sample {
    fn from(attempt: &Finished) -> Self {
        let ended = attempt.ended.max(attempt.first);
        // An outcome can be known long after what it tells of. An attempt that was given up before a
        // success, and judged after it, must not count as a failure since.
        let at = match (attempt.outcome, attempt.handshake) {
            (Outcome::Established, Some(handshake)) => attempt.first.saturating_add(handshake),
            (Outcome::Unanswered, _) => ended.saturating_sub(UNANSWERED_AFTER),
            _ => ended,
        };
        Self {
            first: attempt.first,
            at: at.clamp(attempt.first, ended),
            ended,
            outcome: attempt.outcome,
            blocked_by: attempt.blocked_by,
            client: attempt.client.ip(),
            target: attempt.target.ip(),
        }
    }
}

/// Numbers by result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Successes.
    pub success: u64,
    /// Policy failures.
    pub policy: u64,
    /// Other failures.
    pub other: u64,
}

impl Counts {
    /// The number of one result.
    #[must_use]
    pub const fn get(&self, result: AttemptResult) -> u64 {
        match result {
            AttemptResult::Success => self.success,
            AttemptResult::Policy => self.policy,
            AttemptResult::Other => self.other,
        }
    }

    /// Failures of both kinds.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.policy.saturating_add(self.other)
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.success.saturating_add(self.failed())
    }

    pub(super) fn slot(&mut self, result: AttemptResult) -> &mut u64 {
        match result {
            AttemptResult::Success => &mut self.success,
            AttemptResult::Policy => &mut self.policy,
            AttemptResult::Other => &mut self.other,
        }
    }
}

const OUTCOMES: usize = Outcome::ALL.len();
const BLOCKERS: usize = BlockedBy::ALL.len();

/// The sum of some attempts: it grows by one sample or by another sum, in any order.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub(super) struct Summary {
    counts: [[u32; BLOCKERS]; OUTCOMES],
    /// The earliest and the latest beginning of a policy failure.
    policy_firsts: Option<(Duration, Duration)>,
    /// When a policy was last at work.
    pub(super) last_policy: Option<Duration>,
    /// When an attempt last succeeded.
    pub(super) last_success: Option<Duration>,
    /// When an attempt last began.
    pub(super) last_attempt: Option<Duration>,
}

impl Summary {
    pub(super) fn add(&mut self, sample: &Sample) {
        let count = &mut self.counts[sample.outcome as usize][sample.blocked_by as usize];
        *count = count.saturating_add(1);
        self.last_attempt = self.last_attempt.max(Some(sample.first));
        match sample.result() {
            AttemptResult::Success => self.last_success = self.last_success.max(Some(sample.at)),
            AttemptResult::Policy => {
                self.last_policy = self.last_policy.max(Some(sample.at));
                self.spread_over(sample.first, sample.first);
            }
            AttemptResult::Other => {}
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (row, others) in self.counts.iter_mut().zip(&other.counts) {
            for (count, more) in row.iter_mut().zip(others) {
                *count = count.saturating_add(*more);
            }
        }
        self.last_attempt = self.last_attempt.max(other.last_attempt);
        self.last_success = self.last_success.max(other.last_success);
        self.last_policy = self.last_policy.max(other.last_policy);
        if let Some((earliest, latest)) = other.policy_firsts {
            self.spread_over(earliest, latest);
        }
    }

    fn spread_over(&mut self, earliest: Duration, latest: Duration) {
        self.policy_firsts = Some(match self.policy_firsts {
            None => (earliest, latest),
            Some((from, to)) => (from.min(earliest), to.max(latest)),
        });
    }

    /// When the earliest policy failure began.
    pub(super) fn first_policy(&self) -> Option<Duration> {
        self.policy_firsts.map(|(earliest, _)| earliest)
    }

    /// How far the beginnings of its policy failures lie apart.
    pub(super) fn policy_spread(&self) -> Duration {
        self.policy_firsts
            .map(|(earliest, latest)| latest.saturating_sub(earliest))
            .unwrap_or_default()
    }

    fn each(&self) -> impl Iterator<Item = (Outcome, BlockedBy, u64)> {
        Outcome::ALL.iter().zip(&self.counts).flat_map(|(o, row)| {
            let cells = BlockedBy::ALL.iter().zip(row);
            cells.map(|(b, count)| (*o, *b, u64::from(*count)))
        })
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (outcome, blocked_by, count) in self.each() {
            *counts.slot(AttemptResult::of(outcome, blocked_by)) += count;
        }
        counts
    }

    /// The numbers by outcome, in the order of [`Outcome::ALL`].
    pub(super) fn outcomes(&self) -> [u64; OUTCOMES] {
        self.counts
            .map(|row| row.iter().copied().map(u64::from).sum())
    }

    /// Who ended most of the attempts that failed, those that a policy ended alone or all; of equals
    /// the one that [`BlockedBy::ALL`] has first. [`BlockedBy::None`] where nobody did: a target that
    /// is off line was blocked by no one.
    pub(super) fn main_blocker(&self, policy_only: bool) -> BlockedBy {
        let mut sums = [0_u64; BLOCKERS];
        for (outcome, blocked_by, count) in self.each() {
            let counts = match AttemptResult::of(outcome, blocked_by) {
                AttemptResult::Success => false,
                AttemptResult::Policy => true,
                AttemptResult::Other => !policy_only,
            };
            if counts && blocked_by != BlockedBy::None {
                sums[blocked_by as usize] += count;
            }
        }
        let mut most = (0, BlockedBy::None);
        for (blocker, sum) in BlockedBy::ALL.iter().zip(sums) {
            if sum > most.0 {
                most = (sum, *blocker);
            }
        }
        most.1
    }
}
