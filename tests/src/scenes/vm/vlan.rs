//! VLAN devices on both sides of the gateway: a tagged frame crosses the VLAN's device and the one
//! below, and counts at the VLAN's.

use anyhow::{Result, bail};

use super::super::{Limits, Play, Scene, delivered_at, scene};
use super::{Fate, Road, Sender};
use crate::case::{Case, Plan, Way};
use crate::expect::Expected;
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, give_addresses, mac};
use crate::lifecycle::interfaces::{wait_attached, wait_gone};
use crate::needs::Feature;
use crate::send::FrameSender;

const fn vlan(
    name: &'static str,
    way: Way,
    plan: for<'a, 'b> fn(&'b Case<'a>) -> Result<Plan<'b>>,
) -> Scene {
    scene(name, way, Play::Own(plan))
        .only(Limits::PAIR)
        .needing(Feature::Vlan)
}

pub(in super::super) const SCENES: &[Scene] = &[
    vlan("vlan/forwarded_allowed", Way::Forwarded, allowed),
    vlan("vlan/forwarded_nft_drop", Way::Forwarded, dropped),
    vlan(
        "vlan/forwarded_allowed_tag_in_data",
        Way::Forwarded,
        |case| {
            // Older kernels (6.12 is one) leave the tag to a device below that can insert it, whatever the
            // VLAN's was told; they ask the one below when they make the other. 7.3 does not.
            case.lab.gw.sh("ethtool -K wan0 tx-vlan-hw-insert off")?;
            case.on_end(|lab| lab.gw.sh("ethtool -K wan0 tx-vlan-hw-insert on").map(drop));
            // The device builds the tag into the header itself, instead of leaving it to the one below.
            road(case, "reorder_hdr off")?.plan(case, Fate::Allowed, Expected::nothing())
        },
    ),
    vlan("vlan/inbound_allowed", Way::Inbound, allowed),
    vlan("vlan/inbound_nft_drop", Way::Inbound, dropped),
    vlan(
        "vlan/inbound_fragments_tag_in_data",
        Way::Inbound,
        fragments,
    ),
    vlan("vlan/outbound_allowed", Way::Outbound, allowed),
];

fn allowed<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    road(case, "")?.plan(case, Fate::Allowed, Expected::nothing())
}

fn dropped<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    road(case, "")?.plan(case, Fate::Dropped, Expected::nothing())
}

/// The tag of what arrives is put back into the header before the device gets it.
fn fragments<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let road = road(case, "reorder_hdr off")?;
    let (interface, net) = road.incoming;
    let Sender::Frames(socket, to) = road.sender else {
        bail!("no socket for frames");
    };
    let fragments: Vec<Vec<u8>> = (0..case.count)
        .flat_map(|_| case.packet((net, PEER), (net, GATEWAY)).fragments(16))
        .collect();
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), interface, case.count, case.bytes());
    expected.fragments("inbound", fragments.len() as u64 - case.count);
    let own = Lab::socket(case.family(), net, GATEWAY, case.port());
    delivered_at(case, expected, own, interface, move || {
        fragments
            .iter()
            .try_for_each(|fragment| socket.send(to, fragment))
    })
}

fn road<'b>(case: &'b Case<'_>, options: &str) -> Result<Road<'b>> {
    const LAN: &str = "lan0.10";
    const WAN: &str = "wan0.20";
    let lab = case.lab;
    lab.gw.ip(&format!(
        "link add link lan0 name {LAN} type vlan id 10 {options}"
    ))?;
    case.on_end(|lab| {
        lab.gw.ip(&format!("link del {LAN}"))?;
        wait_gone(lab, LAN)
    });
    lab.gw.ip(&format!(
        "link add link wan0 name {WAN} type vlan id 20 {options}"
    ))?;
    case.on_end(|lab| {
        lab.gw.ip(&format!("link del {WAN}"))?;
        wait_gone(lab, WAN)
    });
    lab.gw
        .ip_batch(&format!("link set {LAN} up\nlink set {WAN} up\n"))?;
    give_addresses(&lab.gw, LAN, Net::ExtraLan, GATEWAY, &[PEER])?;
    give_addresses(&lab.gw, WAN, Net::ExtraWan, GATEWAY, &[SERVER])?;
    lab.peer
        .ip("link add link eth0 name eth0.10 type vlan id 10")?;
    case.on_end(|lab| lab.peer.ip("link del eth0.10"));
    lab.peer.ip("link set eth0.10 up")?;
    wait_attached(lab, LAN)?;
    wait_attached(lab, WAN)?;
    Ok(Road {
        // The VLAN's device has the link address of the one below.
        sender: Sender::Frames(
            FrameSender::open(&lab.peer, "eth0.10")?,
            mac(Net::Lan, GATEWAY),
        ),
        incoming: (LAN, Net::ExtraLan),
        outgoing: (WAN, (Net::ExtraWan, SERVER)),
    })
}
