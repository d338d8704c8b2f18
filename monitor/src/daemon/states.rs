//! The states of all traffics: fed with attempts that end, computed once a second, told when they change.

use std::collections::BTreeMap;
use std::time::Duration;

use monitor_common::Direction;
use monitor_common::traffic::MAX_TRAFFICS;

use super::attempts::{News, monotonic};
use crate::bpf::Hook;
use crate::bpf::attach::SharedStates;
use crate::bpf::attempts::PerTraffic;
use crate::config::LOOPBACK;
use crate::metrics::Source;
use crate::metrics::attempts::is_followed;
use crate::saved;
use crate::state::{Coverage, Evaluation, Losses, State, Tracker};
use crate::traffic::{Traffic, Traffics};

/// How often states are computed.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// A state that is another than it was.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) traffic: Traffic,
    pub(super) direction: Direction,
    pub(super) before: State,
    pub(super) now: Evaluation,
}

/// The states of all traffics.
#[derive(Debug, Default)]
pub(super) struct States {
    trackers: BTreeMap<(u8, Direction), Tracker>,
    /// By traffic.
    losses: [Losses; MAX_TRAFFICS as usize],
}

/// The traffics and directions that have a state.
pub(super) fn wanted(traffics: &Traffics) -> impl Iterator<Item = (&Traffic, Direction)> {
    traffics
        .iter()
        .filter(|traffic| is_followed(traffic))
        .flat_map(|traffic| {
            let directions = Direction::ALL.iter().copied();
            directions
                .filter(|direction| traffic.watch.has_state(*direction))
                .map(move |direction| (traffic, direction))
        })
}

/// Whether a hook is missing without which attempts of this direction cannot be judged. One that belongs to
/// interfaces is missing where it is attached to none that wants it.
fn is_hook_missing(states: &SharedStates, direction: Direction) -> bool {
    let hooks = states.get();
    let missing = |hook: Hook| {
        if states.is_refused(hook) {
            return true;
        }
        // Without the one of the loopback device, what a rule of the output hook rejects is dropped: a block
        // all the same.
        let mut of = hooks
            .iter()
            .filter(|((wanted, name), _)| *wanted == hook && name != LOOPBACK);
        match hook {
            Hook::Drop | Hook::Deliver => !of.any(|(_, state)| state.is_ok()),
            Hook::Ingress | Hook::Egress => of.any(|(_, state)| state.is_err()),
        }
    };
    let needed: &[Hook] = match direction {
        Direction::Inbound | Direction::Outbound => {
            &[Hook::Drop, Hook::Deliver, Hook::Egress, Hook::Ingress]
        }
        Direction::Forwarded => &[Hook::Drop, Hook::Egress, Hook::Ingress],
    };
    needed.iter().any(|hook| missing(*hook))
}

impl States {
    /// Goes on where a daemon before was.
    pub(super) fn resume(&mut self, saved: saved::States) {
        self.trackers = saved.trackers;
        self.trackers.values_mut().for_each(Tracker::resume);
        self.losses = saved.losses;
    }

    /// What is to be kept.
    pub(super) const fn save(&self) -> saved::StatesRef<'_> {
        saved::StatesRef {
            trackers: &self.trackers,
            losses: &self.losses,
        }
    }

    /// Takes in what came of a reading.
    pub(super) fn take(&mut self, news: &News) {
        for finished in &news.finished {
            self.of(finished.traffic, finished.direction).add(finished);
        }
        for late in &news.late {
            self.of(late.traffic, late.direction).late_success(late.at);
        }
    }

    fn of(&mut self, traffic: u8, direction: Direction) -> &mut Tracker {
        self.trackers
            .entry((traffic, direction))
            .or_insert_with(|| Tracker::new(monotonic()))
    }

    /// Computes all states and shows them; gives those that changed. `lost` is how many attempts of each
    /// traffic were lost so far.
    pub(super) fn tick(
        &mut self,
        source: &Source,
        hooks: &SharedStates,
        lost: &PerTraffic,
    ) -> Vec<Changed> {
        let now = monotonic();
        let traffics = source.traffics();
        let longest = traffics
            .iter()
            .map(|traffic| traffic.watch.thresholds.window)
            .max();
        for (losses, lost) in self.losses.iter_mut().zip(lost) {
            losses.observe(now, *lost, longest.unwrap_or_default());
        }
        let mut changed = Vec::new();
        let mut shown = BTreeMap::new();
        let followed = source.with_attempts(|attempts| attempts.followed);
        for (traffic, direction) in wanted(&traffics).filter(|_| followed) {
            let thresholds = &traffic.watch.thresholds;
            let coverage = Coverage {
                hook_missing: is_hook_missing(hooks, direction),
                lost: self
                    .losses
                    .get(usize::from(traffic.index))
                    .map_or(0, |losses| losses.within(now, thresholds.window)),
            };
            let tracker = self.of(traffic.index, direction);
            let before = tracker.memory().state;
            let evaluation = tracker.tick(coverage, thresholds, now);
            if evaluation.memory.state != before {
                changed.push(Changed {
                    traffic: traffic.clone(),
                    direction,
                    before,
                    now: evaluation.clone(),
                });
            }
            shown.insert((traffic.index, direction), evaluation);
        }
        // Directions without a state still have windows, which must not grow.
        self.trackers.retain(|key, _| shown.contains_key(key));
        source.show_states(shown, now);
        changed
    }
}
