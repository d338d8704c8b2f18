//! `struct net_device`.

use super::{is_kernel_address, is_own_net, probe};
use crate::globals;

/// What an address that should be a device turned out to be.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A device of this namespace.
    Own,
    /// No address of the kernel's at all.
    Nothing,
    /// Another namespace's device, or something else: the field `sk_buff.dev` shares its room with
    /// tree nodes and scratch data.
    Other,
}

/// A look at what may be a device.
///
/// No enum with the index inside: that would be undefined in the other cases, the compiler may copy it
/// all the same, and verifiers before 6.3 refuse to read what was never written.
#[derive(Clone, Copy)]
pub(crate) struct Looked {
    /// What it is.
    pub(crate) kind: Kind,
    /// `ifindex` of a device of this namespace, otherwise 0.
    pub(crate) index: u32,
}

impl Looked {
    /// Whether it is a device of this namespace.
    #[inline(always)]
    pub(crate) fn is_own(self) -> bool {
        self.kind == Kind::Own
    }
}

/// Looks at what may be a device. Only the daemon's own namespace number behind it proves that it is.
#[inline(always)]
pub(crate) fn look(address: *const u8) -> Looked {
    let mut looked = Looked {
        kind: Kind::Nothing,
        index: 0,
    };
    if !is_kernel_address(address) {
        return looked;
    }
    looked.kind = Kind::Other;
    if let Some(net) = probe::<*const u8>(address, &globals::NET_DEVICE_NET)
        && is_own_net(net)
        && let Some(index) = probe::<u32>(address, &globals::NET_DEVICE_IFINDEX)
    {
        looked.kind = Kind::Own;
        looked.index = index;
    }
    looked
}
