//! The kernel side as the daemon sees it: facts about the running kernel, loading, attaching, maps.

pub mod attach;
pub mod counters;
pub mod facts;
pub mod load;
pub mod tables;

/// The kernel programs, as `build.rs` built them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/monitor-ebpf"));

/// The places where peerwatch looks at packets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Hook {
    /// `kfree_skb`: packets that the kernel drops.
    Drop,
    /// Cgroup ingress at the root: packets that sockets get.
    Deliver,
    /// tc ingress: fragments for this host.
    Ingress,
    /// tc egress: packets that leave.
    Egress,
}

impl Hook {
    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Deliver => "deliver",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}
