//! The gateway's own stack: routing, reverse-path filter, neighbours, queues, address translation.

use anyhow::Result;

use super::{Limits, Obstacle, Play, Reason, Scene, scene, sysctl_for};
use crate::case::{Case, Plan, Way};
use crate::expect::{Expected, Family};
use crate::lab::{BRIDGED_SERVER, GATEWAY, Lab, Net, PEER, address};
use crate::packet::Packet;

const QUEUE_FULL: Reason = ("queue", "QDISC_DROP");

pub(super) const SCENES: &[Scene] = &[
    scene("rp_filter", Way::Inbound, Play::Own(rp_filter)).only(Limits::V4),
    scene("rp_filter", Way::Forwarded, Play::Own(rp_filter)).only(Limits::V4),
    scene(
        "route_unreachable",
        Way::Forwarded,
        Play::Own(|case| route(case, "unreachable")),
    ),
    scene(
        "route_blackhole",
        Way::Forwarded,
        Play::Own(|case| route(case, "blackhole")),
    ),
    scene(
        "route_prohibit",
        Way::Forwarded,
        Play::Own(|case| route(case, "prohibit")),
    ),
    scene(
        "no_route",
        Way::Forwarded,
        Play::Own(|case| route(case, "")),
    ),
    scene(
        "route_unreachable",
        Way::Inbound,
        Play::Own(|case| route_of_own_address(case, "unreachable")),
    )
    .only(Limits::V4),
    scene(
        "route_blackhole",
        Way::Inbound,
        Play::Own(|case| route_of_own_address(case, "blackhole")),
    )
    .only(Limits::V4),
    scene(
        "route_prohibit",
        Way::Inbound,
        Play::Own(|case| route_of_own_address(case, "prohibit")),
    )
    .only(Limits::V4),
    scene(
        "no_route",
        Way::Inbound,
        Play::Own(|case| route_of_own_address(case, "")),
    )
    .only(Limits::V4),
    scene(
        "neighbour_missing",
        Way::Forwarded,
        Play::Own(neighbour_missing),
    ),
    scene(
        "neighbour_missing",
        Way::Outbound,
        Play::Own(neighbour_missing),
    ),
    scene("full_queue", Way::Forwarded, Play::Own(full_queue)),
    scene("full_queue", Way::Outbound, Play::Own(full_queue)),
    scene(
        "published_port_to_bridge",
        Way::RoutedToBridge,
        Play::Own(|case| published(case, 0)),
    ),
    scene("published_other_port_to_bridge", Way::RoutedToBridge, {
        Play::Own(|case| published(case, 1000))
    }),
    scene(
        "published_port_dropped",
        Way::RoutedToBridge,
        Play::Own(published_dropped),
    ),
];

/// The packets claim a source that is reached through another interface.
fn rp_filter<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    sysctl_for(case, "net.ipv4.conf.lan0.rp_filter", "1", "0")?;
    let mut packets = case.packets();
    for packet in &mut packets {
        packet.source = address(case.family(), Net::Wan, 50);
    }
    let mut expected = Expected::nothing();
    let reason = ("rp_filter", "IP_RPFILTER");
    expected.dropped(case.kind(), reason, "lan0", case.count, case.bytes());
    Ok(Plan::new(move || case.send_lan(&packets), expected))
}

/// Packets to a network of which the gateway has this kind of route; none when it is empty.
fn route<'b>(case: &'b Case<'_>, kind: &'static str) -> Result<Plan<'b>> {
    if !kind.is_empty() {
        let network = match case.family() {
            Family::V4 => "10.77.9.0/24",
            Family::V6 => "fd77:9::/64",
        };
        case.lab.gw.ip(&format!("route add {kind} {network}"))?;
        case.on_end(move |lab: &Lab| lab.gw.ip(&format!("route del {kind} {network}")));
    }
    let packets: Vec<Packet> = (0..case.count)
        .map(|_| case.packet((Net::Lan, PEER), (Net::Other, 9)))
        .collect();
    let reason = match (case.family(), kind) {
        (_, "") | (Family::V6, "unreachable" | "prohibit") => "IP_INNOROUTES",
        _ => "NOT_SPECIFIED",
    };
    let mut expected = Expected::nothing();
    expected.dropped(
        case.kind(),
        ("routing", reason),
        "lan0",
        case.count,
        case.bytes(),
    );
    Ok(Plan::new(move || case.send_lan(&packets), expected))
}

/// The gateway's own address, of which its routing table says something else than that it is local.
fn route_of_own_address<'b>(case: &'b Case<'_>, kind: &'static str) -> Result<Plan<'b>> {
    const LOCAL: &str =
        "local 10.77.1.1 table local dev lan0 proto kernel scope host src 10.77.1.1";
    const CONNECTED: &str = "10.77.1.0/24 dev lan0 proto kernel scope link src 10.77.1.1";
    let gw = &case.lab.gw;
    // Taken down in reverse: the connected route needs the local one.
    if kind.is_empty() {
        gw.ip(&format!("route del {CONNECTED}"))?;
        case.on_end(|lab: &Lab| lab.gw.ip(&format!("route add {CONNECTED}")));
    }
    gw.ip(&format!("route del {LOCAL}"))?;
    case.on_end(|lab: &Lab| lab.gw.ip(&format!("route add {LOCAL}")));
    if !kind.is_empty() {
        let route = format!("{kind} 10.77.1.1 table local");
        gw.ip(&format!("route add {route}"))?;
        case.on_end(move |lab: &Lab| lab.gw.ip(&format!("route del {route}")));
    }
    let reason = if kind.is_empty() {
        "IP_INNOROUTES"
    } else {
        "NOT_SPECIFIED"
    };
    let mut expected = Expected::nothing();
    expected.dropped(
        case.kind(),
        ("routing", reason),
        "lan0",
        case.count,
        case.bytes(),
    );
    Ok(Plan::new(|| case.send(), expected))
}

/// The packets' next hop does not answer; the kernel gives up after one question.
fn neighbour_missing<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let (retry, count) = match case.family() {
        Family::V4 => (
            "net.ipv4.neigh.wan0.retrans_time_ms",
            "net.ipv4.neigh.wan0.mcast_solicit",
        ),
        Family::V6 => (
            "net.ipv6.neigh.wan0.retrans_time_ms",
            "net.ipv6.neigh.wan0.mcast_solicit",
        ),
    };
    sysctl_for(case, retry, "100", "1000")?;
    sysctl_for(case, count, "1", "3")?;
    let missing = address(case.family(), Net::Wan, 99);
    case.on_end(move |lab: &Lab| lab.gw.ip(&format!("neigh flush to {missing} dev wan0")));
    let reason = match case.family() {
        Family::V4 => "NEIGH_FAILED",
        Family::V6 => "NOT_SPECIFIED",
    };
    let mut expected = Expected::nothing();
    expected.dropped(
        case.kind(),
        ("neighbour", reason),
        "wan0",
        case.count,
        case.bytes(),
    );
    let send = move || {
        if case.row.scene.way == Way::Outbound {
            return case.send_by_sockets((missing, case.port()).into());
        }
        let packets: Vec<Packet> = (0..case.count)
            .map(|_| case.packet((Net::Lan, PEER), (Net::Wan, 99)))
            .collect();
        case.send_lan(&packets)
    };
    Ok(Plan::new(send, expected))
}

/// The queueing discipline behind the verdict takes nothing.
fn full_queue<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    case.lab
        .gw
        .sh("tc qdisc add dev wan0 root tbf rate 8bit burst 1600 limit 1")?;
    case.on_end(|lab: &Lab| lab.gw.sh("tc qdisc del dev wan0 root").map(drop));
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "wan0", case.count, case.bytes());
    expected.late(case.kind(), QUEUE_FULL, case.count);
    Ok(Plan::new(|| case.send(), expected))
}

/// A port of the gateway leads to a server behind the bridge, as with containers. The packets count
/// once, with the port after translation.
fn published<'b>(case: &'b Case<'_>, offset: u16) -> Result<Plan<'b>> {
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "br0", case.count, case.bytes());
    translated(case, offset, expected)
}

fn published_dropped<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    Obstacle::Nft("inet", "filter hook forward priority 0", "drop").set(case)?;
    let mut expected = Expected::nothing();
    let reason = ("firewall", "NETFILTER_DROP");
    expected.dropped(case.kind(), reason, "lan0", case.count, case.bytes());
    translated(case, 0, expected)
}

/// Sends to the gateway's port plus `offset`, which it translates.
fn translated<'b>(case: &'b Case<'_>, offset: u16, expected: Expected) -> Result<Plan<'b>> {
    let server = address(case.family(), Net::Bridge, BRIDGED_SERVER);
    let (table, target) = match case.family() {
        Family::V4 => ("ip", format!("{server}:{}", case.port())),
        Family::V6 => ("ip6", format!("[{server}]:{}", case.port())),
    };
    let (protocol, public) = (case.protocol().name(), case.port() + offset);
    case.lab.gw.nft(&format!(
        "table {table} published {{ chain it {{ type nat hook prerouting priority -100; \
         iifname lan0 {protocol} dport {public} dnat to {target}; }}; }}"
    ))?;
    case.on_end(move |lab: &Lab| lab.gw.nft(&format!("delete table {table} published")));
    let mut packets: Vec<Packet> = (0..case.count)
        .map(|_| case.packet((Net::Lan, PEER), (Net::Lan, GATEWAY)))
        .collect();
    for packet in &mut packets {
        packet.destination_port = public;
    }
    Ok(Plan::new(move || case.send_lan(&packets), expected))
}
