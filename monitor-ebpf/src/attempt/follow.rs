//! The programs that follow a packet which a hook has noted: what it says, by its own bytes.

use aya_ebpf::bindings::__sk_buff;
use monitor_common::attempt::{Maker, Stage, hook};
use monitor_common::packet::{ETHERTYPE_IPV6, Headers, Reader, blur};
use monitor_common::{Direction, Family};

use super::record::record;
use super::{ERROR, Note, TEREDO, note};
use crate::kernel::skb::HeadReader;
use crate::packet::{Loaded, Watched, request, watched};
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
