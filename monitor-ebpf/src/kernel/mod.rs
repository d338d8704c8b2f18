//! The only place that reads kernel structs, by offsets that the daemon resolved from BTF.
//!
//! Fields that a BTF pointer reaches are dereferenced directly: the verifier checks each access
//! against the kernel's own types, and a load that faults gives 0 (`PROBE_MEM`), but for pointers that it trusts (the
//! packet, and on newer kernels its socket): of these nothing is read that is not there. The rest is read as [`Memory`] says,
//! and where that is directly, devices and sockets, too.
//! Where the kernel has no BTF pointers, the packet's struct is copied first, and its fields are read out of the copy.

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};

use crate::globals;

pub(crate) mod device;
pub(crate) mod skb;
pub(crate) mod socket;

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

/// How kernel memory is read at addresses that the verifier knows nothing of.
///
/// Through [`bpf_probe_read_kernel`], which costs 8 to 30 ns at each field, or directly (`HAS_HEAD_READS`). There the
/// verifier takes `sk_buff.head` for the address of untrusted memory: it does not follow how far that is moved
/// (`adjust_ptr_min_max_vals`, 6.17 and later), and each load is one that may fault, and gives 0 then. So it serves as
/// an anchor from which everything is reached.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// What the verifier knows as untrusted memory; null where nothing is.
    anchor: *const u8,
    /// The same address as a number, which has been through a map: that of a pointer is not to be had otherwise.
    number: u64,
    /// Whether there is an anchor, which each program knows when it is compiled.
    is_anchored: bool,
}

impl Memory {
    /// By calls only.
    pub(crate) const CALLED: Self = Self {
        anchor: core::ptr::null(),
        number: 0,
        is_anchored: false,
    };

    /// From an anchor.
    #[inline(always)]
    pub(crate) const fn anchored(anchor: *const u8, number: u64) -> Self {
        Self {
            anchor,
            number,
            is_anchored: true,
        }
    }

    /// Whether loads need no calls.
    #[inline(always)]
    pub(crate) fn is_direct(self) -> bool {
        self.is_anchored && globals::HAS_HEAD_READS.load() != 0
    }

    /// The address as something that may be read by [`Self::get`], and moved.
    #[inline(always)]
    pub(crate) fn pointer(self, address: *const u8) -> *const u8 {
        if self.is_direct() {
            let distance = (address as u64).wrapping_sub(self.number);
            self.anchor.wrapping_add(distance as usize)
        } else {
            address
        }
    }

    /// Reads what is at a pointer of [`Self::pointer`].
    #[inline(always)]
    pub(crate) fn get<T: Copy>(self, pointer: *const u8) -> Option<T> {
        if self.is_direct() {
            // SAFETY: the verifier takes it for memory that may be read whatever is there; packet memory is aligned
            // to 2, and so is each T that is read of it. Others are at the place of a field of that type.
            return Some(unsafe { pointer.cast::<T>().read() });
        }
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_kernel(pointer.cast::<T>()) }.ok()
    }

    /// Reads a field of the struct at an address; `None` where it is known not to be readable.
    #[inline(always)]
    pub(crate) fn field<T: Copy>(self, base: *const u8, offset: &Global<u32>) -> Option<T> {
        self.get(self.pointer(base).wrapping_add(offset.load() as usize))
    }
}

/// Reads a field through any address, by a call; `None` where it is not readable.
#[inline(always)]
pub(crate) fn probe<T: Copy>(base: *const u8, offset: &Global<u32>) -> Option<T> {
    Memory::CALLED.field(base, offset)
}

/// Whether an address is in the kernel's half: fields that share their room with other data hold
/// small numbers or user addresses at times. That half is the upper one on x86-64 and arm64, whatever the
/// page size (`Documentation/arch/x86/x86_64/mm.rst`, `arch/arm64/memory.rst`); s390 has no halves.
#[inline(always)]
pub(crate) fn is_kernel_address(address: *const u8) -> bool {
    (address as i64) < 0
}

impl Memory {
    /// The number of a network namespace; 0 where it is none.
    #[inline(always)]
    fn net_number(self, net: *const u8) -> u32 {
        self.field::<u32>(net, &globals::NET_INUM).unwrap_or(0)
    }

    /// Whether `net` is the daemon's network namespace.
    #[inline(always)]
    fn is_own_net(self, net: *const u8) -> bool {
        is_kernel_address(net)
            && self.field::<u32>(net, &globals::NET_INUM) == Some(globals::NETNS_INUM.load())
    }

    /// Whether the current task is in the daemon's network namespace. Says something only of what a task
    /// does for itself: reading or closing a socket.
    #[inline(always)]
    pub(crate) fn is_own_task(self) -> bool {
        // SAFETY: the helper has no preconditions.
        let task = unsafe { bpf_get_current_task() } as *const u8;
        let Some(proxy) = self.field::<u64>(task, &globals::TASK_NSPROXY) else {
            return false;
        };
        match self.field::<u64>(proxy as *const u8, &globals::NSPROXY_NET) {
            Some(net) => self.is_own_net(net as *const u8),
            None => false,
        }
    }
}
