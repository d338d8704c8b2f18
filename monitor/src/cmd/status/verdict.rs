//! From a document to the first line and the exit code.

use monitor_common::Direction;

use super::text::{clean, minute, span};
use super::{StatusError, UNKNOWN};
use crate::attempt::BlockedBy;
use crate::status::{Document, Expect, State, TrafficState};

/// From this age on, states are no longer those of now: they are decided once a second.
const STALE_SECONDS: f64 = 30.0;

/// How many traffics the first line names.
const NAMED: usize = 3;

/// The part of a document that was asked for.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    pub(super) document: &'a Document,
    /// In the order of the document.
    pub(super) states: Vec<&'a TrafficState>,
}

/// What the first line says, and the exit code.
#[derive(Debug)]
pub(super) struct Verdict {
    /// `OK`, `WARNING`, `CRITICAL` or `UNKNOWN`.
    pub(super) word: &'static str,
    pub(super) code: u8,
    /// What stands behind the word.
    pub(super) headline: String,
    /// Performance data, for what stands behind the `|`.
    pub(super) performance: String,
}

impl<'a> Selection<'a> {
    pub(super) fn new(
        document: &'a Document,
        traffic: Option<&str>,
        direction: Option<Direction>,
    ) -> Result<Self, StatusError> {
        if let Some(name) = traffic {
            let mut there: Vec<&str> = document
                .configuration
                .traffics
                .iter()
                .map(|traffic| traffic.name.as_str())
                .chain(document.states.iter().map(|state| state.traffic.as_str()))
                .collect();
            if !there.contains(&name) {
                there.sort_unstable();
                there.dedup();
                return Err(StatusError::NoTraffic {
                    name: name.to_owned(),
                    there: there.join(", "),
                });
            }
        }
        let states: Vec<_> = document
            .states
            .iter()
            .filter(|state| traffic.is_none_or(|name| state.traffic == name))
            .filter(|state| direction.is_none_or(|direction| state.direction == direction))
            .collect();
        // Without any state, the daemon has not decided yet, and that is what is to be said.
        if let Some(direction) = direction
            && states.is_empty()
            && !document.states.is_empty()
        {
            let traffic = traffic.map_or(String::new(), |name| format!("{name} "));
            return Err(StatusError::NoState { traffic, direction });
        }
        Ok(Self { document, states })
    }

    /// Those that are trouble, the worst first.
    pub(super) fn troubles(&self) -> Vec<&'a TrafficState> {
        let mut troubles: Vec<_> = self
            .states
            .iter()
            .copied()
            .filter(|state| severity(state) > 0)
            .collect();
        troubles.sort_by_key(|state| std::cmp::Reverse(severity(state)));
        troubles
    }

    /// Why the states can't be taken for those of now; `None` where they can.
    pub(super) fn stale(&self) -> Option<String> {
        let Some(evaluated) = self.document.evaluated else {
            return Some("no state was decided yet; ask again in some seconds".to_owned());
        };
        let age = self.document.timestamp - evaluated;
        (age > STALE_SECONDS).then(|| {
            format!(
                "the states are {} old: the daemon no longer decides them; look at its log and restart it",
                span(age)
            )
        })
    }

    pub(super) fn verdict(&self) -> Verdict {
        let troubles = self.troubles();
        let stale = self.stale();
        let coverage = &self.document.coverage;
        let blind = stale.is_some() || (self.states.is_empty() && !coverage.complete);
        let worst = troubles
            .first()
            .map_or(0, |state| severity(state))
            .max(if blind { State::Unknown.severity() } else { 0 });
        let (word, code) = match worst {
            0 => ("OK", 0),
            1 => ("UNKNOWN", UNKNOWN),
            2 | 3 => ("WARNING", 1),
            _ => ("CRITICAL", 2),
        };
        let mut parts: Vec<String> = troubles
            .iter()
            .take(NAMED)
            .map(|state| self.describe(state))
            .collect();
        if troubles.len() > NAMED {
            parts.push(format!("{} more", troubles.len() - NAMED));
        }
        if parts.is_empty() && stale.is_none() {
            parts.push(self.calm());
        }
        parts.extend(stale);
        match coverage.missing.as_slice() {
            [] => {}
            [one] => parts.push(one.clone()),
            [first, more @ ..] => parts.push(format!("{first} (and {} more)", more.len())),
        }
        Verdict {
            word,
            code,
            headline: clean(&parts.join("; ")),
            performance: self.performance(),
        }
    }

    /// A state with who, since when, and how many: `do_peer forwarded blocked by local_firewall since
    /// 02:14 UTC (18 of 20)`.
    pub(super) fn describe(&self, state: &TrafficState) -> String {
        let name = state.state.as_str();
        let mut text = format!("{} {} {name}", state.traffic, state.direction.as_str());
        if state.blocked_by != BlockedBy::None {
            text += " by ";
            text += state.blocked_by.as_str();
        }
        if let Some(since) = state.blocked_since.or(state.since) {
            text += " since ";
            text += &minute(since, self.document.timestamp);
            text += " UTC";
        }
        let attempts = &state.attempts;
        let failed = if state.state == State::Blocked {
            attempts.policy
        } else {
            attempts.failed()
        };
        text + &format!(" ({failed} of {})", attempts.total)
    }

    fn calm(&self) -> String {
        if self.states.is_empty() {
            return "no traffic has a state".to_owned();
        }
        let count = |wanted: &dyn Fn(&TrafficState) -> bool| {
            self.states.iter().filter(|state| wanted(state)).count()
        };
        let open = |state: &TrafficState| state.expect == Expect::Open;
        [
            (count(&|s| open(s) && s.state == State::Ok), "ok"),
            (
                count(&|s| open(s) && s.state == State::NoDemand),
                "without demand",
            ),
            (count(&|s| !open(s)), "expected closed"),
        ]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect::<Vec<_>>()
        .join(", ")
    }

    fn performance(&self) -> String {
        let mut items = Vec::new();
        for state in &self.states {
            // Nothing but these may be in a label without a quote of its own.
            let traffic: String = state
                .traffic
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            let label = format!("{traffic}_{}", state.direction.as_str());
            let attempts = &state.attempts;
            items.push(format!("'{label}_attempts'={};;;0;", attempts.total));
            items.push(format!("'{label}_failed'={};;;0;", attempts.failed()));
        }
        items.join(" ")
    }
}

/// How much trouble a state is: none where the traffic is meant to be closed.
fn severity(state: &TrafficState) -> u8 {
    match state.expect {
        Expect::Open => state.state.severity(),
        Expect::Closed => 0,
    }
}
