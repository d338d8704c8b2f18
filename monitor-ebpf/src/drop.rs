//! Packets that the kernel frees with a reason.

use monitor_common::drop::{
    Class, DropKey, Group, PLACE_CERTAIN, PLACE_TCP_RECEIVE, Place, REASON_UNAVAILABLE, ReasonInfo,
    reason_index,
};
use monitor_common::interface::{BRIDGE_PORT, EXCLUDED, NO_INTERFACE};
use monitor_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Ports, Reader, TCP_FLAGS_OFFSET, TcpFlags, blur,
    blur_wide, parse_ipv4, parse_ipv6, segments,
};
use monitor_common::{Direction, Family, Protocol, Verdict};

use crate::event::{Report, report};
use crate::kernel::device::{self, Kind};
use crate::kernel::skb::{HeadReader, Skb};
use crate::kernel::{is_kernel_address, is_own_socket, probe};
use crate::maps::{INTERFACES, LAST, PLACE_TABLE, REASON_TABLE, fragment};
use crate::packet::{Watched, watched};
use crate::{count, globals, local};

/// The arguments of the tracepoint, as far as this kernel has them.
pub(crate) struct Freed {
    pub(crate) skb: Skb,
    pub(crate) location: u64,
    pub(crate) reason: u32,
    /// Null where there is none, or the kernel does not say.
    pub(crate) receiving_socket: *const u8,
}

/// `linux/if_packet.h`
const PACKET_OTHERHOST: u8 = 3;
/// `linux/if_packet.h`: a broadcast of our own, looped back.
const PACKET_LOOPBACK: u8 = 5;
/// The loopback device has this index in every namespace.
const LOOPBACK: u32 = 1;
/// `linux/rtnetlink.h`
const RTN_LOCAL: u16 = 2;
const RTN_BROADCAST: u16 = 3;
const RTN_MULTICAST: u16 = 5;
/// `linux/ipv6_route.h`
const RTF_LOCAL: u32 = 0x8000_0000;
/// `net/tcp_states.h`
const TCP_TIME_WAIT: u8 = 6;
const SYN: u8 = 0x02;
const FIN_SYN_RST_ACK: u8 = 0x17;

const BEFORE: u8 = Group::Before as u8;
const AFTER: u8 = Group::After as u8;
const SUBTRACT: u8 = Group::Subtract as u8;
const BY_PLACE: u8 = Group::ByPlace as u8;
const ALLOWED: u8 = Group::Allowed as u8;
const IGNORED: u8 = Group::Ignored as u8;

/// Where the packet was when it was freed.
struct Where {
    /// 0 for one made here.
    incoming: u32,
    /// Index of the device that it was on, or [`NO_INTERFACE`].
    interface: u32,
    direction: u32,
}

/// Whether an interface has a flag.
#[inline(always)]
fn has_flag(index: u32, flag: u32) -> bool {
    // SAFETY: entries are small, written whole by the daemon, and never freed while programs run.
    match unsafe { INTERFACES.get(index) } {
        Some(interface) => interface.flags & flag != 0,
        None => false,
    }
}

/// Whose packet it was, and which way it went; `None` for another namespace's, for loopback, and for
/// frames to somebody else that a promiscuous port picked up.
#[inline(always)]
fn locate(freed: &Freed, reader: &HeadReader, headers: &Headers) -> Option<Where> {
    let skb = freed.skb;
    let incoming = skb.incoming_interface();
    if incoming == LOOPBACK {
        return None;
    }
    let packet_type = skb.packet_type();
    if packet_type == PACKET_LOOPBACK {
        return None;
    }
    let device = device::look(skb.device());
    let route = skb.route();

    // The namespace, by the most reliable witness there is: `sk` may be the sender's, in another
    // namespace, and `dev` may be no device.
    let receiving = freed.receiving_socket;
    let mut route_device = 0;
    let own = if !receiving.is_null() {
        is_own_socket(receiving)
    } else if let Some(route) = route {
        let looked = device::look(route.device());
        route_device = looked.index;
        looked.is_own()
    } else if device.is_own() {
        route_device = device.index;
        true
    } else {
        let socket = skb.socket();
        !(device.kind == Kind::Other && incoming == 0)
            && is_kernel_address(socket)
            && is_own_socket(socket)
    };
    if !own {
        return None;
    }
    // A local input route leads to the loopback device, so it says nothing of a packet that came in.
    if incoming == 0 && route_device == LOOPBACK {
        return None;
    }

    let direction = if incoming == 0 {
        Direction::Outbound
    } else if packet_type == PACKET_OTHERHOST {
        let on_port = device.is_own() && has_flag(device.index, BRIDGE_PORT);
        if !on_port && !has_flag(incoming, BRIDGE_PORT) {
            return None;
        }
        Direction::Forwarded
    } else {
        let inbound = match route {
            None => local::is_destination(reader, headers.family, 0),
            Some(route) if headers.family == Family::Ipv4 as u32 => matches!(
                route.ipv4_type(),
                Some(RTN_LOCAL | RTN_BROADCAST | RTN_MULTICAST)
            ),
            Some(route) => {
                route.ipv6_flags().unwrap_or(0) & RTF_LOCAL != 0
                    || reader
                        .get::<DestinationStart>(24)
                        .is_some_and(|d| d.0 == 0xff)
            }
        };
        if inbound {
            Direction::Inbound
        } else {
            Direction::Forwarded
        }
    };
    let interface = if device.is_own() {
        device.index
    } else {
        NO_INTERFACE
    };
    // On no device: the one that it came from, or was to leave by, says whether it is left out.
    let deciding = if interface > LOOPBACK {
        interface
    } else if incoming != 0 {
        incoming
    } else {
        route_device
    };
    if has_flag(deciding, EXCLUDED) {
        return None;
    }
    Some(Where {
        incoming,
        interface: blur_wide(interface),
        direction: blur(direction as u32),
    })
}

/// First byte of an address.
#[derive(Clone, Copy)]
#[repr(C)]
struct DestinationStart(u8);
// SAFETY: one byte.
unsafe impl monitor_common::packet::Plain for DestinationStart {}

/// The row of the function that freed the packet, by binary search: the rows are sorted by address.
#[inline(always)]
fn place(location: u64) -> Option<&'static Place> {
    let mut found = 0;
    let mut step = monitor_common::drop::MAX_PLACES / 2;
    while step > 0 {
        if PLACE_TABLE.get(found + step)?.start <= location {
            found += step;
        }
        found = blur(found);
        step /= 2;
    }
    let place = PLACE_TABLE.get(found)?;
    (location >= place.start && location < place.end).then_some(place)
}

/// Rule P: where the reason alone cannot tell a drop before the verdict from a loss after it.
/// Gives the group and the class.
#[inline(always)]
fn by_place(
    freed: &Freed,
    info: ReasonInfo,
    at: &Where,
    reader: &HeadReader,
    headers: &Headers,
) -> (u8, u8) {
    let unspecified = info.unspecified != 0;
    let class = |place_class: u8| if unspecified { place_class } else { info.class };
    let place = place(freed.location);
    // 0. Some places say it whatever else holds: a clone for a packet socket looks like a packet that is
    // past tc egress, and a fragment that waits for others is on no device.
    if let Some(place) = place
        && (place.group == IGNORED || place.kind == PLACE_CERTAIN)
    {
        return (place.group, class(place.class));
    }
    // What follows a socket's own reasons needs no place: the rest is for the unclear ones.
    if info.group == AFTER {
        return (AFTER, info.class);
    }
    // 1. At a link header, and not on the device that it came in on: past tc egress.
    if freed.skb.is_at_link_header() && (at.incoming == 0 || at.incoming != at.interface) {
        return (AFTER, class(Class::Queue.code()));
    }
    // 2. Came in, and is on no device: past the socket hook.
    if at.incoming != 0 && at.interface == NO_INTERFACE {
        return (AFTER, class(Class::Socket.code()));
    }
    let Some(place) = place else {
        return (BEFORE, info.class);
    };
    // 3. The receive function of TCP: a socket in TIME_WAIT took it, another one had it already.
    if unspecified && place.kind == PLACE_TCP_RECEIVE {
        if globals::HAS_RECEIVING_SOCKET.load() != 0 {
            if freed.receiving_socket.is_null() {
                return (place.group, place.class);
            }
            return match probe::<u8>(freed.receiving_socket, &globals::SOCK_STATE) {
                Some(TCP_TIME_WAIT) => (ALLOWED, Class::Protocol.code()),
                _ => (AFTER, Class::Protocol.code()),
            };
        }
        let flags = reader.get::<TcpFlags>(headers.transport + TCP_FLAGS_OFFSET);
        return match flags {
            Some(flags) if flags.flags & FIN_SYN_RST_ACK == SYN => (AFTER, Class::Protocol.code()),
            _ => (ALLOWED, Class::Protocol.code()),
        };
    }
    // 4. The function says it.
    (place.group, class(place.class))
}

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

/// Stands for the traffic of a fragment without ports. The slot is never used.
const NOBODY: Watched = Watched {
    traffic: 0,
    flow: 0,
    ports: Ports {
        source: 0,
        destination: 0,
    },
};

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
    let protocol = skb.protocol();
    if protocol != ETHERTYPE_IPV4 && protocol != ETHERTYPE_IPV6 {
        return None;
    }
    let reader = skb.reader();
    let headers = if protocol == ETHERTYPE_IPV4 {
        parse_ipv4(&reader, 0)?
    } else {
        parse_ipv6(&reader, 0)?
    };
    let watched = if headers.later_fragment == 0 {
        watched(&reader, &headers)?
    } else {
        NOBODY
    };
    let at = locate(freed, &reader, &headers)?;

    let mut slot = watched.slot(&headers, at.direction);
    let (mut group, mut class) = (info.group, info.class);
    if group == BY_PLACE || group == AFTER {
        (group, class) = by_place(freed, info, &at, &reader, &headers);
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
        if group == SUBTRACT {
            counts.revoked[direction] += u64::from(packets);
        }
    });
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
