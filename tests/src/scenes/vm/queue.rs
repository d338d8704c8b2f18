//! Packets that rules queue for a program (NFQUEUE), which decides about them; or is not there.

use anyhow::{Result, ensure};

use super::super::{Limits, Obstacle, Play, Reason, Scene, delivered_to_listener, scene};
use super::{FORWARD, INPUT};
use crate::case::{Case, Plan, Way};
use crate::expect::Expected;
use crate::needs::Feature;
use crate::queue::{Answer, Listener};

/// The number of the queue.
const NUMBER: u16 = 7;
const QUEUE: &str = "queue num 7";
const BYPASS: &str = "queue flags bypass to 7";

/// The kernel frees without a reason what a program has it drop (`nf_reinject`), and what it cannot
/// queue (`nf_queue`).
const BY_QUEUE: Reason = ("firewall", "NOT_SPECIFIED");

const fn queue(
    name: &'static str,
    way: Way,
    plan: for<'a, 'b> fn(&'b Case<'a>) -> Result<Plan<'b>>,
) -> Scene {
    scene(name, way, Play::Own(plan))
        .only(Limits::PAIR)
        .needing(Feature::Queue)
}

pub(in super::super) const SCENES: &[Scene] = &[
    queue("nfqueue/inbound_drop", Way::Inbound, |case| {
        answered(case, Answer::Drop, dropped(case, INPUT, QUEUE)?)
    }),
    queue("nfqueue/forwarded_drop", Way::Forwarded, |case| {
        answered(case, Answer::Drop, dropped(case, FORWARD, QUEUE)?)
    }),
    queue("nfqueue/inbound_accept", Way::Inbound, |case| {
        answered(case, Answer::Accept, allowed(case, INPUT, QUEUE)?)
    }),
    queue("nfqueue/forwarded_accept", Way::Forwarded, |case| {
        answered(case, Answer::Accept, allowed(case, FORWARD, QUEUE)?)
    }),
    queue("nfqueue/inbound_nobody_listens", Way::Inbound, |case| {
        dropped(case, INPUT, QUEUE)
    }),
    queue("nfqueue/forwarded_nobody_listens", Way::Forwarded, |case| {
        dropped(case, FORWARD, QUEUE)
    }),
    queue("nfqueue/forwarded_bypass", Way::Forwarded, |case| {
        allowed(case, FORWARD, BYPASS)
    }),
];

fn dropped<'b>(case: &'b Case<'_>, chain: &'static str, verdict: &'static str) -> Result<Plan<'b>> {
    Obstacle::Nft("inet", chain, verdict).set(case)?;
    let mut expected = Expected::nothing();
    expected.dropped(case.kind(), BY_QUEUE, "lan0", case.count, case.bytes());
    Ok(Plan::new(|| case.send(), expected))
}

fn allowed<'b>(case: &'b Case<'_>, chain: &'static str, verdict: &'static str) -> Result<Plan<'b>> {
    Obstacle::Nft("inet", chain, verdict).set(case)?;
    let way = case.row.scene.way;
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), way.interface(), case.count, case.bytes());
    if way == Way::Inbound {
        return delivered_to_listener(case, expected);
    }
    Ok(Plan::new(|| case.send(), expected))
}

/// A program gives this answer to every packet.
fn answered<'b>(case: &'b Case<'_>, answer: Answer, plan: Plan<'b>) -> Result<Plan<'b>> {
    let listener = Listener::start(&case.lab.gw, NUMBER, answer)?;
    let Plan {
        send,
        expected,
        check,
        ..
    } = plan;
    Ok(Plan::new(send, expected).checked_by(move || {
        let seen = listener.finish()?;
        ensure!(
            seen == case.count,
            "{seen} of {} packets were queued",
            case.count
        );
        check()
    }))
}
