//! Filters of `tc` and XDP programs in the hardware of a device, which `netdevsim` simulates.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Rig;
use crate::bpf::xdp_drop_in_hardware;
use crate::netns::{NetNs, run};

/// Where devices are made and removed, once the module is loaded.
pub(crate) const NEW_DEVICE: &str = "/sys/bus/netdevsim/new_device";
const DEL_DEVICE: &str = "/sys/bus/netdevsim/del_device";

/// How many were made: each has a number of its own.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A device with simulated hardware; it goes with this value.
struct Simulated {
    number: u32,
    name: String,
}

impl Simulated {
    /// Makes it in a namespace.
    fn create(netns: &NetNs) -> Result<Self> {
        let others = links(netns)?;
        // Numbers of processes are below 2^22.
        let number = std::process::id() | MADE.fetch_add(1, Ordering::Relaxed) << 22;
        netns.run(|| fs::write(NEW_DEVICE, format!("{number} 1")).context(NEW_DEVICE))?;
        let mut this = Self {
            number,
            name: String::new(),
        };
        let mut new = links(netns)?.into_iter();
        this.name = new
            .find(|name| !others.contains(name))
            .context("no device of netdevsim")?;
        Ok(this)
    }

    /// Lets its hardware take programs that were not loaded for it.
    fn takes_any_program(&self) -> Result<()> {
        let path = format!(
            "/sys/kernel/debug/netdevsim/netdevsim{}/ports/0/bpf_tc_non_bound_accept",
            self.number
        );
        fs::write(&path, "Y").context(path)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        if let Err(error) = fs::write(DEL_DEVICE, self.number.to_string()) {
            eprintln!("{DEL_DEVICE}: {error}");
        }
    }
}

/// The names of the interfaces there.
fn links(netns: &NetNs) -> Result<Vec<String>> {
    let text = netns.sh("ip -o link show")?;
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    Ok(text.lines().filter_map(name).collect())
}

/// Adds a filter that no packet matches.
fn add_filter(rig: &Rig, device: &str, flags: &[&str]) -> Result<()> {
    let filter = ["filter", "add", "dev", device, "ingress", "protocol", "all"];
    let program = [
        "prio",
        "2",
        "bpf",
        "bytecode",
        "1,6 0 0 0,",
        "flowid",
        "1:1",
    ];
    let mut command = rig.netns.command("tc")?;
    run(command.args(filter).args(program).args(flags)).map(drop)
}

/// What findings of this kind say.
fn said(rig: &Rig, id: &str) -> Result<Vec<String>> {
    let (report, _) = rig.report(&[])?;
    let all = report["findings"].as_array().context("no findings")?;
    let of = all.iter().filter(|finding| finding["id"] == id);
    let what = |finding: &Value| finding["what"].as_str().unwrap_or_default().to_owned();
    Ok(of.map(what).collect())
}

/// A filter that the kernel keeps to itself is none; one that the hardware has taken is found until it is gone.
pub(super) fn filters() -> Result<()> {
    const ID: &str = "tc_offload";
    let rig = Rig::create()?;
    let device = Simulated::create(&rig.netns)?;
    let name = &device.name;
    rig.netns.ip(&format!("link set {name} up"))?;
    rig.netns
        .sh(&format!("ethtool -K {name} hw-tc-offload on"))?;
    device.takes_any_program()?;
    let found = [format!(
        "filters of tc are in the hardware of {name} (ingress: 1)"
    )];
    for qdisc in ["clsact", "ingress"] {
        ensure!(said(&rig, ID)?.is_empty(), "{qdisc}: found before");
        rig.netns.sh(&format!("tc qdisc add dev {name} {qdisc}"))?;
        for (flags, wanted) in [
            (&["skip_hw"][..], &[][..]),
            (&["skip_sw"], &found),
            (&[], &found),
        ] {
            add_filter(&rig, name, flags)?;
            let text = rig
                .netns
                .sh(&format!("tc filter show dev {name} ingress"))?;
            ensure!(
                text.contains(" in_hw") != wanted.is_empty(),
                "{flags:?}: {text}"
            );
            let said = said(&rig, ID)?;
            ensure!(said == wanted, "{qdisc} {flags:?}: {said:?}");
            rig.netns
                .sh(&format!("tc filter del dev {name} ingress prio 2"))?;
        }
        ensure!(said(&rig, ID)?.is_empty(), "{qdisc}: found afterwards");
        rig.netns.sh(&format!("tc qdisc del dev {name} {qdisc}"))?;
    }
    Ok(())
}

/// An XDP program in the hardware.
pub(super) fn xdp() -> Result<()> {
    const ID: &str = "native_xdp";
    let rig = Rig::create()?;
    let device = Simulated::create(&rig.netns)?;
    let before = said(&rig, ID)?;
    ensure!(before.is_empty(), "before: {before:?}");
    xdp_drop_in_hardware(&rig.netns, &device.name)?;
    let found = said(&rig, ID)?;
    let wanted = format!(
        "an XDP program runs on the network card of {} ",
        device.name
    );
    ensure!(
        found.len() == 1 && found[0].starts_with(&wanted),
        "{found:?}"
    );
    drop(device);
    let after = said(&rig, ID)?;
    ensure!(after.is_empty(), "afterwards: {after:?}");
    Ok(())
}
