//! What `etherparse` finds, in our words.

use etherparse::{
    EtherType, Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IpAuthHeaderSlice, IpNumber,
    Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice, LaxIpv4Slice, LaxIpv6Slice, LaxSlicedPacket,
    TcpHeaderSlice, icmpv4, icmpv6,
};
use monitor_common::Protocol;
use monitor_common::attempt::{ERROR_HOST, ERROR_OTHER, Kind};

use super::{Attempt, Found};

/// `EtherType` and place of the IP packet.
pub(super) fn link(frame: &[u8]) -> Option<(u16, usize)> {
    // It takes at most so many tags in one go, so it is asked again for those behind.
    let mut packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let mut ethertype = packet.link.as_ref()?.ether_payload()?.ether_type;
    let mut at = 14;
    for _ in 0..=super::TAGS {
        match ethertype {
            EtherType::IPV4 => return Some((0x0800, at)),
            EtherType::IPV6 => return Some((0x86dd, at)),
            EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING => {
                packet = LaxSlicedPacket::from_ether_type(ethertype, frame.get(at..)?);
                ethertype = packet.link_exts.first()?.payload()?.ether_type;
                at += 4;
            }
            _ => return None,
        }
    }
    None
}

/// An IP packet, without what is behind its own length.
struct Ip<'a> {
    number: IpNumber,
    later_fragment: bool,
    /// By the header; 0 where it does not say.
    length: usize,
    payload: &'a [u8],
    source: [u8; 16],
    destination: [u8; 16],
}

fn decode(ip: &[u8], is_ipv6: bool) -> Option<Ip<'_>> {
    if is_ipv6 {
        return decode_ipv6(ip);
    }
    let (slice, problem) = LaxIpv4Slice::from_slice(ip).ok()?;
    let header = slice.header();
    let payload = slice.payload();
    problem.is_none().then(|| Ip {
        number: payload.ip_number,
        later_fragment: header.fragments_offset().value() != 0,
        length: header.total_len().into(),
        payload: payload.payload,
        source: header.source_addr().to_ipv6_mapped().octets(),
        destination: header.destination_addr().to_ipv6_mapped().octets(),
    })
}

fn decode_ipv6(ip: &[u8]) -> Option<Ip<'_>> {
    let (slice, problem) = LaxIpv6Slice::from_slice(ip).ok()?;
    let header = slice.header();
    let payload = slice.payload();
    let mut found = Ip {
        number: payload.ip_number,
        later_fragment: false,
        length: match header.payload_length() {
            0 => 0,
            length => usize::from(length) + 40,
        },
        payload: payload.payload,
        source: header.source(),
        destination: header.destination(),
    };
    // What follows in a later fragment is no header: the first such ends the walk. (Their own iterator reads beyond
    // the end where the last header that is whole names another one that is not.)
    let mut number = header.next_header();
    let mut rest = slice.extensions().slice();
    while !rest.is_empty() {
        let length = match number {
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let fragment = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                number = fragment.next_header();
                if fragment.fragment_offset().value() != 0 {
                    found.number = number;
                    found.later_fragment = true;
                    return Some(found);
                }
                fragment.slice().len()
            }
            IpNumber::AUTHENTICATION_HEADER => {
                let authentication = IpAuthHeaderSlice::from_slice(rest).ok()?;
                number = authentication.next_header();
                authentication.slice().len()
            }
            _ => {
                let other = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                number = other.next_header();
                other.slice().len()
            }
        };
        rest = rest.get(length..)?;
    }
    problem.is_none().then_some(found)
}

/// What is in an IP packet.
pub(super) fn ip(ip: &[u8], is_ipv6: bool) -> Found {
    let Some(decoded) = decode(ip, is_ipv6) else {
        return Found::Nothing;
    };
    let protocol = match decoded.number {
        IpNumber::TCP => Protocol::Tcp,
        IpNumber::UDP => Protocol::Udp,
        _ => return Found::Nothing,
    };
    if decoded.later_fragment {
        return Found::LaterFragment(protocol);
    }
    let &[a, b, c, d, ..] = decoded.payload else {
        return Found::Nothing;
    };
    Found::Packet {
        protocol,
        transport: decoded.payload.as_ptr().addr() - ip.as_ptr().addr(),
        ports: (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        length: decoded.length,
    }
}

/// What a TCP segment is to an attempt.
pub(super) fn segment(ip: &[u8], is_ipv6: bool) -> Option<Attempt> {
    let decoded = decode(ip, is_ipv6)?;
    let tcp = TcpHeaderSlice::from_slice(decoded.payload).ok()?;
    let kind = match (tcp.syn(), tcp.ack(), tcp.rst(), tcp.fin()) {
        (true, false, false, false) => Kind::Syn,
        (true, true, false, false) => Kind::SynAck,
        (false, true, true, false) => Kind::Reset,
        _ => return None,
    };
    let (sequence, alias) = if kind == Kind::Syn {
        let before = decoded.payload.as_ptr().addr() - ip.as_ptr().addr();
        let headers = before + tcp.slice().len();
        let data = match decoded.length {
            0 => 0,
            length => length.checked_sub(headers)?,
        };
        let sequence = tcp.sequence_number();
        (sequence, sequence.wrapping_add(u32::try_from(data).ok()?))
    } else {
        let sequence = tcp.acknowledgment_number().wrapping_sub(1);
        (sequence, sequence)
    };
    Some((
        (sequence, alias, kind.code(), 0, false),
        (decoded.source, decoded.destination),
        (tcp.source_port(), tcp.destination_port()),
    ))
}

/// What kind of error an ICMP message is, and the packet that it quotes.
fn error(payload: &[u8], is_ipv6: bool) -> Option<(u8, &[u8])> {
    if is_ipv6 {
        let icmp = Icmpv6Slice::from_slice(payload).ok()?;
        let kind = match icmp.icmp_type() {
            Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address) => ERROR_HOST,
            // The last one: a code that it does not know.
            Icmpv6Type::DestinationUnreachable(_)
            | Icmpv6Type::TimeExceeded(_)
            | Icmpv6Type::ParameterProblem(_)
            | Icmpv6Type::Unknown {
                type_u8: 1 | 3 | 4, ..
            } => ERROR_OTHER,
            _ => return None,
        };
        return Some((kind, icmp.slice().get(8..)?));
    }
    let icmp = Icmpv4Slice::from_slice(payload).ok()?;
    let kind = match icmp.icmp_type() {
        Icmpv4Type::DestinationUnreachable(
            icmpv4::DestUnreachableHeader::FragmentationNeeded { .. },
        ) => return None,
        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host) => ERROR_HOST,
        Icmpv4Type::DestinationUnreachable(_)
        | Icmpv4Type::TimeExceeded(_)
        | Icmpv4Type::ParameterProblem(_)
        | Icmpv4Type::Unknown {
            type_u8: 3 | 11 | 12,
            ..
        } => ERROR_OTHER,
        _ => return None,
    };
    Some((kind, icmp.slice().get(8..)?))
}

/// What an ICMP error says of the TCP packet that it quotes.
pub(super) fn quote(ip: &[u8], is_ipv6: bool) -> Option<Attempt> {
    let decoded = decode(ip, is_ipv6).filter(|decoded| !decoded.later_fragment)?;
    let (kind, quote) = error(decoded.payload, is_ipv6)?;
    let quoted = decode(quote, is_ipv6)
        .filter(|quoted| quoted.number == IpNumber::TCP && !quoted.later_fragment)?;
    let (ports, rest) = quoted.payload.split_first_chunk::<4>()?;
    let sequence = u32::from_be_bytes(*rest.first_chunk()?);
    let [a, b, c, d] = *ports;
    Some((
        (
            sequence,
            sequence,
            Kind::Error.code(),
            kind,
            decoded.source == quoted.destination,
        ),
        (decoded.source, decoded.destination),
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
    ))
}
