//! What a packet says of an attempt, by its own bytes: a TCP segment, or an ICMP error with its quote.
//!
//! Generic over where the bytes come from, as [`crate::packet`] is, and for the same reason.

use super::{Kind, TcpQuote, icmp_error, segment_kind, sequence};
use crate::packet::{Address4, Address6, Ports, Reader, Start4, Start6, TcpStart, blur};

/// What was read. Filled in place: the programs keep it in a map's value, and a copy would cost them stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Said {
    /// The key of the attempt: its initial sequence number, host byte order.
    pub sequence: u32,
    /// Of a SYN with data: the key by which an answer to all of it names the attempt; else as `sequence`.
    pub alias: u32,
    /// Source address, IPv4 ones as IPv4-mapped (RFC 4291 section 2.5.5.2). Of an error: of the one who sends it.
    pub source: [u8; 16],
    /// Destination address, written likewise.
    pub destination: [u8; 16],
    /// The ports; of an error those of the packet that it quotes.
    pub ports: Ports,
    /// Code of a [`Kind`].
    pub kind: u8,
    /// [`super::ERROR_HOST`] or [`super::ERROR_OTHER`]; 0 for a segment.
    pub error_kind: u8,
    /// 1 where an error is sent by the one whom the quoted packet was sent to; else 0.
    pub from_target: u8,
    /// Padding.
    pub pad: u8,
}

const _: () = assert!(size_of::<Said>() == 48);

impl Said {
    /// Nothing.
    pub const NOTHING: Self = Self {
        sequence: 0,
        alias: 0,
        source: [0; 16],
        destination: [0; 16],
        ports: Ports {
            source: 0,
            destination: 0,
        },
        kind: 0,
        error_kind: 0,
        from_target: 0,
        pad: 0,
    };

    /// Reads a TCP segment: a SYN, a SYN-ACK or an RST; `None` for any other. `transport` and `network` are
    /// the offsets of its TCP and IP headers, `length` that of the packet or 0 where it is not known.
    #[inline(always)]
    pub fn segment<R: Reader>(
        &mut self,
        reader: &R,
        is_ipv6: bool,
        transport: u32,
        network: u32,
        length: u32,
    ) -> Option<()> {
        let tcp: TcpStart = reader.get(transport)?;
        self.take(tcp, transport.wrapping_sub(network), length)?;
        self.addresses(reader, is_ipv6, network)
    }

    /// As [`Said::segment`], of a packet that was read in one; `None` as well where that is not all there is to read
    /// ([`Start4::plain_length`]).
    #[inline(always)]
    pub fn plain_ipv4(&mut self, packet: &Start4) -> Option<()> {
        let length = packet.plain_length()?;
        let (source, destination) = packet.addresses();
        self.source = mapped(source);
        self.destination = mapped(destination);
        self.take(packet.transport, 20, length)
    }

    /// As [`Said::plain_ipv4`].
    #[inline(always)]
    pub fn plain_ipv6(&mut self, packet: &Start6) -> Option<()> {
        let length = packet.plain_length()?;
        self.source = packet.source.bytes();
        self.destination = packet.destination.bytes();
        self.take(packet.transport, 40, length)
    }

    /// Takes what a TCP header says. `header` is the length of the IP header before it.
    #[inline(always)]
    fn take(&mut self, tcp: TcpStart, header: u32, length: u32) -> Option<()> {
        let kind = segment_kind(tcp.flags);
        if kind == 0 {
            return None;
        }
        let [a, b, c, d] = tcp.numbers;
        if kind == Kind::Syn.code() {
            self.sequence = sequence([a, b]);
            let tcp_header = u32::from(tcp.flags.data_offset >> 4) * 4;
            let data = payload(length, header, tcp_header)?;
            self.alias = self.sequence.wrapping_add(data);
        } else {
            self.sequence = sequence([c, d]).wrapping_sub(1);
            self.alias = self.sequence;
        }
        self.ports = tcp.ports;
        self.kind = kind;
        self.error_kind = 0;
        Some(())
    }

    /// Reads an ICMP error that quotes a TCP packet; `None` for any other. `network` is the offset of the IP
    /// header, behind which ICMP comes at once.
    #[inline(always)]
    pub fn quote<R: Reader>(&mut self, reader: &R, is_ipv6: bool, network: u32) -> Option<()> {
        let first: u8 = reader.get(network)?;
        let (version, header) = if is_ipv6 {
            (6, 40)
        } else {
            (4, u32::from(first & 0x0f) * 4)
        };
        let icmp = blur(network + header);
        let error_kind = icmp_error(is_ipv6, reader.get(icmp)?, reader.get(icmp + 1)?);
        if error_kind == 0 {
            return None;
        }
        // The quoted packet: an IP header without options in IPv4's length, then TCP.
        let quote = icmp + 8;
        let quoted_first: u8 = reader.get(quote)?;
        let (tcp_at, quoted_number) = if is_ipv6 {
            (quote + 40, reader.get::<u8>(quote + 6)?)
        } else {
            (
                quote + u32::from(quoted_first & 0x0f) * 4,
                reader.get::<u8>(quote + 9)?,
            )
        };
        // What the kernel would not take for an IP packet, it drops behind this hook.
        if quoted_number != 6 || first >> 4 != version || quoted_first >> 4 != version {
            return None;
        }
        let tcp: TcpQuote = reader.get(blur(tcp_at))?;
        self.addresses(reader, is_ipv6, quote)?;
        let target = self.destination;
        self.addresses(reader, is_ipv6, network)?;
        self.from_target = u8::from(self.source == target);
        self.sequence = sequence(tcp.sequence);
        self.alias = self.sequence;
        self.ports = tcp.ports;
        self.kind = Kind::Error.code();
        self.error_kind = error_kind;
        Some(())
    }

    /// The addresses of a packet.
    #[inline(always)]
    fn addresses<R: Reader>(&mut self, reader: &R, is_ipv6: bool, network: u32) -> Option<()> {
        if is_ipv6 {
            self.source = reader.get::<Address6>(network + 8)?.bytes();
            self.destination = reader.get::<Address6>(network + 24)?.bytes();
        } else {
            self.source = mapped(reader.get::<Address4>(network + 12)?);
            self.destination = mapped(reader.get::<Address4>(network + 16)?);
        }
        Some(())
    }
}

/// How many bytes a SYN carries; `None` where its header is longer than the packet. Lengths in bytes; that
/// of the packet is 0 where it is not known.
#[inline(always)]
fn payload(packet: u32, ip_header: u32, tcp_header: u32) -> Option<u32> {
    if packet == 0 {
        return Some(0);
    }
    let headers = ip_header + tcp_header;
    (packet >= headers).then(|| packet - headers)
}

/// An IPv4-mapped address (RFC 4291 section 2.5.5.2).
#[inline(always)]
#[must_use]
pub fn mapped(address: Address4) -> [u8; 16] {
    let [a, b, c, d] = address.bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
