//! `struct net_device`.

use super::{Memory, direct, is_kernel_address};
use crate::globals;

/// What an address that should be a device turned out to be.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A device of this namespace.
    Own,
    /// No address of the kernel's at all.
    Nothing,
    /// A device of another namespace.
    Foreign,
    /// Something else: the field `sk_buff.dev` shares its room with
    /// tree nodes and scratch data.
    Other,
}

/// A look at what may be a device.
///
/// No enum with the index inside: that would be undefined in the other cases, the compiler may copy it
/// all the same, and older verifiers (6.1 is one) refuse to read what was never written.
#[derive(Clone, Copy)]
pub(crate) struct Looked {
    /// What it is.
    pub(crate) kind: Kind,
    /// `ifindex` of a device of this namespace, otherwise 0.
    pub(crate) index: u32,
    /// Address of this namespace, where it is a device of it, otherwise 0.
    net: u64,
}

impl Looked {
    /// What is no device of this namespace.
    #[inline(always)]
    const fn no(kind: Kind) -> Self {
        Self {
            kind,
            index: 0,
            net: 0,
        }
    }

    /// Whether it is a device of this namespace.
    #[inline(always)]
    pub(crate) fn is_own(self) -> bool {
        self.kind == Kind::Own
    }

    /// Whether an address is that of a device of this namespace too. Where this one is, that takes one read
    /// instead of two: both point to the same namespace, or to different ones.
    #[inline(always)]
    pub(crate) fn goes_with(self, memory: Memory, other: *const u8) -> bool {
        if !is_kernel_address(other) {
            return false;
        }
        match memory.field::<u64>(other, &globals::NET_DEVICE_NET) {
            Some(net) if self.net != 0 => net == self.net,
            Some(net) => memory.is_own_net(net as *const u8),
            None => false,
        }
    }
}

/// Looks at what may be a device. Only the daemon's own namespace number behind it proves that it is. An index of 0
/// is what a read that failed may give, and no device's.
#[inline(always)]
pub(crate) fn look(memory: Memory, address: *const u8) -> Looked {
    if !is_kernel_address(address) {
        return Looked::no(Kind::Nothing);
    }
    let net = memory.field::<u64>(address, &globals::NET_DEVICE_NET);
    let net = net.unwrap_or(0) as *const u8;
    if !is_kernel_address(net) {
        return Looked::no(Kind::Other);
    }
    let number = memory.net_number(net);
    if number == globals::NETNS_INUM.load() {
        match memory.field::<u32>(address, &globals::NET_DEVICE_IFINDEX) {
            Some(index) if index != 0 => Looked {
                kind: Kind::Own,
                index,
                net: net as u64,
            },
            _ => Looked::no(Kind::Other),
        }
    } else if number >= FIRST_NUMBER {
        Looked::no(Kind::Foreign)
    } else {
        Looked::no(Kind::Other)
    }
}

/// Namespaces have numbers from `PROC_DYNAMIC_FIRST` (`fs/proc/generic.c`) on.
const FIRST_NUMBER: u32 = 0xf000_0000;

/// As [`look`], through the BTF pointer that the field `sk_buff.dev` is to the verifier: three loads in place of as
/// many calls where memory is not read directly. What it holds need not be a device.
///
/// # Safety
///
/// `address` was loaded out of that field, through a BTF pointer.
#[inline(always)]
pub(crate) unsafe fn look_typed(address: *const u8) -> Looked {
    // Before 5.12 a fault is caught at the kernel's addresses only.
    if !is_kernel_address(address) {
        return Looked::no(Kind::Nothing);
    }
    // SAFETY: by the caller's word.
    let net: *const u8 = unsafe { direct(address, &globals::NET_DEVICE_NET) };
    if !is_kernel_address(net) {
        return Looked::no(Kind::Other);
    }
    // SAFETY: as above: the field is a BTF pointer as well.
    let (number, index): (u32, u32) = unsafe {
        (
            direct(net, &globals::NET_INUM),
            direct(address, &globals::NET_DEVICE_IFINDEX),
        )
    };
    if number != globals::NETNS_INUM.load() {
        return Looked::no(if number >= FIRST_NUMBER {
            Kind::Foreign
        } else {
            Kind::Other
        });
    }
    if index == 0 {
        return Looked::no(Kind::Other);
    }
    Looked {
        kind: Kind::Own,
        index,
        net: net as u64,
    }
}
