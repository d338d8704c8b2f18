//! A table of connections that is about to be full, of real connections.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Rig, all};
use crate::limit::Limit;
use crate::wait::{DEADLINE, until};

const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const ID: &str = "conntrack_nearly_full";
/// Other namespaces have the same limit meanwhile, each for itself: more than a lab has at one time.
const CONNECTIONS: u64 = 90;

/// From 90 % on it is nearly full; then no more.
pub(super) fn nearly_full() -> Result<()> {
    let rig = Rig::create()?;
    let mut limit = Limit::take()?;
    rig.netns.nft(
        "table inet follow { chain it { type filter hook output priority 0; ct state new accept; }; }",
    )?;
    // They stay until the end, also on a machine that takes its time.
    rig.netns
        .sysctl("net.netfilter.nf_conntrack_udp_timeout", "600")?;
    let _sockets = rig.netns.run(|| {
        let here = (Ipv4Addr::LOCALHOST, 0);
        let server = UdpSocket::bind(here)?;
        let mut sockets = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = UdpSocket::bind(here)?;
            client.send_to(b"x", server.local_addr()?)?;
            sockets.push(client);
        }
        until("the connections are in the table", DEADLINE, || {
            let count: u64 = fs::read_to_string(COUNT).context(COUNT)?.trim().parse()?;
            Ok((count == CONNECTIONS).then_some(()))
        })?;
        sockets.push(server);
        Ok(sockets)
    })?;
    let look = |wanted: Option<u64>, is_found: bool| -> Result<()> {
        let (report, _) = rig.report(&[])?;
        let table: &Value = &report["conntrack"];
        ensure!(table["entries"] == CONNECTIONS, "{table:#}");
        ensure!(
            wanted.is_none_or(|limit| table["limit"] == limit),
            "{table:#}"
        );
        ensure!(all(&report).contains(ID) == is_found, "{report:#}");
        Ok(())
    };
    look(None, false)?;
    for (most, is_found) in [(101, false), (100, true), (90, true)] {
        limit.set(most)?;
        look(Some(most), is_found)?;
    }
    drop(limit);
    look(None, false)
}
