//! `struct sock`.

use aya_ebpf::Global;
use monitor_common::packet::blur;

use super::{Memory, direct, is_kernel_address};
use crate::globals;

/// `linux/net.h`
const SOCK_RAW: u16 = 3;
/// `net/tcp_states.h`
const TCP_TIME_WAIT: u8 = 6;
const TCP_NEW_SYN_RECV: u8 = 12;

/// `struct sock`, or what stands for one in `SYN_RECV` and `TIME_WAIT`: its address, and whether that is a BTF pointer
/// unless memory is read directly, which each program knows when it is compiled.
#[derive(Clone, Copy)]
pub(crate) struct Socket {
    address: *const u8,
    is_typed: bool,
}

impl Socket {
    /// None.
    pub(crate) const NONE: Self = Self {
        address: core::ptr::null(),
        is_typed: false,
    };

    /// That at an address. Nothing is read of it where that is none of the kernel's.
    #[inline(always)]
    pub(crate) fn at(address: u64, is_typed: bool) -> Self {
        // Newer verifiers want to see this comparison, which the compiler would take for superfluous beside a check
        // for kernel addresses.
        if blur(u32::from(address == 0)) != 0 {
            return Self::NONE;
        }
        Self {
            address: address as *const u8,
            is_typed,
        }
    }

    /// Whether it has a kernel address.
    #[inline(always)]
    pub(crate) fn is_there(self) -> bool {
        is_kernel_address(self.address)
    }

    #[inline(always)]
    fn field<T: Copy>(self, memory: Memory, offset: &Global<u32>) -> Option<T> {
        if !self.is_there() {
            return None;
        }
        if self.is_typed && !memory.is_direct() {
            // SAFETY: a BTF pointer to the struct, and a kernel address.
            return Some(unsafe { direct(self.address, offset) });
        }
        memory.field(self.address, offset)
    }

    /// Whether it is a raw one. What stands for a socket in `SYN_RECV` and `TIME_WAIT` is shorter than one, and has no
    /// such field: newer verifiers trust this pointer, and make of what is read behind its end a load like any other.
    #[inline(always)]
    pub(crate) fn is_raw(self, memory: Memory) -> bool {
        match self.state(memory) {
            None | Some(TCP_TIME_WAIT | TCP_NEW_SYN_RECV) => false,
            Some(_) => self.field(memory, &globals::SOCK_TYPE) == Some(SOCK_RAW),
        }
    }

    /// Whether it is in the daemon's network namespace.
    #[inline(always)]
    pub(crate) fn is_own(self, memory: Memory) -> bool {
        let Some(net) = self.field::<*const u8>(memory, &globals::SOCK_NET) else {
            return false;
        };
        if !self.is_typed || memory.is_direct() {
            return memory.is_own_net(net);
        }
        // SAFETY: the field is a BTF pointer as well; a load that faults gives 0, which is no namespace's number.
        is_kernel_address(net)
            && unsafe { direct::<u32>(net, &globals::NET_INUM) } == globals::NETNS_INUM.load()
    }

    /// `skc_state` (`net/tcp_states.h`).
    #[inline(always)]
    pub(crate) fn state(self, memory: Memory) -> Option<u8> {
        self.field(memory, &globals::SOCK_STATE)
    }
}
