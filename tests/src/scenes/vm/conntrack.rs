//! The connection table is full: conntrack drops what would be a new connection, before any rule.

use anyhow::Result;

use super::super::{Limits, NETFILTER, Play, Scene, scene};
use crate::case::{Case, Plan, Way};
use crate::expect::Expected;
use crate::limit::Limit;
use crate::needs::Feature;
use crate::packet::Protocol;
use crate::scrape::parse;
use crate::wait::{DEADLINE, until};

/// The limit of the scene, and a few connections more.
const LIMIT: u64 = 8;
const CONNECTIONS: u16 = 12;

pub(in super::super) const SCENES: &[Scene] = &[
    scene("conntrack_full/inbound", Way::Inbound, Play::Own(full))
        .only(Limits::PAIR)
        .needing(Feature::ConntrackLimit),
    scene("conntrack_full/forwarded", Way::Forwarded, Play::Own(full))
        .only(Limits::PAIR)
        .needing(Feature::ConntrackLimit),
];

fn full<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let mut limit = Limit::take()?;
    // Other labs have a table of their own, with connections that give way to new ones; this one's
    // are assured, and stay. Scrapes must go on.
    case.lab.gw.nft(
        "table inet full { \
         chain in { type filter hook prerouting priority raw; iif lo notrack; }; \
         chain out { type filter hook output priority raw; oif lo notrack; }; \
         chain it { type filter hook forward priority 0; ct state new accept; }; }",
    )?;
    case.on_end(|lab| lab.gw.nft("delete table inet full"));
    let gw = &case.lab.gw;
    gw.sh("conntrack -F")?;
    case.on_end(|lab| lab.gw.sh("conntrack -F").map(drop));
    for port in 1..=CONNECTIONS {
        gw.sh(&format!(
            "conntrack -I -s 192.0.2.1 -d 192.0.2.2 -p udp --sport {port} --dport 9 -t 600 \
             -u SEEN_REPLY,ASSURED"
        ))?;
    }
    limit.set(LIMIT)?;
    case.hold(limit);
    let mut expected = Expected::nothing();
    expected.dropped(case.kind(), NETFILTER, "lan0", case.count, case.bytes());
    Ok(Plan::new(|| send(case), expected))
}

/// Sends the packets. Those of TCP are attempts, and each ends as one that the full table dropped.
fn send(case: &Case<'_>) -> Result<()> {
    if case.protocol() == Protocol::Udp {
        return case.send();
    }
    let before = ended(case)?;
    let mut packets = case.packets();
    for packet in &mut packets {
        // Those of the other scenes share theirs two by two, and would be one attempt.
        packet.sequence = u32::from(packet.source_port) * 0x0001_0001;
    }
    case.send_lan(&packets)?;
    until("the attempts end as the full table's", DEADLINE, || {
        Ok((ended(case)? == before + case.count).then_some(()))
    })
}

/// How many attempts ended so far because the table was full.
fn ended(case: &Case<'_>) -> Result<u64> {
    let kind = case.kind();
    let mut wanted = Expected::nothing();
    let end = ("dropped", "local_conntrack");
    wanted.ended((kind.traffic, kind.family, kind.direction), end, 1);
    let (_, body) = case.lab.daemon.get("/metrics")?;
    let counts = parse(&body, &["attempts_total"])?;
    let of_these = counts.iter().filter(|(series, _)| wanted.of(series) > 0);
    Ok(of_these.map(|(_, count)| count).sum())
}
