//! Teredo packets that the kernel programs copy for the daemon, which parses them.

use crate::packet::{BLUR_MAX, Plain, Ports};

/// Bytes of payload that are copied at most: enough for authentication, origin, IPv6 and `ICMPv6` headers
/// (RFC 4380 section 5.1.1) as clients send them.
pub const COPIED: u32 = 128;

/// The shortest payload that can be a solicitation: an IPv6 header.
pub const SHORTEST: u32 = 40;
/// The longest one that is looked at, with room for authentication data and options.
pub const LONGEST: u32 = 200;

const _: () = assert!(COPIED.is_power_of_two() && LONGEST < BLUR_MAX);

/// Size of the ring buffer of these packets, bytes.
pub const TEREDO_RING_BYTES: u32 = 256 * 1024;

/// One UDP packet over IPv4 of the Teredo traffic. Ports and addresses are in network byte order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct TeredoPacket {
    /// When (`bpf_ktime_get_ns`), nanoseconds.
    pub time_ns: u64,
    /// Address of the instruction that dropped it, 0 for one that passed.
    pub location: u64,
    /// Source and destination address.
    pub addresses: [[u8; 4]; 2],
    /// The kernel's reason for dropping it.
    pub reason: u32,
    /// The ports.
    pub ports: Ports,
    /// Bytes of its payload.
    pub length: u16,
    /// How many of them are in `payload`. What is behind them has no meaning.
    pub copied: u16,
    /// Index of the traffic.
    pub traffic: u8,
    /// Code of the [`crate::attempt::Stage`].
    pub stage: u8,
    /// Code of the [`crate::Direction`].
    pub direction: u8,
    /// Code of the [`crate::drop::Class`] of one that was dropped.
    pub class: u8,
    /// Padding.
    pub pad: [u8; 4],
    /// The beginning of the payload.
    pub payload: [u8; COPIED as usize],
}

const _: () = assert!(size_of::<TeredoPacket>() == 176);

/// The addresses of an IPv4 header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Addresses(pub [[u8; 4]; 2]);
// SAFETY: integers only, no padding (8 bytes), alignment 1.
unsafe impl Plain for Addresses {}
