//! The programs that follow a packet which a hook has noted: what it says, by its own bytes.

use aya_ebpf::bindings::__sk_buff;
use monitor_common::attempt::{
    Kind, Maker, Stage, TcpQuote, hook, icmp_error, segment_kind, sequence,
};
use monitor_common::packet::{Address4, Address6, ETHERTYPE_IPV6, Headers, Reader, TcpStart, blur};
use monitor_common::{Direction, Family};

use super::record::record;
use super::{ERROR, Note, TEREDO, note};
use crate::kernel::skb::HeadReader;
use crate::packet::{Loaded, Watched, mapped, request, watched};
use crate::pass::{carried, parse};
use crate::teredo;

/// Follows a packet that passed or arrived.
#[inline(always)]
pub(crate) fn follow_skb(skb: *mut __sk_buff, hook: u32, stage: Stage) -> Option<()> {
    let note = note(hook)?;
    note.stage = stage.code();
    let reader = Loaded(skb);
    // Bounded once more: what is read of a map has no bounds.
    let network = blur(note.network);
    let ethertype = carried(skb, network)?;
    if note.task == ERROR {
        let is_ipv6 = ethertype == u32::from(u16::to_be(ETHERTYPE_IPV6));
        note.family = u32::from(is_ipv6);
        quote(&reader, note, network)?;
        return record(hook, note);
    }
    let headers = parse(&reader, ethertype, network)?;
    note.headers(&headers, &watched(&reader, &headers), network);
    let transport = blur(note.transport);
    if note.task == TEREDO {
        return teredo::copy_of_skb(skb, hook, note, transport, network);
    }
    segment(&reader, note, transport, network)?;
    record(hook, note)
}

impl Note {
    /// Takes what the headers say.
    #[inline(always)]
    pub(crate) fn headers(&mut self, headers: &Headers, watched: &Watched, network: u32) {
        self.family = headers.family;
        self.transport = headers.transport;
        self.length = headers.length;
        self.traffic = request(watched);
        self.watched_traffic = watched.traffic;
        self.payload = teredo::length(headers, network);
    }
}

/// Follows a packet that was dropped.
#[inline(always)]
pub(crate) fn follow_head(skb: *const u8) -> Option<()> {
    let note = note(hook::DROP)?;
    if note.skb != skb as u64 {
        return None;
    }
    note.stage = Stage::Dropped.code();
    let reader = HeadReader {
        base: note.base as *const u8,
        available: note.available,
    };
    if note.task == TEREDO {
        return teredo::copy_of_head(&reader, note);
    }
    segment(&reader, note, note.transport, 0)?;
    record(hook::DROP, note)
}

/// Completes a note by what the segment says.
#[inline(always)]
fn segment<R: Reader>(reader: &R, note: &mut Note, transport: u32, network: u32) -> Option<()> {
    let tcp: TcpStart = reader.get(transport)?;
    let kind = segment_kind(tcp.flags);
    if kind == 0 {
        return None;
    }
    let [a, b, c, d] = tcp.numbers;
    if kind == Kind::Syn.code() {
        note.sequence = sequence([a, b]);
        let header = u32::from(tcp.flags.data_offset >> 4) * 4;
        let data = payload(note.length, transport.wrapping_sub(network), header)?;
        note.alias = note.sequence.wrapping_add(data);
    } else {
        note.sequence = sequence([c, d]).wrapping_sub(1);
        note.alias = note.sequence;
    }
    note.ports = tcp.ports;
    note.kind = kind;
    note.error_kind = 0;
    addresses(note, reader, network)
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

/// Completes a note by what an ICMP error quotes.
#[inline(always)]
fn quote<R: Reader>(reader: &R, note: &mut Note, network: u32) -> Option<()> {
    let is_ipv6 = note.family == Family::Ipv6 as u32;
    let first: u8 = reader.get(network)?;
    let header = if is_ipv6 {
        40
    } else {
        u32::from(first & 0x0f) * 4
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
    if quoted_number != 6 || quoted_first >> 4 != first >> 4 {
        return None;
    }
    let tcp: TcpQuote = reader.get(blur(tcp_at))?;
    addresses(note, reader, quote)?;
    let target = note.destination;
    addresses(note, reader, network)?;
    let made_here =
        note.stage == Stage::Passed.code() && note.direction == Direction::Outbound as u32;
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
    Some(())
}
