//! From what was seen of an attempt to how it ended: a pure function.

use std::time::Duration;

use monitor_common::Direction;
use monitor_common::attempt::{Attempt, ERROR_HOST, Maker};
use monitor_common::drop::Class;

use super::{BlockedBy, Outcome};

/// How long a drop or an answer may wait for the packet that explains it: a rule's RST leaves before the
/// SYN is freed.
const GRACE: Duration = Duration::from_millis(50);

/// How long neither SYN nor SYN-ACK may come again behind a SYN-ACK that passed.
const QUIET: Duration = Duration::from_secs(3);

/// How long after the last SYN an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(7);

/// How long repetitions behind the answer may go on until the answer counts as lost.
const LOST: Duration = Duration::from_secs(15);

/// What is known of an attempt now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// It goes on.
    Pending,
    /// It ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// By whom.
        blocked_by: BlockedBy,
        /// The kernel's reason for the drop that ended it.
        reason: Option<u32>,
    },
    /// Its SYN came in and went nowhere that can be seen: there is nothing to say of it.
    Vanished,
}

const fn ended(outcome: Outcome, blocked_by: BlockedBy) -> Judgement {
    Judgement::Ended {
        outcome,
        blocked_by,
        reason: None,
    }
}

/// What is known of the rest of the world.
pub trait World {
    /// Whether the connection table was full when this attempt's packet was dropped by the instruction at
    /// `location`.
    fn is_table_full(&self, location: u64) -> bool;
    /// Whether the target is known to be alive, or that much fails that something beyond this host must
    /// be the cause.
    fn is_alive(&self, attempt: &Attempt) -> bool;
}

/// Judges an attempt; `now` is on the clock of its times.
#[must_use]
pub fn judge(attempt: &Attempt, now: Duration, world: &impl World) -> Judgement {
    let since = |ns: u64| now.saturating_sub(Duration::from_nanos(ns));
    if attempt.answered_ns != 0 {
        return answered(attempt, now);
    }
    if attempt.dropped_ns > attempt.passed_ns {
        if since(attempt.dropped_ns) < GRACE {
            return Judgement::Pending;
        }
        return dropped(attempt, world);
    }
    if attempt.passed_ns == 0 {
        return if since(attempt.syn_ns) < PATIENCE {
            Judgement::Pending
        } else {
            Judgement::Vanished
        };
    }
    if let Some(judgement) = refused(attempt)
        && since(attempt.reset_ns.max(attempt.error_ns)) >= GRACE
    {
        return judgement;
    }
    if attempt.reply_dropped_ns != 0
        && since(attempt.reply_dropped_ns) >= GRACE
        && let Some(judgement) = reply_dropped(attempt, world)
    {
        return judgement;
    }
    if since(attempt.syn_ns) < PATIENCE {
        return Judgement::Pending;
    }
    if attempt.direction == Direction::Inbound.code() {
        // A listener here got it, and said nothing: its queue is full.
        return ended(Outcome::Unanswered, BlockedBy::LocalOverload);
    }
    if world.is_alive(attempt) {
        ended(Outcome::Unanswered, BlockedBy::Upstream)
    } else {
        ended(Outcome::Unanswered, BlockedBy::Unknown)
    }
}

/// A SYN-ACK passed. Where it is lost beyond this host, both sides repeat themselves: the waits between
/// grow, so silence tells success only when it is longer than the next wait would be.
fn answered(attempt: &Attempt, now: Duration) -> Judgement {
    let since = |ns: u64| now.saturating_sub(Duration::from_nanos(ns));
    let gap = Duration::from_nanos(attempt.gap_ns);
    let quiet = if attempt.repeats == 0 {
        QUIET
    } else {
        QUIET.max(gap * 2 + Duration::from_secs(1))
    };
    if since(attempt.repeated_ns) >= quiet {
        return ended(Outcome::Established, BlockedBy::None);
    }
    if attempt.repeats >= 2 && since(attempt.answered_ns) >= LOST {
        return ended(Outcome::Unanswered, BlockedBy::Upstream);
    }
    Judgement::Pending
}

/// Who of this host drops, by the class. A full connection table looks like a rule.
pub(super) const fn dropper(class: Option<Class>, is_table_full: bool) -> BlockedBy {
    match class {
        Some(Class::Firewall) if is_table_full => BlockedBy::LocalConntrack,
        Some(Class::Firewall) => BlockedBy::LocalFirewall,
        Some(Class::Routing | Class::RpFilter) => BlockedBy::LocalStack,
        Some(
            Class::Overload | Class::Malformed | Class::Socket | Class::Queue | Class::Protocol,
        ) => BlockedBy::LocalOverload,
        _ => BlockedBy::Unknown,
    }
}

fn dropped(attempt: &Attempt, world: &impl World) -> Judgement {
    let refused_here =
        attempt.reset_by == Maker::Here.code() || attempt.error_by == Maker::Here.code();
    let (outcome, blocked_by) = match Class::from_code(attempt.class) {
        Some(Class::Firewall) if refused_here => (Outcome::Rejected, BlockedBy::LocalFirewall),
        Some(Class::NoListener) => (Outcome::Refused, BlockedBy::LocalHost),
        Some(Class::Neighbour) => (Outcome::Offline, BlockedBy::None),
        class => {
            let full = world.is_table_full(attempt.location);
            (Outcome::Dropped, dropper(class, full))
        }
    };
    Judgement::Ended {
        outcome,
        blocked_by,
        reason: Some(attempt.reason),
    }
}

/// An RST or an ICMP error answered a SYN that passed.
fn refused(attempt: &Attempt) -> Option<Judgement> {
    if attempt.reset_ns != 0 {
        let here = attempt.reset_by == Maker::Here.code();
        return Some(if !here {
            ended(Outcome::Refused, BlockedBy::RemoteHost)
        } else if attempt.direction == Direction::Inbound.code() {
            ended(Outcome::Refused, BlockedBy::LocalHost)
        } else {
            ended(Outcome::Rejected, BlockedBy::LocalFirewall)
        });
    }
    if attempt.error_ns == 0 {
        return None;
    }
    let unreachable = attempt.error_kind == ERROR_HOST;
    Some(match Maker::from_code(attempt.error_by) {
        Some(Maker::Target) => ended(Outcome::Rejected, BlockedBy::RemoteHost),
        _ if unreachable => ended(Outcome::Offline, BlockedBy::None),
        Some(Maker::Here) => ended(Outcome::Rejected, BlockedBy::LocalFirewall),
        _ => ended(Outcome::Rejected, BlockedBy::Middlebox),
    })
}

fn reply_dropped(attempt: &Attempt, world: &impl World) -> Option<Judgement> {
    // An answer that nobody waits for any more says nothing of a block.
    if attempt.reply_class == Class::NoListener.code() {
        return None;
    }
    Some(Judgement::Ended {
        outcome: Outcome::ReplyDropped,
        blocked_by: dropper(
            Class::from_code(attempt.reply_class),
            world.is_table_full(attempt.location),
        ),
        reason: Some(attempt.reply_reason),
    })
}

#[cfg(test)]
mod tests;
