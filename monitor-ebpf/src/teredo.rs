//! Teredo packets: those that may be part of an attempt are copied for the daemon, which parses them.
//!
//! As for TCP, the hooks leave a note of the packet, and a program of its own copies it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes};
use monitor_common::attempt::{count, hook};
use monitor_common::packet::{Headers, Ports, Reader, blur};
use monitor_common::teredo::{Addresses, COPIED, LONGEST, SHORTEST, TeredoPacket};
use monitor_common::{Family, Protocol};

use crate::attempt::{Note, add};
use crate::kernel::skb::HeadReader;
use crate::maps::{TEREDO_PACKETS, TEREDO_RING, TEREDO_TRAFFIC};
use crate::packet::{Loaded, Watched};

/// `BPF_RB_NO_WAKEUP`: the daemon reads at its own pace.
const NO_WAKEUP: u64 = 1;
/// Length of a UDP header, bytes.
const UDP_HEADER: u32 = 8;

/// Bytes behind a UDP header. Meaningless for any other packet.
#[inline(always)]
pub(crate) fn length(headers: &Headers, network: u32) -> u32 {
    headers
        .length
        .wrapping_sub(headers.transport.wrapping_sub(network))
        .wrapping_sub(UDP_HEADER)
}

/// Bytes of payload, where a packet that is watched may be part of an attempt; else 0.
#[inline(always)]
pub(crate) fn payload(headers: &Headers, watched: &Watched, network: u32) -> u32 {
    if headers.protocol != Protocol::Udp as u32 || headers.family != Family::Ipv4 as u32 {
        return 0;
    }
    // Most UDP packets are longer: looked at first.
    let length = length(headers, network);
    if !(SHORTEST..=LONGEST).contains(&length) {
        return 0;
    }
    if TEREDO_TRAFFIC.load() == watched.traffic + 1 {
        length
    } else {
        0
    }
}

/// How many bytes are copied of so many, which are not 0. The mask bounds it where the verifier sees it.
#[inline(always)]
fn bounded(length: u32) -> u32 {
    let last = if length > COPIED { COPIED } else { length }.wrapping_sub(1);
    (blur(last) & (COPIED - 1)) + 1
}

/// Copies a packet that passed.
#[inline(always)]
pub(crate) fn copy_of_skb(
    skb: *mut __sk_buff,
    hook: u32,
    note: &Note,
    transport: u32,
    network: u32,
) -> Option<()> {
    let copied = bounded(note.payload);
    let copy = |target: *mut u8| {
        // SAFETY: `copied` is at most the size of the target; the helper checks the packet.
        let result = unsafe {
            bpf_skb_load_bytes(skb.cast(), transport + UDP_HEADER, target.cast(), copied)
        };
        result == 0
    };
    send(&Loaded(skb), hook, note, transport, network, copied, copy)
}

/// Copies a packet that was dropped.
#[inline(always)]
pub(crate) fn copy_of_head(reader: &HeadReader, note: &Note) -> Option<()> {
    let start = note.transport.wrapping_add(UDP_HEADER);
    // Some drivers leave only the headers in the linear part.
    if start >= reader.available {
        return None;
    }
    let room = reader.available - start;
    let copied = bounded(if note.payload > room {
        room
    } else {
        note.payload
    });
    // The helper takes an address and no pointer.
    let base = note.base as *const u8;
    let copy = |target: *mut u8| {
        let from = base.wrapping_add(start as usize);
        // SAFETY: `copied` is at most the size of the target; the helper checks the address.
        let result = unsafe { bpf_probe_read_kernel(target.cast(), copied, from.cast()) };
        result == 0
    };
    send(reader, hook::DROP, note, note.transport, 0, copied, copy)
}

/// Sends a packet to the daemon.
#[inline(always)]
fn send<R: Reader>(
    reader: &R,
    hook: u32,
    note: &Note,
    transport: u32,
    network: u32,
    copied: u32,
    copy: impl FnOnce(*mut u8) -> bool,
) -> Option<()> {
    let addresses: Addresses = reader.get(network + 12)?;
    let ports: Ports = reader.get(transport)?;
    let packet = TEREDO_PACKETS.get_ptr_mut(hook)?;
    // SAFETY: this CPU's own value, of this hook: nothing else writes it until this program ends.
    let packet = unsafe { &mut *packet };
    if !copy(packet.payload.as_mut_ptr()) {
        return None;
    }
    // Of a packet that was not dropped, these are 0: no other hook writes them.
    packet.location = note.location;
    packet.reason = note.reason;
    packet.class = note.class as u8;
    packet.length = note.payload as u16;
    packet.traffic = note.watched_traffic as u8;
    packet.stage = note.stage;
    packet.direction = note.direction as u8;
    packet.addresses = addresses.0;
    packet.ports = ports;
    packet.copied = copied as u16;
    // SAFETY: no preconditions.
    packet.time_ns = unsafe { bpf_ktime_get_ns() };
    if TEREDO_RING
        .output::<TeredoPacket>(&*packet, NO_WAKEUP)
        .is_err()
    {
        add(count::TEREDO_LOST, hook);
    }
    Some(())
}
