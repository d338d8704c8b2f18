//! What is said of one record.

use std::net::SocketAddr;
use std::time::Duration;

use monitor_common::attempt::{Attempt, AttemptKey};
use monitor_common::{Direction, Family, Protocol};

use super::{Late, address};
use crate::attempt::{BlockedBy, Finished, Outcome};
use crate::bpf::attempts::PerTraffic;

/// Counts an attempt for its traffic; every index that the programs write has a place.
pub(super) fn count(counts: &mut PerTraffic, attempt: &Attempt) {
    if let Some(count) = counts.get_mut(usize::from(attempt.traffic)) {
        *count = count.saturating_add(1);
    }
}

/// Takes back what [`count`] did.
pub(super) fn uncount(counts: &mut PerTraffic, attempt: &Attempt) {
    if let Some(count) = counts.get_mut(usize::from(attempt.traffic)) {
        *count = count.saturating_sub(1);
    }
}

/// An answered attempt whose record was made again by a SYN.
pub(super) fn again(answered: Attempt, syn_ns: u64) -> Attempt {
    let last = answered.repeated_ns;
    if syn_ns <= last {
        return answered;
    }
    Attempt {
        syn_ns,
        repeats: answered.repeats.saturating_add(1),
        gap_ns: syn_ns - last,
        repeated_ns: syn_ns,
        ..answered
    }
}

pub(super) fn with_reason((finished, reason): (Finished, Option<u32>)) -> Finished {
    Finished { reason, ..finished }
}

pub(super) fn late(attempt: &Attempt) -> Option<Late> {
    Some(Late {
        traffic: attempt.traffic,
        direction: Direction::from_code(attempt.direction)?,
        at: Duration::from_nanos(attempt.answered_ns),
    })
}

/// `None` for codes that no kernel program of this version writes.
pub(super) fn finished(
    key: AttemptKey,
    attempt: &Attempt,
    outcome: Outcome,
    blocked_by: BlockedBy,
    now: Duration,
) -> Option<Finished> {
    let family = Family::from_code(u8::try_from(key.family).ok()?)?;
    let first = Duration::from_nanos(attempt.first_ns);
    let handshake = (outcome == Outcome::Established)
        .then(|| Duration::from_nanos(attempt.answered_ns).saturating_sub(first));
    let end = |bytes, port| SocketAddr::new(address(bytes), u16::from_be(port));
    Some(Finished {
        traffic: attempt.traffic,
        protocol: Protocol::Tcp,
        family,
        direction: Direction::from_code(attempt.direction)?,
        outcome,
        blocked_by,
        first,
        ended: now,
        handshake,
        client: end(attempt.client, attempt.client_port),
        target: end(attempt.target, attempt.target_port),
        reason: None,
    })
}
