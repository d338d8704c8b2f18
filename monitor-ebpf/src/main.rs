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

mod arrive;
mod attempt;
mod count;
mod deliver;
mod drop;
mod event;
mod glance;
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

use monitor_common::attempt::{Stage, hook};
use monitor_common::drop::next as drop_next;

use kernel::skb::Skb;
use maps::{CGROUP_NEXT, DROP_NEXT, TC_NEXT};

/// Go on with the next program, or with the packet's way (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const NEXT: i32 = -1;
/// Let the packet pass.
const ALLOW: i32 = 1;

/// `void (*btf_trace_kfree_skb)(void *, struct sk_buff *skb, void *location, enum skb_drop_reason
/// reason, struct sock *rx_sk)`: before 5.17 without the reason, before 6.11 without the socket.
#[btf_tracepoint(function = "kfree_skb")]
fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    look(&ctx, Skb::typed(ctx.arg(0)));
    0
}

/// What `kfree_skb` goes on with, where the packet may be one of ours.
#[btf_tracepoint(function = "kfree_skb")]
fn decide(ctx: BtfTracePointContext) -> i32 {
    decide_of(&ctx, Skb::typed(ctx.arg(0)));
    0
}

/// What `decide` goes on with, where the packet may belong to an attempt.
#[btf_tracepoint(function = "kfree_skb")]
fn follow_drop(ctx: BtfTracePointContext) -> i32 {
    attempt::follow_head(Skb::typed(ctx.arg(0)));
    0
}

/// As `kfree_skb`, for kernels without BTF tracepoints: the arguments are the same, but the verifier
/// knows no types of them.
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn kfree_skb_raw(ctx: RawTracePointContext) -> i32 {
    if let Some(skb) = Skb::copied(ctx.arg(0)) {
        look(&ctx, skb);
    }
    0
}

/// As `decide`.
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn decide_raw(ctx: RawTracePointContext) -> i32 {
    if let Some(skb) = Skb::copied(ctx.arg(0)) {
        decide_of(&ctx, skb);
    }
    0
}

/// As `follow_drop`.
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn follow_drop_raw(ctx: RawTracePointContext) -> i32 {
    // Nothing of its struct is read here.
    attempt::follow_head(Skb::unread(ctx.arg(0)));
    0
}

/// The arguments, which both kinds of tracepoint program get as an array of 64-bit words.
#[inline(always)]
fn arguments<C: EbpfContext>(ctx: &C, skb: Skb) -> drop::Freed {
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
    let receiving = if globals::HAS_RECEIVING_SOCKET.load() != 0 {
        argument(3)
    } else {
        0
    };
    drop::Freed {
        skb,
        location: argument(1),
        reason,
        receiving,
    }
}

#[inline(always)]
fn look<C: EbpfContext>(ctx: &C, skb: Skb) {
    if drop::look(&arguments(ctx, skb)).is_some() {
        // SAFETY: nothing here waits to be dropped.
        unsafe { DROP_NEXT.tail_call(ctx, drop_next::DECIDE) };
    }
}

#[inline(always)]
fn decide_of<C: EbpfContext>(ctx: &C, skb: Skb) {
    let freed = arguments(ctx, skb);
    if let Some(decision) = drop::decide(&freed) {
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
    if drop::task() != attempt::NOTHING {
        // SAFETY: as above.
        unsafe { DROP_NEXT.tail_call(ctx, drop_next::FOLLOW) };
    }
}

/// `int __cgroup_bpf_run_filter_skb(struct sock *sk, struct sk_buff *skb, enum cgroup_bpf_attach_type
/// atype)`, at the root of the cgroup tree.
#[cgroup_skb(ingress)]
fn deliver(ctx: SkBuffContext) -> i32 {
    if let Some(task) = deliver::deliver(ctx.skb.skb) {
        debug!(&ctx, "delivered, {} bytes", ctx.skb.len());
        if task != attempt::NOTHING {
            // SAFETY: nothing here waits to be dropped.
            unsafe { CGROUP_NEXT.tail_call(&ctx, hook::DELIVER) };
        }
    }
    ALLOW
}

/// What `deliver` goes on with, where the packet may belong to an attempt.
#[cgroup_skb(ingress)]
fn follow_delivery(ctx: SkBuffContext) -> i32 {
    attempt::follow_skb(ctx.skb.skb, hook::DELIVER, Stage::Passed);
    ALLOW
}

/// Ends a tc program: goes on with the one that follows, where something is left to be done.
#[inline(always)]
fn end(ctx: &TcContext, task: u32, hook: u32) -> i32 {
    if task != attempt::NOTHING {
        // SAFETY: nothing here waits to be dropped.
        unsafe { TC_NEXT.tail_call(ctx, hook) };
    }
    NEXT
}

/// `struct sk_buff *sch_handle_egress(struct sk_buff *skb, int *ret, struct net_device *dev)`, of
/// devices with an Ethernet header.
#[classifier]
fn egress_ethernet(ctx: TcContext) -> i32 {
    end(&ctx, pass::leave_ethernet(ctx.skb.skb), hook::EGRESS)
}

/// As `egress_ethernet`, of all other devices.
#[classifier]
fn egress_other(ctx: TcContext) -> i32 {
    end(&ctx, pass::leave_other(ctx.skb.skb), hook::EGRESS)
}

/// What both go on with, where the packet may belong to an attempt.
#[classifier]
fn follow_egress(ctx: TcContext) -> i32 {
    attempt::follow_skb(ctx.skb.skb, hook::EGRESS, Stage::Passed);
    NEXT
}

/// As `egress_ethernet`, of the loopback device.
#[classifier]
fn egress_loopback(ctx: TcContext) -> i32 {
    end(&ctx, arrive::answer(ctx.skb.skb), hook::LOOPBACK)
}

/// What `egress_loopback` goes on with.
#[classifier]
fn follow_loopback(ctx: TcContext) -> i32 {
    attempt::follow_skb(ctx.skb.skb, hook::LOOPBACK, Stage::Passed);
    NEXT
}

/// `struct sk_buff *sch_handle_ingress(struct sk_buff *skb, struct packet_type **pt_prev, int *ret,
/// struct net_device *orig_dev, bool *another)`, of devices with an Ethernet header.
#[classifier]
fn ingress_ethernet(ctx: TcContext) -> i32 {
    end(&ctx, arrive::arrive_ethernet(ctx.skb.skb), hook::INGRESS)
}

/// As `ingress_ethernet`, of all other devices.
#[classifier]
fn ingress_other(ctx: TcContext) -> i32 {
    end(&ctx, arrive::arrive_other(ctx.skb.skb), hook::INGRESS)
}

/// What both go on with, where the packet may belong to an attempt.
#[classifier]
fn follow_ingress(ctx: TcContext) -> i32 {
    attempt::follow_skb(ctx.skb.skb, hook::INGRESS, Stage::Arrived);
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
