//! What the daemon knows, as the document of `/api/v1/status`.

use std::path::Path;
use std::time::{Duration, Instant};

use monitor_common::Direction;
use nix::time::{ClockId, clock_gettime};

use crate::attempt::Outcome;
use crate::bpf::attach::SharedStates;
use crate::log::time;
use crate::metrics::Source;
use crate::metrics::states::{Moment, Shown};
use crate::netns;
use crate::ruleset::Kind;
use crate::state::PeerPair;
use crate::status::{
    Attempts, Configuration, Conntrack, Coverage, Daemon, Document, Hook, Host, Pair,
    RulesetChange, Thresholds, TrafficConfiguration, TrafficState, VERSION, change_before_block,
    commands, rfc3339, seconds,
};
use crate::traffic::Traffic;

/// The document as it is now.
pub(super) fn document(
    source: &Source,
    hooks: &SharedStates,
    file: Option<&Path>,
    started: Instant,
) -> Document {
    let now = time::now();
    let traffics = source.traffics();
    let shows = source.states_shown();
    let firewall = source.firewall();
    let changes: Vec<f64> = Kind::ALL
        .into_iter()
        .filter_map(|kind| firewall.changes.last(kind))
        .map(|change| seconds(change.at))
        .collect();
    let states = shows
        .states
        .iter()
        .filter_map(|((index, direction), shown)| {
            let traffic = traffics.get(*index)?;
            Some(state(traffic, *direction, shown, now, &changes))
        });
    Document {
        version: VERSION,
        time: rfc3339(now),
        timestamp: seconds(now),
        evaluated: shown_seconds(shows.at),
        daemon: Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("PEERWATCH_REVISION")
                .unwrap_or("unknown")
                .to_owned(),
            uptime_seconds: started.elapsed().as_secs(),
        },
        host: Host {
            kernel_release: source.kernel_release().to_owned(),
            network_namespace: netns::inum().unwrap_or_default(),
            uptime_seconds: clock_gettime(ClockId::CLOCK_BOOTTIME)
                .map_or(Duration::ZERO, Duration::from)
                .as_secs(),
        },
        configuration: Configuration {
            file: file.map(|file| file.display().to_string()),
            traffics: traffics.iter().map(configuration).collect(),
        },
        coverage: coverage(source, hooks),
        peers_shown: true,
        ruleset_change: firewall.changes.latest().map(|change| RulesetChange {
            time: seconds(change.at),
            kind: change.kind.as_str().to_owned(),
            process: change.by.as_ref().map(|process| process.name.clone()),
            pid: change.by.as_ref().map(|process| process.pid),
        }),
        conntrack: firewall.conntrack.map(|table| Conntrack {
            entries: Some(table.entries),
            limit: Some(table.limit),
        }),
        states: states.collect(),
    }
}

fn shown_seconds(moment: Option<Moment>) -> Option<f64> {
    moment.map(|moment| seconds(moment.wall))
}

fn configuration(traffic: &Traffic) -> TrafficConfiguration {
    let watch = &traffic.watch;
    let thresholds = &watch.thresholds;
    TrafficConfiguration {
        name: traffic.name.clone(),
        ports: traffic.ports.clone(),
        expect: watch.expect,
        state_directions: watch.directions.clone(),
        thresholds: Thresholds {
            window_seconds: seconds(thresholds.window),
            hold_seconds: seconds(thresholds.hold),
            recovery_seconds: seconds(thresholds.recovery),
            blocked_failures: thresholds.blocked_failures,
            blocked_percent: thresholds.blocked_percent,
            blocked_spread_seconds: seconds(thresholds.blocked_spread),
            failing_attempts: thresholds.failing_attempts,
            degraded_attempts: thresholds.degraded_attempts,
            degraded_percent: thresholds.degraded_percent,
            lost_percent: thresholds.lost_percent,
        },
    }
}

fn coverage(source: &Source, hooks: &SharedStates) -> Coverage {
    let hooks = hooks.get();
    let hooks = hooks.iter().map(|((hook, interface), state)| Hook {
        hook: hook.as_str().to_owned(),
        interface: Some(interface.clone()).filter(|name| !name.is_empty()),
        attached: state.is_ok(),
        mode: state.as_ref().ok().map(|mode| mode.as_str().to_owned()),
        why: state.as_ref().err().cloned(),
    });
    let lost = source.with_attempts(|attempts| {
        attempts.lost + attempts.counted.collisions + attempts.counted.refused
    });
    Coverage::new(hooks.collect(), lost, Vec::new())
}

fn state(
    traffic: &Traffic,
    direction: Direction,
    shown: &Shown,
    now: Duration,
    changes: &[f64],
) -> TrafficState {
    let (memory, evidence) = (&shown.evaluation.memory, &shown.evaluation.evidence);
    let outcomes = Outcome::ALL
        .iter()
        .map(|outcome| (*outcome, evidence.outcome(*outcome)))
        .filter(|(_, count)| *count > 0);
    let blocked_since = shown_seconds(shown.blocked_since);
    TrafficState {
        traffic: traffic.name.clone(),
        direction,
        state: memory.state,
        expect: traffic.watch.expect,
        since: shown_seconds(shown.since),
        blocked_since,
        last_success: shown_seconds(shown.last_success),
        last_attempt: shown_seconds(shown.last_attempt),
        blocked_by: memory.blocked_by,
        window_seconds: seconds(traffic.watch.thresholds.window),
        attempts: Attempts {
            total: evidence.attempts.total(),
            success: evidence.attempts.success,
            policy: evidence.attempts.policy,
            other: evidence.attempts.other,
            outcomes: outcomes.collect(),
        },
        evidence_age_seconds: shown
            .last_attempt
            .map(|last| seconds(now.saturating_sub(last.wall))),
        ruleset_change_before_block: change_before_block(blocked_since, changes.iter().copied()),
        top_failing: Some(
            evidence
                .failing_pairs
                .iter()
                .map(|pair| failing(traffic, direction, pair))
                .collect(),
        ),
    }
}

fn failing(traffic: &Traffic, direction: Direction, pair: &PeerPair) -> Pair {
    // A pair may have used several ports; where the traffic has one alone, it was that one.
    let port = match traffic.ports.as_slice() {
        [port] => Some(*port),
        _ => None,
    };
    Pair {
        client: pair.client,
        target: pair.target,
        port,
        count: pair.attempts.failed(),
        outcome: pair.outcome,
        blocked_by: pair.blocked_by,
        commands: commands(
            pair.client,
            pair.target,
            port,
            direction,
            pair.outcome,
            pair.blocked_by,
        ),
    }
}
