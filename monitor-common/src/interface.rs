//! What the kernel programs know and count per network interface.

/// The interface is a port of a bridge; [`InterfaceInfo::master`] is the bridge.
pub const BRIDGE_PORT: u32 = 1;

/// The configuration leaves the interface out: nothing that was on it is counted.
pub const EXCLUDED: u32 = 2;

/// Only in the sum of all flags: some interface has [`InterfaceInfo::tags`].
pub const TAGGED: u32 = 4;

/// [`InterfaceInfo::tags`] goes no higher: that many tags leave room in a link header of 64 bytes.
pub const MAX_TAGS: u32 = 8;

/// How many interfaces the maps hold.
pub const MAX_INTERFACES: u32 = 1024;

/// Interfaces whose index is below this are counted in an array, all others in a hash.
pub const LOW_INTERFACES: u32 = 256;

/// The key of packets that were on no device when they were dropped.
pub const NO_INTERFACE: u32 = 0;

/// The key under which packets are counted when the map of interfaces is full.
pub const OTHER_INTERFACES: u32 = u32::MAX;

/// The key of what interfaces counted that are gone; only the daemon writes it. No interface has it as its
/// index, which is a positive `int`.
pub const RETIRED: u32 = u32::MAX - 1;

/// What the daemon tells the kernel programs of an interface; the key is its index.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct InterfaceInfo {
    /// [`BRIDGE_PORT`], [`EXCLUDED`], both or 0.
    pub flags: u32,
    /// Index of the interface that this one is enslaved to, 0 for none.
    pub master: u32,
    /// How many VLAN tags may stand in the link header of its frames, in the packet itself.
    pub tags: u32,
}

const _: () = assert!(size_of::<InterfaceInfo>() == 12);

impl InterfaceInfo {
    /// What a program has to look an interface up for: its flags, and [`TAGGED`].
    #[must_use]
    pub const fn kinds(&self) -> u32 {
        if self.tags == 0 {
            self.flags
        } else {
            self.flags | TAGGED
        }
    }
}

/// Packets of one interface on one CPU, each array indexed by direction.
///
/// Allowed packets are `passed + taken - revoked`. Each field has one writer, so that a program that
/// interrupts another one on the same CPU can't lose a count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "user", derive(serde::Deserialize, serde::Serialize))]
#[repr(C)]
pub struct InterfaceCount {
    /// Written where packets pass: cgroup ingress and tc egress.
    pub passed: [u64; 3],
    /// Written at `kfree_skb`: dropped before the verdict point.
    pub dropped: [u64; 3],
    /// Written at `kfree_skb`: dropped after it had been counted in `passed`.
    pub revoked: [u64; 3],
    /// Written at `kfree_skb`: freed because it was taken, as by a socket in `TIME_WAIT`.
    pub taken: [u64; 3],
}

const _: () = assert!(size_of::<InterfaceCount>() == 96);
