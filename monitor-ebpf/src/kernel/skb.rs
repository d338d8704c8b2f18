//! `struct sk_buff` and what hangs on it.

use core::ptr::NonNull;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel as bpf_probe_read_kernel_raw;
use monitor_common::packet::{ETHERTYPE_IPV4, Plain, Reader};

use super::device::{self, Looked};
use super::socket::Socket;
use super::{Memory, direct};
use crate::globals;
use crate::maps::SKB_COPY;

/// `mac_header` of a packet that has none (`skb_mac_header_was_set`).
const MAC_HEADER_UNSET: u32 = 0xffff;

/// `DST_METADATA` of `struct dst_entry`: carries tunnel data, and no route.
const DST_METADATA: u16 = 0x0080;
/// `DST_FAKE_RTABLE`: the route of a bridge's netfilter code, which says nothing.
const DST_FAKE_RTABLE: u16 = 0x0040;

/// `struct sk_buff`: its address, where its fields are read, and whether that is a BTF pointer, which each program
/// knows when it is compiled.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *const u8, *const u8, bool);

/// What a packet's struct points to. Loaded once, before ways part: for each pointer that is loaded through one that the
/// verifier trusts, as the packet or a socket is, it looks for names in all of the kernel's BTF
/// (`btf_nested_type_is_trusted`, 6.4 to 6.18), on each way to that load. That was a third of what the daemon's start took.
#[derive(Clone, Copy)]
pub(crate) struct Pointers {
    /// What the field `dev` holds: a device, or anything else that shares its room.
    device: *const u8,
    /// `sk`
    socket: u64,
    /// Whether they are BTF pointers unless memory is read directly.
    is_typed: bool,
}

impl Pointers {
    /// The device.
    #[inline(always)]
    pub(crate) fn device(self, memory: Memory) -> Looked {
        if self.is_typed && !memory.is_direct() {
            // SAFETY: a BTF pointer, as it was loaded through one.
            unsafe { device::look_typed(self.device) }
        } else {
            device::look(memory, self.device)
        }
    }

    /// `sk`, at no address of the kernel's for none.
    #[inline(always)]
    pub(crate) fn socket(self) -> Socket {
        Socket::at(self.socket, self.is_typed)
    }
}

impl Skb {
    /// Through a BTF pointer.
    #[inline(always)]
    pub(crate) const fn typed(skb: *const u8) -> Self {
        Self(skb, skb, true)
    }

    /// Through a copy, of an address that the verifier knows no type of.
    #[inline(always)]
    pub(crate) fn copied(skb: *const u8) -> Option<Self> {
        let copy = SKB_COPY.get_ptr_mut(0)?;
        // SAFETY: this CPU's own value, and a program does not interrupt itself; the verifier refuses a
        // size beyond it. The helper checks the address.
        let result = unsafe {
            bpf_probe_read_kernel_raw(copy.cast(), globals::SK_BUFF_SIZE.load(), skb.cast())
        };
        (result == 0).then_some(Self(skb, copy.cast(), false))
    }

    /// An address that the verifier knows no type of, and of which nothing is read.
    #[inline(always)]
    pub(crate) const fn unread(skb: *const u8) -> Self {
        Self(skb, core::ptr::null(), false)
    }

    #[inline(always)]
    fn field<T>(self, offset: &Global<u32>) -> T {
        // SAFETY: the pointer is the tracepoint's own argument or a copy of what is there, the offsets
        // come from BTF.
        unsafe { direct(self.1, offset) }
    }

    /// `protocol`, an `EtherType` in host byte order.
    #[inline(always)]
    pub(crate) fn protocol(self) -> u16 {
        u16::from_be(self.field(&globals::SK_BUFF_PROTOCOL))
    }

    /// The `EtherType` of a routed IPv4 packet without one; 0 for everything else. Older kernels (5.10 is
    /// one) leave the field empty for packets whose header a raw socket's program made
    /// (`raw_send_hdrinc`) until they leave.
    #[inline(always)]
    pub(crate) fn protocol_by_header(self) -> u16 {
        let reference: u64 = self.field(&globals::SK_BUFF_REFDST);
        if reference == 0 {
            return 0;
        }
        match self.reader().get::<u8>(0) {
            Some(first) if first >> 4 == 4 => ETHERTYPE_IPV4,
            _ => 0,
        }
    }

    /// Index of the interface it came in on, 0 for one made here.
    #[inline(always)]
    pub(crate) fn incoming_interface(self) -> u32 {
        self.field(&globals::SK_BUFF_IIF)
    }

    /// `pkt_type`, one of `PACKET_HOST` and so on (`linux/if_packet.h`).
    #[inline(always)]
    pub(crate) fn packet_type(self) -> u8 {
        let byte: u8 = self.field(&globals::SK_BUFF_PKT_TYPE);
        (byte >> globals::SK_BUFF_PKT_TYPE_SHIFT.load()) & 7
    }

    /// What it points to. `number` is its address, which has been through a map and is a number: where memory is read
    /// directly, no BTF pointers are loaded.
    #[inline(always)]
    pub(crate) fn pointers(self, memory: Memory, number: u64) -> Pointers {
        if self.2 && memory.is_direct() {
            let skb = number as *const u8;
            let field = |offset: &Global<u32>| memory.field::<u64>(skb, offset).unwrap_or(0);
            return Pointers {
                device: field(&globals::SK_BUFF_DEV) as *const u8,
                socket: field(&globals::SK_BUFF_SK),
                is_typed: true,
            };
        }
        Pointers {
            device: self.field(&globals::SK_BUFF_DEV),
            socket: self.field(&globals::SK_BUFF_SK),
            is_typed: self.2,
        }
    }

    /// Whether pointers of the tracepoint's arguments are BTF pointers.
    #[inline(always)]
    pub(crate) const fn is_typed(self) -> bool {
        self.2
    }

    /// Where the packet's memory begins.
    #[inline(always)]
    pub(crate) fn head(self) -> *const u8 {
        self.field(&globals::SK_BUFF_HEAD)
    }

    /// How to read the memory of the packet alone: its address need not be known as a number.
    #[inline(always)]
    fn own_memory(self) -> Memory {
        self.memory(0)
    }

    /// How to read any memory; `head` is the number of [`Self::head`].
    #[inline(always)]
    pub(crate) fn memory(self, head: u64) -> Memory {
        if self.2 {
            Memory::anchored(self.head(), head)
        } else {
            Memory::CALLED
        }
    }

    /// Offset of `data` from `head`, bytes.
    #[inline(always)]
    fn data_offset(self) -> u32 {
        let data: *const u8 = self.field(&globals::SK_BUFF_DATA);
        (data as u64).wrapping_sub(self.head() as u64) as u32
    }

    /// Offset of the IP header from `head`, bytes. Not set yet where the CPU backlog or generic XDP
    /// drops (`skb_reset_network_header` comes later): there `data` is at the IP header.
    #[inline(always)]
    fn network_offset(self) -> u32 {
        match u32::from(self.field::<u16>(&globals::SK_BUFF_NETWORK_HEADER)) {
            0 => self.data_offset(),
            offset => offset,
        }
    }

    /// Whether `data` is at the link header of a packet that has one: so it is at a device, on its way
    /// out, or not yet taken off one on its way in.
    #[inline(always)]
    pub(crate) fn is_at_link_header(self) -> bool {
        let mac = u32::from(self.field::<u16>(&globals::SK_BUFF_MAC_HEADER));
        mac != MAC_HEADER_UNSET && self.data_offset() <= mac
    }

    /// A reader of the bytes from the IP header on.
    #[inline(always)]
    pub(crate) fn reader(self) -> HeadReader {
        let start = self.network_offset();
        let tail: u32 = self.field(&globals::SK_BUFF_TAIL);
        HeadReader {
            memory: self.own_memory(),
            base: self.head().wrapping_add(start as usize),
            available: tail.saturating_sub(start),
        }
    }

    /// Bytes from the IP header to the end of the packet.
    #[inline(always)]
    pub(crate) fn length(self) -> u32 {
        let len: u32 = self.field(&globals::SK_BUFF_LEN);
        len.wrapping_add(self.data_offset())
            .wrapping_sub(self.network_offset())
    }

    /// `gso_segs` and `gso_size` out of `skb_shared_info`, which stands behind the data.
    #[inline(always)]
    pub(crate) fn gso(self) -> (u32, u32) {
        let end: u32 = self.field(&globals::SK_BUFF_END);
        let (memory, shared) = (self.own_memory(), self.head().wrapping_add(end as usize));
        let at = |offset: &Global<u32>| shared.wrapping_add(offset.load() as usize);
        let (size, segments) = (
            &globals::SHARED_INFO_GSO_SIZE,
            &globals::SHARED_INFO_GSO_SEGS,
        );
        // Neighbours in every kernel so far; known when the program loads, so that one way is all there is of it.
        let [size, segments] = if segments.load() == size.load().wrapping_add(2) {
            memory.get::<[u16; 2]>(at(size)).unwrap_or([0; 2])
        } else {
            [size, segments].map(|field| memory.get::<u16>(at(field)).unwrap_or(0))
        };
        (u32::from(segments), u32::from(size))
    }

    /// The route, where it has one that says something.
    #[inline(always)]
    pub(crate) fn route(self, memory: Memory) -> Option<Route> {
        let reference: u64 = self.field(&globals::SK_BUFF_REFDST);
        // Bit 0 says that no reference is held (SKB_DST_NOREF).
        let dst = (reference & !1) as *const u8;
        if !super::is_kernel_address(dst) {
            return None;
        }
        match memory.field::<u16>(dst, &globals::DST_FLAGS) {
            Some(flags) if flags & (DST_METADATA | DST_FAKE_RTABLE) == 0 => {
                NonNull::new(dst.cast_mut()).map(Route)
            }
            _ => None,
        }
    }
}

/// `struct dst_entry`, at the start of `struct rtable` or `struct rt6_info`.
///
/// Never null, so that an absent one is a null pointer and not an undefined one: see
/// [`super::device::Looked`].
#[derive(Clone, Copy)]
pub(crate) struct Route(NonNull<u8>);

impl Route {
    /// `dev`: the device that it leads to, or the loopback device for an address of this host.
    #[inline(always)]
    pub(crate) fn device(self, memory: Memory) -> *const u8 {
        let device = memory.field::<u64>(self.0.as_ptr(), &globals::DST_DEV);
        device.unwrap_or(0) as *const u8
    }

    /// `rt_type` of an IPv4 route (`linux/rtnetlink.h`, `RTN_…`).
    #[inline(always)]
    pub(crate) fn ipv4_type(self, memory: Memory) -> Option<u16> {
        memory.field(self.0.as_ptr(), &globals::RTABLE_TYPE)
    }

    /// `rt6i_flags` of an IPv6 route (`RTF_…`).
    #[inline(always)]
    pub(crate) fn ipv6_flags(self, memory: Memory) -> Option<u32> {
        memory.field(self.0.as_ptr(), &globals::RT6_FLAGS)
    }
}

/// Reads the linear part of a packet at its address.
#[derive(Clone, Copy)]
pub(crate) struct HeadReader {
    /// How it is read.
    pub(crate) memory: Memory,
    /// Address of the IP header, as [`Memory::pointer`] gives it.
    pub(crate) base: *const u8,
    /// Bytes from there on.
    pub(crate) available: u32,
}

impl Reader for HeadReader {
    #[inline(always)]
    fn get<T: Plain>(&self, offset: u32) -> Option<T> {
        if offset + size_of::<T>() as u32 > self.available {
            return None;
        }
        self.memory.get(self.base.wrapping_add(offset as usize))
    }
}
