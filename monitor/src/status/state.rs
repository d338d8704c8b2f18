//! The names of states and of what is expected.

/// How a traffic does in one direction.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Attempts succeed.
    Ok,
    /// A notable share of the attempts fails.
    Degraded,
    /// No attempt succeeds, and no policy explains it.
    Failing,
    /// A policy blocks it.
    Blocked,
    /// There is no attempt.
    NoDemand,
    /// What the answer needs can't be seen.
    Unknown,
}

impl State {
    /// Every value, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Degraded,
        Self::Failing,
        Self::Blocked,
        Self::NoDemand,
        Self::Unknown,
    ];

    /// The name in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
            Self::Blocked => "blocked",
            Self::NoDemand => "no_demand",
            Self::Unknown => "unknown",
        }
    }

    /// How bad it is, of several the highest is the worst: blocked, failing, degraded, unknown, and
    /// last ok and no demand, which are no trouble both.
    #[must_use]
    pub const fn severity(self) -> u8 {
        match self {
            Self::Ok | Self::NoDemand => 0,
            Self::Unknown => 1,
            Self::Degraded => 2,
            Self::Failing => 3,
            Self::Blocked => 4,
        }
    }
}

/// Whether a traffic is meant to pass.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Expect {
    /// It is: a block is trouble.
    #[default]
    Open,
    /// It is not: its state is shown, and never an alarm.
    Closed,
}

impl Expect {
    /// Every value.
    pub const ALL: &'static [Self] = &[Self::Open, Self::Closed];

    /// The name in the configuration and in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}
