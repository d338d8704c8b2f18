//! The interfaces of this network namespace: how each would be watched, or why it is left out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::finding::{Finding, Weight};
use crate::bpf::attach::Mode;
use crate::bpf::features::{Feature, Features};
use crate::config::InterfaceFilter;
use crate::daemon::interfaces::{tags, wanted};
use crate::link::{self, Interface, LinkType, Xdp, XdpMode};

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Watched {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What it is, where it is no hardware: `veth`, `vlan`, `bridge` … (`IFLA_INFO_KIND`).
    pub kind: Option<String>,
    /// As what it is enslaved: `bridge`, `bond`, `team`, `vrf`.
    pub slave_of: Option<String>,
    /// Index of the interface that it lies on, as a VLAN does.
    pub lies_on: Option<u32>,
    /// How programs are attached to it: `tcx` or `clsact`; `None` where none is.
    pub mode: Option<&'static str>,
    /// Its hooks: `egress`, `ingress`.
    pub hooks: Vec<&'static str>,
    /// Why nothing is counted there.
    pub left_out: Option<&'static str>,
    /// The XDP program on it.
    pub xdp: Option<Xdp>,
}

/// Looks at all of them.
pub(super) fn look(
    filter: &InterfaceFilter,
    features: &Features,
    findings: &mut Vec<Finding>,
) -> Vec<Watched> {
    let all = match link::list() {
        Ok(all) => all,
        Err(error) => {
            findings.push(Finding {
                id: "interfaces_unknown",
                weight: Weight::CannotWork,
                what: format!("the interfaces cannot be read: {error}"),
                effect: "the daemon does not start".to_owned(),
                hint: None,
            });
            return Vec::new();
        }
    };
    let mode = if features.has(Feature::Tcx) {
        Mode::Tcx
    } else {
        Mode::Clsact
    };
    let known: BTreeMap<u32, Interface> = all
        .iter()
        .map(|(interface, _)| (interface.index, interface.clone()))
        .collect();
    let lines: Vec<Watched> = all
        .into_iter()
        .map(|(interface, xdp)| line(filter, &known, &interface, xdp, mode.as_str()))
        .collect();
    find(&lines, findings);
    lines
}

fn line(
    filter: &InterfaceFilter,
    known: &BTreeMap<u32, Interface>,
    interface: &Interface,
    xdp: Option<Xdp>,
    mode: &'static str,
) -> Watched {
    let wanted = wanted(filter, interface, tags(known, interface));
    let slave_of = interface.slave_kind.as_deref();
    let left_out = if interface.kind == LinkType::Loopback {
        Some(
            "what crosses it never leaves this host; only answers of this host's own rules are looked at",
        )
    } else if wanted.is_some() {
        None
    } else if matches!(slave_of, Some("bond" | "team")) {
        Some("its packets are counted at the bond that it belongs to")
    } else if interface.info_kind.as_deref() == Some("vrf") {
        Some("its packets are counted at the interfaces that belong to it")
    } else {
        Some("the configuration leaves it out")
    };
    let hooks = match &wanted {
        Some(wanted) if wanted.ingress => vec!["egress", "ingress"],
        Some(_) => vec!["egress"],
        None => Vec::new(),
    };
    Watched {
        name: interface.name.clone(),
        index: interface.index,
        kind: interface.info_kind.clone(),
        slave_of: interface.slave_kind.clone(),
        lies_on: interface.lower,
        mode: wanted.is_some().then_some(mode),
        hooks,
        left_out,
        xdp,
    }
}

fn find(lines: &[Watched], findings: &mut Vec<Finding>) {
    for line in lines {
        if let Some(xdp) = line.xdp
            && xdp.mode != XdpMode::Generic
        {
            let place = match xdp.mode {
                XdpMode::Hardware => "on the network card",
                XdpMode::Several => "in several places",
                _ => "in the driver",
            };
            findings.push(Finding {
                id: "native_xdp",
                weight: Weight::Limited,
                what: format!(
                    "an XDP program runs {place} of {} (program {})",
                    line.name, xdp.program
                ),
                effect: "packets that it drops or sends elsewhere never reach the kernel's network stack: they are neither \
                         allowed nor dropped here"
                    .to_owned(),
                hint: Some(format!(
                    "see what it does (`bpftool prog show id {}`); attached in generic mode (xdpgeneric) its drops are counted",
                    xdp.program
                )),
            });
        }
        if line.kind.as_deref() == Some("openvswitch") {
            findings.push(Finding {
                id: "openvswitch",
                weight: Weight::Limited,
                what: format!("{} is a switch of Open vSwitch", line.name),
                effect: "what it passes from port to port is counted as it leaves a port; what its flows drop has a reason on \
                         Linux 6.7 and later only, and nothing is seen of flows in hardware or in DPDK"
                    .to_owned(),
                hint: Some("ovs-appctl dpctl/dump-flows shows what it drops".to_owned()),
            });
        }
    }
    let out: Vec<&str> = lines
        .iter()
        .filter(|line| line.slave_of.as_deref() == Some("bridge") && line.hooks.is_empty())
        .map(|line| line.name.as_str())
        .collect();
    if !out.is_empty() {
        findings.push(Finding {
            id: "bridge_ports_left_out",
            weight: Weight::Limited,
            what: format!("ports of a bridge are left out: {}", out.join(", ")),
            effect: "what is bridged out of them is not counted".to_owned(),
            hint: Some("take them out of exclude_interface, or name them in interface".to_owned()),
        });
    }
}
