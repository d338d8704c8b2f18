//! What a daemon keeps for the next one beside the kernel's maps: attempts, states, and what it counted itself.
//!
//! The types come in pairs, one to write what the daemon has and one to read it: their fields are the same, in
//! the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use monitor_common::Direction;
use monitor_common::interface::InterfaceCount;
use monitor_common::traffic::MAX_TRAFFICS;
use serde::{Deserialize, Serialize};

use crate::attempt::teredo::TeredoTracker;
use crate::attempt::totals::Totals;
use crate::attempt::tracker::Tracker;
use crate::bpf::Hook;
use crate::metrics::states::Moment;
use crate::ruleset;
use crate::state;

pub mod file;

/// Everything that is kept, to be written.
#[derive(Debug, Serialize)]
pub struct SavedRef<'a> {
    /// When, on the monotonic clock.
    pub at: Duration,
    /// Index and name of every traffic that has counters.
    pub traffics: Vec<(u8, String)>,
    /// Attempts.
    pub attempts: AttemptsRef<'a>,
    /// States.
    pub states: StatesRef<'a>,
    /// What metrics show.
    pub shown: Shown,
}

/// Everything that was kept.
#[derive(Debug, Deserialize)]
pub struct Saved {
    /// When, on the monotonic clock.
    pub at: Duration,
    /// Index and name of every traffic that has counters.
    pub traffics: Vec<(u8, String)>,
    /// Attempts.
    pub attempts: Attempts,
    /// States.
    pub states: States,
    /// What metrics show.
    pub shown: Shown,
}

/// The attempts, to be written.
#[derive(Debug, Serialize)]
pub struct AttemptsRef<'a> {
    /// The maps that they are of: the number of one of them.
    pub maps: u32,
    /// Those of TCP.
    pub tracker: &'a Tracker,
    /// Those of Teredo.
    pub teredo: &'a TeredoTracker,
    /// Those that ended.
    pub totals: &'a Totals,
}

/// The attempts.
#[derive(Debug, Deserialize)]
pub struct Attempts {
    /// The maps that they are of: the number of one of them.
    pub maps: u32,
    /// Those of TCP.
    pub tracker: Tracker,
    /// Those of Teredo.
    pub teredo: TeredoTracker,
    /// Those that ended.
    pub totals: Totals,
}

/// What is kept of each traffic and direction.
pub type Trackers = BTreeMap<(u8, Direction), state::Tracker>;

/// What is kept of lost attempts, by traffic.
pub type Losses = [state::Losses; MAX_TRAFFICS as usize];

/// The states, to be written.
#[derive(Debug, Serialize)]
pub struct StatesRef<'a> {
    /// By traffic and direction.
    pub trackers: &'a Trackers,
    /// What was lost.
    pub losses: &'a Losses,
}

/// The states.
#[derive(Debug, Deserialize)]
pub struct States {
    /// By traffic and direction.
    pub trackers: Trackers,
    /// What was lost.
    pub losses: Losses,
}

/// The moments of a state that metrics show: since when it is this one, since when blocked, the last success
/// and the last attempt.
pub type Moments = [Option<Moment>; 4];

/// What metrics show, beside maps, attempts and states.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Shown {
    /// The moments of states: both clocks were read once, and what is shown must not move.
    pub moments: BTreeMap<(u8, Direction), Moments>,
    /// Changes of the firewall's rules.
    pub changes: ruleset::Changes,
    /// Lines of the log that were thrown away.
    pub lines_lost: u64,
    /// Lines of the log that could not be written.
    pub lines_unwritten: u64,
    /// Lines of attempts that the rate limit kept out of the log.
    pub attempts_suppressed: u64,
    /// How often hooks were attached again.
    pub reattached: BTreeMap<Hook, u64>,
    /// What was shown last of allowed packets and bytes, by slot.
    pub floors: BTreeMap<u16, (u64, u64)>,
    /// Names of interfaces.
    pub interfaces: Interfaces,
    /// What programs cost whose place others took: nanoseconds and runs, by name.
    pub runs: BTreeMap<String, (u64, u64)>,
}

/// The interfaces, as metrics show them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Interfaces {
    /// By index.
    pub names: BTreeMap<u32, String>,
    /// What the map says of an index that an interface before had.
    pub inherited: BTreeMap<u32, InterfaceCount>,
    /// Those with series of their own.
    pub named: BTreeSet<u32>,
    /// What was shown last: name, codes of direction and verdict.
    pub floors: BTreeMap<(String, u8, u8), u64>,
}

impl SavedRef<'_> {
    /// The bytes of it.
    ///
    /// # Errors
    ///
    /// Where there is no memory for them.
    pub fn to_bytes(&self) -> postcard::Result<Vec<u8>> {
        postcard::to_stdvec(self)
    }
}

impl Saved {
    /// What was kept, from its bytes.
    ///
    /// # Errors
    ///
    /// Where they are not of this version. What is left may be any numbers and any times: whoever goes on with
    /// them adds to them without an overflow, and forgets what is too much.
    pub fn from_bytes(bytes: &[u8]) -> postcard::Result<Self> {
        let (saved, rest) = postcard::take_from_bytes::<Self>(bytes)?;
        let has_counters = |(index, _): &(u8, String)| *index < MAX_TRAFFICS;
        if rest.is_empty() && saved.traffics.iter().all(has_counters) {
            Ok(saved)
        } else {
            Err(postcard::Error::DeserializeBadEncoding)
        }
    }
}

#[cfg(test)]
mod tests;
