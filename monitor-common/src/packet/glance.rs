//! A glance at a packet that has no options: what nearly every packet is, at a fraction of the parser's price.

use super::{
    Address4, Address6, Extension, IPPROTO_TCP, IPPROTO_UDP, Ipv4Start, Ipv6Start, Plain, Ports,
    Reader, TcpStart,
};

/// What a packet shows at first sight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Glance {
    /// Whether it is of TCP; otherwise of UDP.
    pub is_tcp: bool,
    /// The ports.
    pub ports: Ports,
    /// Of TCP: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit down. Otherwise 0.
    pub flags: u8,
    /// Offset of the transport header from the IP header.
    pub header: u32,
    /// What the IP header says of the length, network byte order.
    stated: u16,
    /// Bytes that do not count there.
    besides: u32,
}

impl Glance {
    /// Length of the IP packet by its own header, bytes; 0 where the header does not say, or lies: the ports would
    /// be behind the packet's end. Most packets are nobody's, and are not asked.
    #[inline(always)]
    #[must_use]
    pub const fn length(&self) -> u32 {
        let length = u16::from_be(self.stated) as u32 + self.besides;
        if length < self.header + 4 { 0 } else { length }
    }
}

/// An IPv4 header without options, and what follows. All of it in one, so that one check of its end does.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Start4 {
    ip: Ipv4Start,
    /// Of UDP, its header and the first bytes of what it carries.
    pub transport: TcpStart,
}
// SAFETY: integers only, no padding (34 bytes), alignment 2.
unsafe impl Plain for Start4 {}

/// An IPv6 header without extension headers, and what follows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Start6 {
    ip: Ipv6Start,
    /// Source address.
    pub source: Address6,
    /// Destination address.
    pub destination: Address6,
    /// As in [`Start4`].
    pub transport: TcpStart,
}
// SAFETY: integers only, no padding (54 bytes), alignment 2.
unsafe impl Plain for Start6 {}

/// `number` is that of the transport protocol, `header` the length of the IP header in bytes; the length as in
/// [`Glance`].
#[inline(always)]
const fn glance(
    number: u8,
    transport: TcpStart,
    (stated, besides): (u16, u32),
    header: u32,
) -> Option<Glance> {
    let is_tcp = number == IPPROTO_TCP;
    if !is_tcp && number != IPPROTO_UDP {
        return None;
    }
    Some(Glance {
        is_tcp,
        ports: transport.ports,
        flags: if is_tcp { transport.flags.flags } else { 0 },
        header,
        stated,
        besides,
    })
}

/// Looks at the IPv4 header at `start`: `None` for all that has options, is a later fragment, is neither TCP nor
/// UDP, or ends within 14 bytes of its transport header. That is left to [`super::parse_ipv4`].
#[inline(always)]
pub fn glance_ipv4<R: Reader>(reader: &R, start: u32) -> Option<Glance> {
    let packet: Start4 = reader.get(start)?;
    if !packet.is_plain() {
        return None;
    }
    let length = (packet.ip.total_length, 0);
    glance(packet.ip.protocol, packet.transport, length, 20)
}

/// As [`glance_ipv4`], of IPv6 without extension headers.
#[inline(always)]
pub fn glance_ipv6<R: Reader>(reader: &R, start: u32) -> Option<Glance> {
    let packet: Start6 = reader.get(start)?;
    if !packet.is_plain() {
        return None;
    }
    let length = (packet.ip.payload_length, 40);
    glance(packet.ip.next_header, packet.transport, length, 40)
}

/// As [`glance_ipv6`], of IPv6 with one or two extension headers that hold options or a route (RFC 8200 sections 4.3,
/// 4.4 and 4.6). What fragments, authentication and longer chains take is left to [`super::parse_ipv6`].
#[inline(always)]
pub fn glance_ipv6_extended<R: Reader>(reader: &R, start: u32) -> Option<Glance> {
    let ip: Ipv6Start = reader.get(start)?;
    if ip.version_class_flow[0] >> 4 != 6 || !is_options(ip.next_header) {
        return None;
    }
    let first: Extension = reader.get(start + 40)?;
    let (mut next, mut header) = (first.next_header, 40 + length(first));
    if is_options(next) {
        let second: Extension = reader.get(start + header)?;
        next = second.next_header;
        header += length(second);
    }
    let transport: TcpStart = reader.get(start + header)?;
    glance(next, transport, (ip.payload_length, 40), header)
}

/// Hop-by-hop options, routing, destination options.
#[inline(always)]
const fn is_options(number: u8) -> bool {
    number == 0 || number == 43 || number == 60
}

/// Bytes of such a header: at most 2048.
#[inline(always)]
const fn length(header: Extension) -> u32 {
    (header.length as u32 + 1) * 8
}

impl Start4 {
    /// Length of the packet, bytes, where this is all that an attempt takes of it: a segment of TCP, and neither
    /// options nor a later fragment. `None` for any other, and for a length that the header does not say or lies about.
    #[inline(always)]
    #[must_use]
    pub fn plain_length(&self) -> Option<u32> {
        let length = u32::from(u16::from_be(self.ip.total_length));
        let is_plain = self.is_plain() && self.ip.protocol == IPPROTO_TCP && length >= 24;
        is_plain.then_some(length)
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.ip.version_ihl == 0x45 && self.ip.flags_offset & u16::to_be(0x1fff) == 0
    }

    /// Source and destination address.
    #[inline(always)]
    #[must_use]
    pub fn addresses(&self) -> (Address4, Address4) {
        let [a, b, c, d] = self.ip.addresses;
        (Address4([a, b]), Address4([c, d]))
    }
}

impl Start6 {
    /// As [`Start4::plain_length`]; without extension headers.
    #[inline(always)]
    #[must_use]
    pub fn plain_length(&self) -> Option<u32> {
        let length = u32::from(u16::from_be(self.ip.payload_length)) + 40;
        let is_plain = self.is_plain() && self.ip.next_header == IPPROTO_TCP && length >= 44;
        is_plain.then_some(length)
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.ip.version_class_flow[0] >> 4 == 6
    }
}
