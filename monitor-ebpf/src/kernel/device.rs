//! `struct net_device`.

use super::{is_kernel_address, is_own_net, net_number, probe};
use crate::globals;

/// A `struct net_device` that was seen to be one of this network namespace.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    /// `ifindex`
    pub(crate) index: u32,
}

/// What an address that should be a device turned out to be.
#[derive(Clone, Copy)]
pub(crate) enum Looked {
    /// A device of this namespace.
    Own(Device),
    /// No address of the kernel's at all.
    Nothing,
    /// A device of another namespace.
    Foreign,
    /// Something else: the field `sk_buff.dev` shares its room with
    /// tree nodes and scratch data.
    Other,
}

/// Looks at what may be a device. Only the daemon's own namespace number behind it proves that it is.
#[inline(always)]
pub(crate) fn look(address: *const u8) -> Looked {
    if !is_kernel_address(address) {
        return Looked::Nothing;
    }
    match probe::<*const u8>(address, &globals::NET_DEVICE_NET) {
        Some(net) if is_own_net(net) => match probe::<u32>(address, &globals::NET_DEVICE_IFINDEX) {
            Some(index) => Looked::Own(Device { index }),
            None => Looked::Other,
        },
        // Namespaces have numbers from PROC_DYNAMIC_FIRST (fs/proc/generic.c) on.
        Some(net) if is_kernel_address(net) && net_number(net) >= 0xf000_0000 => Looked::Foreign,
        _ => Looked::Other,
    }
}
