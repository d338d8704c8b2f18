//! The programs that follow a packet which a hook has noted: what it says, by its own bytes.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use monitor_common::attempt::{Maker, Stage, hook};
use monitor_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Reader, Start4, Start6, blur,
};
use monitor_common::{Direction, Family, Protocol};

use super::record::record;
use super::{ERROR, Note, SEGMENT, TEREDO, note, reader};
use crate::kernel::skb::Skb;
use crate::packet::{Loaded, Watched, request, watched, watched_by};
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
    } else if note.task != SEGMENT || plain(skb, note, ethertype, network).is_none() {
        // Most segments are read with one call, where the parser's way takes six.
        let headers = parse(&reader, ethertype, network)?;
        note.headers(&headers, &watched(&reader, &headers), network);
        let transport = blur(note.transport);
        if note.task == TEREDO {
            return teredo::copy_of_skb(skb, hook, note, transport, network);
        }
        segment(&reader, note, transport, network)?;
    }
    record(hook, note)
}

/// Completes the note of a segment in a packet without options; `None` for any other, which is left to the parser.
#[inline(always)]
fn plain(skb: *mut __sk_buff, note: &mut Note, ethertype: u32, network: u32) -> Option<()> {
    let is_ipv6 = ethertype == u32::from(u16::to_be(ETHERTYPE_IPV6));
    if !is_ipv6 && ethertype != u32::from(u16::to_be(ETHERTYPE_IPV4)) {
        return None;
    }
    note.family = u32::from(is_ipv6);
    // Into the note: it would be too much for the stack.
    let start = note.start.as_mut_ptr();
    let load = |length: usize| {
        // SAFETY: at most the size of the target.
        let result =
            unsafe { bpf_skb_load_bytes(skb.cast(), network, start.cast(), length as u32) };
        (result == 0).then_some(())
    };
    let said = &mut note.said;
    if is_ipv6 {
        load(size_of::<Start6>())?;
        // SAFETY: as long, just written, and aligned to 2 as it is.
        said.plain_ipv6(unsafe { &*start.cast::<Start6>() })?;
    } else {
        load(size_of::<Start4>())?;
        // SAFETY: as above.
        said.plain_ipv4(unsafe { &*start.cast::<Start4>() })?;
    }
    note.traffic = request(&watched_by(said.ports, Protocol::Tcp as u32));
    Some(())
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
pub(crate) fn follow_head(skb: Skb) -> Option<()> {
    let note = note(hook::DROP)?;
    if note.skb != skb.0 as u64 {
        return None;
    }
    note.stage = Stage::Dropped.code();
    let reader = reader(skb, note);
    if note.task == TEREDO {
        return teredo::copy_of_head(&reader, note);
    }
    segment(&reader, note, note.transport, 0)?;
    record(hook::DROP, note)
}

/// Completes a note by what the segment says.
#[inline(always)]
fn segment<R: Reader>(reader: &R, note: &mut Note, transport: u32, network: u32) -> Option<()> {
    let (is_ipv6, length) = (note.family == Family::Ipv6 as u32, note.length);
    note.said
        .segment(reader, is_ipv6, transport, network, length)
}

/// Completes a note by what an ICMP error quotes.
#[inline(always)]
fn quote<R: Reader>(reader: &R, note: &mut Note, network: u32) -> Option<()> {
    let is_ipv6 = note.family == Family::Ipv6 as u32;
    note.said.quote(reader, is_ipv6, network)?;
    let made_here =
        note.stage == Stage::Passed.code() && note.direction == Direction::Outbound as u32;
    note.error_by = if made_here {
        Maker::Here.code()
    } else if note.said.from_target != 0 {
        Maker::Target.code()
    } else {
        Maker::Between.code()
    };
    Some(())
}
