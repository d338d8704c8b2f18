//! A bond towards the server: a packet crosses the bond and one of its ports, and counts at the bond.

use anyhow::Result;

use super::super::{Limits, Obstacle, Play, Scene, scene, with_clsact};
use super::{Fate, Road, Sender};
use crate::case::{Case, Plan, Way};
use crate::expect::Expected;
use crate::lab::{GATEWAY, Net, PEER, SERVER, give_addresses, mac};
use crate::lifecycle::interfaces::{wait_attached, wait_gone, wait_left};
use crate::needs::Feature;
use crate::send::FrameSender;

const fn bond(
    name: &'static str,
    way: Way,
    plan: for<'a, 'b> fn(&'b Case<'a>) -> Result<Plan<'b>>,
) -> Scene {
    scene(name, way, Play::Own(plan))
        .only(Limits::PAIR)
        .needing(Feature::Bonding)
}

pub(in super::super) const SCENES: &[Scene] = &[
    bond(
        "bond/active_backup_forwarded_allowed",
        Way::Forwarded,
        |case| to_bond(case, "active-backup", Fate::Allowed),
    ),
    bond(
        "bond/balance_rr_forwarded_allowed",
        Way::Forwarded,
        |case| to_bond(case, "balance-rr", Fate::Allowed),
    ),
    bond("bond/balance_rr_outbound_allowed", Way::Outbound, |case| {
        to_bond(case, "balance-rr", Fate::Allowed)
    }),
    bond("bond/active_backup_inbound_allowed", Way::Inbound, |case| {
        from_bond(case, Fate::Allowed)
    }),
    bond(
        "bond/active_backup_inbound_nft_drop",
        Way::Inbound,
        |case| from_bond(case, Fate::Dropped),
    ),
    bond(
        "bond/active_backup_forwarded_nft_postrouting_drop",
        Way::Forwarded,
        |case| {
            let road = towards(case, "active-backup")?;
            Obstacle::Nft("inet", "filter hook postrouting priority 0", "drop").set(case)?;
            let mut expected = Expected::nothing();
            let reason = super::super::NETFILTER;
            expected.dropped(case.kind(), reason, "bond0", case.count, case.bytes());
            Ok(Plan::new(move || road.send(case), expected))
        },
    ),
    bond("bond/active_backup_port_tc_drop", Way::Forwarded, port_drop),
];

fn to_bond<'b>(case: &'b Case<'_>, mode: &str, fate: Fate) -> Result<Plan<'b>> {
    towards(case, mode)?.plan(case, fate, Expected::nothing())
}

/// From the peer to the server, out at the bond.
fn towards<'b>(case: &'b Case<'_>, mode: &str) -> Result<Road<'b>> {
    make(case, mode)?;
    let lab = case.lab;
    Ok(Road {
        sender: Sender::Frames(
            FrameSender::open(&lab.peer, "eth0")?,
            mac(Net::Lan, GATEWAY),
        ),
        incoming: ("lan0", Net::Lan),
        outgoing: ("bond0", (Net::ExtraWan, SERVER)),
    })
}

/// From the server, in at the bond's active port.
fn from_bond<'b>(case: &'b Case<'_>, fate: Fate) -> Result<Plan<'b>> {
    make(case, "active-backup")?;
    let lab = case.lab;
    let road = Road {
        sender: Sender::Frames(
            FrameSender::open(&lab.server, "port0")?,
            mac(Net::ExtraWan, GATEWAY),
        ),
        incoming: ("bond0", Net::ExtraWan),
        outgoing: ("wan0", (Net::Wan, SERVER)),
    };
    road.plan(case, fate, Expected::nothing())
}

/// A filter on the port drops what the bond has counted: it is taken off there.
fn port_drop<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let road = towards(case, "active-backup")?;
    with_clsact(case, "bp2")?;
    Obstacle::Clsact("bp2", crate::bpf::Side::Egress).set(case)?;
    let mut expected = Expected::nothing();
    let reason = ("firewall", "TC_EGRESS");
    expected.dropped(case.kind(), reason, "bp2", case.count, case.bytes());
    Ok(Plan::new(move || road.send(case), expected))
}

/// Makes `bond0` over `bp2` and `bp3`, whose other ends are the server's `port0` and `port1`.
fn make(case: &Case<'_>, mode: &str) -> Result<()> {
    const PORTS: [(&str, &str); 2] = [("bp2", "port0"), ("bp3", "port1")];
    let lab = case.lab;
    let address = mac(Net::ExtraWan, GATEWAY)
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    lab.gw.ip(&format!(
        "link add bond0 address {address} type bond mode {mode}"
    ))?;
    case.on_end(|lab| {
        lab.gw.ip("link del bond0")?;
        wait_gone(lab, "bond0")
    });
    for (here, there) in PORTS {
        lab.gw.ip(&format!(
            "link add {here} type veth peer name {there} netns {}",
            lab.server.name()
        ))?;
        case.on_end(move |lab| {
            lab.gw.ip(&format!("link del {here}"))?;
            wait_gone(lab, here)
        });
        // The server is deaf there.
        lab.close(&lab.server, there)?;
        case.on_end(move |lab| lab.open(&lab.server, there));
        lab.server.ip(&format!("link set {there} up"))?;
        lab.gw.ip(&format!("link set {here} master bond0"))?;
    }
    lab.gw.ip("link set bond0 up")?;
    give_addresses(&lab.gw, "bond0", Net::ExtraWan, GATEWAY, &[PEER])?;
    wait_attached(lab, "bond0")?;
    PORTS.iter().try_for_each(|(here, _)| wait_left(lab, here))
}
