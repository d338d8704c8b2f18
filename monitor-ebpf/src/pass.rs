//! Packets that are past every verdict: outbound, forwarded and bridged where they leave the device. Inbound ones,
//! where a socket is about to get them, are in [`crate::deliver`].

use aya_ebpf::bindings::__sk_buff;
use monitor_common::attempt::hook;
use monitor_common::interface::{BRIDGE_PORT, MAX_TAGS, TAGGED};
use monitor_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_TAGS, Headers, Reader, TCP_FLAGS_OFFSET, TcpFlags,
    blur, parse_ipv4, parse_ipv6, segments,
};
use monitor_common::{Direction, Protocol, Verdict};

use crate::event::{Report, report};
use crate::glance::{self, Hook, Plain};
use crate::kernel::probe;
use crate::maps::{INTERFACE_KINDS, INTERFACES, fragment};
use crate::packet::{Direct, Loaded, Watched, watched};
use crate::{attempt, count, globals};

/// `ETH_HLEN`
pub(crate) const ETHERNET_HEADER: u32 = 14;
/// `VLAN_HLEN`
pub(crate) const TAG: u32 = 4;

/// Parses by `EtherType` (as it stands in `__sk_buff.protocol`, network byte order).
#[inline(always)]
pub(crate) fn parse<R: Reader>(reader: &R, protocol: u32, network: u32) -> Option<Headers> {
    if protocol == u32::from(u16::to_be(ETHERTYPE_IPV4)) {
        parse_ipv4(reader, network)
    } else if protocol == u32::from(u16::to_be(ETHERTYPE_IPV6)) {
        parse_ipv6(reader, network)
    } else {
        None
    }
}

/// Length of the TCP or UDP header, bytes.
#[inline(always)]
fn transport_header<R: Reader>(reader: &R, headers: &Headers) -> u32 {
    if headers.protocol == Protocol::Udp as u32 {
        return 8;
    }
    match reader.get::<TcpFlags>(headers.transport + TCP_FLAGS_OFFSET) {
        Some(flags) => u32::from(flags.data_offset >> 4) * 4,
        None => 20,
    }
}

/// Counts an allowed packet everywhere it is counted.
#[inline(always)]
pub(crate) fn pass<R: Reader>(
    skb: &__sk_buff,
    reader: &R,
    headers: &Headers,
    watched: &Watched,
    network: u32,
    direction: Direction,
) {
    let slot = blur(watched.slot(headers, direction as u32));
    let actual = skb.len.wrapping_sub(network);
    let length = if headers.length == 0 {
        actual
    } else {
        headers.length
    };
    let mut packets = skb.gso_segs;
    if packets == 0 {
        packets = 1;
        if skb.gso_size != 0 {
            let header = headers.transport - network + transport_header(reader, headers);
            packets = segments(0, skb.gso_size, length, header);
        }
    }
    count::passed(skb, slot, direction, watched.ports_key(), packets, length);
    if globals::LOG_ALLOWED.load() != 0 {
        report(
            reader,
            headers,
            watched,
            &Report {
                location: 0,
                interface: skb.ifindex,
                reason: 0,
                length,
                segments: packets,
                slot,
                verdict: Verdict::Allowed.code(),
                class: 0,
                network,
            },
        );
    }
}

/// Whether there is an interface of a kind ([`monitor_common::interface::InterfaceInfo::kinds`]).
#[inline(always)]
pub(crate) fn is_any(kind: u32) -> bool {
    INTERFACE_KINDS.load() & kind != 0
}

/// Whether a port of a bridge sends out what came in on a port of the same bridge. What is routed or
/// made here was counted at the bridge's own device.
#[inline(always)]
fn is_bridged(skb: &__sk_buff) -> Option<bool> {
    if !is_any(BRIDGE_PORT) {
        return None;
    }
    // Copied: a map key must not lie in the context.
    let (index, incoming) = (skb.ifindex, skb.ingress_ifindex);
    // SAFETY: entries are small, written whole by the daemon, and never freed while programs run.
    let port = unsafe { INTERFACES.get(index) }?;
    if port.flags & BRIDGE_PORT == 0 {
        return None;
    }
    // SAFETY: as above.
    let from = unsafe { INTERFACES.get(incoming) };
    Some(matches!(from, Some(from) if from.flags & BRIDGE_PORT != 0 && from.master == port.master))
}

/// Where a packet that leaves comes from, unless a bridge is involved.
#[inline(always)]
fn way(skb: &__sk_buff) -> Direction {
    let mut context = core::ptr::from_ref(skb);
    // SAFETY: both pointers are good. The one goes by way of the stack, where the verifier follows it and the compiler
    // does not: asked for in several places, it would keep the field's address, through which no field may be read.
    let incoming = unsafe { (*(&raw mut context).read_volatile()).ingress_ifindex };
    if incoming == 0 {
        Direction::Outbound
    } else {
        Direction::Forwarded
    }
}

/// Nothing of the packet is counted or noted: it is nobody's, or could not be read.
const UNSEEN: u32 = u32::MAX;

/// Gives the task that is left, or [`UNSEEN`].
#[inline(always)]
fn egress_with<R: Reader>(skb: &__sk_buff, reader: &R, protocol: u32, network: u32) -> u32 {
    let mut direction = way(skb);
    let Some(headers) = parse(reader, protocol, network) else {
        return match attempt::task_of_other(reader, protocol, network) {
            attempt::NOTHING => UNSEEN,
            task => attempt::leave(hook::EGRESS, task, direction as u32, network),
        };
    };
    if headers.later_fragment != 0 {
        match is_bridged(skb) {
            Some(false) => return UNSEEN,
            Some(true) => direction = Direction::Forwarded,
            None => {}
        }
        count::fragment(fragment::PASSED, direction as u32);
        return UNSEEN;
    }
    let watched = watched(reader, &headers);
    // Ports are translated on the way: the number of the SYN says whose answer it is.
    let flags = attempt::may_belong(reader, &headers);
    let task = attempt::task(&headers, &watched, flags, network);
    if !watched.is_known && task == attempt::NOTHING {
        return UNSEEN;
    }
    match is_bridged(skb) {
        Some(false) => return UNSEEN,
        Some(true) => direction = Direction::Forwarded,
        None => {}
    }
    if watched.is_known {
        pass(skb, reader, &headers, &watched, network, direction);
    }
    if task == attempt::NOTHING {
        return task;
    }
    attempt::leave(hook::EGRESS, task, blur(direction as u32), network)
}

/// A packet that leaves.
struct Leaving<'a>(&'a __sk_buff);

impl Hook for Leaving<'_> {
    #[inline(always)]
    fn count(&self, plain: Plain) -> bool {
        !is_any(BRIDGE_PORT) && glance::pass(self.0, plain, way(self.0))
    }
}

/// Gives the task that is left.
#[inline(always)]
fn leave(skb: *mut __sk_buff, protocol: u32, network: u32) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let context = unsafe { &*skb };
    // A tag that hardware will insert: the packet belongs to the VLAN interface, where it was counted.
    if context.vlan_present != 0 {
        return attempt::NOTHING;
    }
    let is_done = glance::look(context, protocol, network, &Leaving(context));
    if is_done {
        return attempt::NOTHING;
    }
    let direct = Direct::new(skb);
    let mut task = egress_with(context, &direct, protocol, network);
    if task == UNSEEN && direct.fell_short(context) {
        task = egress_with(context, &Loaded(skb), protocol, network);
    }
    if task == UNSEEN {
        attempt::NOTHING
    } else {
        task
    }
}

/// tc egress of a device with an Ethernet header.
#[inline(always)]
pub(crate) fn leave_ethernet(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*skb).protocol };
    leave(skb, protocol, ETHERNET_HEADER)
}

/// tc egress of any other device: the length of the link header is read from the packet itself.
#[inline(always)]
pub(crate) fn leave_other(skb: *mut __sk_buff) -> u32 {
    let Some(network) = link_header(skb) else {
        return attempt::NOTHING;
    };
    match ether_type(skb, network) {
        Some(protocol) => leave(skb, protocol, network),
        None => attempt::NOTHING,
    }
}

/// How many tags VLANs write into the frames of the device that the packet is at.
#[inline(always)]
pub(crate) fn tags(skb: &__sk_buff) -> u32 {
    if !is_any(TAGGED) {
        return 0;
    }
    // Copied: a map key must not lie in the context.
    let index = skb.ifindex;
    // SAFETY: entries are small, written whole by the daemon, and never freed while programs run.
    unsafe { INTERFACES.get(index) }.map_or(0, |interface| interface.tags.min(MAX_TAGS))
}

/// Whether an `EtherType` in network byte order is that of a tag.
#[inline(always)]
fn is_tag(protocol: u32) -> bool {
    ETHERTYPE_TAGS
        .map(|tag| u32::from(tag.to_be()))
        .contains(&protocol)
}

/// The `EtherType` of what a leaving packet carries, in network byte order.
///
/// A VLAN's device that writes its tag into the frame leaves the tag's in `__sk_buff.protocol`. Such a
/// frame crosses the devices below as well, and is longer than theirs: `None` there.
#[inline(always)]
fn ether_type(skb: *mut __sk_buff, network: u32) -> Option<u32> {
    // SAFETY: the context is valid while the program runs.
    let context = unsafe { &*skb };
    if is_tag(context.protocol) && network != ETHERNET_HEADER + tags(context) * TAG {
        return None;
    }
    carried(skb, network)
}

/// The `EtherType` of what a packet with this place of its IP header carries, in network byte order: what a
/// tag stands before is told right in front of that header.
#[inline(always)]
pub(crate) fn carried(skb: *mut __sk_buff, network: u32) -> Option<u32> {
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*skb).protocol };
    if !is_tag(protocol) {
        return Some(protocol);
    }
    let behind: u16 = Loaded(skb).get(network.checked_sub(2)?)?;
    Some(u32::from(behind))
}

/// How far the IP header is behind `data`, bytes.
#[inline(always)]
fn link_header(skb: *const __sk_buff) -> Option<u32> {
    // The context of tc programs is the kernel's `struct sk_buff` itself.
    let base = skb.cast::<u8>();
    let head: u64 = probe(base, &globals::SK_BUFF_HEAD)?;
    let data: u64 = probe(base, &globals::SK_BUFF_DATA)?;
    let network: u16 = probe(base, &globals::SK_BUFF_NETWORK_HEADER)?;
    let length = u64::from(network).wrapping_sub(data.wrapping_sub(head));
    // Longer than any link header there is: not one.
    (length <= 64).then_some(length as u32)
}
