//! Foreign BPF programs that drop: at tc ahead of and behind the daemon's, in cgroups, at XDP.

use anyhow::Result;

use super::{Obstacle, Play, Scene, denied_by_cgroup, scene};
use crate::bpf::Place::{self, Head, Tail};
use crate::bpf::Side::{self, Egress, Ingress};
use crate::case::{Case, Plan, Way};
use crate::expect::Expected;
use crate::kernel;
use crate::packet::Protocol;

const fn ingress(by: Obstacle, at: &'static str) -> Play {
    Play::Dropped {
        by,
        reason: ("firewall", "TC_INGRESS"),
        at,
    }
}

const fn egress(by: Obstacle, at: &'static str) -> Play {
    Play::Dropped {
        by,
        reason: ("firewall", "TC_EGRESS"),
        at,
    }
}

const fn tcx(device: &'static str, side: Side, place: Place) -> Obstacle {
    Obstacle::Tcx(device, side, place)
}

pub(super) const SCENES: &[Scene] = &[
    scene(
        "tcx_ingress_ahead",
        Way::Inbound,
        ingress(tcx("lan0", Ingress, Head), "lan0"),
    ),
    scene(
        "tcx_ingress_behind",
        Way::Inbound,
        ingress(tcx("lan0", Ingress, Tail), "lan0"),
    ),
    scene(
        "clsact_ingress",
        Way::Inbound,
        ingress(Obstacle::Clsact("lan0", Ingress), "lan0"),
    ),
    scene(
        "tcx_ingress_ahead",
        Way::Forwarded,
        ingress(tcx("lan0", Ingress, Head), "lan0"),
    ),
    scene(
        "tcx_ingress_behind",
        Way::Forwarded,
        ingress(tcx("lan0", Ingress, Tail), "lan0"),
    ),
    scene(
        "clsact_ingress",
        Way::Forwarded,
        ingress(Obstacle::Clsact("lan0", Ingress), "lan0"),
    ),
    scene(
        "tcx_egress_ahead",
        Way::Outbound,
        egress(tcx("wan0", Egress, Head), "wan0"),
    ),
    scene(
        "tcx_egress_behind",
        Way::Outbound,
        egress(tcx("wan0", Egress, Tail), "wan0"),
    ),
    scene(
        "clsact_egress",
        Way::Outbound,
        egress(Obstacle::Clsact("wan0", Egress), "wan0"),
    ),
    scene(
        "tcx_egress_ahead",
        Way::Forwarded,
        egress(tcx("wan0", Egress, Head), "wan0"),
    ),
    scene(
        "tcx_egress_behind",
        Way::Forwarded,
        egress(tcx("wan0", Egress, Tail), "wan0"),
    ),
    scene(
        "clsact_egress",
        Way::Forwarded,
        egress(Obstacle::Clsact("wan0", Egress), "wan0"),
    ),
    scene(
        "bridged_tcx_egress_ahead",
        Way::Bridged,
        egress(tcx("bp1", Egress, Head), "bp1"),
    ),
    scene(
        "bridged_tcx_egress_behind",
        Way::Bridged,
        egress(tcx("bp1", Egress, Tail), "bp1"),
    ),
    scene("xdp_generic_drop", Way::Inbound, xdp()),
    scene("xdp_generic_drop", Way::Forwarded, xdp()),
    scene("cgroup_deny", Way::Inbound, Play::Own(denied_to_sockets)),
    scene("cgroup_deny", Way::Outbound, {
        Play::Dropped {
            by: Obstacle::Cgroup(Egress),
            reason: ("firewall", "BPF_CGROUP_EGRESS"),
            at: "wan0",
        }
    }),
];

/// A program of the sockets' cgroup denies what they are to get. Of a datagram a kernel without reasons frees
/// it where it frees what finds the receive buffer full, so the two look the same.
fn denied_to_sockets<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let mut expected = Expected::nothing();
    let (kind, count, bytes) = (case.kind(), case.count, case.bytes());
    if case.protocol() == Protocol::Udp && !kernel::gives_reasons() {
        expected.allowed(kind, "lan0", count, bytes);
        expected.late(kind, ("socket", kernel::UNAVAILABLE), count);
    } else {
        expected.dropped(kind, ("firewall", "SOCKET_FILTER"), "lan0", count, bytes);
    }
    denied_by_cgroup(case, Ingress, expected)
}

/// The stack frees what a generic program drops without naming a reason (`do_xdp_generic`).
const fn xdp() -> Play {
    Play::Dropped {
        by: Obstacle::Xdp("lan0"),
        reason: ("firewall", "NOT_SPECIFIED"),
        at: "lan0",
    }
}
