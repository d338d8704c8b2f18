//! The kernel side as the daemon sees it: facts about the running kernel, loading, attaching, maps.

use serde::{Deserialize, Serialize};

pub mod attach;
pub mod attempts;
pub mod counters;
pub mod facts;
pub mod features;
pub mod kernel;
pub mod load;
pub mod others;
mod own_btf;
pub mod pins;
pub mod runs;
pub mod silent;
pub mod state;
mod sys;
pub mod tables;

/// The kernel programs, as `build.rs` built them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/monitor-ebpf"));

// The kernel programs take the kernel's pointers for 64 bits wide and `sk_buff.tail` for an offset, which
// it is on 64-bit kernels only.
const _: () = assert!(usize::BITS == 64, "peerwatch is for 64-bit kernels");

/// Whether an error of bpf(2) may pass: memory, limits or permissions. What a kernel says of that which
/// it does not know or take is EINVAL, EACCES (the verifier) and the like.
fn may_pass(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::ENOMEM | libc::EAGAIN | libc::EINTR | libc::EMFILE | libc::ENFILE)
    )
}

/// The places where peerwatch looks at packets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
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
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Drop, Self::Deliver, Self::Ingress, Self::Egress];

    /// What is not there without the hook, as the end of a sentence.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            // Its program also takes off what later programs drop, and adds what TIME_WAIT takes.
            Self::Drop => "drops are not counted, and allowed packets not exactly",
            Self::Deliver => "inbound packets that are allowed are not measured",
            Self::Ingress => {
                "inbound fragments are not counted, and answers to attempts are not seen where they arrive"
            }
            Self::Egress => "outbound and forwarded packets that are allowed are not measured",
        }
    }

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
