//! How the state of a traffic is decided, and what a site expects of it.

use std::str::FromStr;

use monitor_common::Direction;

use crate::state::Thresholds;

/// What a site expects of a traffic.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Expect {
    /// That it works: that it does not is an alarm.
    #[default]
    Open,
    /// That it is blocked: its state is shown, and is never an alarm.
    Closed,
}

impl Expect {
    /// Every value.
    pub const ALL: &'static [Self] = &[Self::Open, Self::Closed];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.iter().copied();
        all.find(|expect| expect.as_str() == text)
            .ok_or_else(|| format!("\"{text}\" is none of open, closed"))
    }
}

/// How the state of a traffic is decided, and what is expected of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watch {
    /// In which directions it has a state, each once, in the order of [`Direction::ALL`].
    pub directions: Vec<Direction>,
    /// What is expected of it.
    pub expect: Expect,
    /// What its state is decided by.
    pub thresholds: Thresholds,
}

impl Watch {
    /// Whether the traffic has a state in this direction.
    #[must_use]
    pub fn has_state(&self, direction: Direction) -> bool {
        self.directions.contains(&direction)
    }
}

impl Default for Watch {
    /// Outbound and forwarded, since the internet scans the ports of every gateway from outside.
    fn default() -> Self {
        Self {
            directions: vec![Direction::Outbound, Direction::Forwarded],
            expect: Expect::default(),
            thresholds: Thresholds::default(),
        }
    }
}
