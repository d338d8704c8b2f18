//! Every value that the daemon sets at load.
//!
//! They land in frozen read-only data: the verifier sees constants and drops the branches that this
//! kernel or this configuration does not need. Offsets are in bytes from the start of the struct and
//! come from the running kernel's BTF; a program whose offsets are not all known is not loaded, so
//! the values here are never used as they stand.

use aya_ebpf::Global;

macro_rules! globals {
    ($($(#[$meta:meta])* $name:ident: $type:ty = $value:expr;)+) => {
        $($(#[$meta])* #[unsafe(no_mangle)] pub(crate) static $name: Global<$type> = Global::new($value);)+
    };
}

globals! {
    /// `sk_buff.head`
    SK_BUFF_HEAD: u32 = 0;
    /// `sk_buff.data`
    SK_BUFF_DATA: u32 = 0;
    /// `sk_buff.tail`, an offset from `head` on 64-bit kernels.
    SK_BUFF_TAIL: u32 = 0;
    /// `sk_buff.end`, an offset from `head` on 64-bit kernels.
    SK_BUFF_END: u32 = 0;
    /// `sk_buff.len`
    SK_BUFF_LEN: u32 = 0;
    /// `sk_buff.network_header`
    SK_BUFF_NETWORK_HEADER: u32 = 0;
    /// `sk_buff.mac_header`
    SK_BUFF_MAC_HEADER: u32 = 0;
    /// `sk_buff.protocol`
    SK_BUFF_PROTOCOL: u32 = 0;
    /// `sk_buff.skb_iif`
    SK_BUFF_IIF: u32 = 0;
    /// The byte that holds the bit field `sk_buff.pkt_type`.
    SK_BUFF_PKT_TYPE: u32 = 0;
    /// How far `pkt_type` is shifted in its byte.
    SK_BUFF_PKT_TYPE_SHIFT: u32 = 0;
    /// `sk_buff.dev`
    SK_BUFF_DEV: u32 = 0;
    /// `sk_buff.sk`
    SK_BUFF_SK: u32 = 0;
    /// `sk_buff._skb_refdst`
    SK_BUFF_REFDST: u32 = 0;
    /// Bytes of `struct sk_buff`.
    SK_BUFF_SIZE: u32 = 0;
    /// `skb_shared_info.gso_size`
    SHARED_INFO_GSO_SIZE: u32 = 0;
    /// `skb_shared_info.gso_segs`
    SHARED_INFO_GSO_SEGS: u32 = 0;
    /// `net_device.ifindex`
    NET_DEVICE_IFINDEX: u32 = 0;
    /// `net_device.nd_net.net`
    NET_DEVICE_NET: u32 = 0;
    /// `net.ns.inum`
    NET_INUM: u32 = 0;
    /// `dst_entry.dev`
    DST_DEV: u32 = 0;
    /// `dst_entry.flags`
    DST_FLAGS: u32 = 0;
    /// `rtable.rt_type`
    RTABLE_TYPE: u32 = 0;
    /// `rt6_info.rt6i_flags`
    RT6_FLAGS: u32 = 0;
    /// `sock.__sk_common.skc_net.net`
    SOCK_NET: u32 = 0;
    /// `sock.__sk_common.skc_state`
    SOCK_STATE: u32 = 0;
    /// `sock.sk_type`
    SOCK_TYPE: u32 = 0;
    /// `task_struct.nsproxy`
    TASK_NSPROXY: u32 = 0;
    /// `nsproxy.net_ns`
    NSPROXY_NET: u32 = 0;
    /// 1 where `kfree_skb` has the argument `reason` (5.17 and later).
    HAS_REASON: u8 = 0;
    /// 1 where `kfree_skb` has the argument `rx_sk` (6.11 and later).
    HAS_RECEIVING_SOCKET: u8 = 0;
    /// 1 where BTF tracepoint programs may read through `sk_buff.head`, and whatever is reached from there.
    HAS_HEAD_READS: u8 = 0;
    /// Inode number of the daemon's network namespace.
    NETNS_INUM: u32 = 0;
    /// Cookie of that namespace (`SO_NETNS_COOKIE`); used where [`HAS_NETNS_COOKIE`] is 1.
    NETNS_COOKIE: u64 = 0;
    /// 1 where cgroup programs may call `bpf_get_netns_cookie`.
    HAS_NETNS_COOKIE: u8 = 0;
    /// 1 when dropped packets go to the event log.
    LOG_DROPPED: u8 = 0;
    /// 1 when allowed packets go to the event log.
    LOG_ALLOWED: u8 = 0;
    /// 1 when the programs log what they do themselves.
    DIAGNOSTICS: u8 = 0;
    /// How many new records of attempts call for the daemon: see
    /// [`monitor_common::attempt::records_of_a_call`].
    RECORDS_OF_A_CALL: u64 = 1024;
    /// Time that one event costs, nanoseconds: the inverse of the rate.
    LOG_PERIOD_NS: u64 = 100_000_000;
    /// How far ahead of the clock a burst may run, nanoseconds: period × (burst - 1).
    LOG_BURST_NS: u64 = 9_900_000_000;
}
