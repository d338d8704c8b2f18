//! Packets that the kernel frees with a reason.

mod locate;
mod place;

use monitor_common::attempt::hook;
use monitor_common::drop::{DropKey, Group, REASON_UNAVAILABLE, ReasonInfo, reason_index};
use monitor_common::event::loss;
use monitor_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Reader, TCP_FLAGS_OFFSET, TcpFlags, blur, glance_ipv4,
    glance_ipv6, parse_ipv4, parse_ipv6, segments,
};
use monitor_common::{Direction, Family, Protocol, Verdict};

use crate::event::{Report, report};
use crate::kernel::Memory;
use crate::kernel::skb::{HeadReader, Pointers, Skb};
use crate::kernel::socket::Socket;
use crate::maps::{LAST, REASON_TABLE, fragment};
use crate::packet::{NOBODY, SYN_OR_RST, Watched, watched, watched_by};
use crate::{attempt, count, globals};
use locate::{Where, locate};
use place::Found;

/// The arguments of the tracepoint, as far as this kernel has them.
pub(crate) struct Freed {
    pub(crate) skb: Skb,
    pub(crate) location: u64,
    pub(crate) reason: u32,
    /// Address of the receiving socket; 0 where there is none, or the kernel does not say.
    pub(crate) receiving: u64,
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

impl Freed {
    /// The reason as it is counted.
    #[inline(always)]
    fn reason(&self) -> u32 {
        if globals::HAS_REASON.load() == 0 {
            REASON_UNAVAILABLE
        } else {
            self.reason
        }
    }

    #[inline(always)]
    fn info(&self) -> Option<&'static ReasonInfo> {
        REASON_TABLE.get(reason_index(self.reason()))
    }
}

/// The packet, and whom it has to do with.
struct Parties {
    skb: Skb,
    pointers: Pointers,
    receiving: Receiving,
}

/// The socket that was to receive a packet. Read once, as [`Pointers`] are; numbers, and out of the verifier's sight, so
/// that it goes on once and not for each kind of socket.
#[derive(Clone, Copy)]
struct Receiving {
    /// [`Receiving::NOBODY`] and so on.
    whose: u32,
    /// `skc_state` (`net/tcp_states.h`).
    state: u32,
}

impl Receiving {
    /// There is none.
    const NOBODY: u32 = 0;
    /// It is in another network namespace.
    const FOREIGN: u32 = 1;
    /// It is in the daemon's.
    const OWN: u32 = 2;

    #[inline(always)]
    fn of(socket: Socket, memory: Memory) -> Self {
        let (mut whose, mut state) = (Self::NOBODY, 0);
        // What is set depends on loads behind this branch: of the address alone the compiler would make numbers, which
        // the verifier does not let it do with a pointer.
        if let Some(found) = socket.state(memory) {
            whose = if socket.is_own(memory) {
                Self::OWN
            } else {
                Self::FOREIGN
            };
            state = u32::from(found);
        }
        Self {
            whose: blur(whose),
            state: blur(state),
        }
    }

    /// Whether there is one.
    #[inline(always)]
    const fn is_there(self) -> bool {
        self.whose != Self::NOBODY
    }

    /// Whether it is in the daemon's network namespace.
    #[inline(always)]
    const fn is_own(self) -> bool {
        self.whose == Self::OWN
    }
}

/// What was read of a freed packet.
struct Read {
    headers: Headers,
    watched: Watched,
    /// As [`attempt::may_belong`] gives them.
    flags: u32,
}

/// Reads a packet's headers: with one call where it has no options, and not with the parser's two or three. `None` for a packet that is nobody's, and no segment of an attempt.
#[inline(always)]
fn read(reader: &HeadReader, protocol: u16) -> Option<Read> {
    let (family, glance) = if protocol == ETHERTYPE_IPV4 {
        (Family::Ipv4, glance_ipv4(reader, 0))
    } else {
        (Family::Ipv6, glance_ipv6(reader, 0))
    };
    // A length that its header does not say, or lies about, is the parser's.
    if let Some(glance) = glance
        && glance.length() != 0
    {
        let protocol = if glance.is_tcp {
            Protocol::Tcp
        } else {
            Protocol::Udp
        } as u32;
        let watched = watched_by(glance.ports, protocol);
        let flags = u32::from(glance.flags & SYN_OR_RST);
        // At once: what follows takes its way through memory.
        if !watched.is_known && flags == 0 {
            return None;
        }
        return Some(Read {
            headers: Headers {
                family: blur(family as u32),
                protocol: blur(protocol),
                later_fragment: 0,
                transport: blur(glance.header),
                length: glance.length(),
            },
            watched,
            flags,
        });
    }
    let headers = if protocol == ETHERTYPE_IPV4 {
        parse_ipv4(reader, 0)?
    } else {
        parse_ipv6(reader, 0)?
    };
    let (mut watched_as, mut flags) = (NOBODY, 0);
    if headers.later_fragment == 0 {
        watched_as = watched(reader, &headers);
        // Ports are translated on the way: the number of the SYN says whose answer it is.
        flags = attempt::may_belong(reader, &headers);
        if !watched_as.is_known && flags == 0 {
            return None;
        }
    }
    Some(Read {
        headers,
        watched: watched_as,
        flags,
    })
}

/// Whether a freed packet may be one of ours: leaves a note of what was read of it.
///
/// Most are not, and this much is all that they cost. What follows is a program of its own, which the
/// verifier goes through once and not for each of the paths through the headers.
#[inline(always)]
pub(crate) fn look(freed: &Freed) -> Option<()> {
    let skb = freed.skb;
    let mut protocol = skb.protocol();
    if globals::HAS_REASON.load() == 0 && protocol == 0 {
        protocol = skb.protocol_by_header();
    }
    if protocol != ETHERTYPE_IPV4 && protocol != ETHERTYPE_IPV6 {
        return None;
    }
    let reader = skb.reader();
    let Read {
        headers,
        watched: watched_as,
        flags,
    } = read(&reader, protocol)?;
    let mut task = attempt::NOTHING;
    if headers.later_fragment == 0 {
        task = attempt::task(&headers, &watched_as, flags, 0);
    }
    // Last, as most packets are somebody else's, and need no look at the table.
    if freed.info()?.group == IGNORED {
        return None;
    }
    let note = attempt::note(hook::DROP)?;
    // First, so that another packet's note that comes in between is noticed.
    // SAFETY: an aligned 64-bit value of this CPU.
    unsafe { (&raw mut note.skb).write_volatile(skb.0 as u64) };
    note.task = task;
    note.headers(&headers, &watched_as, 0);
    // As numbers, which they are once they come out of the map.
    note.head = skb.head() as u64;
    note.base = reader.base as u64;
    note.receiving = freed.receiving;
    note.available = reader.available;
    note.protocol = headers.protocol;
    note.later_fragment = headers.later_fragment;
    note.is_watched = u32::from(watched_as.is_known);
    note.flow = watched_as.flow;
    note.watched_ports = watched_as.ports;
    note.location = freed.location;
    note.reason = freed.reason();
    Some(())
}

/// Counts the packet that [`look`] noted, where it is one of ours. Leaves in the note what is to be done
/// of it.
#[inline(always)]
pub(crate) fn decide(freed: &Freed) -> Option<Decision> {
    let skb = freed.skb;
    let note = attempt::note(hook::DROP)?;
    if note.skb != skb.0 as u64 {
        // Before 6.1 an interrupt's packet may come in between (`bpf_prog_run` had no guard).
        count::lost(loss::INTERRUPTED);
        return None;
    }
    let task = note.task;
    note.task = attempt::NOTHING;
    let headers = Headers {
        family: note.family,
        protocol: note.protocol,
        later_fragment: note.later_fragment,
        transport: note.transport,
        length: note.length,
    };
    let watched = Watched {
        is_known: note.is_watched != 0,
        traffic: note.watched_traffic,
        flow: note.flow,
        ports: note.watched_ports,
    };
    let reader = attempt::reader(skb, note);
    // Once more out of the map: the compiler knows that the other is the same as the address.
    // SAFETY: an aligned 64-bit value of this CPU.
    let number = unsafe { (&raw const note.skb).read_volatile() };
    let receiving = if reader.memory.is_direct() {
        note.receiving
    } else {
        freed.receiving
    };
    let parties = Parties {
        skb,
        pointers: skb.pointers(reader.memory, number),
        receiving: Receiving::of(Socket::at(receiving, skb.is_typed()), reader.memory),
    };
    let info = *freed.info()?;
    // Looked up only where the reason leaves something open.
    let place = if info.group == BY_PLACE || info.group == AFTER {
        Found::of(freed.location)
    } else {
        Found::NONE
    };
    let at = locate(&parties, &place, &reader, &headers)?;

    let mut slot = watched.slot(&headers, at.direction);
    let (mut group, mut class) = (info.group, info.class);
    if group == BY_PLACE || group == AFTER {
        (group, class) = place::decide(&parties, &place, info, &at, &reader, &headers, &watched);
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
        note.task = task;
        note.direction = at.direction;
        note.class = u32::from(class);
    }
    if !watched.is_known {
        return None;
    }
    let decision = Decision { slot, group, class };
    record(freed, &reader, &headers, &watched, &at, &decision);
    Some(decision)
}

/// What [`decide`] left to be done.
#[inline(always)]
pub(crate) fn task() -> u32 {
    match attempt::note(hook::DROP) {
        Some(note) => note.task,
        None => attempt::NOTHING,
    }
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
    let reason = freed.reason();
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
