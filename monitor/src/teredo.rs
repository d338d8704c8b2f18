//! Teredo packets (RFC 4380): what the kernel programs copied of one, and what its payload says.
//!
//! Anybody can send any bytes to the port, so everything that does not look right is [`Message::Other`].

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use monitor_common::Direction;
use monitor_common::attempt::Stage;
use monitor_common::drop::Class;
use monitor_common::teredo::TeredoPacket;
use serde::{Deserialize, Serialize};

/// `IPPROTO_ICMPV6`
const ICMPV6: u8 = 58;
/// Length of an IPv6 header, bytes.
const IPV6_HEADER: usize = 40;
/// Length of an origin indication, bytes.
const ORIGIN: usize = 8;
/// `ND_ROUTER_SOLICIT` (RFC 4861 section 4.1)
const ROUTER_SOLICITATION: u8 = 133;
/// `ND_ROUTER_ADVERT` (RFC 4861 section 4.2)
const ROUTER_ADVERTISEMENT: u8 = 134;

/// What is in the authentication header of a solicitation and of the advertisement that answers it.
pub type Nonce = [u8; 8];

/// What a payload is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message {
    /// A client asks whether a server is there.
    Solicitation {
        /// `None` where the client sends none, or zeros, which tell it from nobody else's.
        nonce: Option<Nonce>,
        /// Whether it asks for an answer from the server's second address, to test what kind of
        /// translator it is behind: without an answer that proves nothing.
        cone: bool,
    },
    /// A server answers.
    Advertisement {
        /// That of the solicitation.
        nonce: Option<Nonce>,
        /// Whether it answers such a test.
        cone: bool,
    },
    /// Anything else.
    Other,
}

/// Parses the payload of a UDP packet, of which only the beginning need be there.
#[must_use]
pub fn parse(payload: &[u8]) -> Message {
    try_parse(payload).unwrap_or(Message::Other)
}

fn try_parse(payload: &[u8]) -> Option<Message> {
    let (nonce, payload) = authentication(payload)?;
    // The origin indication: 0, 0, a port and an address.
    let packet = match payload {
        [0, 0, ..] => payload.get(ORIGIN..)?,
        _ => payload,
    };
    let (header, icmp) = packet.split_at_checked(IPV6_HEADER)?;
    let (version, next_header) = (header.first()? >> 4, *header.get(6)?);
    if version != 6 || next_header != ICMPV6 {
        return None;
    }
    match *icmp.first()? {
        ROUTER_SOLICITATION => Some(Message::Solicitation {
            nonce,
            cone: is_cone(header.get(8..24)?)?,
        }),
        ROUTER_ADVERTISEMENT => Some(Message::Advertisement {
            nonce,
            // It goes to the address that asked.
            cone: is_cone(header.get(24..40)?)?,
        }),
        _ => None,
    }
}

/// The nonce of the authentication header (RFC 4380 section 5.1.1), if there is one, and what follows it.
fn authentication(payload: &[u8]) -> Option<(Option<Nonce>, &[u8])> {
    let [0, 1, id, value, rest @ ..] = payload else {
        return Some((None, payload));
    };
    let rest = rest.get(usize::from(*id) + usize::from(*value)..)?;
    let (nonce, rest) = rest.split_first_chunk::<8>()?;
    // Behind it, one byte of confirmation.
    let rest = rest.get(1..)?;
    Some(((*nonce != [0; 8]).then_some(*nonce), rest))
}

/// Whether the flags in the link-local address of a client (RFC 4380 section 4) say that it takes its
/// translator for a cone. `None` for an address that is not link-local: no client asks from there.
fn is_cone(address: &[u8]) -> Option<bool> {
    match address {
        [0xfe, second, _, _, _, _, _, _, flags, ..] if second & 0xc0 == 0x80 => {
            Some(flags & 0x80 != 0)
        }
        _ => None,
    }
}

/// Why and where a packet was dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Dropped {
    /// The class of the reason.
    pub class: Class,
    /// The kernel's reason.
    pub reason: u32,
    /// Address of the instruction that dropped it.
    pub location: u64,
}

/// A packet of the Teredo traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// When, on the monotonic clock.
    pub time: Duration,
    /// Index of the traffic.
    pub traffic: u8,
    /// Where it goes.
    pub direction: Direction,
    /// `None` where it passed.
    pub dropped: Option<Dropped>,
    /// Where it came from.
    pub source: SocketAddrV4,
    /// Where it was going.
    pub destination: SocketAddrV4,
    /// What it says.
    pub message: Message,
}

impl Packet {
    /// Decodes a record of the ring buffer. `None` for what no kernel program of this version writes.
    #[must_use]
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        if record.len() != size_of::<TeredoPacket>() {
            return None;
        }
        // SAFETY: `record` has the size of a TeredoPacket, which is made of integers and takes any bytes.
        let packet = unsafe { record.as_ptr().cast::<TeredoPacket>().read_unaligned() };
        Self::from_record(&packet)
    }

    fn from_record(packet: &TeredoPacket) -> Option<Self> {
        let dropped = match Stage::from_code(packet.stage)? {
            Stage::Passed => None,
            Stage::Dropped => Some(Dropped {
                class: Class::from_code(packet.class)?,
                reason: packet.reason,
                location: packet.location,
            }),
            Stage::Arrived => return None,
        };
        let end =
            |address: [u8; 4], port| SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be(port));
        let [source, destination] = packet.addresses;
        Some(Self {
            time: Duration::from_nanos(packet.time_ns),
            traffic: packet.traffic,
            direction: Direction::from_code(packet.direction)?,
            dropped,
            source: end(source, packet.ports.source),
            destination: end(destination, packet.ports.destination),
            message: parse(packet.payload.get(..usize::from(packet.copied))?),
        })
    }
}

#[cfg(test)]
mod tests;
