//! The kernel programs' packet parser against `etherparse`, a decoder that shares nothing with it.
//!
//! Both read the same bytes; what they find must be the same, or differ for one of the [`Reason`]s, each of
//! which says what it is about the packet that they take differently. So a reason covers packets by what is in
//! them, and no packet is let off by name.

mod glance;
mod reason;
mod theirs;

use std::collections::BTreeMap;

use monitor_common::attempt::{Said, is_icmp};
use monitor_common::packet::{
    Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_TAGS, Headers, Ports, Reader, Start4, Start6,
    parse_ipv4, parse_ipv6,
};
use monitor_common::{Family, Protocol};

pub use reason::Reason;

/// Length of an Ethernet header, bytes.
const ETHERNET: usize = 14;
/// How many tags are looked behind.
const TAGS: usize = 8;

/// What a decoder finds in an IP packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// Nothing that is counted: neither TCP nor UDP, or not whole.
    Nothing,
    /// A fragment that carries no ports.
    LaterFragment(Protocol),
    /// A packet with ports.
    Packet {
        /// Its transport protocol.
        protocol: Protocol,
        /// Bytes from the IP header to the transport header.
        transport: usize,
        /// Source and destination port.
        ports: (u16, u16),
        /// Length by the IP header, bytes; 0 where it does not say.
        length: usize,
    },
}

/// What a decoder finds in a packet that may belong to an attempt: sequence number, alias, kind, kind of error,
/// whether the target sends it; addresses and ports.
type Attempt = ((u32, u32, u8, u8, bool), ([u8; 16], [u8; 16]), (u16, u16));

/// How often each reason explained a difference.
pub type Reasons = BTreeMap<Reason, usize>;

/// Compares both on an IP packet (even first byte) or on an Ethernet frame (odd).
///
/// # Panics
///
/// Where they differ without a reason.
pub fn packet(data: &[u8]) {
    if let Some((mode, bytes)) = data.split_first() {
        if mode & 1 == 0 {
            compare_ip(bytes, &mut Reasons::new());
        } else {
            compare_frame(bytes, &mut Reasons::new());
        }
    }
}

/// Compares both on an Ethernet frame: first where the IP packet begins, then what is in it.
///
/// # Panics
///
/// Where they differ without a reason.
pub fn compare_frame(frame: &[u8], reasons: &mut Reasons) {
    let link = link(frame);
    let by_them = theirs::link(frame);
    assert_eq!(link, by_them, "where IP begins in {frame:02x?}");
    if let Some((ethertype, network)) = link {
        compare(frame, network, ethertype == ETHERTYPE_IPV6, reasons);
    }
}

/// Compares both on an IP packet.
///
/// # Panics
///
/// Where they differ without a reason.
pub fn compare_ip(ip: &[u8], reasons: &mut Reasons) {
    if let Some(first) = ip.first() {
        compare(ip, 0, first >> 4 == 6, reasons);
    }
}

fn compare(frame: &[u8], network: usize, is_ipv6: bool, reasons: &mut Reasons) {
    let ip = &frame[network..];
    let at = u32::try_from(network).unwrap_or(u32::MAX);
    let (ours, headers) = ours(frame, at, is_ipv6);
    let their = theirs::ip(ip, is_ipv6);
    if ours != their {
        note(
            reasons,
            reason::of_headers(ip, is_ipv6, ours, their),
            || format!("headers: ours {ours:?}, theirs {their:?} of {ip:02x?}"),
        );
        return;
    }
    let mut said = Said::NOTHING;
    let reader = Bytes(frame);
    let (our, their) = match (headers, ours) {
        (
            Some(h),
            Found::Packet {
                protocol: Protocol::Tcp,
                ..
            },
        ) => (
            said.segment(&reader, is_ipv6, h.transport, at, h.length),
            theirs::segment(ip, is_ipv6),
        ),
        (None, _) if is_icmp(direct_protocol(ip, is_ipv6)) => {
            (said.quote(&reader, is_ipv6, at), theirs::quote(ip, is_ipv6))
        }
        _ => return,
    };
    let our = our.map(|()| attempt(&said));
    let mut at_once = Said::NOTHING;
    let plain = if is_ipv6 {
        let start = reader.get::<Start6>(at);
        start.and_then(|start| at_once.plain_ipv6(&start))
    } else {
        let start = reader.get::<Start4>(at);
        start.and_then(|start| at_once.plain_ipv4(&start))
    };
    if plain.is_some() {
        assert_eq!(Some(attempt(&at_once)), our, "read at once: {ip:02x?}");
    }
    if our != their {
        note(
            reasons,
            reason::of_attempt(ip, is_ipv6, our.is_some()),
            || format!("attempt: ours {our:?}, theirs {their:?} of {ip:02x?}"),
        );
    }
}

/// Takes note of a reason, which there must be.
fn note(reasons: &mut Reasons, reason: Option<Reason>, what: impl FnOnce() -> String) {
    match reason {
        Some(reason) => *reasons.entry(reason).or_default() += 1,
        None => panic!("no reason for a difference of {}", what()),
    }
}

/// The number behind the IP header itself, which is where the kernel programs look for ICMP.
fn direct_protocol(ip: &[u8], is_ipv6: bool) -> u8 {
    let at = if is_ipv6 { 6 } else { 9 };
    ip.get(at).copied().unwrap_or(0)
}

/// What the kernel programs find.
fn ours(frame: &[u8], network: u32, is_ipv6: bool) -> (Found, Option<Headers>) {
    let reader = Bytes(frame);
    let headers = if is_ipv6 {
        parse_ipv6(&reader, network)
    } else {
        parse_ipv4(&reader, network)
    };
    let family = if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    glance::agrees(frame, network, family, headers.as_ref());
    let Some(headers) = headers else {
        return (Found::Nothing, None);
    };
    assert_eq!(headers.family, u32::from(family.code()));
    let protocol = u8::try_from(headers.protocol)
        .ok()
        .and_then(Protocol::from_code)
        .expect("a protocol");
    if headers.later_fragment != 0 {
        return (Found::LaterFragment(protocol), Some(headers));
    }
    let Some(ports) = reader.get::<Ports>(headers.transport) else {
        return (Found::Nothing, None);
    };
    let found = Found::Packet {
        protocol,
        transport: (headers.transport - network) as usize,
        ports: numbers(ports),
        length: headers.length as usize,
    };
    (found, Some(headers))
}

fn numbers(ports: Ports) -> (u16, u16) {
    (u16::from_be(ports.source), u16::from_be(ports.destination))
}

fn attempt(said: &Said) -> Attempt {
    (
        (
            said.sequence,
            said.alias,
            said.kind,
            said.error_kind,
            said.error_kind != 0 && said.from_target != 0,
        ),
        (said.source, said.destination),
        numbers(said.ports),
    )
}

/// `EtherType` and place of the IP packet in a frame: as the hooks take it, behind the tags, the type standing
/// right in front of it.
fn link(frame: &[u8]) -> Option<(u16, usize)> {
    let ethertype = |before: usize| {
        let bytes = frame.get(before.checked_sub(2)?..before)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    let mut network = ETHERNET;
    for _ in 0..=TAGS {
        match ethertype(network)? {
            tag if ETHERTYPE_TAGS.contains(&tag) => network += 4,
            ip @ (ETHERTYPE_IPV4 | ETHERTYPE_IPV6) => return Some((ip, network)),
            _ => return None,
        }
    }
    None
}
