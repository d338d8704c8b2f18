//! Drops: their classes, the groups that say how a freed packet counts, and the keys of the counters.

use crate::codes;

codes! {
    /// What kind of thing dropped a packet: survives kernel upgrades, where reasons come and go.
    Class {
        /// A rule of this host: netfilter, tc, XDP, cgroup or socket programs, policies.
        Firewall = 0 => "firewall",
        /// Nobody listens on the port here.
        NoListener = 1 => "no_listener",
        /// No route, or a route that refuses.
        Routing = 2 => "routing",
        /// Reverse-path filter and other source checks.
        RpFilter = 3 => "rp_filter",
        /// The next hop's link address did not resolve: the target is off line.
        Neighbour = 4 => "neighbour",
        /// Bad checksum, length or header.
        Malformed = 5 => "malformed",
        /// CPU backlog or memory.
        Overload = 6 => "overload",
        /// The kernel gave no reason, and the place says nothing.
        Unspecified = 7 => "unspecified",
        /// After the verdict: receive buffer, backlog, listen queue.
        Socket = 8 => "socket",
        /// After the verdict: queueing discipline, driver.
        Queue = 9 => "queue",
        /// After the verdict: normal TCP clean-up.
        Protocol = 10 => "protocol",
    }
}

codes! {
    /// How a packet that the kernel frees counts.
    Group {
        /// Dropped before its verdict point.
        Before = 0 => "before",
        /// Dropped after it: it was counted as allowed, its loss is in `late_drops_total`.
        After = 1 => "after",
        /// Dropped after a counting hook saw it but before its verdict: taken off the allowed ones
        /// when this very packet was counted, [`Group::Before`] otherwise.
        Subtract = 2 => "subtract",
        /// Rule P decides, from where the packet was and the place that freed it.
        ByPlace = 3 => "by_place",
        /// Freed because it was taken (`TIME_WAIT`): counts as allowed.
        Allowed = 4 => "allowed",
        /// Not a drop, or not of a packet that peerwatch counts.
        Ignored = 5 => "ignored",
    }
}

/// How many entries the reason table has: core reasons first, then one a subsystem.
pub const REASONS: u32 = 512;

/// Index of the first subsystem in the reason table.
pub const FIRST_SUBSYSTEM: u32 = 256;

/// Where a kernel's drop reason stands in the reason table.
///
/// Reasons are 32 bits, the upper 16 of which name a subsystem (`SKB_DROP_REASON_SUBSYS_SHIFT`); the
/// core's is 0. A core reason beyond the table shares the last core entry.
#[inline(always)]
#[must_use]
pub const fn reason_index(reason: u32) -> u32 {
    let subsystem = reason >> 16;
    if subsystem == 0 {
        if reason < FIRST_SUBSYSTEM {
            reason
        } else {
            FIRST_SUBSYSTEM - 1
        }
    } else {
        FIRST_SUBSYSTEM + if subsystem < 256 { subsystem } else { 255 }
    }
}

/// The reason that stands for "this kernel gives none": no kernel's enum has it.
pub const REASON_UNAVAILABLE: u32 = 0xffff_fffe;

/// One row of the reason table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct ReasonInfo {
    /// Code of a [`Group`].
    pub group: u8,
    /// Code of a [`Class`].
    pub class: u8,
    /// 1 where the class, too, comes from the place, if that is known: `NOT_SPECIFIED`, no reason at all,
    /// and `QUEUE_PURGE`, which may be of any queue; 0 otherwise.
    pub unspecified: u8,
    /// Padding.
    pub pad: u8,
}

const _: () = assert!(size_of::<ReasonInfo>() == 4);

/// How many rows the table of places has: a power of two, since it is searched by halving. Rows are
/// sorted by their first address; those that are not used come last, with `u64::MAX` for it.
pub const MAX_PLACES: u32 = 128;

/// The place is a TCP receive function: rule P, step 3 applies.
pub const PLACE_TCP_RECEIVE: u8 = 1;

/// The place decides alone, before the other steps of rule P.
pub const PLACE_CERTAIN: u8 = 2;

/// A task frees there what it reads from its own socket: its namespace is the packet's.
pub const PLACE_READER: u8 = 3;

/// One row of the table of places: the addresses of one kernel function, or of its cold part.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Place {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Code of the [`Group`]: [`Group::Before`], [`Group::After`], [`Group::Subtract`] or
    /// [`Group::Ignored`].
    pub group: u8,
    /// Code of the [`Class`].
    pub class: u8,
    /// [`PLACE_TCP_RECEIVE`], [`PLACE_CERTAIN`], [`PLACE_READER`] or 0.
    pub kind: u8,
    /// Padding.
    pub pad: [u8; 5],
}

const _: () = assert!(size_of::<Place>() == 24);

/// Key of the drop counters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct DropKey {
    /// The series, a [`crate::counter::Slot`].
    pub slot: u16,
    /// Code of the final [`Group`]: `Before`, `After`, `Subtract` or `Allowed`.
    pub group: u8,
    /// Code of the [`Class`].
    pub class: u8,
    /// The kernel's drop reason, or [`REASON_UNAVAILABLE`].
    pub reason: u32,
}

const _: () = assert!(size_of::<DropKey>() == 8);

/// How many different drop counters the map holds.
pub const MAX_DROP_KEYS: u32 = 4096;
/// The programs that go on with a freed packet: indexes of the `DROP_NEXT` map.
pub mod next {
    /// Decides and counts.
    pub const DECIDE: u32 = 0;
    /// Takes it into its attempt.
    pub const FOLLOW: u32 = 1;
    /// How many there are.
    pub const LEN: u32 = 2;
}
