//! Attempts to open a TCP connection: which packets belong to one, and what they say.
//!
//! The hooks fill a note of the packet, [`record`] takes it into the attempt's record. That is a function
//! of its own, not inlined: the verifier follows it without all that led there.

use aya_ebpf::bindings::__sk_buff;
use monitor_common::attempt::{
    Kind, Maker, Stage, TcpQuote, hook, icmp_error, is_icmp, segment_kind, sequence,
};
use monitor_common::packet::{
    Address4, Address6, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Ports, Reader, TcpStart, blur,
};
use monitor_common::{Direction, Family, Protocol};

use crate::globals;
use crate::kernel::skb::HeadReader;
use crate::maps::NOTES;
use crate::packet::{Loaded, Watched, request};
use crate::teredo;

mod record;

pub(crate) use record::add;
use record::record;

/// What a hook has seen of a packet. Never leaves the kernel.
#[repr(C)]
pub(crate) struct Note {
    location: u64,
    source: [u8; 16],
    destination: [u8; 16],
    family: u32,
    /// Key of the attempt.
    sequence: u32,
    /// Of a SYN with data: the key by which an answer to all of it names the attempt; else `sequence`.
    alias: u32,
    reason: u32,
    ports: Ports,
    hook: u32,
    /// Code of a [`Kind`].
    kind: u8,
    /// Code of a [`Stage`].
    stage: u8,
    direction: u8,
    class: u8,
    /// Index of the traffic + 1; 0 where the ports are nobody's.
    traffic: u8,
    /// Of an ICMP error.
    error_kind: u8,
    /// Of an ICMP error: code of the [`Maker`].
    error_by: u8,
    pad: u8,
    /// Of a packet that is freed: what [`begin`] leaves for [`end`].
    base: u64,
    available: u32,
    transport: u32,
    length: u32,
    /// 1 where it may belong to an attempt.
    belongs: u32,
    /// 1 where its ports are watched.
    is_watched: u32,
    /// Bytes of payload of a packet that may be Teredo's; 0 for any other.
    teredo: u32,
}

/// Where a packet is seen.
#[derive(Clone, Copy)]
pub(crate) struct At {
    /// One of [`hook`].
    pub(crate) hook: u32,
    pub(crate) stage: Stage,
    /// Code of the [`Direction`].
    pub(crate) direction: u32,
    /// Offset of the IP header from where the reader begins.
    pub(crate) network: u32,
    /// Of a drop: its place, reason and class.
    pub(crate) location: u64,
    pub(crate) reason: u32,
    pub(crate) class: u8,
}

impl At {
    /// Not dropped.
    #[inline(always)]
    pub(crate) const fn new(hook: u32, stage: Stage, direction: u32, network: u32) -> Self {
        Self {
            hook,
            stage,
            direction,
            network,
            location: 0,
            reason: 0,
            class: 0,
        }
    }
}

/// Whether a segment may belong to an attempt: a cheap look at its flags.
#[inline(always)]
pub(crate) fn may_belong<R: Reader>(reader: &R, headers: &Headers) -> bool {
    /// SYN, RST
    const EITHER: u8 = 0x06;
    globals::FOLLOW_ATTEMPTS.load() != 0
        && headers.protocol == Protocol::Tcp as u32
        // The offset once more by way of memory: the compiler would make one check of two of different
        // pointers, which the verifier does not take.
        && match reader.get::<u8>(blur(headers.transport) + 13) {
            Some(flags) => flags & EITHER != 0,
            None => false,
        }
}

/// The addresses of a packet, IPv4 ones as IPv4-mapped.
#[inline(always)]
fn addresses<R: Reader>(note: &mut Note, reader: &R, network: u32) -> Option<()> {
    if note.family == Family::Ipv4 as u32 {
        note.source = mapped(reader.get::<Address4>(network + 12)?);
        note.destination = mapped(reader.get::<Address4>(network + 16)?);
    } else {
        note.source = reader.get::<Address6>(network + 8)?.bytes();
        note.destination = reader.get::<Address6>(network + 24)?.bytes();
    }
    Some(())
}

/// An IPv4-mapped address (RFC 4291 section 2.5.5.2).
#[inline(always)]
fn mapped(address: Address4) -> [u8; 16] {
    let [a, b, c, d] = address.bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// What a hook knows of a segment before it is looked at closely.
#[inline(always)]
fn prepare(family: u32, traffic: u32, at: At) {
    // Scratch memory of this hook on this CPU: nothing else writes it until this program ends.
    let Some(note) = NOTES.get_ptr_mut(at.hook) else {
        return;
    };
    // SAFETY: this CPU's own value, of this hook.
    let note = unsafe { &mut *note };
    note.family = family;
    note.traffic = blur(traffic) as u8;
    note.hook = at.hook;
    note.stage = at.stage.code();
    note.direction = blur(at.direction) as u8;
    note.location = at.location;
    note.reason = at.reason;
    note.class = at.class;
}

/// Takes a TCP segment that [`may_belong`] into its attempt. `traffic` is the index of the traffic whose
/// request it is, + 1, or 0.
#[inline(always)]
pub(crate) fn segment(skb: *mut __sk_buff, headers: &Headers, traffic: u32, at: At) {
    prepare(headers.family, traffic, at);
    segment_of_skb(skb, at.hook, headers.transport, at.network, headers.length);
}

/// Notes a packet that is freed, before it is known where. What differs by path is kept here until the
/// end: the verifier would follow each path through all that comes in between.
#[inline(always)]
pub(crate) fn begin(
    reader: &HeadReader,
    headers: &Headers,
    watched: &Watched,
    belongs: bool,
    location: u64,
    reason: u32,
) -> Option<()> {
    let note = NOTES.get_ptr_mut(hook::DROP)?;
    // SAFETY: this CPU's own value, of this hook.
    let note = unsafe { &mut *note };
    note.family = headers.family;
    note.traffic = if belongs {
        request(watched)
    } else {
        watched.traffic
    } as u8;
    note.hook = hook::DROP;
    note.stage = Stage::Dropped.code();
    note.location = location;
    note.reason = reason;
    note.base = reader.base as u64;
    note.available = reader.available;
    note.transport = headers.transport;
    note.length = headers.length;
    note.belongs = u32::from(belongs);
    note.is_watched = u32::from(watched.is_known);
    note.teredo = if watched.is_known {
        teredo::payload(headers, watched, 0)
    } else {
        0
    };
    Some(())
}

/// Whether the ports of the packet that [`begin`] noted are watched.
#[inline(always)]
pub(crate) fn is_watched() -> bool {
    match NOTES.get(hook::DROP) {
        Some(note) => note.is_watched != 0,
        None => false,
    }
}

/// Takes the packet that [`begin`] noted into its attempt, if it may belong to one: it was dropped.
#[inline(always)]
pub(crate) fn end(direction: u32, class: u8) {
    if globals::FOLLOW_ATTEMPTS.load() == 0 {
        return;
    }
    let Some(note) = NOTES.get_ptr_mut(hook::DROP) else {
        return;
    };
    // SAFETY: this CPU's own value, of this hook.
    let note = unsafe { &mut *note };
    if note.belongs != 0 {
        note.direction = blur(direction) as u8;
        note.class = class;
        segment_of_head();
    } else if note.teredo != 0 {
        note.direction = blur(direction) as u8;
        note.class = class;
        teredo_of_head();
    }
}

#[inline(never)]
fn teredo_of_head() -> u32 {
    let Some(note) = NOTES.get(hook::DROP) else {
        return 0;
    };
    let reader = HeadReader {
        base: note.base as *const u8,
        available: note.available,
    };
    let at = At {
        location: note.location,
        reason: note.reason,
        class: note.class,
        ..At::new(hook::DROP, Stage::Dropped, u32::from(note.direction), 0)
    };
    teredo::freed(&reader, note.transport, note.traffic, note.teredo, at);
    0
}

#[inline(never)]
fn segment_of_skb(
    skb: *mut __sk_buff,
    hook: u32,
    transport: u32,
    network: u32,
    length: u32,
) -> u32 {
    take(&Loaded(skb), hook, transport, network, length);
    0
}

#[inline(never)]
fn segment_of_head() -> u32 {
    let Some(note) = NOTES.get(hook::DROP) else {
        return 0;
    };
    let reader = HeadReader {
        base: note.base as *const u8,
        available: note.available,
    };
    take(&reader, hook::DROP, note.transport, 0, note.length);
    0
}

/// Completes the note of a hook by what the segment says, and takes it into the attempt.
#[inline(always)]
fn take<R: Reader>(reader: &R, hook: u32, transport: u32, network: u32, length: u32) -> Option<()> {
    let tcp: TcpStart = reader.get(transport)?;
    let kind = segment_kind(tcp.flags);
    if kind == 0 {
        return None;
    }
    let note = NOTES.get_ptr_mut(hook)?;
    // SAFETY: this CPU's own value, of this hook.
    let note = unsafe { &mut *note };
    let [a, b, c, d] = tcp.numbers;
    if kind == Kind::Syn.code() {
        note.sequence = sequence([a, b]);
        let header = u32::from(tcp.flags.data_offset >> 4) * 4;
        note.alias = note
            .sequence
            .wrapping_add(payload(length, transport - network, header)?);
    } else {
        note.sequence = sequence([c, d]).wrapping_sub(1);
        note.alias = note.sequence;
    }
    addresses(note, reader, network)?;
    note.ports = tcp.ports;
    note.kind = kind;
    record(hook);
    Some(())
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

/// Takes an ICMP error into the attempt whose SYN it quotes, if this is one: any packet that is neither TCP
/// nor UDP will do. `reader` reads what is linear of it.
#[inline(always)]
pub(crate) fn error<R: Reader>(skb: *mut __sk_buff, reader: &R, protocol: u32, at: At) {
    let is_ipv6 = protocol == u32::from(u16::to_be(ETHERTYPE_IPV6));
    if globals::FOLLOW_ATTEMPTS.load() == 0 {
        return;
    }
    if !is_ipv6 && protocol != u32::from(u16::to_be(ETHERTYPE_IPV4)) {
        return;
    }
    let number = reader.get::<u8>(at.network + if is_ipv6 { 6 } else { 9 });
    if let Some(number) = number
        && is_icmp(number)
    {
        let family = if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
        prepare(family as u32, 0, at);
        error_of_skb(skb, at.hook, at.network);
    }
}

#[inline(never)]
fn error_of_skb(skb: *mut __sk_buff, hook: u32, network: u32) -> u32 {
    let _: Option<()> = quote(&Loaded(skb), hook, network);
    0
}

/// Completes the note of a hook by what an ICMP error quotes, and takes it into the attempt.
#[inline(always)]
fn quote<R: Reader>(reader: &R, hook: u32, network: u32) -> Option<()> {
    let note = NOTES.get_ptr_mut(hook)?;
    // SAFETY: this CPU's own value, of this hook.
    let note = unsafe { &mut *note };
    let is_ipv6 = note.family == Family::Ipv6 as u32;
    let first: u8 = reader.get(network)?;
    let header = if is_ipv6 {
        40
    } else {
        u32::from(first & 0x0f) * 4
    };
    let icmp = network + header;
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
    if quoted_number != 6 || quoted_first >> 4 != first >> 4 {
        return None;
    }
    let tcp: TcpQuote = reader.get(blur(tcp_at))?;
    addresses(note, reader, quote)?;
    let target = note.destination;
    addresses(note, reader, network)?;
    let made_here =
        note.stage == Stage::Passed.code() && note.direction == Direction::Outbound.code();
    note.error_by = if made_here {
        Maker::Here.code()
    } else if note.source == target {
        Maker::Target.code()
    } else {
        Maker::Between.code()
    };
    note.sequence = sequence(tcp.sequence);
    note.alias = note.sequence;
    note.ports = tcp.ports;
    note.kind = Kind::Error.code();
    note.error_kind = error_kind;
    record(hook);
    Some(())
}
