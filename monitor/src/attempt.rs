//! Attempts to open a connection, and how they ended.
//!
//! An attempt is one try: a TCP handshake or a Teredo solicitation. Retransmissions belong to it.

use std::net::SocketAddr;
use std::time::Duration;

use monitor_common::{Direction, Family, Protocol};

pub mod judge;
pub mod teredo;
pub mod totals;
pub mod tracker;

/// Defines an enum with a name for metrics and logs.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in metrics and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

named! {
    /// How an attempt ended.
    Outcome {
        /// The answer was passed on to the initiator, and nothing was repeated after that.
        Established => "established",
        /// An RST answered the SYN, and no firewall of this host made it.
        Refused => "refused",
        /// An ICMP error quoted the SYN, or this host's firewall made an RST.
        Rejected => "rejected",
        /// The target's link address did not resolve.
        Offline => "offline",
        /// The SYN was dropped here.
        Dropped => "dropped",
        /// The answer came back, and was dropped here.
        ReplyDropped => "reply_dropped",
        /// The SYN left this host, or was handed to a listener here, and no answer came.
        Unanswered => "unanswered",
    }
}

named! {
    /// Who ended an attempt.
    BlockedBy {
        /// Nobody: it succeeded, or the target is off line.
        None => "none",
        /// A rule of this host.
        LocalFirewall => "local_firewall",
        /// This host's routing or source checks.
        LocalStack => "local_stack",
        /// This host: memory, queues, malformed packets.
        LocalOverload => "local_overload",
        /// This host's connection table, which is full.
        LocalConntrack => "local_conntrack",
        /// This host's stack: nobody listens here.
        LocalHost => "local_host",
        /// The target itself.
        RemoteHost => "remote_host",
        /// A router or firewall in between, by an ICMP error of its own.
        Middlebox => "middlebox",
        /// A box beyond this host, or the target's own firewall, in silence.
        Upstream => "upstream",
        /// Not known.
        Unknown => "unknown",
    }
}

/// An attempt that ended. Times are on the monotonic clock, since boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finished {
    /// Index of the traffic.
    pub traffic: u8,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address family.
    pub family: Family,
    /// Direction, by the furthest stage that was seen.
    pub direction: Direction,
    /// How it ended.
    pub outcome: Outcome,
    /// Who ended it.
    pub blocked_by: BlockedBy,
    /// When its first packet was seen.
    pub first: Duration,
    /// When that was known.
    pub ended: Duration,
    /// From the first packet to the answer, of an established one.
    pub handshake: Option<Duration>,
    /// Who tried, as it was seen first: before a translation of addresses.
    pub client: SocketAddr,
    /// Whom it tried to reach, as it was seen last: behind a translation of addresses.
    pub target: SocketAddr,
    /// The kernel's drop reason, where a drop ended it.
    pub reason: Option<u32>,
}

impl Finished {
    /// Whether a policy, and not the state of the target, made it fail: what counts for `blocked`.
    #[must_use]
    pub const fn is_policy_failure(&self) -> bool {
        is_policy_failure(self.outcome, self.blocked_by)
    }
}

/// Whether an outcome counts as a policy's doing.
#[must_use]
pub const fn is_policy_failure(outcome: Outcome, blocked_by: BlockedBy) -> bool {
    match outcome {
        Outcome::Rejected => true,
        Outcome::Dropped | Outcome::ReplyDropped => {
            matches!(blocked_by, BlockedBy::LocalFirewall | BlockedBy::LocalStack)
        }
        Outcome::Unanswered => matches!(blocked_by, BlockedBy::Upstream),
        Outcome::Established | Outcome::Refused | Outcome::Offline => false,
    }
}
