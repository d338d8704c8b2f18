//! The packets, the programs that get them, and what must be counted of each.

use monitor_common::{Direction, Family, Protocol};

/// Of the device that packets are on. Packets are addressed to it, so that inbound ones are its own.
pub(crate) const DEVICE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// This host's address: RFC 5737.
pub(crate) const HOST_IPV4: [u8; 4] = [192, 0, 2, 1];
/// The kernel takes the first 14 bytes of what a tc program is tested with for an Ethernet header, also
/// where a device without one is meant. So these addresses have the `EtherType` where bytes 12 and 13 of
/// such a packet lie.
const PEER_IPV4: [u8; 4] = [0x08, 0x00, 0, 1];
const PEER_IPV6: [u8; 16] = [
    0x20, 0x01, 0x0d, 0xb8, 0x86, 0xdd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
];
/// RFC 3849.
const HOST_IPV6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const DESTINATION_OPTIONS: u8 = 60;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
/// More fragments, and this one at byte 1480: 185 (0xb9) units of 8 (RFC 791 section 3.1).
const LATER_FRAGMENT: u16 = 0x2000 | 0x00b9;

const CLIENT_PORT: u16 = 50_000;
/// The port of the TCP cases that are ours.
pub(crate) const PEER_PORT: u16 = 7680;
const HTTPS_PORT: u16 = 443;
/// Nobody watches it.
const OTHER_PORT: u16 = 22;

/// What the programs should make of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Content {
    /// Nothing.
    Foreign,
    /// A request of a traffic.
    Ours {
        traffic: &'static str,
        protocol: Protocol,
        family: Family,
    },
    /// A fragment without ports.
    Fragment,
    /// An ICMP error that quotes a SYN of ours: nothing that is counted.
    Error,
}

/// A packet without a link header.
#[derive(Clone, Debug)]
struct Packet {
    name: &'static str,
    ethertype: u16,
    bytes: Vec<u8>,
    content: Content,
}

/// What a program must count, once for each run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expected {
    /// Nothing.
    Nothing,
    /// An allowed request.
    Allowed {
        /// Name of the traffic.
        traffic: &'static str,
        /// Its protocol.
        protocol: Protocol,
        /// Its family.
        family: Family,
        /// Its direction.
        direction: Direction,
        /// Length of the IP packet.
        bytes: u64,
    },
    /// A fragment without ports.
    Fragment(Direction),
}

/// A program and a packet for it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Name of the program.
    pub(crate) program: &'static str,
    /// What the packet is, for people.
    pub(crate) packet: String,
    /// The packet as a test run takes it.
    pub(crate) frame: Vec<u8>,
    /// Whether it came in on another device.
    pub(crate) forwarded: bool,
    /// What must be counted.
    pub(crate) expected: Expected,
    /// How many nanoseconds above an empty program it is to take at most.
    pub(crate) target: Option<u8>,
}

/// Stands for the program of [`crate::floor::Parser`] among the others.
pub(crate) const MINIMAL: &str = "minimal";

/// TCP segment of full size or UDP datagram; the programs read no further than the flags.
fn transport(protocol: u8, port: u16, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; if flags == SYN { 20 } else { 1400 }];
    bytes[0..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    if protocol == TCP {
        bytes[12] = 5 << 4;
        bytes[13] = flags;
    }
    bytes
}

/// RFC 791 section 3.1.
fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(PEER_IPV4);
    bytes.extend(HOST_IPV4);
    bytes.extend(payload);
    bytes
}

/// RFC 8200 section 3.
fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend([next_header, 64]);
    bytes.extend(PEER_IPV6);
    bytes.extend(HOST_IPV6);
    bytes.extend(payload);
    bytes
}

/// An extension header of 8 bytes, filled with one `PadN` option (RFC 8200 section 4.2).
const fn options(next_header: u8) -> [u8; 8] {
    [next_header, 0, 1, 4, 0, 0, 0, 0]
}

/// Destination unreachable: of IPv4 type 3 with code 1, the host (RFC 792), of IPv6 type 1 with code 3, the address
/// (RFC 4443 section 3.1), quoting a packet.
fn unreachable(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
    bytes.extend(quoted);
    bytes
}

fn ours(traffic: &'static str, protocol: Protocol, family: Family) -> Content {
    Content::Ours {
        traffic,
        protocol,
        family,
    }
}

fn packets() -> Vec<Packet> {
    let packet = |name, ethertype, bytes, content| Packet {
        name,
        ethertype,
        bytes,
        content,
    };
    let segment = transport(TCP, PEER_PORT, ACK);
    let mut extended = options(DESTINATION_OPTIONS).to_vec();
    extended.extend(options(TCP));
    extended.extend(&segment);
    // What ARP says does not matter, but for bytes 12 and 13 (see above).
    let mut arp = vec![0; 46];
    arp[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());

    let v4 = |name, protocol, payload: &[u8], content| {
        packet(name, ETHERTYPE_IPV4, ipv4(protocol, 0, payload), content)
    };
    let v6 = |name, next, payload: &[u8], content| {
        packet(name, ETHERTYPE_IPV6, ipv6(next, payload), content)
    };
    let other = transport(TCP, OTHER_PORT, ACK);
    let syn = transport(TCP, PEER_PORT, SYN);
    vec![
        packet("not IP", ETHERTYPE_ARP, arp, Content::Foreign),
        v4("IPv4, not ours", TCP, &other, Content::Foreign),
        v6("IPv6, not ours", TCP, &other, Content::Foreign),
        v4(
            "IPv4 TCP",
            TCP,
            &segment,
            ours("do_peer", Protocol::Tcp, Family::Ipv4),
        ),
        v4(
            "IPv4 TCP SYN",
            TCP,
            &syn,
            ours("do_peer", Protocol::Tcp, Family::Ipv4),
        ),
        v4(
            "IPv4 UDP",
            UDP,
            &transport(UDP, HTTPS_PORT, 0),
            ours("https", Protocol::Udp, Family::Ipv4),
        ),
        v6(
            "IPv6 TCP",
            TCP,
            &segment,
            ours("do_peer", Protocol::Tcp, Family::Ipv6),
        ),
        v6(
            "IPv6 TCP, 2 extension headers",
            HOP_BY_HOP,
            &extended,
            ours("do_peer", Protocol::Tcp, Family::Ipv6),
        ),
        // To the SYN of the case above, and one of IPv6.
        v4(
            "IPv4 ICMP error",
            ICMP,
            &unreachable(3, 1, &ipv4(TCP, 0, &syn)),
            Content::Error,
        ),
        v6(
            "IPv6 ICMP error",
            ICMPV6,
            &unreachable(1, 3, &ipv6(TCP, &syn)),
            Content::Error,
        ),
        packet(
            "IPv4 fragment without ports",
            ETHERTYPE_IPV4,
            ipv4(UDP, LATER_FRAGMENT, &[0; 1400]),
            Content::Fragment,
        ),
    ]
}

fn with_ethernet(packet: &Packet) -> Vec<u8> {
    let mut frame = DEVICE_MAC.to_vec();
    frame.extend(PEER_MAC);
    frame.extend(packet.ethertype.to_be_bytes());
    frame.extend(&packet.bytes);
    frame
}

/// Where a program stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    Deliver,
    Egress,
    Ingress,
}

fn expected(at: At, packet: &Packet, forwarded: bool) -> Expected {
    let direction = match at {
        At::Egress if forwarded => Direction::Forwarded,
        At::Egress => Direction::Outbound,
        At::Deliver | At::Ingress => Direction::Inbound,
    };
    match packet.content {
        Content::Foreign | Content::Error => Expected::Nothing,
        Content::Fragment => Expected::Fragment(direction),
        // Packets that come in are counted when a socket gets them, or when they leave again.
        Content::Ours { .. } if at == At::Ingress => Expected::Nothing,
        Content::Ours {
            traffic,
            protocol,
            family,
        } => Expected::Allowed {
            traffic,
            protocol,
            family,
            direction,
            bytes: packet.bytes.len() as u64,
        },
    }
}

/// What the programs that most packets pass are held to.
fn target(program: &str, packet: &Packet) -> Option<u8> {
    if !["deliver", "egress_ethernet"].contains(&program) {
        return None;
    }
    match packet.content {
        Content::Foreign => Some(4),
        Content::Ours { .. } if packet.name.ends_with("SYN") => Some(150),
        Content::Ours { .. } => Some(25),
        Content::Fragment | Content::Error => None,
    }
}

/// The counter of packets that was made by hand, with what it does not take and what it does.
fn minimal(packets: &[Packet]) -> impl Iterator<Item = Case> {
    let known = |packet: &&Packet| ["IPv4, not ours", "IPv4 TCP"].contains(&packet.name);
    packets.iter().filter(known).map(|packet| Case {
        program: MINIMAL,
        packet: packet.name.to_owned(),
        frame: with_ethernet(packet),
        forwarded: false,
        expected: Expected::Nothing,
        target: None,
    })
}

/// All cases. `egress_other` gets frames with an Ethernet header, as test runs always have one: it reads
/// from the packet how long the link header is, so the way through it is the same.
pub(crate) fn cases() -> Vec<Case> {
    let programs = [
        ("deliver", At::Deliver, true),
        ("egress_ethernet", At::Egress, true),
        ("egress_other", At::Egress, true),
        ("ingress_ethernet", At::Ingress, true),
        ("ingress_other", At::Ingress, false),
    ];
    let packets = packets();
    let mut cases = Vec::new();
    for (program, at, ethernet) in programs {
        for packet in &packets {
            let for_sockets = !matches!(packet.content, Content::Fragment | Content::Error)
                && packet.ethertype != ETHERTYPE_ARP;
            if at == At::Deliver && !for_sockets {
                continue;
            }
            let ours = matches!(packet.content, Content::Ours { .. });
            let ways: &[bool] = if at == At::Egress && ours {
                &[false, true]
            } else {
                &[false]
            };
            cases.extend(ways.iter().map(|&forwarded| Case {
                program,
                packet: format!(
                    "{}{}",
                    packet.name,
                    if forwarded { ", forwarded" } else { "" }
                ),
                frame: if ethernet {
                    with_ethernet(packet)
                } else {
                    packet.bytes.clone()
                },
                forwarded,
                expected: expected(at, packet, forwarded),
                target: target(program, packet),
            }));
        }
    }
    cases.extend(minimal(&packets));
    cases
}

#[cfg(test)]
mod tests {
    use monitor_common::packet::{Bytes, parse_ipv4, parse_ipv6};

    use super::*;

    #[test]
    fn packets_are_what_their_ethertype_says_with_and_without_a_link_header() {
        for packet in packets() {
            let ethertype = packet.ethertype.to_be_bytes();
            assert_eq!(with_ethernet(&packet)[12..14], ethertype, "{packet:?}");
            assert_eq!(packet.bytes[12..14], ethertype, "{packet:?}");
            let reader = Bytes(&packet.bytes);
            let headers = match packet.ethertype {
                ETHERTYPE_IPV4 => parse_ipv4(&reader, 0),
                ETHERTYPE_IPV6 => parse_ipv6(&reader, 0),
                _ => continue,
            };
            if packet.content == Content::Error {
                assert_eq!(headers, None, "{packet:?}");
                continue;
            }
            let headers = headers.unwrap();
            assert_eq!(usize::try_from(headers.length).unwrap(), packet.bytes.len());
            let fragment = packet.content == Content::Fragment;
            assert_eq!(headers.later_fragment, u32::from(fragment));
        }
    }
}
