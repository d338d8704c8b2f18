//! When the firewall's rule comes and goes: by the clock or, where there is a Prometheus, when the alert has
//! followed.

use std::time::Duration;

use super::alerts::Stage;

/// How long a phase is, or how long it goes on when the alert has followed.
const PHASE: Duration = Duration::from_secs(6);
/// How long the alert may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// What one of the rules drops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    pub(super) traffic: &'static str,
    pub(super) protocol: &'static str,
    pub(super) port: u16,
}

/// What is blocked, one after the other.
pub(super) const RULES: [Rule; 2] = [
    Rule {
        traffic: "do_peer",
        protocol: "tcp",
        port: 7680,
    },
    Rule {
        traffic: "teredo",
        protocol: "udp",
        port: 3544,
    },
];

/// What is to be done with the rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// It comes.
    Block,
    /// It goes.
    Open,
}

/// What to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Step {
    pub(super) turn: Turn,
    pub(super) rule: Rule,
    /// The alert has not followed in time.
    pub(super) is_late: bool,
}

/// Where the demo is.
#[derive(Debug)]
pub(super) struct Phases {
    /// Whether alerts are waited for.
    waits: bool,
    /// How many phases are over: even ones are open.
    done: usize,
    since: Duration,
    /// Since when the alert is as it must be.
    followed: Option<Duration>,
}

impl Phases {
    /// Begins with an open phase. `waits`: for the alert to follow.
    pub(super) fn new(waits: bool) -> Self {
        Self {
            waits,
            done: 0,
            since: Duration::ZERO,
            followed: None,
        }
    }

    /// The rule that comes next, or is there.
    pub(super) fn rule(&self) -> Rule {
        RULES[self.done / 2 % RULES.len()]
    }

    /// What is to be done at `now`, since the beginning; `alert` is that of any of the traffics.
    pub(super) fn step(
        &mut self,
        now: Duration,
        alert: impl Fn(&str) -> Option<Stage>,
    ) -> Option<Step> {
        let rule = self.rule();
        let is_open = self.done.is_multiple_of(2);
        let has_followed = if !self.waits {
            true
        } else if is_open {
            RULES.iter().all(|rule| alert(rule.traffic).is_none())
        } else {
            alert(rule.traffic) == Some(Stage::Firing)
        };
        if has_followed {
            // Without a Prometheus a phase is as long as it is.
            let at = if self.waits { now } else { self.since };
            self.followed.get_or_insert(at);
        }
        let is_late = self.followed.is_none() && now.saturating_sub(self.since) >= PATIENCE;
        let is_seen = self
            .followed
            .is_some_and(|at| now.saturating_sub(at) >= PHASE);
        if !is_seen && !is_late {
            return None;
        }
        self.done += 1;
        self.since = now;
        self.followed = None;
        let turn = if is_open { Turn::Block } else { Turn::Open };
        Some(Step {
            turn,
            rule,
            is_late,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens in so many seconds, with an alert that is given for each of them.
    fn turns(waits: bool, seconds: u64, alert: impl Fn(u64) -> Option<Stage>) -> Vec<String> {
        let mut phases = Phases::new(waits);
        let mut turns = Vec::new();
        for second in 0..seconds {
            let now = Duration::from_secs(second);
            let of = |traffic: &str| alert(second).filter(|_| traffic == "do_peer");
            if let Some(step) = phases.step(now, of) {
                let late = if step.is_late { " late" } else { "" };
                let (turn, port) = (step.turn, step.rule.port);
                turns.push(format!("{second} {turn:?} {port}{late}"));
            }
        }
        turns
    }

    #[test]
    fn without_alerts_they_are_even() {
        let expected = [
            "6 Block 7680",
            "12 Open 7680",
            "18 Block 3544",
            "24 Open 3544",
            "30 Block 7680",
        ];
        assert_eq!(turns(false, 31, |_| None), expected);
    }

    #[test]
    fn a_rule_stays_until_it_is_seen_that_the_alert_fires_and_stays_away_until_it_is_resolved() {
        let alert = |second| match second {
            20..30 => Some(Stage::Pending),
            30..50 => Some(Stage::Firing),
            _ => None,
        };
        let expected = ["6 Block 7680", "36 Open 7680", "56 Block 3544"];
        assert_eq!(turns(true, 100, alert), expected);
    }

    #[test]
    fn an_alert_that_does_not_follow_is_said() {
        // That it is resolved, or fires, is seen a second after the rule has changed.
        let expected = ["6 Block 7680", "186 Open 7680 late", "193 Block 3544"];
        assert_eq!(turns(true, 200, |_| None), expected);
        let for_ever = turns(true, 200, |_| Some(Stage::Firing));
        assert_eq!(for_ever, ["180 Block 7680 late", "187 Open 7680"]);
    }
}
