//! The only place that reads kernel structs, by offsets that the daemon resolved from BTF.
//!
//! Fields that a BTF pointer reaches are dereferenced directly: the verifier checks each access
//! against the kernel's own types, and a load that faults gives 0 (`PROBE_MEM`). The rest goes through
//! `bpf_probe_read_kernel`. Where the kernel has no BTF pointers, the packet's struct is copied first, and
//! its fields are read out of the copy.

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};

use crate::globals;

pub(crate) mod device;
pub(crate) mod skb;

/// Reads a field through a pointer that the verifier knows the type of, or the bounds.
///
/// # Safety
///
/// `base` is a BTF pointer to the struct that `offset` belongs to, or to a copy of it; T is the field's
/// type.
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
/// small numbers or user addresses at times. That half is the upper one on x86-64 and arm64, whatever the
/// page size (`Documentation/arch/x86/x86_64/mm.rst`, `arch/arm64/memory.rst`); s390 has no halves.
#[inline(always)]
pub(crate) fn is_kernel_address(address: *const u8) -> bool {
    (address as i64) < 0
}

/// The number of a network namespace; 0 where it is none.
#[inline(always)]
fn net_number(net: *const u8) -> u32 {
    probe::<u32>(net, &globals::NET_INUM).unwrap_or(0)
}

/// Whether `net` is the daemon's network namespace.
#[inline(always)]
fn is_own_net(net: *const u8) -> bool {
    is_kernel_address(net)
        && probe::<u32>(net, &globals::NET_INUM) == Some(globals::NETNS_INUM.load())
}

/// Whether a socket is a raw one.
#[inline(always)]
pub(crate) fn is_raw_socket(sock: *const u8) -> bool {
    /// `linux/net.h`
    const SOCK_RAW: u16 = 3;
    is_kernel_address(sock) && probe::<u16>(sock, &globals::SOCK_TYPE) == Some(SOCK_RAW)
}

/// Whether the current task is in the daemon's network namespace. Says something only of what a task
/// does for itself: reading or closing a socket.
#[inline(always)]
pub(crate) fn is_own_task() -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let Some(proxy) = probe::<*const u8>(task, &globals::TASK_NSPROXY) else {
        return false;
    };
    match probe::<*const u8>(proxy, &globals::NSPROXY_NET) {
        Some(net) => is_own_net(net),
        None => false,
    }
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
