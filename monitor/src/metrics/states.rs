//! `state`, `blocked_by`, `window_attempts`, `window_peer_pairs` and the times that belong to them.

use std::collections::BTreeMap;
use std::time::Duration;

use monitor_common::Direction;
use serde::{Deserialize, Serialize};

use super::family::Family;
use super::names::{
    BLOCKED_BY, BLOCKED_SINCE, EVALUATION, LAST_ATTEMPT, LAST_SUCCESS, STATE, STATE_SINCE,
    WINDOW_ATTEMPTS, WINDOW_PAIRS,
};
use crate::attempt::BlockedBy;
use crate::log::time;
use crate::saved::Moments;
use crate::state::{AttemptResult, Evaluation, State};
use crate::traffic::Traffics;

/// A moment on both clocks. The wall clock is asked once: it is set now and then, and what is shown of a
/// moment must not move with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Moment {
    monotonic: Duration,
    /// Since the beginning of 1970.
    pub wall: Duration,
}

impl Moment {
    /// A time on the monotonic clock; `before` is the moment that was shown last, which stays as it was
    /// where the time is the same.
    fn of(at: Option<Duration>, before: Option<Self>) -> Option<Self> {
        let at = at?;
        match before {
            Some(before) if before.monotonic == at => Some(before),
            _ => Some(Self {
                monotonic: at,
                wall: time::wall(at),
            }),
        }
    }
}

/// The state of a traffic in one direction, as it is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What was decided, and on what it rests.
    pub evaluation: Evaluation,
    /// Since when the state is this one.
    pub since: Option<Moment>,
    /// Since when it is blocked.
    pub blocked_since: Option<Moment>,
    /// The last success.
    pub last_success: Option<Moment>,
    /// The last attempt.
    pub last_attempt: Option<Moment>,
}

/// All states, and when they were computed.
#[derive(Clone, Debug, Default)]
pub struct Shows {
    /// By index of the traffic and direction.
    pub states: BTreeMap<(u8, Direction), Shown>,
    /// When that was.
    pub at: Option<Moment>,
    /// What a daemon before showed, until it is shown again.
    kept: BTreeMap<(u8, Direction), Moments>,
}

impl Shows {
    /// What is to be kept.
    pub(super) fn save(&self) -> BTreeMap<(u8, Direction), Moments> {
        let moments = |shown: &Shown| {
            [
                shown.since,
                shown.blocked_since,
                shown.last_success,
                shown.last_attempt,
            ]
        };
        let all = self.states.iter();
        let mut kept = self.kept.clone();
        kept.extend(all.map(|(key, shown)| (*key, moments(shown))));
        kept
    }

    /// Goes on with the moments that a daemon before showed.
    pub(super) fn resume(&mut self, kept: BTreeMap<(u8, Direction), Moments>) {
        self.kept = kept;
    }

    /// Takes over what was computed.
    pub(super) fn update(&mut self, new: BTreeMap<(u8, Direction), Evaluation>, at: Duration) {
        let mut before = std::mem::take(&mut self.states);
        for (key, evaluation) in new {
            let old = before.remove(&key);
            let kept = self.kept.remove(&key).unwrap_or_default();
            let old =
                |of: fn(&Shown) -> Option<Moment>, at: usize| old.as_ref().map_or(kept[at], of);
            let memory = &evaluation.memory;
            let shown = Shown {
                since: Moment::of(Some(memory.since), old(|shown| shown.since, 0)),
                blocked_since: Moment::of(
                    memory.blocked_since(),
                    old(|shown| shown.blocked_since, 1),
                ),
                last_success: Moment::of(memory.last_success, old(|shown| shown.last_success, 2)),
                last_attempt: Moment::of(memory.last_attempt, old(|shown| shown.last_attempt, 3)),
                evaluation,
            };
            self.states.insert(key, shown);
        }
        self.at = Moment::of(Some(at), None);
    }
}

/// One moment of a state.
type Pick = fn(&Shown) -> Option<Moment>;

fn seconds(moment: Option<Moment>) -> f64 {
    moment.map_or(0.0, |moment| moment.wall.as_secs_f64())
}

pub(super) fn families(shows: &Shows, traffics: &Traffics) -> Vec<Family> {
    let mut state = Family::new(STATE);
    let mut blocked_by = Family::new(BLOCKED_BY);
    let mut attempts = Family::new(WINDOW_ATTEMPTS);
    let mut pairs = Family::new(WINDOW_PAIRS);
    let times: [(_, Pick); 4] = [
        (STATE_SINCE, |shown| shown.since),
        (BLOCKED_SINCE, |shown| shown.blocked_since),
        (LAST_SUCCESS, |shown| shown.last_success),
        (LAST_ATTEMPT, |shown| shown.last_attempt),
    ];
    let mut times = times.map(|(name, of)| (Family::new(name), of));
    for ((index, direction), shown) in &shows.states {
        let Some(traffic) = traffics.get(*index) else {
            continue;
        };
        let [traffic, direction] = [
            ("traffic", traffic.name.as_str()),
            ("direction", direction.as_str()),
        ];
        let (memory, evidence) = (&shown.evaluation.memory, &shown.evaluation.evidence);
        for one in State::ALL {
            let labels = [traffic, direction, ("state", one.as_str())];
            state.add(&labels, u64::from(*one == memory.state));
        }
        for one in BlockedBy::ALL {
            let labels = [traffic, direction, ("blocked_by", one.as_str())];
            blocked_by.add(&labels, u64::from(*one == memory.blocked_by));
        }
        for result in AttemptResult::ALL {
            let labels = [traffic, direction, ("result", result.as_str())];
            attempts.add(&labels, evidence.attempts.get(*result));
            pairs.add(&labels, evidence.peer_pairs.get(*result));
        }
        for (family, of) in &mut times {
            family.add_fraction(&[traffic, direction], seconds(of(shown)));
        }
    }
    let mut evaluation = Family::new(EVALUATION);
    evaluation.add_fraction(&[], seconds(shows.at));
    let mut families = vec![state, blocked_by, attempts, pairs];
    families.extend(times.into_iter().map(|(family, _)| family));
    families.push(evaluation);
    families
}

#[cfg(test)]
mod tests;
