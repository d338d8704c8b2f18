//! The state of a traffic in one direction: is it blocked, by whom, since when?
//!
//! [`evaluate`] is the one place that decides it: a pure function of the attempts of a window, what
//! of them may be missing, the thresholds, the time, and what it said before. [`Tracker`] keeps these
//! for one traffic and direction. docs/state.md explains the rules to users.
//!
//! Three decisions that the rules leave open:
//!
//! - **Too few attempts to judge** (one or two that failed, or policy failures that are not spread
//!   enough yet): the state stays as it was. A single peer that is off line must not turn a quiet
//!   gateway's `no_demand` or `ok` into an alarm, nor end a `failing`. After `unknown`, it is
//!   `no_demand`: there was none that could be judged. Only where there are as many as `degraded` takes,
//!   it is that at least: else a success among them, which allows a judgement, would make it worse.
//! - **What a success has ended no longer counts.** When a block ends, the failures before that success
//!   are still in the window; would they count, they would be a new block at once, or `degraded` until
//!   the window has passed. They stay in the numbers that are shown.
//! - **A block outlasts what can't be seen.** While a hook is missing the state is `unknown`, but only a
//!   success ends the block, so it is `blocked` again, since the same moment, when the hook is back.
//!   Lost attempts alone don't hide a block that stands: they can't show that it ended.

mod peers;
mod sample;
mod thresholds;
mod tracker;
mod window;

use std::time::Duration;

pub use peers::PeerPair;
pub use sample::{AttemptResult, Counts, Sample, UNANSWERED_AFTER};
pub use thresholds::Thresholds;
pub use tracker::{Losses, Tracker};
pub(crate) use window::room;
pub use window::{MAX_SAMPLES, Window};

use serde::{Deserialize, Serialize};

use crate::attempt::{BlockedBy, Outcome};
use sample::Summary;
use thresholds::is_share;

/// How many pairs of peers are named as evidence.
const TOP_PAIRS: usize = 3;

/// How a traffic does in one direction.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Attempts succeed.
    Ok,
    /// A notable share of the attempts fails.
    Degraded,
    /// No attempt succeeds, and no policy explains it.
    Failing,
    /// A policy blocks it.
    Blocked,
    /// There is no attempt.
    NoDemand,
    /// What the answer needs can't be seen.
    Unknown,
}

impl State {
    /// Every value, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Degraded,
        Self::Failing,
        Self::Blocked,
        Self::NoDemand,
        Self::Unknown,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
            Self::Blocked => "blocked",
            Self::NoDemand => "no_demand",
            Self::Unknown => "unknown",
        }
    }

    /// How bad it is, of several the highest is the worst: blocked, failing, degraded, unknown, and
    /// last ok and no demand, which are no trouble both.
    #[must_use]
    pub const fn severity(self) -> u8 {
        match self {
            Self::Ok | Self::NoDemand => 0,
            Self::Unknown => 1,
            Self::Degraded => 2,
            Self::Failing => 3,
            Self::Blocked => 4,
        }
    }
}

/// What of the attempts may be missing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Coverage {
    /// Whether a hook is missing that the answer needs.
    pub hook_missing: bool,
    /// How many attempts were lost within the window, that is, may have happened unseen.
    pub lost: u64,
}

/// A block that stands, whether or not it can be seen now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
struct Block {
    since: Duration,
    by: BlockedBy,
}

/// The state, and what the next evaluation needs to know of the past. Times are on the monotonic
/// clock, since boot.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Memory {
    /// The state.
    pub state: State,
    /// Since when it is this one.
    pub since: Duration,
    /// When an attempt last succeeded; `None` where none ever did.
    pub last_success: Option<Duration>,
    /// When an attempt last began; `None` where none ever did.
    pub last_attempt: Option<Duration>,
    /// Who ended most of the attempts that failed; while it is blocked, of those that a policy ended.
    pub blocked_by: BlockedBy,
    block: Option<Block>,
    /// When a policy was last at work.
    last_policy: Option<Duration>,
    /// The first success after that.
    recovering_since: Option<Duration>,
    /// The latest success that came after its attempt was judged.
    late_success: Option<Duration>,
    /// The beginning of the first attempt that failed after the last success, and may be a block's.
    first_failure: Option<Duration>,
    /// The success that ended the last block: what is older no longer counts.
    counts_from: Duration,
    /// When attempts may last have been missed.
    uncovered: Duration,
}

impl Memory {
    /// That of a traffic of which nothing is known yet.
    #[must_use]
    pub const fn new(now: Duration) -> Self {
        Self {
            state: State::NoDemand,
            since: now,
            last_success: None,
            last_attempt: None,
            blocked_by: BlockedBy::None,
            block: None,
            last_policy: None,
            recovering_since: None,
            late_success: None,
            first_failure: None,
            counts_from: Duration::ZERO,
            uncovered: now,
        }
    }

    /// Since when it is blocked: the beginning of the first attempt that failed after the last success
    /// before the block. `None` unless the state is [`State::Blocked`].
    ///
    /// It stays the same for as long as the block stands, also where some attempts succeed. Attempts
    /// that were refused, or whose target was off line, begin no block.
    #[must_use]
    pub fn blocked_since(&self) -> Option<Duration> {
        let block = self.block.filter(|_| self.state == State::Blocked);
        block.map(|block| block.since)
    }

    /// Notes a success of an attempt that was judged before: it adds no attempt, but shows that the way
    /// is open.
    pub fn late_success(&mut self, at: Duration) {
        self.late_success = self.late_success.max(Some(at));
        self.last_success = self.last_success.max(Some(at));
    }

    /// Takes in what a window shows.
    fn update(&mut self, window: &Window, whole: &Summary) {
        self.last_attempt = self.last_attempt.max(whole.last_attempt);
        self.last_success = self.last_success.max(whole.last_success);
        self.last_policy = self.last_policy.max(whole.last_policy);
        let successes = window
            .samples()
            .filter(|sample| sample.result() == AttemptResult::Success)
            .map(|sample| sample.at);
        self.recovering_since = successes
            .chain(self.recovering_since)
            .chain(self.late_success)
            .filter(|at| Some(*at) > self.last_policy)
            .min();
        let failures = window
            .samples()
            .filter(|sample| sample.may_begin_block())
            .map(|sample| sample.first);
        self.first_failure = failures
            .chain(self.first_failure)
            .filter(|first| Some(*first) > self.last_success)
            .min();
    }

    /// For how long there has been no attempt for sure.
    fn silence(&self, now: Duration) -> Duration {
        let last = self.last_attempt.max(self.last_success).unwrap_or_default();
        now.saturating_sub(last.max(self.uncovered))
    }
}

/// What a state rests on: the attempts of the whole window.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// The attempts by result.
    pub attempts: Counts,
    /// The attempts by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// How many pairs of client and target have an attempt of each result; one can be in several.
    pub peer_pairs: Counts,
    /// The pairs with most failures, most first, at most three.
    pub failing_pairs: Vec<PeerPair>,
    /// How many of the attempts are not in the pairs, because there were more than [`MAX_SAMPLES`].
    pub without_peers: u64,
    /// How many attempts were lost beside these.
    pub lost: u64,
}

impl Evidence {
    /// How many attempts had this outcome.
    #[must_use]
    pub const fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }
}

/// What one evaluation says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evaluation {
    /// The state, for people and for the next evaluation.
    pub memory: Memory,
    /// What it rests on.
    pub evidence: Evidence,
}

/// Decides the state of a traffic in one direction. Equal input gives equal output.
///
/// The window must have been slid to `now` ([`Window::slide`]).
#[must_use]
pub fn evaluate(
    previous: &Memory,
    window: &Window,
    coverage: Coverage,
    thresholds: &Thresholds,
    now: Duration,
) -> Evaluation {
    let whole = window.summary(Duration::ZERO);
    let attempts = whole.counts();
    let mut memory = previous.clone();
    memory.update(window, &whole);
    if coverage.hook_missing || coverage.lost > 0 {
        memory.uncovered = memory.uncovered.max(now);
    }

    let recovered = memory
        .recovering_since
        .filter(|since| now.saturating_sub(*since) >= thresholds.recovery);
    if let (Some(_), Some(success)) = (memory.block, recovered) {
        memory.block = None;
        memory.counts_from = success;
    }
    // A window longer than that would have attempts that prove the block again.
    if memory.silence(now) >= thresholds.hold.max(thresholds.window) {
        memory.block = None;
        memory.first_failure = None;
    }
    let counted = window.summary(memory.counts_from);
    if memory.block.is_none()
        && recovered.is_none()
        && !coverage.hook_missing
        && proves_block(&counted, coverage.lost, thresholds)
    {
        memory.block = Some(Block {
            // Where the last success is later than every failure, these are all there is.
            since: memory
                .first_failure
                .or(counted.first_policy())
                .unwrap_or(now),
            by: BlockedBy::None,
        });
    }
    if let Some(block) = &mut memory.block {
        let by = counted.main_blocker(true);
        if by != BlockedBy::None {
            block.by = by;
        }
    }

    let lost_too_many = u128::from(coverage.lost) * 100
        > (u128::from(attempts.total()) + u128::from(coverage.lost))
            * u128::from(thresholds.lost_percent);
    let (state, blocked_by) = match memory.block {
        _ if coverage.hook_missing => (State::Unknown, counted.main_blocker(false)),
        Some(block) => (State::Blocked, block.by),
        None if lost_too_many => (State::Unknown, counted.main_blocker(false)),
        None => {
            let state = judge(&counted.counts(), &memory, thresholds, now);
            (state, counted.main_blocker(false))
        }
    };
    memory.blocked_by = blocked_by;
    if state != memory.state {
        memory.state = state;
        memory.since = now;
    }
    Evaluation {
        memory,
        evidence: Evidence {
            attempts,
            outcomes: whole.outcomes(),
            peer_pairs: window.peer_pairs(),
            failing_pairs: window.failing_pairs(TOP_PAIRS),
            without_peers: window.without_peers(),
            lost: coverage.lost,
        },
    }
}

/// Whether attempts prove a block, even if every one that was lost had succeeded.
fn proves_block(counted: &Summary, lost: u64, thresholds: &Thresholds) -> bool {
    let counts = counted.counts();
    // One failure alone is no proof, whatever the thresholds say.
    counts.policy >= u64::from(thresholds.blocked_failures.max(2))
        && counted.policy_spread() >= thresholds.blocked_spread
        && is_share(
            counts.policy,
            counts.total().saturating_add(lost),
            thresholds.blocked_percent,
        )
}

/// The state where nothing is missing and no block stands; `memory.state` is still the one before.
fn judge(counts: &Counts, memory: &Memory, thresholds: &Thresholds, now: Duration) -> State {
    let (total, failed) = (counts.total(), counts.failed());
    // A late success is no attempt of the window, but shows that the way is open.
    let works = counts.success > 0
        || memory
            .last_success
            .is_some_and(|at| now.saturating_sub(at) <= thresholds.window);
    if works {
        let judged = total >= u64::from(thresholds.degraded_attempts.max(1));
        return if judged && is_share(failed, total, thresholds.degraded_percent) {
            State::Degraded
        } else {
            State::Ok
        };
    }
    if total == 0 {
        return State::NoDemand;
    }
    let by_policy = is_share(counts.policy, total, thresholds.blocked_percent);
    if total >= u64::from(thresholds.failing_attempts) && !by_policy {
        return State::Failing;
    }
    match memory.state {
        State::Failing => State::Failing,
        _ if total >= u64::from(thresholds.degraded_attempts) => State::Degraded,
        State::Blocked | State::Unknown => State::NoDemand,
        before => before,
    }
}

#[cfg(test)]
mod tests;
