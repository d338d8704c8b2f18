//! Packets that the kernel frees with a reason.

mod locate;
mod place;

use monitor_common::drop::{DropKey, Group, REASON_UNAVAILABLE, reason_index};
use monitor_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Reader, TCP_FLAGS_OFFSET, TcpFlags, blur, parse_ipv4,
    parse_ipv6, segments,
};
use monitor_common::{Direction, Protocol, Verdict};

use crate::event::{Report, report};
use crate::kernel::skb::{HeadReader, Skb};
use crate::maps::{LAST, REASON_TABLE, fragment};
use crate::packet::{NOBODY, Watched, watched};
use crate::{attempt, count, globals};
use locate::{Where, locate};
use place::Found;

/// The arguments of the tracepoint, as far as this kernel has them.
pub(crate) struct Freed {
    pub(crate) skb: Skb,
    pub(crate) location: u64,
    pub(crate) reason: u32,
    /// Null where there is none, or the kernel does not say.
    pub(crate) receiving_socket: *const u8,
}

const BEFORE: u8 = Group::Before as u8;
const AFTER: u8 = Group::After as u8;
const SUBTRACT: u8 = Group::Subtract as u8;
const BY_PLACE: u8 = Group::ByPlace as u8;
const ALLOWED: u8 = Group::Allowed as u8;
const IGNORED: u8 = Group::Ignored as u8;

/// Takes the mark of the packet that was last counted as allowed on this CPU, if it is this one. Gives
/// the slot that it was counted in.
#[inline(always)]
fn take_counted(skb: Skb, watched: &Watched) -> Option<u32> {
    let last = LAST.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value.
    let last = unsafe { &mut *last };
    if last.skb != skb.0 as u64 || last.ports != watched.ports_key() {
        return None;
    }
    last.skb = 0;
    Some(last.slot)
}

/// Takes packets off the interface that they were counted on: not always the one that dropped them, as
/// below a bond. Follows [`take_counted`].
#[inline(always)]
fn revoke(packets: u32) {
    let Some(last) = LAST.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own value.
    let (interface, direction) = unsafe { ((*last).interface, (*last).direction) };
    count::interface(interface, |counts| {
        let direction = blur(direction).min(Direction::Forwarded as u32) as usize;
        counts.revoked[direction] += u64::from(packets);
    });
}

#[inline(always)]
fn wire_packets(skb: Skb, headers: &Headers, reader: &HeadReader, length: u32) -> u32 {
    let (count, size) = skb.gso();
    if count != 0 || size == 0 {
        return segments(count, 0, 0, 0);
    }
    let transport = if headers.protocol == Protocol::Udp as u32 {
        8
    } else {
        match reader.get::<TcpFlags>(headers.transport + TCP_FLAGS_OFFSET) {
            Some(flags) => u32::from(flags.data_offset >> 4) * 4,
            None => 20,
        }
    };
    segments(0, size, length, headers.transport + transport)
}

/// What was decided of a packet, for the programs' own diagnostics.
pub(crate) struct Decision {
    pub(crate) slot: u32,
    pub(crate) group: u8,
    pub(crate) class: u8,
}

/// Counts a freed packet, where it is one of ours.
#[inline(always)]
pub(crate) fn freed(freed: &Freed) -> Option<Decision> {
    let info = *REASON_TABLE.get(if globals::HAS_REASON.load() == 0 {
        reason_index(REASON_UNAVAILABLE)
    } else {
        reason_index(freed.reason)
    })?;
    if info.group == IGNORED {
        return None;
    }
    let skb = freed.skb;
    let mut protocol = skb.protocol();
    if globals::HAS_REASON.load() == 0 && protocol == 0 {
        protocol = skb.protocol_by_header();
    }
    if protocol != ETHERTYPE_IPV4 && protocol != ETHERTYPE_IPV6 {
        return None;
    }
    let reader = skb.reader();
    let headers = if protocol == ETHERTYPE_IPV4 {
        parse_ipv4(&reader, 0)?
    } else {
        parse_ipv6(&reader, 0)?
    };
    let (mut belongs, mut watched_as) = (false, NOBODY);
    if headers.later_fragment == 0 {
        watched_as = watched(&reader, &headers);
        // Ports are translated on the way: the number of the SYN says whose answer it is.
        belongs = attempt::may_belong(&reader, &headers);
        if !watched_as.is_known && !belongs {
            return None;
        }
    }
    let reason = if globals::HAS_REASON.load() == 0 {
        REASON_UNAVAILABLE
    } else {
        freed.reason
    };
    attempt::begin(
        &reader,
        &headers,
        &watched_as,
        belongs,
        freed.location,
        reason,
    )?;
    let watched = watched_as;
    // Looked up only where the reason leaves something open.
    let place = if info.group == BY_PLACE || info.group == AFTER {
        Found::of(freed.location)
    } else {
        Found::NONE
    };
    let at = locate(freed, &place, &reader, &headers)?;

    let mut slot = watched.slot(&headers, at.direction);
    let (mut group, mut class) = (info.group, info.class);
    if group == BY_PLACE || group == AFTER {
        (group, class) = place::decide(freed, &place, info, &at, &reader, &headers, &watched);
        if group == IGNORED {
            return None;
        }
    }
    if group == SUBTRACT {
        match take_counted(skb, &watched) {
            Some(counted) => slot = counted,
            None => group = BEFORE,
        }
    }
    let slot = blur(slot);
    let group = blur(u32::from(group)) as u8;
    let class = blur(u32::from(class)) as u8;
    if headers.later_fragment != 0 {
        // Inbound fragments were counted where they arrived; the others are counted where they leave,
        // which this one never did.
        if group == BEFORE && at.direction != Direction::Inbound as u32 {
            count::fragment(fragment::DROPPED, at.direction);
        }
        return None;
    }

    if group == BEFORE || group == SUBTRACT {
        attempt::end(at.direction, class);
    }
    if !attempt::is_watched() {
        return None;
    }
    let decision = Decision { slot, group, class };
    record(freed, &reader, &headers, &watched, &at, &decision);
    Some(decision)
}

/// Counts a packet as it was decided, and reports it.
#[inline(always)]
fn record(
    freed: &Freed,
    reader: &HeadReader,
    headers: &Headers,
    watched: &Watched,
    at: &Where,
    decision: &Decision,
) {
    let Decision { slot, group, class } = *decision;
    let actual = freed.skb.length();
    let length = if headers.length == 0 || headers.length > actual {
        actual
    } else {
        headers.length
    };
    let packets = wire_packets(freed.skb, headers, reader, length);
    let reason = if globals::HAS_REASON.load() == 0 {
        REASON_UNAVAILABLE
    } else {
        freed.reason
    };
    let key = DropKey {
        slot: slot as u16,
        group,
        class,
        reason,
    };
    count::dropped(&key, packets, length);
    if group == AFTER {
        return;
    }
    let interface = at.interface;
    count::interface(interface, |counts| {
        // Bounded here, where it is used: older verifiers (6.1 is one) forget a bound that was checked
        // on another copy of the value.
        let direction = blur(at.direction).min(Direction::Forwarded as u32) as usize;
        if group == ALLOWED {
            counts.taken[direction] += u64::from(packets);
            return;
        }
        counts.dropped[direction] += u64::from(packets);
    });
    if group == SUBTRACT {
        revoke(packets);
    }
    if group != ALLOWED && globals::LOG_DROPPED.load() != 0 {
        let details = Report {
            location: freed.location,
            interface,
            reason,
            length,
            segments: packets,
            slot,
            verdict: Verdict::Dropped.code(),
            class,
            network: 0,
        };
        report(reader, headers, watched, &details);
    }
}
