//! The answer at work: attempts are read, states are computed, and both are told, each at its own pace.

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::attempts::{self, Attempts};
use super::events::PacketLog;
use super::states::{self, States};
use crate::attempt::tracker::Table;
use crate::bpf::attach::SharedStates;
use crate::metrics::Source;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// The attempts are to be read.
    Reading,
    /// The states are to be computed.
    Evaluation,
}

/// Attempts and states.
#[derive(Debug)]
pub(super) struct Answer {
    attempts: Attempts,
    states: States,
    hooks: SharedStates,
    reading: Interval,
    evaluation: Interval,
}

/// An interval that does not catch up on what it missed.
fn every(period: std::time::Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Answer {
    /// Call it in a tokio runtime.
    pub(super) fn new(attempts: Attempts, hooks: SharedStates) -> Self {
        Self {
            attempts,
            states: States::default(),
            hooks,
            reading: every(attempts::INTERVAL),
            evaluation: every(states::INTERVAL),
        }
    }

    /// Waits until there is something to do. Nothing is lost when the future is dropped.
    pub(super) async fn due(&mut self) -> Due {
        tokio::select! {
            _ = self.reading.tick() => Due::Reading,
            _ = self.evaluation.tick() => Due::Evaluation,
        }
    }

    /// Does it.
    pub(super) fn work(&mut self, due: Due, source: &Source, log: &mut PacketLog) {
        match due {
            Due::Reading => {
                let news = self.attempts.read(source, Table::default());
                log.attempts(&news.finished, source);
                self.states.take(&news);
            }
            Due::Evaluation => {
                let lost = self.attempts.lost();
                for changed in self.states.tick(source, &self.hooks, lost) {
                    log.state(&changed, source);
                }
            }
        }
    }
}
