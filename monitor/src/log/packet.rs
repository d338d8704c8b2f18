//! From the record that the kernel programs write to a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use monitor_common::counter::{Series, Slot};
use monitor_common::drop::Class;
use monitor_common::event::PacketEvent;
use monitor_common::interface::NO_INTERFACE;
use monitor_common::{Family, Protocol, Verdict};

/// A packet that the kernel programs report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// When, on the monotonic clock.
    pub time: Duration,
    /// Traffic, protocol, family, direction and flow.
    pub series: Series,
    /// Allowed or dropped.
    pub verdict: Verdict,
    /// The kernel's reason and its class; `None` for an allowed packet.
    pub dropped: Option<(u32, Class)>,
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it was going.
    pub destination: SocketAddr,
    /// Index of the interface it was on, if it was on one.
    pub interface: Option<NonZeroU32>,
    /// Bytes of the IP packet.
    pub length: u32,
    /// How many packets on the wire it stands for.
    pub segments: u32,
    /// Byte 13 of the TCP header; `None` for UDP.
    pub tcp_flags: Option<u8>,
}

impl Packet {
    /// Decodes a record of the ring buffer. `None` for what no kernel program of this version writes: a
    /// length other than that of [`PacketEvent`], or a code that is not defined.
    #[must_use]
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        if record.len() != size_of::<PacketEvent>() {
            return None;
        }
        // SAFETY: `record` has the size of a PacketEvent, which is made of integers and takes any bytes.
        let event = unsafe { record.as_ptr().cast::<PacketEvent>().read_unaligned() };
        Self::from_event(&event)
    }

    fn from_event(event: &PacketEvent) -> Option<Self> {
        let series = Slot(event.slot).series()?;
        let verdict = Verdict::from_code(event.verdict)?;
        let dropped = match verdict {
            Verdict::Allowed => None,
            Verdict::Dropped => Some((event.reason, Class::from_code(event.class)?)),
        };
        let endpoint = |address: [u8; 16], port| {
            let address: IpAddr = match series.family {
                Family::Ipv4 => {
                    let [a, b, c, d, ..] = address;
                    Ipv4Addr::new(a, b, c, d).into()
                }
                Family::Ipv6 => Ipv6Addr::from(address).into(),
            };
            SocketAddr::new(address, u16::from_be(port))
        };
        Some(Self {
            time: Duration::from_nanos(event.time_ns),
            series,
            verdict,
            dropped,
            source: endpoint(event.source, event.source_port),
            destination: endpoint(event.destination, event.destination_port),
            interface: match event.interface {
                NO_INTERFACE => None,
                index => NonZeroU32::new(index),
            },
            length: event.length,
            segments: event.segments,
            tcp_flags: (series.protocol == Protocol::Tcp).then_some(event.tcp_flags),
        })
    }
}

/// The letters of TCP flags, from the lowest bit up: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR (RFC 9293
/// section 3.1).
pub(super) fn flag_letters(flags: u8) -> String {
    "FSRPAUEC"
        .chars()
        .enumerate()
        .filter_map(|(bit, letter)| (flags >> bit & 1 == 1).then_some(letter))
        .collect()
}
