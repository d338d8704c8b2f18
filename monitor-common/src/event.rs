//! Records that go from the kernel programs to the daemon through a ring buffer.

/// One packet for the event log. Ports and addresses are in network byte order; IPv4 addresses stand
/// in the first four bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct PacketEvent {
    /// Time of the event on the monotonic clock (`bpf_ktime_get_ns`), nanoseconds.
    pub time_ns: u64,
    /// Address of the instruction that freed the packet, 0 for an allowed one.
    pub location: u64,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Index of the interface, 0 for none.
    pub interface: u32,
    /// The kernel's drop reason, or [`crate::drop::REASON_UNAVAILABLE`]; 0 for an allowed packet.
    pub reason: u32,
    /// Bytes of the IP packet.
    pub length: u32,
    /// How many packets on the wire it stands for.
    pub segments: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The series, a [`crate::counter::Slot`].
    pub slot: u16,
    /// Code of the [`crate::Verdict`].
    pub verdict: u8,
    /// Code of the [`crate::drop::Class`], 0 for an allowed packet.
    pub class: u8,
    /// Byte 13 of the TCP header (RFC 9293 section 3.1), 0 for UDP.
    pub tcp_flags: u8,
    /// Padding.
    pub pad: [u8; 7],
}

const _: () = assert!(size_of::<PacketEvent>() == 80);

/// Size of the ring buffer of packet events, bytes: a power of two and a multiple of every page size.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;

/// Things that a kernel program could not do, counted per CPU: indexes of the `LOSSES` map.
pub mod loss {
    /// Packet events held back by the rate limit.
    pub const LOG_SUPPRESSED: u32 = 0;
    /// Packet events for which the ring buffer had no room.
    pub const EVENT_LOST: u32 = 1;
    /// Dropped packets that found the map of drop counters full.
    pub const DROPS_FULL: u32 = 2;
    /// Packets that found the map of interfaces full (they are counted in `other`).
    pub const INTERFACES_FULL: u32 = 3;
    /// Freed packets whose note was lost, because an interrupt freed another one in between (before 6.1).
    pub const INTERRUPTED: u32 = 4;
    /// Freed packets that drop programs before this one never saw; the daemon writes it.
    pub const MISSED_BEFORE: u32 = 5;
    /// How many there are.
    pub const LEN: u32 = 6;
}
