//! The thresholds that turn attempts into a state.

use std::time::Duration;

/// What a state is decided by. The defaults suit a gateway of a site; each can be set per traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thresholds {
    /// How far back attempts count.
    pub window: Duration,
    /// How long a block outlasts silence.
    pub hold: Duration,
    /// How long successes must go on, without a policy failure among them, to end a block.
    pub recovery: Duration,
    /// How many policy failures it takes for `blocked`; never below 2, since one proves nothing.
    pub blocked_failures: u32,
    /// Which share of the window's attempts these must be at least, percent from 1 on.
    pub blocked_percent: u32,
    /// How far the first and the last of these must lie apart, by the first packet of each.
    pub blocked_spread: Duration,
    /// How many attempts it takes for `failing`, from 1 on.
    pub failing_attempts: u32,
    /// How many attempts it takes for `degraded`, from 1 on.
    pub degraded_attempts: u32,
    /// Which share of these must have failed at least, percent from 1 on.
    pub degraded_percent: u32,
    /// With more than this share of the window's attempts lost, percent, the state is `unknown`.
    pub lost_percent: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            window: Duration::from_mins(15),
            hold: Duration::from_hours(24),
            recovery: Duration::from_secs(15),
            blocked_failures: 3,
            blocked_percent: 50,
            blocked_spread: Duration::from_secs(10),
            failing_attempts: 3,
            degraded_attempts: 20,
            degraded_percent: 5,
            lost_percent: 5,
        }
    }
}

/// Whether a part is at least this share of a whole.
pub(super) fn is_share(part: u64, whole: u64, percent: u32) -> bool {
    u128::from(part) * 100 >= u128::from(whole) * u128::from(percent)
}
