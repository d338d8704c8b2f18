//! Packet events for the log, held to a rate.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use monitor_common::Protocol;
use monitor_common::event::{PacketEvent, loss};
use monitor_common::packet::{Address4, Address6, Headers, Reader, TCP_FLAGS_OFFSET, TcpFlags};

use crate::count;
use crate::globals;
use crate::maps::{EVENTS, LOG_LIMIT, LOG_PAUSE};
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

/// The longest time between two ticks of the kernel's clock, nanoseconds: `CONFIG_HZ` is 100 to 1000.
const TICK_NS: u64 = 10_000_000;

/// Whether the rate allows one more event, and the time now, nanoseconds: the generic cell rate algorithm. Two CPUs that
/// come at once may both pass on one charge, so the rate is a little soft; what is held back is counted
/// exactly.
///
/// Reading the clock takes 40 ns, which in a flood of drops is a quarter of what a packet costs. So it is not read
/// before the tick until which nothing can be allowed.
#[inline(always)]
fn permitted() -> Option<u64> {
    // SAFETY: no preconditions. The verifier makes a load of it.
    let tick = unsafe { bpf_jiffies64() };
    if tick < LOG_PAUSE.load() {
        return None;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let due = LOG_LIMIT.get_ptr_mut(0)?;
    // SAFETY: an aligned 64-bit value, read and written whole.
    let arrival = unsafe { due.read_volatile() };
    let begin = arrival.saturating_sub(globals::LOG_BURST_NS.load());
    if begin > now {
        // Ticks may be shorter: then this is only the first of several pauses.
        LOG_PAUSE.store(tick + (begin - now) / TICK_NS);
        return None;
    }
    let next = if arrival > now { arrival } else { now } + globals::LOG_PERIOD_NS.load();
    // SAFETY: as above.
    unsafe { due.write_volatile(next) };
    Some(now)
}

/// Sends a packet to the event log.
#[inline(always)]
pub(crate) fn report<R: Reader>(reader: &R, headers: &Headers, watched: &Watched, report: &Report) {
    let Some(now) = permitted() else {
        return count::lost(loss::LOG_SUPPRESSED);
    };
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
