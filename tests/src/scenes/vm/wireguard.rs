//! A tunnel between peer and gateway: the packets inside count on its device. Those outside count as
//! what they are where their port is watched, and where a hook sees them.

use anyhow::{Context, Result};

use super::super::{Limits, Play, Scene, scene};
use super::{Fate, Road, Sender};
use crate::case::{Case, Plan, Way};
use crate::expect::{Expected, Family, Kind};
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address};
use crate::lifecycle::interfaces::{wait_attached, wait_gone};
use crate::needs::Feature;
use crate::netns::NetNs;
use crate::packet::{Packet, Protocol, flags};
use crate::send::send_made_here;
use crate::wait::{DEADLINE, until};

/// A port that nobody watches.
const UNWATCHED: u16 = 51820;
/// One that is watched.
const WATCHED: u16 = 443;

/// UDP ports of the gateway's and the peer's end.
type Ends = (u16, u16);

const fn wireguard(
    name: &'static str,
    way: Way,
    plan: for<'a, 'b> fn(&'b Case<'a>) -> Result<Plan<'b>>,
) -> Scene {
    scene(name, way, Play::Own(plan))
        .only(Limits::PAIR)
        .needing(Feature::Wireguard)
}

pub(in super::super) const SCENES: &[Scene] = &[
    wireguard("wireguard/forwarded_allowed", Way::Forwarded, allowed),
    wireguard("wireguard/forwarded_nft_drop", Way::Forwarded, dropped),
    wireguard("wireguard/inbound_allowed", Way::Inbound, allowed),
    wireguard("wireguard/inbound_nft_drop", Way::Inbound, dropped),
    wireguard("wireguard/outbound_allowed", Way::Outbound, allowed),
    // The tunnel's socket takes packets before the socket hook: those outside are not seen.
    wireguard(
        "wireguard/forwarded_outer_watched",
        Way::Forwarded,
        |case| road(case, (WATCHED, UNWATCHED))?.plan(case, Fate::Allowed, Expected::nothing()),
    ),
    wireguard(
        "wireguard/outbound_outer_watched",
        Way::Outbound,
        outer_watched,
    ),
];

fn allowed<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    road(case, (UNWATCHED, UNWATCHED))?.plan(case, Fate::Allowed, Expected::nothing())
}

fn dropped<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    road(case, (UNWATCHED, UNWATCHED))?.plan(case, Fate::Dropped, Expected::nothing())
}

/// Each packet leaves twice: through the tunnel, and as the tunnel's own.
fn outer_watched<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let road = road(case, (UNWATCHED, WATCHED))?;
    let outer = Kind {
        traffic: "https",
        protocol: Protocol::Udp,
        ..case.kind()
    };
    // Filled up to 16 bytes, behind headers of IP, UDP and the tunnel (16), before the tag (16).
    let bytes = case.packet_bytes().next_multiple_of(16) + case.family().header() + 8 + 32;
    let mut expected = Expected::nothing();
    expected.allowed(outer, "lan0", case.count, case.count * bytes);
    road.plan(case, Fate::Allowed, expected)
}

/// Makes the tunnel, and waits until its ends have agreed on keys.
fn road<'b>(case: &'b Case<'_>, (here, there): Ends) -> Result<Road<'b>> {
    let lab = case.lab;
    lab.gw.ip("link add wg0 type wireguard")?;
    case.on_end(|lab| {
        lab.gw.ip("link del wg0")?;
        wait_gone(lab, "wg0")
    });
    lab.peer.ip("link add wg0 type wireguard")?;
    case.on_end(|lab| lab.peer.ip("link del wg0"));
    let gw_key = new_key(lab, &lab.gw, "gw.key", here)?;
    let peer_key = new_key(lab, &lab.peer, "peer.key", there)?;
    let endpoint = |host, port| Lab::socket(case.family(), Net::Lan, host, port);
    let (to_peer, to_gw) = (endpoint(PEER, there), endpoint(GATEWAY, here));
    let [v4, v6] = [Family::V4, Family::V6].map(|family| address(family, Net::ExtraLan, PEER));
    lab.gw.sh(&format!(
        "wg set wg0 peer {peer_key} endpoint {to_peer} allowed-ips {v4}/32,{v6}/128"
    ))?;
    lab.peer.sh(&format!(
        "wg set wg0 peer {gw_key} endpoint {to_gw} allowed-ips 0.0.0.0/0,::/0"
    ))?;
    for (netns, host) in [(&lab.gw, GATEWAY), (&lab.peer, PEER)] {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| address(family, Net::ExtraLan, host));
        netns.ip_batch(&format!(
            "address add {v4}/24 dev wg0\naddress add {v6}/64 dev wg0 nodad\nlink set wg0 up\n"
        ))?;
    }
    // More telling than the default route.
    lab.peer
        .ip_batch("route add 10.77.2.0/24 dev wg0\nroute add fd77:2::/64 dev wg0\n")?;
    // The peer hears the tunnel's answers, but not what comes out of it.
    lab.close(&lab.peer, "wg0")?;
    case.on_end(|lab| lab.open(&lab.peer, "wg0"));
    lab.open(&lab.peer, "eth0")?;
    case.on_end(|lab| lab.close(&lab.peer, "eth0"));
    wait_attached(lab, "wg0")?;
    agree(case)?;
    let incoming = ("wg0", Net::ExtraLan);
    let outgoing = match case.row.scene.way {
        Way::Outbound => ("wg0", (Net::ExtraLan, PEER)),
        _ => ("wan0", (Net::Wan, SERVER)),
    };
    Ok(Road {
        sender: Sender::Stack(&lab.peer),
        incoming,
        outgoing,
    })
}

/// Gives the end in this namespace a new key, and says its public part.
fn new_key(lab: &Lab, netns: &NetNs, file: &str, port: u16) -> Result<String> {
    let path = lab.temp.path().join(file);
    std::fs::write(&path, netns.sh("wg genkey")?)?;
    let path = path.to_str().context("the path of a temporary file")?;
    netns.sh(&format!("wg set wg0 private-key {path} listen-port {port}"))?;
    Ok(netns.sh("wg show wg0 public-key")?.trim().to_owned())
}

/// A packet of no interest, to which nobody answers, makes the ends agree; the gateway has the keys when
/// it has arrived.
fn agree(case: &Case<'_>) -> Result<()> {
    const DISCARD: u16 = 9;
    let (lab, family) = (case.lab, case.family());
    let mut packet = Packet::new(
        Protocol::Tcp,
        (address(family, Net::ExtraLan, PEER), lab.port()),
        (address(family, Net::ExtraLan, GATEWAY), DISCARD),
    );
    packet.tcp_flags = flags::RST;
    send_made_here(&lab.peer, packet.destination, &[packet.ip()])?;
    until("the tunnel is open", DEADLINE, || {
        // The public key and the seconds since 1970, 0 for never.
        let text = lab.gw.sh("wg show wg0 latest-handshakes")?;
        let time = text.split_whitespace().nth(1);
        Ok(time.is_some_and(|time| time != "0").then_some(()))
    })
}
