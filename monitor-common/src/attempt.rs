//! Attempts to open a TCP connection, as the kernel programs follow them.
//!
//! One record holds what was seen of one handshake; the daemon reads it and says how it ended. Times
//! are `bpf_ktime_get_ns` (monotonic, nanoseconds), 0 for what was not seen.

mod follow;

pub use follow::{Said, mapped};

use crate::codes;
use crate::packet::{Plain, Ports, TcpFlags};

/// How many attempts the kernel programs follow at once, unless the daemon says otherwise at load.
pub const MAX_ATTEMPTS: u32 = 65_536;

/// Bytes of the ring buffer in which the kernel programs call for the daemon: one page of any kernel.
pub const CALL_RING_BYTES: u32 = 64 * 1024;

/// After how many new records of one traffic, at one hook and on one of so many CPUs, the daemon is called for: a
/// power of two. All together, they then fill an eighth of the map, if they come evenly.
#[must_use]
pub const fn records_of_a_call(max_attempts: u32, cpus: u32) -> u64 {
    let share = max_attempts / 8 / if cpus == 0 { 1 } else { cpus };
    if share < 16 {
        return 16;
    }
    1 << share.ilog2()
}

/// The key of an attempt. The initial sequence number is in the SYN on both sides of a translation of
/// addresses, in the SYN-ACK and RST that answer it (plus one) and in the quote of an ICMP error.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "user", derive(serde::Deserialize, serde::Serialize))]
#[repr(C)]
pub struct AttemptKey {
    /// Code of the [`crate::Family`].
    pub family: u32,
    /// Initial sequence number, host byte order.
    pub sequence: u32,
}

const _: () = assert!(size_of::<AttemptKey>() == 8);

codes! {
    /// What a packet is to an attempt.
    Kind {
        /// A SYN without ACK.
        Syn = 1 => "syn",
        /// A SYN with ACK.
        SynAck = 2 => "syn_ack",
        /// An RST with ACK.
        Reset = 3 => "reset",
        /// An ICMP error that quotes the SYN.
        Error = 4 => "error",
    }
}

codes! {
    /// Where a packet was seen.
    Stage {
        /// Where it came in: nothing is decided yet.
        Arrived = 0 => "arrived",
        /// Behind every rule.
        Passed = 1 => "passed",
        /// Where it was dropped.
        Dropped = 2 => "dropped",
    }
}

codes! {
    /// Who made an RST or an ICMP error.
    Maker {
        /// There is none.
        Nobody = 0 => "nobody",
        /// This host.
        Here = 1 => "here",
        /// The target of the attempt.
        Target = 2 => "target",
        /// A host in between.
        Between = 3 => "between",
    }
}

/// What was seen of one attempt. Ports are in network byte order, IPv4 addresses are IPv4-mapped
/// (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "user", derive(serde::Deserialize, serde::Serialize))]
#[repr(C)]
pub struct Attempt {
    /// The first SYN.
    pub first_ns: u64,
    /// The last SYN, wherever it was.
    pub syn_ns: u64,
    /// The last SYN that passed: left, or was handed to a socket.
    pub passed_ns: u64,
    /// The last SYN that was dropped.
    pub dropped_ns: u64,
    /// The first SYN-ACK that passed, towards the initiator.
    pub answered_ns: u64,
    /// The last SYN or SYN-ACK behind that; equal to `answered_ns` where there is none.
    pub repeated_ns: u64,
    /// From the SYN or SYN-ACK before that to it.
    pub gap_ns: u64,
    /// The last SYN-ACK or RST that was dropped on its way to the initiator.
    pub reply_dropped_ns: u64,
    /// The first RST, before any SYN-ACK passed.
    pub reset_ns: u64,
    /// The first ICMP error, before any SYN-ACK passed.
    pub error_ns: u64,
    /// Address of the instruction that dropped the last SYN or, where none was, the last reply.
    pub location: u64,
    /// Who tries, as seen first.
    pub client: [u8; 16],
    /// Whom it tries to reach: as seen first, then as seen where a SYN passed.
    pub target: [u8; 16],
    /// The kernel's reason for dropping the last SYN.
    pub reason: u32,
    /// The kernel's reason for dropping the last reply.
    pub reply_reason: u32,
    /// How often a SYN or SYN-ACK came again behind the first SYN-ACK that passed.
    pub repeats: u32,
    /// Source port of the SYN, as seen first.
    pub client_port: u16,
    /// Destination port of the SYN, as seen last.
    pub target_port: u16,
    /// Index of the traffic.
    pub traffic: u8,
    /// Code of the [`crate::Direction`].
    pub direction: u8,
    /// Code of the [`crate::drop::Class`] of the last dropped SYN.
    pub class: u8,
    /// The same of the last dropped reply.
    pub reply_class: u8,
    /// Code of the [`Maker`] of the RST.
    pub reset_by: u8,
    /// Code of the [`Maker`] of the ICMP error.
    pub error_by: u8,
    /// 1 where the ICMP error says that the host cannot be reached, 2 for any other.
    pub error_kind: u8,
    /// Which hook saw the first SYN: [`hook`].
    pub born: u8,
    /// Padding.
    pub pad: [u8; 8],
}

const _: () = assert!(size_of::<Attempt>() == 152);

/// An answer of this host to a SYN of its own that no program has seen yet: a rule of the output hook answers
/// before the SYN is freed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct EarlyAnswer {
    /// When (`bpf_ktime_get_ns`), nanoseconds.
    pub time_ns: u64,
    /// As [`Attempt::error_kind`]; 0 for an RST.
    pub error_kind: u32,
    /// Padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<EarlyAnswer>() == 16);

/// How many of them are remembered.
pub const MAX_EARLY_ANSWERS: u32 = 4096;

/// How many hosts are looked out for at once.
pub const MAX_SILENT_HOSTS: u32 = 8192;

/// [`Attempt::error_kind`] of a host that cannot be reached (ICMP 3/1, `ICMPv6` 1/3).
pub const ERROR_HOST: u8 = 1;
/// [`Attempt::error_kind`] of any other error.
pub const ERROR_OTHER: u8 = 2;

/// The hooks that see packets of attempts; indexes of the programs' own scratch memory too, since one
/// may interrupt another.
pub mod hook {
    /// tc egress.
    pub const EGRESS: u32 = 0;
    /// Cgroup ingress.
    pub const DELIVER: u32 = 1;
    /// tc ingress.
    pub const INGRESS: u32 = 2;
    /// `kfree_skb`.
    pub const DROP: u32 = 3;
    /// tc egress of the loopback device: what a rule of the output hook answers.
    pub const LOOPBACK: u32 = 4;
    /// How many there are.
    pub const LEN: u32 = 5;
}

/// Things that are counted of attempts, per CPU: indexes of the `ATTEMPT_COUNTS` map.
pub mod count {
    /// SYNs of another connection with the number of one that is followed.
    pub const COLLISIONS: u32 = 0;
    /// SYNs for which no record could be made.
    pub const REFUSED: u32 = 1;
    /// Teredo packets that found no room in the ring buffer.
    pub const TEREDO_LOST: u32 = 2;
    /// How many there are.
    pub const LEN: u32 = 3;
}

/// `IPPROTO_ICMP`
const IPPROTO_ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
const IPPROTO_ICMPV6: u8 = 58;

/// Whether a protocol number is that of the ICMP of a family.
#[inline(always)]
#[must_use]
pub const fn is_icmp(number: u8) -> bool {
    number == IPPROTO_ICMP || number == IPPROTO_ICMPV6
}

/// Type and code of an ICMP error that ends an attempt: [`ERROR_HOST`], [`ERROR_OTHER`], or 0 for what is
/// none. A packet that is too big is none: its sender is told to make it smaller.
#[inline(always)]
#[must_use]
pub const fn icmp_error(is_ipv6: bool, kind: u8, code: u8) -> u8 {
    if is_ipv6 {
        // RFC 4443: unreachable (3: the address), time exceeded, parameter problem.
        match (kind, code) {
            (1, 3) => ERROR_HOST,
            (1 | 3 | 4, _) => ERROR_OTHER,
            _ => 0,
        }
    } else {
        // RFC 792, RFC 1812 section 5.2.7.1: unreachable (1: the host), time exceeded, parameter problem.
        match (kind, code) {
            (3, 4) => 0,
            (3, 1) => ERROR_HOST,
            (3 | 11 | 12, _) => ERROR_OTHER,
            _ => 0,
        }
    }
}

/// The first eight bytes of a TCP header, which an ICMP error quotes at least (RFC 792).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TcpQuote {
    /// The ports.
    pub ports: Ports,
    /// Sequence number, network byte order.
    pub sequence: [u16; 2],
}
// SAFETY: integers only, no padding (8 bytes), alignment 2.
unsafe impl Plain for TcpQuote {}

/// A sequence number of two halves in network byte order, as a number.
#[inline(always)]
#[must_use]
pub fn sequence(halves: [u16; 2]) -> u32 {
    u32::from(u16::from_be(halves[0])) << 16 | u32::from(u16::from_be(halves[1]))
}

/// `FIN`
const FIN: u8 = 0x01;
/// `SYN`
const SYN: u8 = 0x02;
/// `RST`
const RST: u8 = 0x04;
/// `ACK`
const ACK: u8 = 0x10;

/// What a segment is to an attempt, by its flags and header length; 0 for nothing, else a code of
/// [`Kind`]. A header length that no TCP header has is nothing.
#[inline(always)]
#[must_use]
pub const fn segment_kind(flags: TcpFlags) -> u8 {
    if flags.data_offset < 0x50 {
        return 0;
    }
    match flags.flags & (FIN | SYN | RST | ACK) {
        SYN => Kind::Syn.code(),
        kind if kind == SYN | ACK => Kind::SynAck.code(),
        kind if kind == RST | ACK => Kind::Reset.code(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_a_handshake_are_looked_at() {
        let of = |data_offset, flags| segment_kind(TcpFlags { data_offset, flags });
        assert_eq!(of(0x50, 0x02), Kind::Syn.code());
        assert_eq!(of(0xa0, 0xc2), Kind::Syn.code(), "ECN set-up");
        assert_eq!(of(0xa0, 0x12), Kind::SynAck.code());
        assert_eq!(of(0x50, 0x14), Kind::Reset.code());
        for other in [0x00, 0x01, 0x03, 0x04, 0x06, 0x10, 0x11, 0x13, 0x16, 0x18] {
            assert_eq!(of(0x50, other), 0, "{other:#x}");
        }
        assert_eq!(of(0x40, 0x02), 0, "a header of 16 bytes");
        assert_eq!(of(0x00, 0x02), 0);
    }

    #[test]
    fn errors_that_end_an_attempt_are_told_from_advice() {
        assert_eq!(icmp_error(false, 3, 1), ERROR_HOST);
        assert_eq!(icmp_error(false, 3, 13), ERROR_OTHER);
        assert_eq!(icmp_error(false, 3, 4), 0, "fragmentation needed");
        assert_eq!(icmp_error(false, 5, 1), 0, "redirect");
        assert_eq!(icmp_error(false, 8, 0), 0, "echo request");
        assert_eq!(icmp_error(true, 1, 3), ERROR_HOST);
        assert_eq!(icmp_error(true, 1, 1), ERROR_OTHER);
        assert_eq!(icmp_error(true, 2, 0), 0, "packet too big");
        assert_eq!(icmp_error(true, 128, 0), 0);
    }

    #[test]
    fn a_sequence_number_is_read_in_network_order() {
        let halves = [0x1234_u16.to_be(), 0x5678_u16.to_be()];
        assert_eq!(sequence(halves), 0x1234_5678);
    }
}
