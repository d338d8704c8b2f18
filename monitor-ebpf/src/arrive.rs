//! Where packets arrive, and on the loopback device: nothing is decided there. What is looked for are
//! fragments, the packets of attempts, and signs of life.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use monitor_common::Direction;
use monitor_common::attempt::{hook, mapped};
use monitor_common::packet::{Address4, Address6, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Reader};

use crate::maps::{LOOK_OUT, SILENT_HOSTS, fragment};
use crate::packet::Direct;
use crate::pass::{ETHERNET_HEADER, TAG, parse, tags};
use crate::{attempt, count, local};

/// `PACKET_OTHERHOST`: addressed to somebody else, and seen on a promiscuous port.
const PACKET_OTHERHOST: u32 = 3;

/// tc egress of the loopback device: what a rule of the output hook answers to a SYN of this host, which is
/// dropped behind it. Nothing is counted here. Gives the task that is left.
#[inline(always)]
pub(crate) fn answer(skb: *mut __sk_buff) -> u32 {
    /// RST
    const RESET: u32 = 0x04;
    // SAFETY: the context is valid while the program runs.
    let context = unsafe { &*skb };
    let reader = Direct::new(skb);
    let task = match parse(&reader, context.protocol, ETHERNET_HEADER) {
        None => attempt::task_of_other(&reader, context.protocol, ETHERNET_HEADER),
        Some(headers)
            if headers.later_fragment == 0
                && attempt::may_belong(&reader, &headers) & RESET != 0 =>
        {
            attempt::SEGMENT
        }
        Some(_) => attempt::NOTHING,
    };
    if task == attempt::NOTHING {
        return task;
    }
    attempt::leave(
        hook::LOOPBACK,
        task,
        Direction::Outbound as u32,
        ETHERNET_HEADER,
    )
}

/// Notes that a host is alive which somebody waits for: any packet of it will do, an answer to ARP too.
#[inline(always)]
fn look_out<R: Reader>(reader: &R, protocol: u32, network: u32) -> Option<()> {
    /// `ETH_P_ARP`
    const ARP: u16 = 0x0806;
    /// From the beginning of an ARP packet to its sender's IPv4 address (RFC 826).
    const SENDER: u32 = 14;
    if LOOK_OUT.load() == 0 {
        return None;
    }
    let key = if protocol == u32::from(u16::to_be(ETHERTYPE_IPV6)) {
        reader.get::<Address6>(network + 8)?.bytes()
    } else if protocol == u32::from(u16::to_be(ETHERTYPE_IPV4)) {
        mapped(reader.get::<Address4>(network + 12)?)
    } else if protocol == u32::from(u16::to_be(ARP)) {
        mapped(reader.get::<Address4>(network + SENDER)?)
    } else {
        return None;
    };
    let last = SILENT_HOSTS.get_ptr_mut(key)?;
    // SAFETY: an aligned 64-bit value, written whole.
    unsafe { last.write_volatile(bpf_ktime_get_ns()) };
    Some(())
}

/// tc ingress: counts fragments for this host that carry no ports. The socket hook sees the datagram
/// only when it is whole again. Gives the task that is left.
#[inline(always)]
fn arrive(skb: *mut __sk_buff, network: u32) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let context = unsafe { &*skb };
    if context.vlan_present != 0 {
        return attempt::NOTHING;
    }
    let reader = Direct::new(skb);
    let _: Option<()> = look_out(&reader, context.protocol, network);
    let direction = Direction::Inbound as u32;
    let Some(headers) = parse(&reader, context.protocol, network) else {
        return match attempt::task_of_other(&reader, context.protocol, network) {
            attempt::NOTHING => attempt::NOTHING,
            task => attempt::leave(hook::INGRESS, task, direction, network),
        };
    };
    if headers.later_fragment != 0 {
        if local::is_destination(&reader, headers.family, network) {
            count::fragment(fragment::PASSED, direction);
        }
        return attempt::NOTHING;
    }
    // Before a rule translates its port. A frame to somebody else goes nowhere from here.
    if attempt::may_belong(&reader, &headers) == 0 || context.pkt_type == PACKET_OTHERHOST {
        return attempt::NOTHING;
    }
    attempt::leave(hook::INGRESS, attempt::SEGMENT, direction, network)
}

/// tc ingress of a device with an Ethernet header.
#[inline(always)]
pub(crate) fn arrive_ethernet(skb: *mut __sk_buff) -> u32 {
    arrive(skb, ETHERNET_HEADER)
}

/// tc ingress of any other device: `data` is at the IP header, nothing was put in front of it. But a
/// VLAN's device that writes its tag into the frame puts it back there, and tells what is behind it.
#[inline(always)]
pub(crate) fn arrive_other(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let network = match tags(unsafe { &*skb }) {
        0 => 0,
        tags => ETHERNET_HEADER + tags * TAG,
    };
    arrive(skb, network)
}
