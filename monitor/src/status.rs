//! The document of `/api/v1/status`: what a daemon knows, for programs and for `peerwatch status`.
//!
//! One set of types for both ends: the daemon fills a [`Document`] and the command reads it back.
//! Times are seconds since the beginning of 1970 (UTC) with fractions, spans are seconds. docs/status.md
//! has it field by field; a test compares the two.
//!
//! Within one [`VERSION`] fields are only added, never removed or given another meaning, and no new
//! name of a state, an outcome or a blocker appears.

mod commands;
mod names;
mod parse;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use monitor_common::Direction;
use serde::{Deserialize, Serialize};

use crate::attempt::{BlockedBy, Outcome};
use crate::log::time;
use crate::traffic::Port;

pub use crate::state::State;
pub use crate::traffic::Expect;
pub use commands::commands;
pub(crate) use names::known_direction;
pub use parse::ParseError;

/// The version of the document's form.
pub const VERSION: u32 = 1;

/// Path of the document on the daemon's server.
pub const PATH: &str = "/api/v1/status";

/// How long before a block a change of the ruleset is told beside it.
pub const CHANGE_BEFORE_BLOCK: Duration = Duration::from_mins(1);

/// All of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Document {
    /// The form of this document: [`VERSION`].
    pub version: u32,
    /// When it was made, as RFC 3339 has it, in UTC.
    pub time: String,
    /// The same, in Unix seconds.
    pub timestamp: f64,
    /// When the states were last decided, Unix seconds; `None` before the first time.
    pub evaluated: Option<f64>,
    /// The daemon.
    pub daemon: Daemon,
    /// The host.
    pub host: Host,
    /// The configuration in force.
    pub configuration: Configuration,
    /// What is seen here and what is not.
    pub coverage: Coverage,
    /// Whether addresses of peers are in it for whoever asked. Older daemons show them to everybody.
    #[serde(default = "shown")]
    pub peers_shown: bool,
    /// The last change of the firewall's ruleset; `None` where none is known.
    pub ruleset_change: Option<RulesetChange>,
    /// The connection table; `None` where this host has none.
    pub conntrack: Option<Conntrack>,
    /// One for each traffic and direction that a state is kept for.
    pub states: Vec<TrafficState>,
}

const fn shown() -> bool {
    true
}

/// The daemon that made the document.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Daemon {
    /// The program's version.
    pub version: String,
    /// The revision that it was built from, `unknown` where it was built without.
    pub revision: String,
    /// Since the daemon started, seconds.
    pub uptime_seconds: u64,
}

/// The host that is watched.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Host {
    /// The kernel's release, as `uname -r` has it.
    pub kernel_release: String,
    /// Number of the network namespace that is watched, as in `readlink /proc/self/ns/net`.
    pub network_namespace: u32,
    /// Since the host started, seconds.
    pub uptime_seconds: u64,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Configuration {
    /// The file that was read; `None` where there is none.
    pub file: Option<String>,
    /// What is watched.
    pub traffics: Vec<TrafficConfiguration>,
}

/// The configuration of one traffic.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TrafficConfiguration {
    /// Its name.
    pub name: String,
    /// Its ports, written `tcp/7680`.
    pub ports: Vec<Port>,
    /// Whether it is meant to pass.
    pub expect: Expect,
    /// The directions that a state is kept for.
    #[serde(with = "names::directions")]
    pub state_directions: Vec<Direction>,
    /// What its states are decided by.
    pub thresholds: Thresholds,
}

/// What a state is decided by; docs/state.md has the rules.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Thresholds {
    /// How far back attempts count.
    pub window_seconds: f64,
    /// How long a block outlasts silence.
    pub hold_seconds: f64,
    /// How long successes must go on, without a policy failure among them, to end a block.
    pub recovery_seconds: f64,
    /// How many policy failures it takes for `blocked`.
    pub blocked_failures: u32,
    /// Which share of the attempts these must be at least.
    pub blocked_percent: u32,
    /// How far the first and the last of these must lie apart.
    pub blocked_spread_seconds: f64,
    /// How many attempts it takes for `failing`.
    pub failing_attempts: u32,
    /// How many attempts it takes for `degraded`.
    pub degraded_attempts: u32,
    /// Which share of these must have failed at least.
    pub degraded_percent: u32,
    /// With more than this share of the attempts lost, the state is `unknown`.
    pub lost_percent: u32,
}

/// What is seen on this host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Coverage {
    /// Whether nothing is missing; the same as an empty `missing`.
    pub complete: bool,
    /// What is not seen, and why: one sentence each.
    pub missing: Vec<String>,
    /// Each hook that is wanted.
    pub hooks: Vec<Hook>,
    /// How many attempts were lost since the daemon started.
    pub attempts_lost: u64,
}

impl Coverage {
    /// That of some hooks: each that is not attached is missing, and `more` beside them.
    #[must_use]
    pub fn new(hooks: Vec<Hook>, attempts_lost: u64, more: Vec<String>) -> Self {
        let mut missing: Vec<String> = hooks.iter().filter_map(Hook::problem).collect();
        missing.extend(more);
        Self {
            complete: missing.is_empty(),
            missing,
            hooks,
            attempts_lost,
        }
    }
}

/// One place where the daemon looks at packets.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hook {
    /// Its name: `drop`, `deliver`, `ingress`, `egress`.
    pub hook: String,
    /// The interface; `None` for a hook of the whole host.
    pub interface: Option<String>,
    /// Whether it is attached.
    pub attached: bool,
    /// How, as in the metric `hook_info`; `None` where it is not attached.
    pub mode: Option<String>,
    /// Why not; `None` where it is attached.
    pub why: Option<String>,
}

impl Hook {
    /// The sentence for one that is not attached.
    fn problem(&self) -> Option<String> {
        if self.attached {
            return None;
        }
        let (of, interface) = match &self.interface {
            Some(interface) => (" of ", interface.as_str()),
            None => ("", ""),
        };
        let why = self.why.as_deref().unwrap_or("no reason is known");
        Some(format!(
            "hook {}{of}{interface} is not attached: {why}",
            self.hook
        ))
    }
}

/// A change of the firewall's ruleset.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RulesetChange {
    /// When, Unix seconds.
    pub time: f64,
    /// What was changed: `rules` or `sets`.
    pub kind: String,
    /// Name of the process that changed it; `None` where it is not known.
    pub process: Option<String>,
    /// Number of that process.
    pub pid: Option<u32>,
}

/// The kernel's table of connections.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Conntrack {
    /// How many it has.
    pub entries: Option<u64>,
    /// How many it can have.
    pub limit: Option<u64>,
}

/// One traffic in one direction.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TrafficState {
    /// Name of the traffic.
    pub traffic: String,
    /// The direction.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// How it does.
    pub state: State,
    /// Whether it is meant to pass.
    pub expect: Expect,
    /// Since when it is in this state, Unix seconds.
    pub since: Option<f64>,
    /// Since when it is blocked, Unix seconds: the first failure after the last success. `None` unless
    /// it is blocked now.
    pub blocked_since: Option<f64>,
    /// The last success, Unix seconds; `None` where there was none.
    pub last_success: Option<f64>,
    /// The last attempt, Unix seconds; `None` where there was none.
    pub last_attempt: Option<f64>,
    /// Who ends most of the attempts that fail.
    pub blocked_by: BlockedBy,
    /// The length of the window that `attempts` is about.
    pub window_seconds: f64,
    /// The attempts in the window.
    pub attempts: Attempts,
    /// Age of the evidence: since the last attempt, when the document was made.
    pub evidence_age_seconds: Option<f64>,
    /// From the last change of the ruleset before the block to the block, where that is not more than
    /// [`CHANGE_BEFORE_BLOCK`]; else `None`.
    pub ruleset_change_before_block: Option<f64>,
    /// Who fails most towards whom, most first. Absent for those who may not see addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_failing: Option<Vec<Pair>>,
}

/// Numbers of attempts.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attempts {
    /// All of them.
    pub total: u64,
    /// Those that were established.
    pub success: u64,
    /// Those that a policy made fail.
    pub policy: u64,
    /// Those that failed otherwise.
    pub other: u64,
    /// By outcome. An outcome that is not there did not occur.
    pub outcomes: BTreeMap<Outcome, u64>,
}

impl Attempts {
    /// Those that failed, for whatever reason.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.policy.saturating_add(self.other)
    }
}

/// A client and a target between which attempts fail.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pair {
    /// Who tried.
    pub client: IpAddr,
    /// Whom it tried to reach.
    pub target: IpAddr,
    /// The port, written `tcp/7680`; `None` where it is not known.
    pub port: Option<Port>,
    /// How many attempts failed in the window.
    pub count: u64,
    /// How the last of them ended.
    pub outcome: Outcome,
    /// Who ended it.
    pub blocked_by: BlockedBy,
    /// What to type on the host to look further; made of nothing but the fields above, see
    /// [`commands`].
    pub commands: Vec<String>,
}

impl Document {
    /// The document as JSON, in one line.
    ///
    /// # Errors
    ///
    /// A sentence; none of the types here can cause it.
    pub fn to_json(&self) -> Result<String, String> {
        serde_json::to_string(self)
            .map(|text| text + "\n")
            .map_err(|error| format!("the status could not be written: {error}"))
    }

    /// The same without addresses, for those who may not see them.
    #[must_use]
    pub fn without_peers(mut self) -> Self {
        self.peers_shown = false;
        for state in &mut self.states {
            state.top_failing = None;
        }
        self
    }
}

/// A time or a span as the document has it: seconds, to the millisecond.
#[must_use]
pub fn seconds(time: Duration) -> f64 {
    Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000).as_secs_f64()
}

/// A time as the document has it in `time`, from one since the beginning of 1970.
#[must_use]
pub fn rfc3339(time: Duration) -> String {
    time::rfc3339(time)
}

/// From the last of some changes of the ruleset that is not after the block to the block, where that is
/// not more than [`CHANGE_BEFORE_BLOCK`]. Times in Unix seconds, in any order.
#[must_use]
pub fn change_before_block(
    blocked_since: Option<f64>,
    changes: impl IntoIterator<Item = f64>,
) -> Option<f64> {
    let since = blocked_since?;
    changes
        .into_iter()
        .map(|change| since - change)
        .filter(|before| (0.0..=CHANGE_BEFORE_BLOCK.as_secs_f64()).contains(before))
        .min_by(f64::total_cmp)
}
