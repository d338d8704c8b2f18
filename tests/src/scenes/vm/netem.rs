//! The queueing discipline that plays a bad line: what it loses had been allowed before.

use anyhow::Result;

use super::super::{Limits, Play, Reason, Scene, scene};
use crate::case::{Case, Plan, Way};
use crate::expect::Expected;
use crate::needs::Feature;

const QUEUE: Reason = ("queue", "QDISC_DROP");

pub(in super::super) const SCENES: &[Scene] = &[
    netem("netem/loss_forwarded", Way::Forwarded, loss),
    netem("netem/loss_outbound", Way::Outbound, loss),
    netem("netem/limit_forwarded", Way::Forwarded, limit),
];

const fn netem(
    name: &'static str,
    way: Way,
    plan: for<'a, 'b> fn(&'b Case<'a>) -> Result<Plan<'b>>,
) -> Scene {
    scene(name, way, Play::Own(plan))
        .only(Limits::PAIR)
        .needing(Feature::Netem)
}

fn set(case: &Case<'_>, options: &str) -> Result<()> {
    case.lab
        .gw
        .sh(&format!("tc qdisc add dev wan0 root netem {options}"))?;
    case.on_end(|lab| lab.gw.sh("tc qdisc del dev wan0 root").map(drop));
    Ok(())
}

fn loss<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    set(case, "loss 100%")?;
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "wan0", case.count, case.bytes());
    expected.late(case.kind(), QUEUE, case.count);
    Ok(Plan::new(|| case.send(), expected))
}

/// The first stay in the queue longer than the row takes, the others find no room.
fn limit<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    const ROOM: u64 = 2;
    set(case, &format!("delay 200s limit {ROOM}"))?;
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "wan0", case.count, case.bytes());
    expected.late(case.kind(), QUEUE, case.count - ROOM);
    Ok(Plan::new(|| case.send(), expected))
}
