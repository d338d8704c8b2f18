//! Attempts that pass the gateway: what becomes of them is decided beyond it.

use std::time::Duration;

use anyhow::Result;

use super::act::{ANSWER, Act, ONCE, Seen, Target, Way};
use super::pool::Place;
use super::{Scene, scene};
use crate::expect::Expected;

/// How many attempts a scene makes at once.
const N: u64 = 3;

/// Where a host's own firewall is.
const INPUT: &str = "type filter hook input priority 0";
/// Where a router's is.
const FORWARD: &str = "type filter hook forward priority 0";

/// The scenes.
#[must_use]
pub fn scenes() -> Vec<Scene> {
    let mut all = vec![
        scene("syn_ack_lost_beyond", SEEN_BY_CLIENT, lost_beyond).place(Place::Proven),
        scene("offline/neighbour", Way::BEYOND, offline).target(Target::MissingNeighbour),
        scene("offline/beyond", Way::BEYOND, offline).target(Target::MissingBeyond),
        scene("established", Way::ALL, established),
        scene("refused", Way::ALL, refused),
        scene("unanswered/unknown", Way::BEYOND, unknown).place(Place::Unproven),
        scene("unanswered/heard_before", Way::BEYOND, heard_before).place(Place::Proven),
    ];
    let unreachable = "reject with icmpx type port-unreachable";
    let prohibited = "reject with icmpx type admin-prohibited";
    let reset = "reject with tcp reset";
    all.extend([
        scene("host_rejects/port", Way::BEYOND, move |act| {
            act.rule(act.host(), INPUT, &format!("{} {unreachable}", act.syn()))?;
            act.connect(N, ANSWER, Seen::Refused)?;
            Ok(act.only("rejected", "remote_host", N))
        }),
        scene("host_rejects/prohibited", Way::BEYOND, move |act| {
            act.rule(act.host(), INPUT, &format!("{} {prohibited}", act.syn()))?;
            act.connect(N, ANSWER, Seen::Unreachable)?;
            Ok(act.only("rejected", "remote_host", N))
        }),
        scene("host_rejects/reset", Way::BEYOND, move |act| {
            act.rule(act.host(), INPUT, &format!("{} {reset}", act.syn()))?;
            act.connect(N, ANSWER, Seen::Refused)?;
            Ok(act.only("refused", "remote_host", N))
        }),
        scene("middlebox/prohibited", Way::BEYOND, move |act| {
            act.rule(
                &act.lab.router,
                FORWARD,
                &format!("{} {prohibited}", act.syn()),
            )?;
            act.connect(N, ANSWER, Seen::Unreachable)?;
            Ok(act.only("rejected", "middlebox", N))
        }),
        scene("middlebox/reset", Way::BEYOND, move |act| {
            act.rule(&act.lab.router, FORWARD, &format!("{} {reset}", act.syn()))?;
            act.connect(N, ANSWER, Seen::Refused)?;
            // It looks as if the target had made it.
            Ok(act.only("refused", "remote_host", N))
        }),
    ]);
    all
}

/// Ways on which the client is not the gateway itself.
const SEEN_BY_CLIENT: &[Way] = &[Way::Inbound, Way::Forwarded, Way::Masquerade, Way::Dnat];

fn established(act: &Act<'_>) -> Result<Expected> {
    act.listen()?;
    act.connect(N, ANSWER, Seen::Open)?;
    Ok(act.only("established", "none", N))
}

fn refused(act: &Act<'_>) -> Result<Expected> {
    act.connect(N, ANSWER, Seen::Refused)?;
    let by = if act.way == Way::Inbound {
        "local_host"
    } else {
        "remote_host"
    };
    Ok(act.only("refused", by, N))
}

fn unknown(act: &Act<'_>) -> Result<Expected> {
    act.rule(act.host(), INPUT, &format!("{} drop", act.syn()))?;
    act.connect(N, ONCE, Seen::Silence)?;
    Ok(act.only("unanswered", "unknown", N))
}

fn heard_before(act: &Act<'_>) -> Result<Expected> {
    act.connect(1, ANSWER, Seen::Refused)?;
    act.rule(act.host(), INPUT, &format!("{} drop", act.syn()))?;
    act.connect(N, ONCE, Seen::Silence)?;
    let mut expected = act.only("refused", "remote_host", 1);
    act.expect(&mut expected, "unanswered", "upstream", N);
    Ok(expected)
}

fn offline(act: &Act<'_>) -> Result<Expected> {
    // Three questions for a link address, one second each; then once more, see `ANSWER`.
    act.connect(N, Duration::from_secs(9), Seen::Unreachable)?;
    Ok(act.only("offline", "none", N))
}

fn lost_beyond(act: &Act<'_>) -> Result<Expected> {
    act.listen()?;
    act.rule(
        &act.lab.client,
        "type filter hook ingress device \"eth0\" priority 0",
        &format!("{} drop", act.syn_ack_as_seen()),
    )?;
    act.connect(N, Duration::from_secs(20), Seen::Silence)?;
    Ok(act.only("unanswered", "upstream", N))
}
