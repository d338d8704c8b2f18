//! Packet events for the log, held to a rate.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use monitor_common::Protocol;
use monitor_common::event::{PacketEvent, loss};
use monitor_common::packet::{Address4, Address6, Headers, Reader, TCP_FLAGS_OFFSET, TcpFlags};

use crate::count;
use crate::globals;
use crate::maps::{EVENTS, LOG_LIMIT};
use crate::packet::Watched;

/// What the programs know of a packet when they report it.
pub(crate) struct Report {
    pub(crate) location: u64,
    pub(crate) interface: u32,
    pub(crate) reason: u32,
    pub(crate) length: u32,
    pub(crate) segments: u32,
    pub(crate) slot: u32,
    pub(crate) verdict: u8,
    pub(crate) class: u8,
    /// Offset of the IP header from where the reader begins.
    pub(crate) network: u32,
}

/// Whether the rate allows one more event now: the generic cell rate algorithm. Two CPUs that come at
/// once may both pass on one charge, so the rate is a little soft; what is held back is counted
/// exactly.
#[inline(always)]
fn permitted(now: u64) -> bool {
    let Some(due) = LOG_LIMIT.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: an aligned 64-bit value, read and written whole.
    let arrival = unsafe { due.read_volatile() };
    if arrival > now + globals::LOG_BURST_NS.load() {
        return false;
    }
    let next = if arrival > now { arrival } else { now } + globals::LOG_PERIOD_NS.load();
    // SAFETY: as above.
    unsafe { due.write_volatile(next) };
    true
}

/// Sends a packet to the event log.
#[inline(always)]
pub(crate) fn report<R: Reader>(reader: &R, headers: &Headers, watched: &Watched, report: &Report) {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if !permitted(now) {
        return count::lost(loss::LOG_SUPPRESSED);
    }
    let Some(mut entry) = EVENTS.reserve::<PacketEvent>(0) else {
        return count::lost(loss::EVENT_LOST);
    };
    let mut event = PacketEvent {
        time_ns: now,
        location: report.location,
        source: [0; 16],
        destination: [0; 16],
        interface: report.interface,
        reason: report.reason,
        length: report.length,
        segments: report.segments,
        source_port: watched.ports.source,
        destination_port: watched.ports.destination,
        slot: report.slot as u16,
        verdict: report.verdict,
        class: report.class,
        tcp_flags: 0,
        pad: [0; 7],
    };
    if headers.protocol == Protocol::Tcp as u32
        && let Some(flags) = reader.get::<TcpFlags>(headers.transport + TCP_FLAGS_OFFSET)
    {
        event.tcp_flags = flags.flags;
    }
    if headers.family == monitor_common::Family::Ipv4 as u32 {
        if let Some(address) = reader.get::<Address4>(report.network + 12) {
            event.source[..4].copy_from_slice(&address.bytes());
        }
        if let Some(address) = reader.get::<Address4>(report.network + 16) {
            event.destination[..4].copy_from_slice(&address.bytes());
        }
    } else {
        if let Some(address) = reader.get::<Address6>(report.network + 8) {
            event.source = address.bytes();
        }
        if let Some(address) = reader.get::<Address6>(report.network + 24) {
            event.destination = address.bytes();
        }
    }
    entry.write(event);
    entry.submit(0);
}
