//! Whose packet it was, where it was, and which way it went.

use monitor_common::drop::PLACE_READER;
use monitor_common::interface::{BRIDGE_PORT, EXCLUDED, NO_INTERFACE};
use monitor_common::packet::{Headers, Reader, blur, blur_wide};
use monitor_common::{Direction, Family};

use super::Parties;
use super::place::Found;
use crate::kernel::Memory;
use crate::kernel::device::{self, Kind, Looked};
use crate::kernel::skb::{HeadReader, Route, Skb};
use crate::local;
use crate::maps::INTERFACES;
use crate::pass::is_any;

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

/// Where the packet was when it was freed.
pub(super) struct Where {
    /// 0 for one made here.
    pub(super) incoming: u32,
    /// Index of the device that it was on, or [`NO_INTERFACE`].
    pub(super) interface: u32,
    /// Code of the [`Direction`].
    pub(super) direction: u32,
}

/// Whether an interface has a flag.
#[inline(always)]
fn has_flag(index: u32, flag: u32) -> bool {
    // Most hosts have no such interface, which one load says.
    if !is_any(flag) {
        return false;
    }
    // SAFETY: entries are small, written whole by the daemon, and never freed while programs run.
    match unsafe { INTERFACES.get(index) } {
        Some(interface) => interface.flags & flag != 0,
        None => false,
    }
}

/// Whose packet it was, and which way it went; `None` for another namespace's, for loopback, and for
/// frames to somebody else that a promiscuous port picked up.
#[inline(always)]
pub(super) fn locate(
    parties: &Parties,
    place: &Found,
    reader: &HeadReader,
    headers: &Headers,
) -> Option<Where> {
    let (skb, memory) = (parties.skb, reader.memory);
    let incoming = skb.incoming_interface();
    if incoming == LOOPBACK {
        return None;
    }
    if skb.packet_type() == PACKET_LOOPBACK {
        return None;
    }
    // A copy for a raw socket: the packet itself goes its own way.
    if incoming != 0 {
        let socket = parties.pointers.socket();
        if socket.is_raw(memory) && socket.is_own(memory) {
            return None;
        }
    }
    let device = parties.pointers.device(memory);
    let route = skb.route(memory);

    let mut route_device = 0;
    if !is_own(
        parties,
        memory,
        place,
        device,
        route,
        incoming,
        &mut route_device,
    ) {
        return None;
    }
    // A local input route leads to the loopback device, so it says nothing of a packet that came in.
    if incoming == 0 && route_device == LOOPBACK {
        return None;
    }

    let direction = direction(skb, device, route, incoming, reader, headers)?;
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

/// Whether it was a packet of the daemon's network namespace. Where a device says so, its index is
/// left in `route_device`.
#[inline(always)]
fn is_own(
    parties: &Parties,
    memory: Memory,
    place: &Found,
    device: Looked,
    route: Option<Route>,
    incoming: u32,
    route_device: &mut u32,
) -> bool {
    // The namespace, by the most reliable witness there is: `sk` may be the sender's, in another
    // namespace, and `dev` may be no device.
    if parties.receiving.is_there() {
        parties.receiving.is_own()
    } else if let Some(route) = route {
        let towards = route.device(memory);
        // Only of a packet that was made here its index says something.
        if incoming != 0 {
            return device.goes_with(memory, towards);
        }
        let looked = device::look(memory, towards);
        *route_device = looked.index;
        looked.is_own()
    } else {
        match device.kind {
            Kind::Own => {
                *route_device = device.index;
                true
            }
            Kind::Foreign => false,
            Kind::Other | Kind::Nothing => {
                let socket = parties.pointers.socket();
                if socket.is_there() {
                    !(device.kind == Kind::Other && incoming == 0) && socket.is_own(memory)
                } else {
                    // A datagram out of a socket's queue has nothing left but its reader.
                    incoming != 0 && place.kind == PLACE_READER && memory.is_own_task()
                }
            }
        }
    }
}

/// Which way it went; `None` for a frame to somebody else that no bridge forwards.
#[inline(always)]
fn direction(
    skb: Skb,
    device: Looked,
    route: Option<Route>,
    incoming: u32,
    reader: &HeadReader,
    headers: &Headers,
) -> Option<Direction> {
    if incoming == 0 {
        return Some(Direction::Outbound);
    }
    if skb.packet_type() == PACKET_OTHERHOST {
        let on_port = device.is_own() && has_flag(device.index, BRIDGE_PORT);
        return (on_port || has_flag(incoming, BRIDGE_PORT)).then_some(Direction::Forwarded);
    }
    let routed_here = match route {
        None => false,
        Some(route) if headers.family == Family::Ipv4 as u32 => matches!(
            route.ipv4_type(reader.memory),
            Some(RTN_LOCAL | RTN_BROADCAST | RTN_MULTICAST)
        ),
        Some(route) => {
            route.ipv6_flags(reader.memory).unwrap_or(0) & RTF_LOCAL != 0
                // The first byte of the destination.
                || reader.get::<u8>(24) == Some(0xff)
        }
    };
    // Any other route says nothing: it may refuse, or be the way back to the sender, which a rule that
    // rejects in prerouting looks up (`nf_reject_fill_skb_dst`). The address says whose packet it is.
    let inbound = routed_here || local::is_destination(reader, headers.family, 0);
    Some(if inbound {
        Direction::Inbound
    } else {
        Direction::Forwarded
    })
}
