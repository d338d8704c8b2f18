//! The kernel programs of peerwatch: entry points.
//!
//! Each stands under the prototype of the kernel code that calls it, and does nothing but take its
//! arguments.
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    clippy::inline_always,
    clippy::needless_pass_by_value,
    reason = "kernel programs: widths are the kernel's, everything is inlined into one program, and \
              entry points own their context"
)]

mod attempt;
mod count;
mod drop;
mod event;
mod globals;
mod kernel;
mod local;
mod maps;
mod packet;
mod pass;
mod teredo;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, cgroup_skb, classifier, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext, SkBuffContext, TcContext};
use aya_log_ebpf::debug;

use kernel::skb::Skb;

/// Go on with the next program, or with the packet's way (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const NEXT: i32 = -1;
/// Let the packet pass.
const ALLOW: i32 = 1;

/// `void (*btf_trace_kfree_skb)(void *, struct sk_buff *skb, void *location, enum skb_drop_reason
/// reason, struct sock *rx_sk)`: before 5.17 without the reason, before 6.11 without the socket.
#[btf_tracepoint(function = "kfree_skb")]
fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    freed(&ctx, Skb::typed(ctx.arg(0)));
    0
}

/// As `kfree_skb`, for kernels without BTF tracepoints: the arguments are the same, but the verifier
/// knows no types of them.
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn kfree_skb_raw(ctx: RawTracePointContext) -> i32 {
    if let Some(skb) = Skb::copied(ctx.arg(0)) {
        freed(&ctx, skb);
    }
    0
}

/// Takes the other arguments, which both kinds of tracepoint program get as an array of 64-bit words.
#[inline(always)]
fn freed<C: EbpfContext>(ctx: &C, skb: Skb) {
    let argument = |index: usize| {
        // SAFETY: an argument that the tracepoint does not have is refused: of a BTF tracepoint by the
        // verifier, of a raw one when the program is attached (`bpf_probe_register`).
        unsafe { ctx.as_ptr().cast::<u64>().add(index).read() }
    };
    let reason = if globals::HAS_REASON.load() != 0 {
        argument(2) as u32
    } else {
        0
    };
    let receiving_socket = if globals::HAS_RECEIVING_SOCKET.load() != 0 {
        argument(3) as *const u8
    } else {
        core::ptr::null()
    };
    let freed = drop::Freed {
        skb,
        location: argument(1),
        reason,
        receiving_socket,
    };
    if let Some(decision) = drop::freed(&freed) {
        debug!(
            ctx,
            "freed at {:x} for reason {}: slot {} group {} class {}",
            freed.location,
            freed.reason,
            decision.slot,
            decision.group,
            decision.class
        );
    }
}

/// `int __cgroup_bpf_run_filter_skb(struct sock *sk, struct sk_buff *skb, enum cgroup_bpf_attach_type
/// atype)`, at the root of the cgroup tree.
#[cgroup_skb(ingress)]
fn deliver(ctx: SkBuffContext) -> i32 {
    if pass::deliver(ctx.skb.skb).is_some() {
        debug!(&ctx, "delivered, {} bytes", ctx.skb.len());
    }
    ALLOW
}

/// `struct sk_buff *sch_handle_egress(struct sk_buff *skb, int *ret, struct net_device *dev)`, of
/// devices with an Ethernet header.
#[classifier]
fn egress_ethernet(ctx: TcContext) -> i32 {
    pass::leave_ethernet(ctx.skb.skb);
    NEXT
}

/// As `egress_ethernet`, of all other devices.
#[classifier]
fn egress_other(ctx: TcContext) -> i32 {
    pass::leave_other(ctx.skb.skb);
    NEXT
}

/// `struct sk_buff *sch_handle_ingress(struct sk_buff *skb, struct packet_type **pt_prev, int *ret,
/// struct net_device *orig_dev, bool *another)`, of devices with an Ethernet header.
#[classifier]
fn ingress_ethernet(ctx: TcContext) -> i32 {
    pass::arrive_ethernet(ctx.skb.skb);
    NEXT
}

/// As `ingress_ethernet`, of all other devices.
#[classifier]
fn ingress_other(ctx: TcContext) -> i32 {
    pass::arrive_other(ctx.skb.skb);
    NEXT
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics: a call would be left over, and the verifier would refuse the program.
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
