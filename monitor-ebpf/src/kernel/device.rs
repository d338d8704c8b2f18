//! `struct net_device`.

use super::{is_kernel_address, is_own_net, net_number, probe};
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
}

impl Looked {
    /// What is no device of this namespace.
    #[inline(always)]
    const fn no(kind: Kind) -> Self {
        Self { kind, index: 0 }
    }

    /// Whether it is a device of this namespace.
    #[inline(always)]
    pub(crate) fn is_own(self) -> bool {
        self.kind == Kind::Own
    }
}

/// Whether an address is that of a device of this namespace.
#[inline(always)]
pub(crate) fn is_own(address: *const u8) -> bool {
    is_kernel_address(address)
        && matches!(probe::<*const u8>(address, &globals::NET_DEVICE_NET), Some(net) if is_own_net(net))
}

/// Looks at what may be a device. Only the daemon's own namespace number behind it proves that it is.
#[inline(always)]
pub(crate) fn look(address: *const u8) -> Looked {
    if !is_kernel_address(address) {
        return Looked::no(Kind::Nothing);
    }
    match probe::<*const u8>(address, &globals::NET_DEVICE_NET) {
        Some(net) if is_own_net(net) => match probe::<u32>(address, &globals::NET_DEVICE_IFINDEX) {
            Some(index) => Looked {
                kind: Kind::Own,
                index,
            },
            None => Looked::no(Kind::Other),
        },
        // Namespaces have numbers from PROC_DYNAMIC_FIRST (fs/proc/generic.c) on.
        Some(net) if is_kernel_address(net) && net_number(net) >= 0xf000_0000 => {
            Looked::no(Kind::Foreign)
        }
        _ => Looked::no(Kind::Other),
    }
}
