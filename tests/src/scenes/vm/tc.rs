//! Filters of `tc` with an action that drops, ahead of the verdict point and behind it.

use anyhow::Result;

use super::super::{Limits, Play, Reason, Scene, scene, with_clsact};
use crate::bpf::Side::{self, Egress, Ingress};
use crate::case::{Case, Plan, Way};
use crate::expect::{Expected, Family};
use crate::needs::Feature;

const fn tc(
    name: &'static str,
    way: Way,
    plan: for<'a, 'b> fn(&'b Case<'a>) -> Result<Plan<'b>>,
) -> Scene {
    scene(name, way, Play::Own(plan))
        .only(Limits::PAIR)
        .needing(Feature::TcAction)
}

pub(in super::super) const SCENES: &[Scene] = &[
    tc("tc/ingress_matchall_inbound", Way::Inbound, |case| {
        filter(case, Ingress, "matchall")
    }),
    tc("tc/ingress_matchall_forwarded", Way::Forwarded, |case| {
        filter(case, Ingress, "matchall")
    }),
    tc("tc/ingress_flower_inbound", Way::Inbound, |case| {
        filter(case, Ingress, &flower(case))
    }),
    tc("tc/egress_matchall_forwarded", Way::Forwarded, |case| {
        filter(case, Egress, "matchall")
    }),
    tc("tc/egress_matchall_outbound", Way::Outbound, |case| {
        filter(case, Egress, "matchall")
    }),
    tc("tc/egress_flower_forwarded", Way::Forwarded, |case| {
        filter(case, Egress, &flower(case))
    }),
];

/// Matches the row's port.
fn flower(case: &Case<'_>) -> String {
    let protocol = match case.family() {
        Family::V4 => "ip",
        Family::V6 => "ipv6",
    };
    format!(
        "protocol {protocol} flower ip_proto {} dst_port {}",
        case.protocol().name(),
        case.port()
    )
}

fn filter<'b>(case: &'b Case<'_>, side: Side, filter: &str) -> Result<Plan<'b>> {
    let (device, reason): (&'static str, Reason) = match side {
        Ingress => ("lan0", ("firewall", "TC_INGRESS")),
        Egress => ("wan0", ("firewall", "TC_EGRESS")),
    };
    with_clsact(case, device)?;
    let side = side.name();
    // Behind the daemon's own filter, where it has one.
    case.lab.gw.sh(&format!(
        "tc filter add dev {device} {side} prio 2 {filter} action drop"
    ))?;
    case.on_end(move |lab| {
        lab.gw
            .sh(&format!("tc filter del dev {device} {side} prio 2"))
            .map(drop)
    });
    let mut expected = Expected::nothing();
    expected.dropped(case.kind(), reason, device, case.count, case.bytes());
    Ok(Plan::new(|| case.send(), expected))
}
