//! Teredo packets: those that may be part of an attempt are copied for the daemon, which parses them.
//!
//! As for TCP, the hooks fill a note of the packet, and a function of its own completes it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes};
use monitor_common::attempt::{count, hook};
use monitor_common::packet::{Headers, Ports, Reader, blur};
use monitor_common::teredo::{Addresses, COPIED, LONGEST, SHORTEST, TeredoPacket};
use monitor_common::{Family, Protocol};

use crate::attempt::{At, add};
use crate::globals;
use crate::kernel::skb::HeadReader;
use crate::maps::{TEREDO_PACKETS, TEREDO_RING, TEREDO_TRAFFIC};
use crate::packet::{Loaded, Watched};

/// `BPF_RB_NO_WAKEUP`: the daemon reads at its own pace.
const NO_WAKEUP: u64 = 1;
/// Length of a UDP header, bytes.
const UDP_HEADER: u32 = 8;

/// Bytes of payload, where a packet may be part of an attempt; else 0.
#[inline(always)]
pub(crate) fn payload(headers: &Headers, watched: &Watched, network: u32) -> u32 {
    if globals::FOLLOW_ATTEMPTS.load() == 0
        || headers.protocol != Protocol::Udp as u32
        || headers.family != Family::Ipv4 as u32
    {
        return 0;
    }
    // Most UDP packets are longer: looked at first.
    let length = headers
        .length
        .wrapping_sub(headers.transport.wrapping_sub(network))
        .wrapping_sub(UDP_HEADER);
    if !(SHORTEST..=LONGEST).contains(&length) {
        return 0;
    }
    match TEREDO_TRAFFIC.get(0) {
        Some(traffic) if *traffic == watched.traffic + 1 => length,
        _ => 0,
    }
}

/// What a hook knows of a packet before its payload is copied.
#[inline(always)]
fn prepare(traffic: u8, length: u32, at: At) {
    let Some(packet) = TEREDO_PACKETS.get_ptr_mut(at.hook) else {
        return;
    };
    // SAFETY: this CPU's own value, of this hook: nothing else writes it until this program ends.
    let packet = unsafe { &mut *packet };
    packet.location = at.location;
    packet.reason = at.reason;
    packet.length = blur(length) as u16;
    packet.traffic = traffic;
    packet.stage = at.stage.code();
    packet.direction = blur(at.direction) as u8;
    packet.class = at.class;
}

/// Copies a packet of the traffic that is Teredo's, if it may be part of an attempt.
#[inline(always)]
pub(crate) fn passed(skb: *mut __sk_buff, headers: &Headers, watched: &Watched, at: At) {
    let length = payload(headers, watched, at.network);
    if length != 0 {
        prepare(blur(watched.traffic) as u8, length, at);
        copy_of_skb(skb, at.hook, headers.transport, at.network, length);
    }
}

/// As [`passed`], of a packet that is freed.
#[inline(always)]
pub(crate) fn freed(reader: &HeadReader, transport: u32, traffic: u8, length: u32, at: At) {
    prepare(traffic, length, at);
    copy_of_head(reader.base, reader.available, transport, length);
}

/// How many bytes are copied of so many, which are not 0. The mask bounds it where the verifier sees it.
#[inline(always)]
fn bounded(length: u32) -> u32 {
    let last = if length > COPIED { COPIED } else { length }.wrapping_sub(1);
    (blur(last) & (COPIED - 1)) + 1
}

#[inline(never)]
fn copy_of_skb(skb: *mut __sk_buff, hook: u32, transport: u32, network: u32, length: u32) -> u32 {
    let copied = bounded(length);
    let copy = |target: *mut u8| {
        // SAFETY: `copied` is at most the size of the target; the helper checks the packet.
        let result = unsafe {
            bpf_skb_load_bytes(skb.cast(), transport + UDP_HEADER, target.cast(), copied)
        };
        result == 0
    };
    send(&Loaded(skb), hook, transport, network, copied, copy);
    0
}

#[inline(never)]
fn copy_of_head(base: *const u8, available: u32, transport: u32, length: u32) -> u32 {
    let reader = HeadReader { base, available };
    let start = transport + UDP_HEADER;
    // Some drivers leave only the headers in the linear part.
    if start >= available {
        return 0;
    }
    let room = available - start;
    let copied = bounded(if length > room { room } else { length });
    let copy = |target: *mut u8| {
        let from = base.wrapping_add(start as usize);
        // SAFETY: `copied` is at most the size of the target; the helper checks the address.
        let result = unsafe { bpf_probe_read_kernel(target.cast(), copied, from.cast()) };
        result == 0
    };
    send(&reader, hook::DROP, transport, 0, copied, copy);
    0
}

/// Completes the note of a hook, and sends it to the daemon.
#[inline(always)]
fn send<R: Reader>(
    reader: &R,
    hook: u32,
    transport: u32,
    network: u32,
    copied: u32,
    copy: impl FnOnce(*mut u8) -> bool,
) -> Option<()> {
    let addresses: Addresses = reader.get(network + 12)?;
    let ports: Ports = reader.get(transport)?;
    let packet = TEREDO_PACKETS.get_ptr_mut(hook)?;
    // SAFETY: this CPU's own value, of this hook.
    let packet = unsafe { &mut *packet };
    if !copy(packet.payload.as_mut_ptr()) {
        return None;
    }
    packet.addresses = addresses.0;
    packet.ports = ports;
    packet.copied = copied as u16;
    // SAFETY: no preconditions.
    packet.time_ns = unsafe { bpf_ktime_get_ns() };
    if TEREDO_RING
        .output::<TeredoPacket>(&*packet, NO_WAKEUP)
        .is_err()
    {
        add(count::TEREDO_LOST * hook::LEN + hook);
    }
    Some(())
}
