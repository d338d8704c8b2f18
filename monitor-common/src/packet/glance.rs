//! A glance at a packet that has no options: what nearly every packet is, at a fraction of the parser's price.

use super::{IPPROTO_TCP, IPPROTO_UDP, Ipv4Start, Ipv6Start, Plain, Ports, Reader, TcpStart};

/// What a packet shows at first sight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Glance {
    /// Whether it is of TCP; otherwise of UDP.
    pub is_tcp: bool,
    /// The ports.
    pub ports: Ports,
    /// Of TCP: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit down. Otherwise 0.
    pub flags: u8,
    /// Length of the IP packet by its own header, bytes; 0 where the header does not say, or lies: the ports would
    /// be behind the packet's end.
    pub length: u32,
}

/// An IPv4 header without options, and what follows. All of it in one, so that one check of its end does.
#[derive(Clone, Copy)]
#[repr(C)]
struct Simple4 {
    ip: Ipv4Start,
    /// Of UDP, its header and the first bytes of what it carries.
    transport: TcpStart,
}
// SAFETY: integers only, no padding (34 bytes), alignment 2.
unsafe impl Plain for Simple4 {}

/// An IPv6 header without extension headers, and what follows.
#[derive(Clone, Copy)]
#[repr(C)]
struct Simple6 {
    ip: Ipv6Start,
    addresses: [u16; 16],
    transport: TcpStart,
}
// SAFETY: integers only, no padding (54 bytes), alignment 2.
unsafe impl Plain for Simple6 {}

/// `number` is that of the transport protocol, `header` the length of the IP header in bytes.
#[inline(always)]
const fn glance(number: u8, transport: TcpStart, length: u32, header: u32) -> Option<Glance> {
    let is_tcp = number == IPPROTO_TCP;
    if !is_tcp && number != IPPROTO_UDP {
        return None;
    }
    Some(Glance {
        is_tcp,
        ports: transport.ports,
        flags: if is_tcp { transport.flags.flags } else { 0 },
        length: if length < header + 4 { 0 } else { length },
    })
}

/// Looks at the IPv4 header at `start`: `None` for all that has options, is a later fragment, is neither TCP nor
/// UDP, or ends within 14 bytes of its transport header. That is left to [`super::parse_ipv4`].
#[inline(always)]
pub fn glance_ipv4<R: Reader>(reader: &R, start: u32) -> Option<Glance> {
    let packet: Simple4 = reader.get(start)?;
    if packet.ip.version_ihl != 0x45 || packet.ip.flags_offset & u16::to_be(0x1fff) != 0 {
        return None;
    }
    let length = u32::from(u16::from_be(packet.ip.total_length));
    glance(packet.ip.protocol, packet.transport, length, 20)
}

/// As [`glance_ipv4`], of IPv6 without extension headers.
#[inline(always)]
pub fn glance_ipv6<R: Reader>(reader: &R, start: u32) -> Option<Glance> {
    let packet: Simple6 = reader.get(start)?;
    if packet.ip.version_class_flow[0] >> 4 != 6 {
        return None;
    }
    let payload = u32::from(u16::from_be(packet.ip.payload_length));
    glance(packet.ip.next_header, packet.transport, payload + 40, 40)
}
