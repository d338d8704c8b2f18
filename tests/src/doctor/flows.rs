//! Flow tables, by which packets of established connections pass the rules, the forward hook and, where they lie
//! below other devices, also peerwatch.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{Rig, all};
use crate::netlink::{Attributes, nftables};

/// From `linux/netfilter/nf_tables.h`.
const NFT_MSG_NEWFLOWTABLE: u16 = 22;
const NFTA_FLOWTABLE_TABLE: u16 = 1;
const NFTA_FLOWTABLE_NAME: u16 = 2;
const NFTA_FLOWTABLE_HOOK: u16 = 3;
const NFTA_FLOWTABLE_HOOK_NUM: u16 = 1;
const NFTA_FLOWTABLE_HOOK_PRIORITY: u16 = 2;
const NFTA_FLOWTABLE_HOOK_DEVS: u16 = 3;
const NFTA_DEVICE_PREFIX: u16 = 2;
const NF_NETDEV_INGRESS: u32 = 0;
const NFPROTO_INET: u8 = 1;

/// Puts connections to a watched port into a flow table of one device.
const TABLE: &str = "table inet fast { flowtable ft { hook ingress priority 0; devices = { lan0 }; }; \
                     chain it { type filter hook forward priority 0; tcp dport 7680 flow add @ft; }; }";

/// The report of a host, which has to have found this one flow table.
fn report(rig: &Rig, table: &Value) -> Result<Value> {
    let (report, _) = rig.report(&[])?;
    let tables = &report["firewall"]["flow_tables"];
    ensure!(*tables == json!([table]), "{tables:#}");
    Ok(report)
}

/// A flow table of software hides nothing, unless one of its devices lies below a bridge or a VLAN.
pub(super) fn below() -> Result<()> {
    const ID: &str = "flow_table_below";
    let rig = Rig::create()?;
    let (before, _) = rig.report(&[])?;
    ensure!(before["firewall"]["flow_tables"] == json!([]), "{before:#}");
    rig.netns.nft(TABLE)?;
    let table = json!({
        "family": "inet", "table": "fast", "name": "ft", "hardware": false, "devices": ["lan0"],
    });
    let plain = report(&rig, &table)?;
    for id in [ID, "hardware_offload"] {
        ensure!(!all(&plain).contains(id), "{plain:#}");
    }
    let ports = plain["firewall"]["ports"].as_array().into_iter().flatten();
    let mut rules = ports.flat_map(|port| port["rules"].as_array().into_iter().flatten());
    ensure!(
        rules.any(|rule| rule["verdict"] == "flow add ft" && rule["port"] == 7680),
        "{plain:#}"
    );
    for (above, gone) in [
        (
            "link add br0 type bridge\nlink set lan0 master br0\n",
            "link set lan0 nomaster\nlink del br0\n",
        ),
        (
            "link add link lan0 name lan0.7 type vlan id 7\n",
            "link del lan0.7\n",
        ),
    ] {
        rig.netns.ip_batch(above)?;
        let found = report(&rig, &table)?;
        let mut findings = found["findings"].as_array().into_iter().flatten();
        let what = findings.find(|finding| finding["id"] == ID);
        ensure!(
            what.is_some_and(|finding| finding["what"]
                .as_str()
                .is_some_and(|what| what.contains("inet fast ft") && what.ends_with(": lan0"))),
            "{above}: {found:#}"
        );
        rig.netns.ip_batch(gone)?;
        let after = report(&rig, &table)?;
        ensure!(!all(&after).contains(ID), "{gone}: {after:#}");
    }
    Ok(())
}

/// Devices that are named by what their names begin with.
pub(super) fn by_prefix() -> Result<()> {
    const ID: &str = "flow_table_below";
    let rig = Rig::create()?;
    rig.netns.nft("table inet fast { }")?;
    let devices = Attributes::default().bytes(NFTA_DEVICE_PREFIX, b"lan")?;
    let hook = Attributes::default()
        .number(NFTA_FLOWTABLE_HOOK_NUM, NF_NETDEV_INGRESS)?
        .number(NFTA_FLOWTABLE_HOOK_PRIORITY, 0)?
        .nest(NFTA_FLOWTABLE_HOOK_DEVS, &devices)?;
    let flowtable = Attributes::default()
        .text(NFTA_FLOWTABLE_TABLE, "fast")?
        .text(NFTA_FLOWTABLE_NAME, "ft")?
        .nest(NFTA_FLOWTABLE_HOOK, &hook)?;
    rig.netns
        .run(move || nftables(NFT_MSG_NEWFLOWTABLE, NFPROTO_INET, &flowtable))?;
    let table = json!({
        "family": "inet", "table": "fast", "name": "ft", "hardware": false, "devices": ["lan*"],
    });
    let plain = report(&rig, &table)?;
    ensure!(!all(&plain).contains(ID), "{plain:#}");
    rig.netns
        .ip_batch("link add br0 type bridge\nlink set lan0 master br0\n")?;
    let found = report(&rig, &table)?;
    ensure!(all(&found).contains(ID), "{found:#}");
    Ok(())
}

/// A flow table that is for hardware. No device of a virtual machine takes it, so it has none here.
pub(super) fn in_hardware() -> Result<()> {
    const TABLE: &str =
        "table inet fast { flowtable ft { hook ingress priority 0; DEVICES flags offload; }; }";
    let rig = Rig::create()?;
    let (before, _) = rig.report(&[])?;
    ensure!(!all(&before).contains("hardware_offload"), "{before:#}");
    let devices = TABLE.replace("DEVICES", "devices = { lan0 };");
    match rig.netns.nft(&devices) {
        Err(error) if format!("{error:#}").contains("Operation not supported") => {}
        other => bail!("{devices}: {other:?}"),
    }
    rig.netns.nft(&TABLE.replace("DEVICES", ""))?;
    let table = json!({
        "family": "inet", "table": "fast", "name": "ft", "hardware": true, "devices": [],
    });
    let found = report(&rig, &table)?;
    ensure!(all(&found).contains("hardware_offload"), "{found:#}");
    Ok(())
}
