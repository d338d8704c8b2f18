//! What is in the kernel of a process: its programs and links, and what is attached to interfaces.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use monitor_tests::bpf::{Side, tcx_count};
use monitor_tests::netns::{NetNs, run};
use monitor_tests::wait::{DEADLINE, until};
use serde_json::Value;

/// Numbers of programs and links. The kernel gives none out twice before they wrap around.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Ids {
    pub(crate) programs: BTreeSet<u64>,
    pub(crate) links: BTreeSet<u64>,
}

impl Ids {
    /// Everything that the kernel has, as bpftool lists it: of all processes and namespaces.
    pub(crate) fn in_kernel() -> Result<Self> {
        Ok(Self {
            programs: listed("prog")?,
            links: listed("link")?,
        })
    }

    /// What a process holds (`/proc/PID/fdinfo`, proc(5)).
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut ids = Self::default();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed between the list and the look.
            let Ok(text) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            let number = |key: &str| -> Option<u64> {
                let line = text.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim().parse().ok()
            };
            ids.programs.extend(number("prog_id:"));
            ids.links.extend(number("link_id:"));
        }
        Ok(ids)
    }

    /// Whether all of them are among `others`.
    pub(crate) fn all_in(&self, others: &Self) -> bool {
        self.programs.is_subset(&others.programs) && self.links.is_subset(&others.links)
    }

    /// Whether any of them is among `others`.
    fn any_in(&self, others: &Self) -> bool {
        !(self.programs.is_disjoint(&others.programs) && self.links.is_disjoint(&others.links))
    }

    /// Waits until none is left: the kernel frees programs some time after their last user ends.
    pub(crate) fn wait_gone(&self) -> Result<()> {
        until("programs and links are gone", DEADLINE, || {
            Ok((!self.any_in(&Self::in_kernel()?)).then_some(()))
        })
    }
}

/// What bpftool lists. It fails when something that it is about to show goes: then it is asked again.
fn list(kind: &str) -> Result<Vec<Value>> {
    let mut refused = None;
    let text = until("bpftool lists", DEADLINE, || {
        match run(Command::new("bpftool").args(["-j", kind])) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                refused = Some(error);
                Ok(None)
            }
        }
    });
    let text = text.map_err(|late| refused.unwrap_or(late))?;
    serde_json::from_str(&text).with_context(|| text)
}

fn listed(kind: &str) -> Result<BTreeSet<u64>> {
    list(kind)?
        .iter()
        .map(|item| item["id"].as_u64().context("an item without id"))
        .collect()
}

/// What is attached to an interface: how many programs, and what `tc` says of filters and queueing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OnInterface {
    pub(crate) programs: u32,
    filters: String,
    qdiscs: String,
}

impl OnInterface {
    /// Looks.
    pub(crate) fn look(host: &NetNs, interface: &str) -> Result<Self> {
        let mut programs = 0;
        let mut filters = String::new();
        for side in [Side::Ingress, Side::Egress] {
            let shown = host.sh(&format!("tc filter show dev {interface} {}", side.name()))?;
            let of_bpf = shown.lines().filter(|line| line.contains(" bpf ")).count();
            programs += tcx_count(host, interface, side)? + u32::try_from(of_bpf)?;
            filters.push_str(&shown);
        }
        Ok(Self {
            programs,
            filters,
            qdiscs: host.sh(&format!("tc qdisc show dev {interface}"))?,
        })
    }
}

/// Names of the daemon's programs, as the kernel cuts them (15 bytes). bpftool shows them whole where it
/// can.
const NAMES: [&str; 16] = [
    "kfree_skb",
    "kfree_skb_raw",
    "decide",
    "decide_raw",
    "follow_drop",
    "follow_drop_raw",
    "deliver",
    "follow_delivery",
    "egress_ethernet",
    "egress_other",
    "egress_loopback",
    "follow_egress",
    "follow_loopback",
    "ingress_etherne",
    "ingress_other",
    "follow_ingress",
];

/// Programs with our names, of all daemons on this machine.
pub(crate) fn named_as_ours() -> Result<BTreeSet<u64>> {
    let programs = list("prog")?;
    let ours = programs.iter().filter(|item| {
        let name = item["name"].as_str().unwrap_or_default();
        NAMES.contains(&name.get(..15).unwrap_or(name))
    });
    Ok(ours.filter_map(|item| item["id"].as_u64()).collect())
}

/// Those that no living process holds: what a daemon that is gone left.
pub(crate) fn orphans() -> Result<BTreeSet<u64>> {
    let mut orphans = named_as_ours()?;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        // Processes come and go while this looks.
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && let Ok(held) = Ids::of(pid)
        {
            orphans.retain(|id| !held.programs.contains(id));
        }
    }
    Ok(orphans)
}

/// Waits until no program is left that was not there before and that nobody holds.
pub(crate) fn wait_no_orphans(before: &BTreeSet<u64>) -> Result<()> {
    until("no program is left behind", DEADLINE, || {
        Ok(orphans()?.is_subset(before).then_some(()))
    })
}
