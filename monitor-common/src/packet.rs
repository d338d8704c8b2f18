//! The packet parser: IPv4 with options, IPv6 with extension headers, up to the ports.
//!
//! It is generic over where the bytes come from, so that the kernel programs run it on packet memory,
//! on a socket buffer's head and through a helper, and the host runs the same code in tests.

mod glance;

pub use glance::{Glance, Start4, Start6, glance_ipv4, glance_ipv6, glance_ipv6_extended};

/// Plain old data: any bytes are a valid value.
///
/// # Safety
///
/// Only for integers and `#[repr(C)]` types made of them, without padding and with an alignment of at most 2.
pub unsafe trait Plain: Copy {}
// SAFETY: one byte.
unsafe impl Plain for u8 {}
// SAFETY: an integer with an alignment of 2.
unsafe impl Plain for u16 {}

/// A source of packet bytes.
pub trait Reader {
    /// Copies a value out at an offset, in bytes from where the reader begins; `None` where the packet
    /// ends before it.
    fn get<T: Plain>(&self, offset: u32) -> Option<T>;
}

/// `ETH_P_IP`.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `EtherType` of a tag (IEEE 802.1Q), of a customer and of a service provider.
pub const ETHERTYPE_TAGS: [u16; 2] = [0x8100, 0x88a8];

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// RFC 791 section 3.1, up to the addresses. 16-bit values are in network byte order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Ipv4Start {
    version_ihl: u8,
    tos: u8,
    total_length: u16,
    identification: u16,
    flags_offset: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    addresses: [u16; 4],
}
// SAFETY: integers only, no padding (20 bytes), alignment 2.
unsafe impl Plain for Ipv4Start {}

/// RFC 8200 section 3, up to the addresses.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Ipv6Start {
    version_class_flow: [u8; 4],
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
}
// SAFETY: integers only, no padding (8 bytes), alignment 2.
unsafe impl Plain for Ipv6Start {}

/// The first four bytes that IPv6 extension headers share, and of the fragment header its offset.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Extension {
    next_header: u8,
    length: u8,
    fragment_offset: u16,
}
// SAFETY: integers only, no padding (4 bytes), alignment 2.
unsafe impl Plain for Extension {}

/// The ports, in network byte order: the first four bytes of a TCP (RFC 9293 section 3.1) or UDP
/// header (RFC 768).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Ports {
    /// Source port, network byte order.
    pub source: u16,
    /// Destination port, network byte order.
    pub destination: u16,
}
// SAFETY: integers only, no padding (4 bytes), alignment 2.
unsafe impl Plain for Ports {}

/// Bytes 12 and 13 of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct TcpFlags {
    /// Header length in 32-bit words, in the upper four bits.
    pub data_offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit down.
    pub flags: u8,
}
// SAFETY: integers only, no padding (2 bytes), alignment 1.
unsafe impl Plain for TcpFlags {}

/// A TCP header (RFC 9293 section 3.1) up to the flags, 16-bit values in network byte order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct TcpStart {
    /// The ports.
    pub ports: Ports,
    /// Sequence and acknowledgement number.
    pub numbers: [u16; 4],
    /// Header length and flags.
    pub flags: TcpFlags,
}
// SAFETY: integers only, no padding (14 bytes), alignment 2.
unsafe impl Plain for TcpStart {}

impl TcpStart {
    /// Sequence and acknowledgement number in one, in no particular byte order: only good for comparing.
    #[inline(always)]
    #[must_use]
    pub fn numbers_key(self) -> u64 {
        let [a, b, c, d] = self.numbers;
        (u64::from(a) << 48) | (u64::from(b) << 32) | (u64::from(c) << 16) | u64::from(d)
    }
}

/// Offset of [`TcpFlags`] in a TCP header.
pub const TCP_FLAGS_OFFSET: u32 = 12;

/// An IPv4 address as it stands in the header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Address4(pub [u16; 2]);
// SAFETY: integers only, no padding (4 bytes), alignment 2.
unsafe impl Plain for Address4 {}

impl Address4 {
    /// The bytes in the order in which they are sent.
    #[inline(always)]
    #[must_use]
    pub fn bytes(self) -> [u8; 4] {
        let [[a, b], [c, d]] = self.0.map(u16::to_ne_bytes);
        [a, b, c, d]
    }
}

/// An IPv6 address as it stands in the header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Address6(pub [u16; 8]);
// SAFETY: integers only, no padding (16 bytes), alignment 2.
unsafe impl Plain for Address6 {}

impl Address6 {
    /// The bytes in the order in which they are sent.
    #[inline(always)]
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let mut index = 0;
        while index < 8 {
            let [high, low] = self.0[index].to_ne_bytes();
            bytes[index * 2] = high;
            bytes[index * 2 + 1] = low;
            index += 1;
        }
        bytes
    }
}

/// How many IPv6 extension headers are followed. A longer chain is left out: real ones have at most
/// three, and Linux itself stops routers from walking long ones (`ip6_opts`, RFC 8504 section 5.3).
pub const MAX_EXTENSION_HEADERS: u32 = 8;

/// What the parser found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Headers {
    /// Code of the [`crate::Family`].
    pub family: u32,
    /// Code of the [`crate::Protocol`].
    pub protocol: u32,
    /// 1 for a fragment that is not the first, which carries no ports; else 0.
    pub later_fragment: u32,
    /// Offset of the transport header from where the reader begins.
    pub transport: u32,
    /// Length of the IP packet by its own header, bytes; 0 where the header does not say (jumbograms
    /// and coalesced packets beyond 64 KiB).
    pub length: u32,
}

const IPV4: u32 = crate::Family::Ipv4 as u32;
const IPV6: u32 = crate::Family::Ipv6 as u32;

/// The code of the [`crate::Protocol`] of an IP protocol number.
#[inline(always)]
const fn protocol_code(number: u8) -> Option<u32> {
    match number {
        IPPROTO_TCP => Some(crate::Protocol::Tcp as u32),
        IPPROTO_UDP => Some(crate::Protocol::Udp as u32),
        _ => None,
    }
}

/// Parses the IPv4 header at `start`; `None` for what is neither TCP nor UDP, or not a valid header.
#[inline(always)]
pub fn parse_ipv4<R: Reader>(reader: &R, start: u32) -> Option<Headers> {
    let ip: Ipv4Start = reader.get(start)?;
    let protocol = protocol_code(ip.protocol)?;
    let header = u32::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || header < 20 {
        return None;
    }
    let length = u32::from(u16::from_be(ip.total_length));
    let later = ip.flags_offset & u16::to_be(0x1fff) != 0;
    if length != 0 && length < header + 4 && !later {
        return None;
    }
    Some(Headers {
        family: blur(IPV4),
        protocol: blur(protocol),
        later_fragment: blur(u32::from(later)),
        transport: blur(start + header),
        length,
    })
}

/// Parses the IPv6 header at `start` and its extension headers; `None` for what is neither TCP nor
/// UDP, or not a valid header, or has more than [`MAX_EXTENSION_HEADERS`].
#[inline(always)]
pub fn parse_ipv6<R: Reader>(reader: &R, start: u32) -> Option<Headers> {
    let ip: Ipv6Start = reader.get(start)?;
    if ip.version_class_flow[0] >> 4 != 6 {
        return None;
    }
    let payload = u32::from(u16::from_be(ip.payload_length));
    let length = if payload == 0 { 0 } else { payload + 40 };
    let mut next = ip.next_header;
    let mut offset = start + 40;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        if let Some(protocol) = protocol_code(next) {
            // The ports must lie inside the packet, not in the padding of a short frame.
            if offset > BLUR_MAX || length != 0 && offset + 4 > start + length {
                return None;
            }
            return Some(Headers {
                family: blur(IPV6),
                protocol: blur(protocol),
                later_fragment: blur(0),
                transport: blur(offset),
                length,
            });
        }
        // Hop-by-hop options, routing, destination options, fragment (RFC 8200 section 4),
        // authentication (RFC 4302), mobility (RFC 6275), HIP (RFC 7401), shim6 (RFC 5533).
        if !matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
            return None;
        }
        let extension: Extension = reader.get(offset)?;
        let is_fragment = equal(next, 44);
        if is_fragment != 0 && extension.fragment_offset & u16::to_be(0xfff8) != 0 {
            let protocol = protocol_code(extension.next_header)?;
            return Some(Headers {
                family: blur(IPV6),
                protocol: blur(protocol),
                later_fragment: blur(1),
                transport: blur(offset + 8),
                length,
            });
        }
        // Lengths are in 8-byte units without the first, but for the authentication header (4-byte
        // units, less 2) and the fragment header (always 8 bytes). No branches: the verifier would
        // follow each of them through all headers that may come after.
        let is_authentication = equal(next, 51);
        let units = u32::from(extension.length) & is_fragment.wrapping_sub(1);
        let step = (units + 1 + is_authentication) << (3 - is_authentication);
        // The mask bounds it where the verifier sees it: the compiler knows the bound, and would leave a
        // plain mask out.
        offset += blur(step) & 0xfff;
        next = extension.next_header;
    }
    None
}

/// 1 where both are the same, else 0, without a branch.
#[inline(always)]
const fn equal(a: u8, b: u8) -> u32 {
    ((a ^ b) as u32).wrapping_sub(1) >> 31
}

/// The most that [`blur`] takes: what a packet pointer can be moved by, with room to spare.
pub const BLUR_MAX: u32 = 0x3fff;

/// The value, at most [`BLUR_MAX`], by way of memory that the verifier does not follow. It explores the
/// rest of a program once for each set of values that it can tell apart, and loading takes long where
/// it can tell many.
#[inline(always)]
#[must_use]
pub fn blur(value: u32) -> u32 {
    blur_wide(value) & BLUR_MAX
}

/// As [`blur`], for any value: what comes back has no bounds.
#[inline(always)]
#[must_use]
pub fn blur_wide(value: u32) -> u32 {
    // Written as 8 bytes and read as the 4 that are not at the beginning of the stack slot: what a
    // register spilled there is only followed for a read from the beginning.
    // The second half on either kind of machine.
    let shift = if cfg!(target_endian = "little") {
        32
    } else {
        0
    };
    let mut slot = [0_u64; 1];
    let slot = slot.as_mut_ptr();
    // SAFETY: both halves lie in the local variable.
    unsafe {
        slot.write_volatile(u64::from(value) << shift);
        slot.cast::<u32>().add(1).read_volatile()
    }
}

/// How many packets on the wire a packet stands for.
///
/// `gso_segs` is right for the kernel's own TCP segmentation and coalescing; it is 0 for what was never
/// coalesced, and with virtio-style offload, where only `gso_size` is set: then the payload decides.
/// `headers` is the length of the IP and transport headers, `length` that of the IP packet, in bytes.
#[inline(always)]
#[must_use]
pub const fn segments(gso_segs: u32, gso_size: u32, length: u32, headers: u32) -> u32 {
    if gso_segs != 0 {
        return gso_segs;
    }
    if gso_size == 0 || length <= headers {
        return 1;
    }
    (length - headers).div_ceil(gso_size)
}

/// A reader of bytes in memory, for user space.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Reader for Bytes<'_> {
    fn get<T: Plain>(&self, offset: u32) -> Option<T> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.0.get(start..start.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` has the size of T, and T takes any bytes.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

#[cfg(test)]
mod tests;
