//! The matches and targets of xtables that matter here, in tables of either kind.
//!
//! `include/uapi/linux/netfilter/xt_tcpudp.h` and `xt_multiport.h`; numbers are in the host's order.

use super::rules::{Expression, Verdict};
use crate::netlink::u16_at;

/// `XT_MULTI_PORTS`.
const MULTI_PORTS: usize = 15;
/// `ports` in `struct xt_multiport` and `struct xt_multiport_v1`.
const MULTI_AT: usize = 2;
/// `pflags` in `struct xt_multiport_v1`.
const MULTI_FLAGS: usize = MULTI_AT + 2 * MULTI_PORTS;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a match says of ports; `None` for one that says nothing.
pub(super) fn decode_match(name: &str, revision: u32, info: &[u8]) -> Option<Expression> {
    match name {
        "tcp" => ranges(TCP, info),
        "udp" => ranges(UDP, info),
        "multiport" => multiport(revision, info),
        _ => None,
    }
}

/// `struct xt_tcp` and `struct xt_udp` begin alike: the source ports, then the destination ports.
fn ranges(protocol: u8, info: &[u8]) -> Option<Expression> {
    let range = |at| Some((u16_at(info, at)?, u16_at(info, at + 2)?));
    Some(Expression::Ports {
        protocol: Some(protocol),
        ranges: vec![range(0)?, range(4)?],
    })
}

fn multiport(revision: u32, info: &[u8]) -> Option<Expression> {
    let count = usize::from(*info.get(1)?).min(MULTI_PORTS);
    let port = |index: usize| u16_at(info, MULTI_AT + 2 * index);
    // With its flag set, a port begins a range, which the next one ends.
    let begins_range =
        |index: usize| revision > 0 && info.get(MULTI_FLAGS + index).is_some_and(|flag| *flag != 0);
    let mut ranges = Vec::new();
    let mut index = 0;
    while index < count {
        let from = port(index)?;
        let mut to = from;
        if begins_range(index) && index + 1 < count {
            index += 1;
            to = port(index)?;
        }
        ranges.push((from, to));
        index += 1;
    }
    let protocol = None;
    Some(Expression::Ports { protocol, ranges })
}

/// What a target does; the standard one, whose verdict is a number, is not read here.
pub(super) fn decode_target(name: &str) -> Expression {
    match name {
        "ACCEPT" => Expression::Verdict(Verdict::Accept),
        "DROP" => Expression::Verdict(Verdict::Drop),
        "NFQUEUE" | "QUEUE" => Expression::Verdict(Verdict::Queue),
        _ => Expression::Action(name.to_ascii_lowercase()),
    }
}
