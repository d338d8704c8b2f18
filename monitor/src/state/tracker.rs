//! What the daemon keeps of one traffic in one direction, and of what was lost.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Coverage, Evaluation, Memory, Sample, Thresholds, Window, evaluate};

/// The window and the memory of one traffic in one direction.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Tracker {
    window: Window,
    memory: Memory,
}

impl Tracker {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            window: Window::default(),
            memory: Memory::new(now),
        }
    }

    /// Goes on with what was kept of one.
    pub fn resume(&mut self) {
        self.window.resume();
    }

    /// Takes in an attempt that ended.
    pub fn add(&mut self, attempt: impl Into<Sample>) {
        self.window.add(attempt);
    }

    /// Notes a success of an attempt that was added before: see [`Memory::late_success`].
    pub fn late_success(&mut self, at: Duration) {
        self.memory.late_success(at);
    }

    /// What is remembered now.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Decides the state anew; to be called once a second. Thresholds may change from call to call,
    /// but attempts that a shorter window forgot do not come back with a longer one.
    pub fn tick(
        &mut self,
        coverage: Coverage,
        thresholds: &Thresholds,
        now: Duration,
    ) -> Evaluation {
        self.window.slide(now, thresholds.window);
        let evaluation = evaluate(&self.memory, &self.window, coverage, thresholds, now);
        self.memory = evaluation.memory.clone();
        evaluation
    }
}

/// How much a counter of lost attempts grew within a window.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Losses {
    /// The counter as it was first read, then when it was read with a new value, and that value.
    start: Option<u64>,
    changes: VecDeque<(Duration, u64)>,
}

impl Losses {
    /// Takes in what the counter says now. To be called once a second; what it says first is what was
    /// lost before, and counts as nothing. `keep` is the longest window that will be asked for.
    pub fn observe(&mut self, now: Duration, counter: u64, keep: Duration) {
        let Some(start) = self.start else {
            self.start = Some(counter);
            return;
        };
        let last = self.changes.back().map_or(start, |(_, value)| *value);
        if counter < last {
            // It began anew.
            self.start = Some(0);
            self.changes.clear();
        }
        if counter != last {
            self.changes.push_back((now, counter));
        }
        while let Some((_, value)) = self
            .changes
            .pop_front_if(|(at, _)| now.saturating_sub(*at) > keep)
        {
            self.start = Some(value);
        }
    }

    /// How many were lost within this window.
    #[must_use]
    pub fn within(&self, now: Duration, window: Duration) -> u64 {
        let Some(start) = self.start else { return 0 };
        let last = self.changes.back().map_or(start, |(_, value)| *value);
        let before = self
            .changes
            .iter()
            .rev()
            .find(|(at, _)| now.saturating_sub(*at) > window)
            .map_or(start, |(_, value)| *value);
        last.saturating_sub(before)
    }
}
