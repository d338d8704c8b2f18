//! What a glance tells of a packet, before the parser is asked.
//!
//! Nearly every packet has neither IP options nor more than two extension headers, and opens or ends no connection.
//! Without any it is read with one check of its end and three loads. The parser, which must take everything, sends most that it finds
//! through memory, so that the verifier can follow it ([`monitor_common::packet::blur`]).

use aya_ebpf::bindings::__sk_buff;
use monitor_common::counter::Slot;
use monitor_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Glance, glance_ipv4, glance_ipv6, glance_ipv6_extended,
};
use monitor_common::traffic::UNWATCHED;
use monitor_common::{Direction, Family, Flow, Protocol};

use crate::maps::{PORT_TABLE, TEREDO_TRAFFIC};
use crate::packet::{Direct, SYN_OR_RST, ports_key};
use crate::{count, globals};

/// A packet that is watched, and only to be counted.
#[derive(Clone, Copy)]
pub(crate) struct Plain {
    pub(crate) is_tcp: bool,
    family: Family,
    /// Index of the traffic + 1.
    traffic: u32,
    flow: Flow,
    ports: u32,
    length: u32,
}

/// Who looks. A trait and no closure, which the compiler may leave a function of its own: those do not go with tail
/// calls on each kernel.
pub(crate) trait Hook {
    /// Counts a packet; false, and nothing is counted, where that takes a closer look.
    fn count(&self, plain: Plain) -> bool;
}

/// Looks at the packet whose IP header is at `network`, and has the hook count it where it is plain: once for each
/// family, and not once for both, which would take all that was read through memory. `ethertype` is in network byte
/// order. True where nothing is left to be done: it was counted, or is nobody's, with no port that is watched, and
/// no segment of an attempt. All else is for the parser to say.
#[inline(always)]
pub(crate) fn look(skb: &__sk_buff, ethertype: u32, network: u32, hook: &impl Hook) -> bool {
    let reader = Direct::new(skb);
    if ethertype == u32::from(u16::to_be(ETHERTYPE_IPV4)) {
        match glance_ipv4(&reader, network) {
            Some(glance) => sort(&glance, Family::Ipv4, hook),
            None => false,
        }
    } else if ethertype == u32::from(u16::to_be(ETHERTYPE_IPV6)) {
        match glance_ipv6(&reader, network) {
            Some(glance) => sort(&glance, Family::Ipv6, hook),
            None => match glance_ipv6_extended(&reader, network) {
                Some(glance) => sort(&glance, Family::Ipv6, hook),
                None => false,
            },
        }
    } else {
        false
    }
}

#[inline(always)]
fn sort(glance: &Glance, family: Family, hook: &impl Hook) -> bool {
    if glance.flags & SYN_OR_RST != 0 {
        return false;
    }
    let table = PORT_TABLE.of(glance.is_tcp);
    let request = table.traffic(glance.ports.destination);
    let reply = table.traffic(glance.ports.source);
    if request | reply == UNWATCHED {
        return true;
    }
    let (traffic, flow) = if request == UNWATCHED {
        (reply, Flow::Reply)
    } else {
        (request, Flow::Request)
    };
    // Logs want more than counts.
    if globals::LOG_ALLOWED.load() != 0
        || globals::DIAGNOSTICS.load() != 0
        || glance.length() == 0
        // A packet of Teredo may be part of an attempt.
        || !glance.is_tcp && TEREDO_TRAFFIC.load() == u32::from(traffic)
    {
        return false;
    }
    hook.count(Plain {
        is_tcp: glance.is_tcp,
        family,
        traffic: u32::from(traffic),
        flow,
        ports: ports_key(glance.ports),
        length: glance.length(),
    })
}

/// Counts a packet that is plain. False, and nothing is counted, where it stands for a number of packets that
/// only its headers tell.
#[inline(always)]
pub(crate) fn pass(skb: &__sk_buff, plain: Plain, direction: Direction) -> bool {
    let mut packets = skb.gso_segs;
    if packets == 0 {
        if skb.gso_size != 0 {
            return false;
        }
        packets = 1;
    }
    let protocol = if plain.is_tcp {
        Protocol::Tcp
    } else {
        Protocol::Udp
    };
    let slot = Slot::from_codes(
        plain.traffic - 1,
        protocol as u32,
        plain.family as u32,
        direction as u32,
        plain.flow as u32,
    );
    count::passed(skb, slot, direction, plain.ports, packets, plain.length);
    true
}
