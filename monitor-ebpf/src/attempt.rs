//! Attempts to open a TCP connection, and Teredo solicitations: which packets belong to one.
//!
//! The hooks count first, and leave a note of each packet that may belong to an attempt. A program of its
//! own, which they end in by a tail call, looks closely and takes it into the record. So the verifier goes
//! through what an attempt needs once, and not once for each of the paths that lead there: followed
//! inside the hooks it made 321,878 instructions of the drop program's 177,764, and 55,385 of the 11,802 of
//! tc egress.

use monitor_common::Protocol;
use monitor_common::attempt::{Said, is_icmp};
use monitor_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Ports, Reader, Start4, Start6, blur,
};

use crate::kernel::skb::{HeadReader, Skb};
use crate::maps::NOTES;
use crate::packet::{SYN_OR_RST, Watched};
use crate::teredo;

mod follow;
mod record;

pub(crate) use follow::{follow_head, follow_skb};
pub(crate) use record::add;

/// Nothing is left to do.
pub(crate) const NOTHING: u32 = 0;
/// [`Note::task`]: a TCP segment, by its flags.
pub(crate) const SEGMENT: u32 = 1;
/// [`Note::task`]: an ICMP error.
pub(crate) const ERROR: u32 = 2;
/// [`Note::task`]: a UDP packet of the Teredo traffic.
pub(crate) const TEREDO: u32 = 3;

/// Room for the longer of both, in units of 2 bytes and whole ones of 8.
const START: usize = size_of::<Start6>().next_multiple_of(8) / 2;
const _: () = assert!(size_of::<Start4>() <= START * 2);

/// What a hook has seen of a packet, for the program that follows it. Never leaves the kernel.
#[repr(C)]
pub(crate) struct Note {
    /// Of a packet that is freed: which one, and where its IP header is.
    pub(crate) skb: u64,
    pub(crate) base: u64,
    /// Of such a packet: where its memory begins.
    pub(crate) head: u64,
    /// Of such a packet: the socket that was to receive it.
    pub(crate) receiving: u64,
    pub(crate) location: u64,
    pub(crate) available: u32,
    pub(crate) reason: u32,
    /// What is to be done.
    pub(crate) task: u32,
    /// Offset of the IP header from where the reader begins.
    pub(crate) network: u32,
    /// As in [`Headers`], and [`Watched`].
    pub(crate) family: u32,
    pub(crate) protocol: u32,
    pub(crate) later_fragment: u32,
    pub(crate) transport: u32,
    pub(crate) length: u32,
    pub(crate) is_watched: u32,
    pub(crate) watched_traffic: u32,
    pub(crate) flow: u32,
    pub(crate) watched_ports: Ports,
    /// Bytes of payload of a packet that may be Teredo's.
    pub(crate) payload: u32,
    /// Index of the traffic whose request it is + 1; 0 where the ports are nobody's.
    pub(crate) traffic: u32,
    /// Code of the direction.
    pub(crate) direction: u32,
    /// Code of the class of a drop.
    pub(crate) class: u32,
    /// The rest is the following program's: the beginning of the packet, and what it says.
    start: [u16; START],
    said: Said,
    /// Code of a [`monitor_common::attempt::Stage`].
    pub(crate) stage: u8,
    /// Of an ICMP error: code of the [`monitor_common::attempt::Maker`].
    error_by: u8,
    pad: [u8; 2],
}

/// The note of a hook on this CPU.
#[inline(always)]
pub(crate) fn note(hook: u32) -> Option<&'static mut Note> {
    // SAFETY: this CPU's own value, and plain bytes whatever they are. Nothing else writes it until the
    // programs of this packet have ended: tc and socket hooks run with bottom halves off, and the drop
    // programs look whether it is still theirs. With PREEMPT_RT a lock of the CPU sees to that; in one built
    // without PREEMPT_RT_NEEDS_BH_LOCK (6.18) two packets may mix, to an attempt that no answer finds.
    NOTES.get_ptr_mut(hook).map(|note| unsafe { &mut *note })
}

/// A reader of the freed packet that a note is of.
#[inline(always)]
pub(crate) fn reader(skb: Skb, note: &Note) -> HeadReader {
    let memory = skb.memory(note.head);
    HeadReader {
        memory,
        base: memory.pointer(note.base as *const u8),
        available: note.available,
    }
}

/// Whether a segment may belong to an attempt, by a cheap look at its flags: not 0.
#[inline(always)]
pub(crate) fn may_belong<R: Reader>(reader: &R, headers: &Headers) -> u32 {
    if headers.protocol != Protocol::Tcp as u32 {
        return 0;
    }
    // The offset once more by way of memory: the compiler would make one check of two of different
    // pointers, which the verifier does not take.
    match reader.get::<u8>(blur(headers.transport) + 13) {
        Some(flags) => u32::from(flags & SYN_OR_RST),
        None => 0,
    }
}

/// What is to be done of a packet that was read; `flags` is what [`may_belong`] gives.
///
/// By way of memory, as what is tested at the end of a program: the verifier would follow all that comes in
/// between once for each answer.
#[inline(always)]
pub(crate) fn task(headers: &Headers, watched: &Watched, flags: u32, network: u32) -> u32 {
    blur(if flags != 0 {
        SEGMENT
    } else if watched.is_known && teredo::payload(headers, watched, network) != 0 {
        TEREDO
    } else {
        NOTHING
    })
}

/// Leaves a note of a packet that passed or arrived. Gives the task back. No more than this: what is in the
/// packet is read again by the program that follows it.
#[inline(always)]
pub(crate) fn leave(hook: u32, task: u32, direction: u32, network: u32) -> u32 {
    let Some(note) = note(hook) else {
        return NOTHING;
    };
    note.task = task;
    note.network = network;
    note.direction = direction;
    task
}

/// Whether a packet that is neither TCP nor UDP is of ICMP, and so may be an error. `reader` reads what is
/// linear of it; `ethertype` is in network byte order. Gives the task.
#[inline(always)]
pub(crate) fn task_of_other<R: Reader>(reader: &R, ethertype: u32, network: u32) -> u32 {
    let is_ipv6 = ethertype == u32::from(u16::to_be(ETHERTYPE_IPV6));
    if !is_ipv6 && ethertype != u32::from(u16::to_be(ETHERTYPE_IPV4)) {
        return NOTHING;
    }
    // Next header and hop limit, time to live and protocol. Two bytes: of a check for one the compiler makes a
    // comparison that tells the verifier nothing.
    let Some(two) = reader.get::<u16>(network + if is_ipv6 { 6 } else { 8 }) else {
        return NOTHING;
    };
    let [first, second] = two.to_ne_bytes();
    if is_icmp(if is_ipv6 { first } else { second }) {
        ERROR
    } else {
        NOTHING
    }
}
