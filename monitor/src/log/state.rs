//! The line of a state that changed, with the evidence.

use std::io::Write;
use std::time::Duration;

use monitor_common::Direction;
use serde::Serialize;

use super::{EventLog, Format, printable, time};
use crate::attempt::Outcome;
use crate::ruleset::{Change, Changes, Kind};
use crate::state::{Evaluation, State};

/// A state that changed, and what it rests on. Consumers rely on the keys of its JSON.
#[derive(Clone, Debug, Serialize)]
pub struct StateLine {
    time: String,
    event: &'static str,
    traffic: String,
    direction: &'static str,
    state: &'static str,
    before: &'static str,
    blocked_by: &'static str,
    /// `null` unless it is blocked.
    blocked_since: Option<String>,
    /// `null` where none ever succeeded.
    last_success: Option<String>,
    /// Attempts of the window.
    attempts: u64,
    /// Those of them that failed.
    failed: u64,
    /// Attempts of the window by outcome, without those that have none.
    outcomes: Vec<OutcomeCount>,
    /// The pairs with most failures, at most three.
    pairs: Vec<Pair>,
    /// The last change of the firewall's rules; `null` where none was noticed.
    last_ruleset_change: Option<String>,
    /// Whether the block began within a minute after it.
    after_ruleset_change: bool,
}

#[derive(Clone, Debug, Serialize)]
struct OutcomeCount {
    outcome: &'static str,
    attempts: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Pair {
    client: String,
    target: String,
    failed: u64,
    outcome: &'static str,
    blocked_by: &'static str,
}

fn text(monotonic: Duration) -> String {
    time::rfc3339(time::wall(monotonic))
}

/// How soon after a change of the rules a block begins that may be its doing.
const SOON: Duration = Duration::from_mins(1);

/// The change of the rules within a minute after which a block began; times on the monotonic clock.
#[must_use]
pub fn change_before(blocked_since: Option<Duration>, changes: &Changes) -> Option<&Change> {
    let since = blocked_since?;
    let is_soon = |change: &&Change| {
        since
            .checked_sub(change.monotonic)
            .is_some_and(|after| after <= SOON)
    };
    let last = Kind::ALL.into_iter().filter_map(|kind| changes.last(kind));
    last.filter(is_soon).max_by_key(|change| change.monotonic)
}

impl StateLine {
    /// The line of a traffic in one direction, whose state was another before.
    #[must_use]
    pub fn new(
        traffic: &str,
        direction: Direction,
        before: State,
        now: &Evaluation,
        changes: &Changes,
    ) -> Self {
        let Evaluation { memory, evidence } = now;
        let guilty = change_before(memory.blocked_since(), changes);
        let change = guilty.or(changes.latest());
        let outcomes = Outcome::ALL.iter().map(|outcome| OutcomeCount {
            outcome: outcome.as_str(),
            attempts: evidence.outcome(*outcome),
        });
        let pairs = evidence.failing_pairs.iter().map(|pair| Pair {
            client: pair.client.to_string(),
            target: pair.target.to_string(),
            failed: pair.attempts.failed(),
            outcome: pair.outcome.as_str(),
            blocked_by: pair.blocked_by.as_str(),
        });
        Self {
            time: text(memory.since),
            event: "state",
            traffic: traffic.to_owned(),
            direction: direction.as_str(),
            state: memory.state.as_str(),
            before: before.as_str(),
            blocked_by: memory.blocked_by.as_str(),
            blocked_since: memory.blocked_since().map(text),
            last_success: memory.last_success.map(text),
            attempts: evidence.attempts.total(),
            failed: evidence.attempts.failed(),
            outcomes: outcomes.filter(|count| count.attempts > 0).collect(),
            pairs: pairs.collect(),
            last_ruleset_change: change.map(|change| time::rfc3339(change.at)),
            after_ruleset_change: guilty.is_some(),
        }
    }

    fn words(&self) -> String {
        let mut line = format!(
            "{} state {} {} {} (was {})",
            self.time,
            printable(&self.traffic),
            self.direction,
            self.state,
            self.before
        );
        if self.blocked_by != "none" {
            line.push_str(" by ");
            line.push_str(self.blocked_by);
        }
        if let Some(since) = &self.blocked_since {
            line.push_str(" since ");
            line.push_str(since);
        }
        let outcomes: Vec<_> = self
            .outcomes
            .iter()
            .map(|count| format!("{} {}", count.attempts, count.outcome))
            .collect();
        if self.attempts > 0 {
            let (failed, attempts) = (self.failed, self.attempts);
            let outcomes = outcomes.join(", ");
            line.extend([format!(": {failed} of {attempts} failed ({outcomes})")]);
        }
        for pair in &self.pairs {
            let Pair {
                client,
                target,
                failed,
                outcome,
                ..
            } = pair;
            line.extend([format!("; {client} > {target} {failed} {outcome}")]);
        }
        line.push_str("; last success ");
        line.push_str(self.last_success.as_deref().unwrap_or("never"));
        if let Some(change) = &self.last_ruleset_change {
            line.push_str("; rules changed ");
            line.push_str(change);
            if self.after_ruleset_change {
                line.push_str(", within a minute before the block");
            }
        }
        line
    }
}

impl<W: Write + Send> EventLog<W> {
    /// Writes the line of a state that changed.
    pub fn state(&mut self, line: &StateLine) {
        match self.format {
            Format::Json => self.json(line),
            Format::Text => self.text(&line.words()),
        }
    }
}
