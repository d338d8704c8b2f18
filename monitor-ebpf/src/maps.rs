//! Every map.

use core::cell::UnsafeCell;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{
    Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
};
use monitor_common::attempt::{
    self, Attempt, AttemptKey, EarlyAnswer, MAX_ATTEMPTS, MAX_EARLY_ANSWERS, MAX_SILENT_HOSTS,
};
use monitor_common::counter::{Count, SLOTS};
use monitor_common::drop::{
    DropKey, MAX_DROP_KEYS, MAX_PLACES, Place, REASONS, ReasonInfo, next as drop_next,
};
use monitor_common::event::{EVENT_RING_BYTES, loss};
use monitor_common::interface::{InterfaceCount, InterfaceInfo, LOW_INTERFACES, MAX_INTERFACES};
use monitor_common::teredo::{TEREDO_RING_BYTES, TeredoPacket};
use monitor_common::traffic::{MAX_TRAFFICS, PortTable, UNWATCHED};

/// What is written while programs run, by the daemon or by them, and read as data of their own: a look-up in an array of one element
/// is a key on the stack, a check, and registers that a call would change. The section gives the map its name.
#[repr(transparent)]
pub(crate) struct Data<T>(UnsafeCell<T>);

// SAFETY: integers, read and written whole, each for itself; what the daemon writes it writes through bpf(2), as elements of
// an array.
unsafe impl<T> Sync for Data<T> {}

impl Data<u32> {
    const fn zero() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// What it is now.
    #[inline(always)]
    pub(crate) fn load(&self) -> u32 {
        // SAFETY: an aligned integer. Volatile: the compiler sees nobody write it.
        unsafe { self.0.get().read_volatile() }
    }
}

impl Data<u64> {
    /// What it is now.
    #[inline(always)]
    pub(crate) fn load(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.0.get().read_volatile() }
    }

    /// Sets it.
    #[inline(always)]
    pub(crate) fn store(&self, value: u64) {
        // SAFETY: an aligned integer, written whole; of two that write it at once, one is the last.
        unsafe { self.0.get().write_volatile(value) }
    }
}

/// Ports of one protocol: see [`PortTable`].
#[derive(Clone, Copy)]
pub(crate) struct Ports(*const u8);

impl Data<PortTable> {
    /// Those of TCP or UDP.
    #[inline(always)]
    pub(crate) fn of(&self, is_tcp: bool) -> Ports {
        let table = self.0.get();
        // SAFETY: fields of a static.
        Ports(unsafe {
            if is_tcp {
                (&raw const (*table).tcp).cast()
            } else {
                (&raw const (*table).udp).cast()
            }
        })
    }
}

impl Ports {
    /// Index of a port's traffic + 1, or [`monitor_common::traffic::UNWATCHED`]; the port as it stands in the header.
    #[inline(always)]
    pub(crate) fn traffic(self, port: u16) -> u8 {
        // SAFETY: a table has an element for each number of 16 bits. Volatile as above.
        unsafe { self.0.add(usize::from(port)).read_volatile() }
    }
}

/// Port to traffic. Not read-only, so that a reload needs no new programs.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.ports")]
pub(crate) static PORT_TABLE: Data<PortTable> = Data(UnsafeCell::new(PortTable {
    tcp: [UNWATCHED; 1 << 16],
    udp: [UNWATCHED; 1 << 16],
}));

/// Allowed packets by slot.
#[map]
pub(crate) static ALLOWED: PerCpuArray<Count> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Dropped packets.
#[map]
pub(crate) static DROPS: PerCpuHashMap<DropKey, Count> =
    PerCpuHashMap::with_max_entries(MAX_DROP_KEYS, 0);

/// Group and class by reason.
#[map]
pub(crate) static REASON_TABLE: Array<ReasonInfo> = Array::with_max_entries(REASONS, 0);

/// Group and class by the function that freed the packet.
#[map]
pub(crate) static PLACE_TABLE: Array<Place> = Array::with_max_entries(MAX_PLACES, 0);

/// What the daemon knows of interfaces.
#[map]
pub(crate) static INTERFACES: HashMap<u32, InterfaceInfo> =
    HashMap::with_max_entries(MAX_INTERFACES, 0);

/// What there is among them: all [`InterfaceInfo::kinds`] in one. Where there is none of a kind, no program looks an
/// interface up for it: that takes 10 to 20 ns of each packet.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.kinds")]
pub(crate) static INTERFACE_KINDS: Data<u32> = Data::zero();

/// Packets by interface, of those with an index below [`LOW_INTERFACES`]: nearly all. A look-up in an array takes
/// 2 ns of each packet, in a hash 10 to 20.
#[map]
pub(crate) static INTERFACE_COUNTS_LOW: PerCpuArray<InterfaceCount> =
    PerCpuArray::with_max_entries(LOW_INTERFACES, 0);

/// Packets by interface, of all others.
#[map]
pub(crate) static INTERFACE_COUNTS: PerCpuHashMap<u32, InterfaceCount> =
    PerCpuHashMap::with_max_entries(MAX_INTERFACES, 0);

/// The addresses of this host, IPv4 ones as IPv4-mapped (RFC 4291 section 2.5.5.2). The value has no meaning.
#[map]
pub(crate) static LOCAL_ADDRESSES: HashMap<[u8; 16], u8> = HashMap::with_max_entries(16_384, 0);

/// Fragments that are not the first: by direction, then by who counts (see [`fragment`]).
#[map]
pub(crate) static FRAGMENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(fragment::LEN, 0);

/// Who counts a fragment: each has its own counter, so that none can interrupt another's update.
pub(crate) mod fragment {
    /// tc programs.
    pub(crate) const PASSED: u32 = 0;
    /// The drop program.
    pub(crate) const DROPPED: u32 = 3;
    pub(crate) const LEN: u32 = 6;
}

/// The packet that was last counted as allowed on this CPU.
#[map]
pub(crate) static LAST: PerCpuArray<Last> = PerCpuArray::with_max_entries(1, 0);

/// See [`LAST`]. Never leaves the kernel.
#[repr(C)]
pub(crate) struct Last {
    /// Address of the `sk_buff`, 0 for none.
    pub(crate) skb: u64,
    /// Both ports as they stand in the header: an `sk_buff` is reused soon, by another packet.
    pub(crate) ports: u32,
    /// Where it was counted.
    pub(crate) slot: u32,
    /// On which interface.
    pub(crate) interface: u32,
    /// In which direction.
    pub(crate) direction: u32,
    /// Of the last acknowledgement that a listening socket got: sequence and acknowledgement number.
    pub(crate) listen_numbers: u64,
    /// Of the last SYN that a listening socket got: the same, 0 for none, and which packet it was. What
    /// the socket sends at once overwrites `skb`.
    pub(crate) syn_numbers: u64,
    /// See `syn_numbers`: address of the `sk_buff`.
    pub(crate) syn_skb: u64,
    /// See `syn_numbers`: both ports.
    pub(crate) syn_ports: u32,
    /// Padding.
    pub(crate) pad: u32,
    /// Of the last broadcast that was delivered: its data, and the socket that got it first.
    pub(crate) fan_data: u64,
    /// See `fan_data`.
    pub(crate) fan_socket: u64,
}

/// Room for a copy of `struct sk_buff`, where the drop program is a raw tracepoint. The struct has 232
/// bytes in common configurations, and up to some 270.
#[map]
pub(crate) static SKB_COPY: PerCpuArray<[u64; 64]> = PerCpuArray::with_max_entries(1, 0);

/// Theoretical arrival time of the next event, nanoseconds (generic cell rate algorithm).
#[map]
pub(crate) static LOG_LIMIT: Array<u64> = Array::with_max_entries(1, 0);

/// The kernel's tick (`jiffies64`) before which no event can be allowed. Programs write it, and nobody else.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.pause")]
pub(crate) static LOG_PAUSE: Data<u64> = Data(UnsafeCell::new(0));

/// Packet events.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// What could not be done; indexes are in [`loss`].
#[map]
pub(crate) static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::LEN, 0);

/// Attempts to open a TCP connection, by their initial sequence number. The daemon sets its size at load.
/// New ones take the place of those that were not seen for long.
#[map]
pub(crate) static ATTEMPTS: LruHashMap<AttemptKey, Attempt> =
    LruHashMap::with_max_entries(MAX_ATTEMPTS, 0);

/// SYNs that carry data: the last number of the data to that of the SYN (TCP Fast Open, RFC 7413).
#[map]
pub(crate) static ATTEMPT_ALIASES: LruHashMap<AttemptKey, u32> =
    LruHashMap::with_max_entries(4096, 0);

/// Answers of this host's rules to SYNs of its own that are about to be freed.
#[map]
pub(crate) static EARLY_ANSWERS: LruHashMap<AttemptKey, EarlyAnswer> =
    LruHashMap::with_max_entries(MAX_EARLY_ANSWERS, 0);

/// Hosts that have not answered yet, IPv4 ones as IPv4-mapped, and when a packet of theirs arrived last
/// (`bpf_ktime_get_ns`). The daemon says which.
#[map]
pub(crate) static SILENT_HOSTS: HashMap<[u8; 16], u64> =
    HashMap::with_max_entries(MAX_SILENT_HOSTS, 0);

/// 1 where there are such hosts: a look-up for each packet that arrives only then.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.look_out")]
pub(crate) static LOOK_OUT: Data<u32> = Data::zero();

/// Counted of attempts: by what ([`attempt::count`]), then by hook, so that none can interrupt another's
/// update.
#[map]
pub(crate) static ATTEMPT_COUNTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(attempt::count::LEN * attempt::hook::LEN, 0);

/// Records that were made: by traffic, then by hook.
#[map]
pub(crate) static ATTEMPTS_CREATED: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(MAX_TRAFFICS as u32 * attempt::hook::LEN, 0);

/// Calls for the daemon, whose contents have no meaning: many records were made, and are to be read before newer ones
/// take their places.
#[map]
pub(crate) static CALLS: RingBuf = RingBuf::with_byte_size(attempt::CALL_RING_BYTES, 0);

/// What a hook has just seen, by [`attempt::hook`].
#[map]
pub(crate) static NOTES: PerCpuArray<crate::attempt::Note> =
    PerCpuArray::with_max_entries(attempt::hook::LEN, 0);

/// A record that is about to be made, by [`attempt::hook`]: too large for the stack.
#[map]
pub(crate) static FRESH: PerCpuArray<Attempt> =
    PerCpuArray::with_max_entries(attempt::hook::LEN, 0);

/// Index of the traffic that is Teredo's + 1, 0 where there is none. A reload can change it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.teredo")]
pub(crate) static TEREDO_TRAFFIC: Data<u32> = Data::zero();

/// Packets of that traffic.
#[map]
pub(crate) static TEREDO_RING: RingBuf = RingBuf::with_byte_size(TEREDO_RING_BYTES, 0);

/// A packet that is about to be sent there, by [`attempt::hook`]: too large for the stack.
#[map]
pub(crate) static TEREDO_PACKETS: PerCpuArray<TeredoPacket> =
    PerCpuArray::with_max_entries(attempt::hook::LEN, 0);

/// The tc programs that follow a packet, by [`attempt::hook`].
#[map]
pub(crate) static TC_NEXT: ProgramArray = ProgramArray::with_max_entries(attempt::hook::LEN, 0);

/// The cgroup program that follows a packet, by [`attempt::hook`].
#[map]
pub(crate) static CGROUP_NEXT: ProgramArray = ProgramArray::with_max_entries(attempt::hook::LEN, 0);

/// The programs that go on with a freed packet: [`drop_next`].
#[map]
pub(crate) static DROP_NEXT: ProgramArray = ProgramArray::with_max_entries(drop_next::LEN, 0);
