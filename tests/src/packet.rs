//! Frames made byte by byte, so that a test knows exactly what is on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet header with this type, before an IPv4 packet (RFC 894).
const ETHERTYPE_IPV4: u16 = 0x0800;
/// The same for IPv6 (RFC 2464).
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// TCP flag bits (RFC 9293 section 3.1).
pub mod flags {
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends one.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

impl Protocol {
    /// As in the label `protocol` and in nft rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// One IP packet to be made.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source address; of the same family as the destination.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Bytes behind the transport header.
    pub payload: usize,
    /// TCP flags, a union of [`flags`].
    pub tcp_flags: u8,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
    /// IPv4 options, or IPv6 hop-by-hop and destination options.
    pub extra_headers: bool,
    /// Spoils the transport checksum.
    pub bad_checksum: bool,
}

impl Packet {
    /// A packet with 16 bytes of payload over UDP, a bare SYN over TCP.
    #[must_use]
    pub fn new(protocol: Protocol, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            protocol,
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
            payload: if protocol == Protocol::Udp { 16 } else { 0 },
            tcp_flags: flags::SYN,
            sequence: 0x0102_0304_u32.wrapping_mul(u32::from(source.1) | 1),
            acknowledgement: 0,
            extra_headers: false,
            bad_checksum: false,
        }
    }

    /// The transport header and payload, with its checksum.
    #[must_use]
    pub fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(self.destination_port.to_be_bytes());
        let checksum_at = match self.protocol {
            Protocol::Tcp => {
                segment.extend(self.sequence.to_be_bytes());
                segment.extend(self.acknowledgement.to_be_bytes());
                // Header of five words, flags, window, checksum, urgent pointer.
                segment.extend([5 << 4, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            Protocol::Udp => {
                segment.extend(be16(8 + self.payload));
                segment.extend([0, 0]);
                6
            }
        };
        segment.extend((0..self.payload).map(|i| u8::try_from(i % 251).unwrap_or(0)));
        let mut sum = Sum::default();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                sum.add(&source.octets());
                sum.add(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                sum.add(&source.octets());
                sum.add(&destination.octets());
            }
            _ => {}
        }
        sum.add(&[0, self.protocol.number()]);
        sum.add(&be16(segment.len()));
        sum.add(&segment);
        let mut checksum = sum.finish();
        if self.bad_checksum {
            // 0 would mean "no checksum" in UDP over IPv4.
            checksum = if checksum == 0x1234 { 0x1235 } else { 0x1234 };
        } else if checksum == 0 && self.protocol == Protocol::Udp {
            checksum = 0xffff;
        }
        segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    /// The whole IP packet.
    #[must_use]
    pub fn ip(&self) -> Vec<u8> {
        let segment = self.segment();
        match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut packet = Vec::new();
                let (next, extensions) = self.extensions();
                ipv6_header(
                    &mut packet,
                    source,
                    destination,
                    next,
                    extensions.len() + segment.len(),
                );
                packet.extend(extensions);
                packet.extend(segment);
                packet
            }
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                // Three no-operations and the end of the list (RFC 791 section 3.1).
                let options: &[u8] = if self.extra_headers {
                    &[1, 1, 1, 0]
                } else {
                    &[]
                };
                ipv4_packet(
                    source,
                    destination,
                    self.protocol.number(),
                    options,
                    &segment,
                    0,
                )
            }
            _ => segment,
        }
    }

    /// The packet cut in fragments with at most `size` bytes of transport data each, in order.
    ///
    /// `size` has to be a multiple of 8.
    #[must_use]
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let segment = self.segment();
        let id = self.sequence;
        let count = segment.chunks(size).count();
        segment
            .chunks(size)
            .enumerate()
            .map(|(index, data)| {
                let more = index + 1 < count;
                let units = u16::try_from(index * size / 8).unwrap_or(u16::MAX);
                match (self.source, self.destination) {
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        let field = units | if more { 0x2000 } else { 0 };
                        let field = u32::from(field) | (id << 16);
                        ipv4_packet(
                            source,
                            destination,
                            self.protocol.number(),
                            &[],
                            data,
                            field,
                        )
                    }
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        let mut packet = Vec::new();
                        ipv6_header(&mut packet, source, destination, 44, 8 + data.len());
                        packet.extend([self.protocol.number(), 0]);
                        packet.extend((units << 3 | u16::from(more)).to_be_bytes());
                        packet.extend(id.to_be_bytes());
                        packet.extend(data);
                        packet
                    }
                    _ => Vec::new(),
                }
            })
            .collect()
    }

    /// Extension headers before the transport header, and the first one's number.
    fn extensions(&self) -> (u8, Vec<u8>) {
        if !self.extra_headers {
            return (self.protocol.number(), Vec::new());
        }
        // Hop-by-hop options (0), then destination options (60), each 8 bytes with a PadN of 4.
        let pad = [0, 1, 4, 0, 0, 0, 0];
        let mut bytes = vec![60];
        bytes.extend(pad);
        bytes.push(self.protocol.number());
        bytes.extend(pad);
        (0, bytes)
    }
}

/// Puts an Ethernet header before an IP packet.
#[must_use]
pub fn frame(destination: [u8; 6], source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        ETHERTYPE_IPV6
    } else {
        ETHERTYPE_IPV4
    };
    let mut frame = Vec::with_capacity(14 + packet.len());
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn ipv6_header(out: &mut Vec<u8>, source: Ipv6Addr, destination: Ipv6Addr, next: u8, len: usize) {
    out.extend([0x60, 0, 0, 0]);
    out.extend(be16(len));
    out.extend([next, 64]);
    out.extend(source.octets());
    out.extend(destination.octets());
}

/// `fragment`: identification in the upper 16 bits, flags and offset in the lower.
fn ipv4_packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    data: &[u8],
    fragment: u32,
) -> Vec<u8> {
    let header_len = 20 + options.len();
    let words = u8::try_from(header_len / 4).unwrap_or(15);
    let mut header = vec![0x40 | words, 0];
    header.extend(be16(header_len + data.len()));
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(options);
    let mut sum = Sum::default();
    sum.add(&header);
    header[10..12].copy_from_slice(&sum.finish().to_be_bytes());
    header.extend(data);
    header
}

/// A length as it stands in a header. Lengths above 65,535 don't occur in these tests.
fn be16(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

/// The Internet checksum (RFC 1071).
#[derive(Default)]
struct Sum(u32);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            self.0 += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }

    fn finish(&self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn checksum_of_a_known_header() {
        // The example of an IPv4 header that is widely printed: its checksum is b861.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        let mut sum = Sum::default();
        sum.add(&header);
        assert_eq!(sum.finish(), 0xb861);
    }

    #[test]
    fn fragments_carry_the_segment() {
        let mut packet = Packet::new(Protocol::Udp, (v4(1), 1000), (v4(2), 443));
        packet.payload = 50;
        let fragments = packet.fragments(24);
        assert_eq!(fragments.len(), 3);
        let data: Vec<u8> = fragments.iter().flat_map(|f| f[20..].to_vec()).collect();
        assert_eq!(data, packet.segment());
        assert_eq!(fragments[1][6..8], [0x20, 3]);
        assert_eq!(fragments[2][6..8], [0x00, 6]);
    }

    #[test]
    fn headers_have_the_lengths_that_the_rows_expect() {
        let mut packet = Packet::new(Protocol::Tcp, (v4(1), 1000), (v4(2), 443));
        assert_eq!(packet.ip().len(), 40);
        packet.extra_headers = true;
        assert_eq!(packet.ip().len(), 44);
    }
}
