//! The only place that reads kernel structs, by offsets that the daemon resolved from BTF.
//!
//! Fields that a BTF pointer reaches are dereferenced directly: the verifier checks each access
//! against the kernel's own types, and a load that faults gives 0 (`PROBE_MEM`). The rest goes through
//! `bpf_probe_read_kernel`.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::globals;

pub(crate) mod device;
pub(crate) mod skb;

/// Reads a field through a pointer that the verifier knows the type of.
///
/// # Safety
///
/// `base` is a BTF pointer to the struct that `offset` belongs to, and T the field's type.
#[inline(always)]
unsafe fn direct<T>(base: *const u8, offset: &Global<u32>) -> T {
    // SAFETY: by the caller's word; the verifier refuses the program otherwise.
    unsafe { base.add(offset.load() as usize).cast::<T>().read_volatile() }
}

/// Reads a field through any address; `None` where it is not readable.
#[inline(always)]
pub(crate) fn probe<T>(base: *const u8, offset: &Global<u32>) -> Option<T> {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset.load() as usize).cast::<T>()) }.ok()
}

/// Whether an address is in the kernel's half: fields that share their room with other data hold
/// small numbers or user addresses at times.
#[inline(always)]
pub(crate) fn is_kernel_address(address: *const u8) -> bool {
    (address as i64) < 0
}

/// Whether `net` is the daemon's network namespace.
#[inline(always)]
fn is_own_net(net: *const u8) -> bool {
    is_kernel_address(net)
        && probe::<u32>(net, &globals::NET_INUM) == Some(globals::NETNS_INUM.load())
}

/// Whether a socket (or what stands for one in `SYN_RECV` and `TIME_WAIT`) is in the daemon's network
/// namespace.
#[inline(always)]
pub(crate) fn is_own_socket(sock: *const u8) -> bool {
    match probe::<*const u8>(sock, &globals::SOCK_NET) {
        Some(net) => is_own_net(net),
        None => false,
    }
}
