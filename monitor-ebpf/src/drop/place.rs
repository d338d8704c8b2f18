//! Rule P: drops whose reason does not tell whether they came before the verdict or after it.

use monitor_common::drop::{
    Class, MAX_PLACES, PLACE_CERTAIN, PLACE_READER, PLACE_TCP_RECEIVE, ReasonInfo,
};
use monitor_common::interface::NO_INTERFACE;
use monitor_common::packet::{Headers, Reader, TcpStart, blur};

use super::locate::Where;
use super::{AFTER, ALLOWED, BEFORE, IGNORED, Parties, SUBTRACT};
use crate::globals;
use crate::kernel::skb::{HeadReader, Skb};
use crate::maps::{LAST, PLACE_TABLE};
use crate::packet::Watched;

/// `net/tcp_states.h`
const TCP_TIME_WAIT: u32 = 6;
const SYN: u8 = 0x02;
const FIN_SYN_RST_ACK: u8 = 0x17;

/// What the row of a place says.
pub(super) struct Found {
    group: u8,
    class: u8,
    pub(super) kind: u8,
}

/// The kind of no row at all.
const NOT_FOUND: u8 = 0xff;

impl Found {
    /// No place, or none that is known.
    pub(super) const NONE: Self = Self {
        group: BEFORE,
        class: 0,
        kind: NOT_FOUND,
    };

    /// The row of the function that freed the packet.
    #[inline(always)]
    pub(super) fn of(location: u64) -> Self {
        let found = search(location).unwrap_or(Self::NONE);
        Self {
            group: blur(u32::from(found.group)) as u8,
            class: blur(u32::from(found.class)) as u8,
            kind: blur(u32::from(found.kind)) as u8,
        }
    }
}

/// By halving: the rows are sorted by address.
#[inline(always)]
fn search(location: u64) -> Option<Found> {
    let mut found = 0;
    let mut step = MAX_PLACES / 2;
    while step > 0 {
        if PLACE_TABLE.get(found + step)?.start <= location {
            found += step;
        }
        found = blur(found);
        step /= 2;
    }
    let place = PLACE_TABLE.get(found)?;
    if location < place.start || location >= place.end {
        return None;
    }
    Some(Found {
        group: place.group,
        class: place.class,
        kind: place.kind,
    })
}

/// Whether this packet is the one that was last counted as allowed on this CPU.
#[inline(always)]
fn is_last_counted(skb: Skb, watched: &Watched) -> bool {
    match LAST.get(0) {
        Some(last) => last.skb == skb.0 as u64 && last.ports == watched.ports_key(),
        None => false,
    }
}

/// Whether this SYN is the last one that a listening socket got on this CPU.
#[inline(always)]
fn was_delivered(skb: Skb, watched: &Watched, tcp: TcpStart) -> bool {
    let Some(last) = LAST.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value.
    let last = unsafe { &mut *last };
    // All three: scanners send one number to many ports, and memory is used again at once.
    let same = last.syn_skb == skb.0 as u64
        && last.syn_ports == watched.ports_key()
        && last.syn_numbers == tcp.numbers_key();
    if same {
        last.syn_skb = 0;
    }
    same
}

/// Rule P: where the reason alone cannot tell a drop before the verdict from a loss after it.
/// Gives the group and the class.
#[inline(always)]
pub(super) fn decide(
    parties: &Parties,
    place: &Found,
    info: ReasonInfo,
    at: &Where,
    reader: &HeadReader,
    headers: &Headers,
    watched: &Watched,
) -> (u8, u8) {
    let unspecified = info.unspecified != 0;
    let class = |place_class: u8| if unspecified { place_class } else { info.class };
    // 0. Some places say it whatever else holds: a clone for a packet socket looks like a packet that is
    // past tc egress, a fragment that waits for others is on no device, and neither is a datagram that
    // its reader finds spoiled.
    if place.group == IGNORED || matches!(place.kind, PLACE_CERTAIN | PLACE_READER) {
        return (place.group, class(place.class));
    }
    // What follows a socket's own reasons needs no place: the rest is for the unclear ones.
    if info.group == AFTER {
        return (AFTER, info.class);
    }
    // Without reasons a classifier's drop looks like one of the queue, but for its place.
    if place.group == SUBTRACT {
        return (SUBTRACT, class(place.class));
    }
    // 1. At a link header, and not on the device that it came in on: past tc egress.
    if parties.skb.is_at_link_header() && (at.incoming == 0 || at.incoming != at.interface) {
        return (AFTER, class(Class::Queue.code()));
    }
    // 2. Came in, and is on no device: past the socket hook.
    if at.incoming != 0 && at.interface == NO_INTERFACE {
        return (AFTER, class(Class::Socket.code()));
    }
    if place.kind == NOT_FOUND {
        return (BEFORE, info.class);
    }
    // 3. The receive function of TCP: a socket in TIME_WAIT took it, another one had it already.
    if unspecified && place.kind == PLACE_TCP_RECEIVE {
        if globals::HAS_RECEIVING_SOCKET.load() != 0 {
            if !parties.receiving.is_there() {
                return (place.group, place.class);
            }
            return if parties.receiving.state == TCP_TIME_WAIT {
                (ALLOWED, Class::Protocol.code())
            } else {
                (AFTER, Class::Protocol.code())
            };
        }
        return match reader.get::<TcpStart>(headers.transport) {
            Some(tcp) if tcp.flags.flags & FIN_SYN_RST_ACK == SYN => {
                if globals::HAS_REASON.load() != 0 {
                    // Repeated, and known to a request socket already.
                    (AFTER, Class::Protocol.code())
                } else if is_last_counted(parties.skb, watched) {
                    // Freed as soon as a listener was to get it: a socket filter or a cgroup's program.
                    (SUBTRACT, Class::Firewall.code())
                } else if was_delivered(parties.skb, watched, tcp) {
                    // Repeated: the SYN-ACK was sent again in between.
                    (AFTER, Class::Protocol.code())
                } else {
                    // To a closed port: no socket got it.
                    (place.group, place.class)
                }
            }
            // Most likely a TIME_WAIT socket took it: with reasons, a closed port would have one. Without
            // them nothing tells one from the other.
            _ => (ALLOWED, Class::Protocol.code()),
        };
    }
    // 4. The function says it.
    (place.group, class(place.class))
}
