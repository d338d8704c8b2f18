//! The daemon as a guest of its host: what it serves is well formed, a second one is refused, and
//! nothing of it is left behind.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::{Trial, V4};
use crate::bpf::{Side, tcx_count};
use crate::daemon::binary;
use crate::expect::Family;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::rows;

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "service/metrics_pass_promtool",
        families: V4,
        run: promtool,
    },
    Trial {
        name: "service/second_instance_refused",
        families: V4,
        run: second_instance,
    },
    Trial {
        name: "service/nothing_left_behind",
        families: V4,
        run: nothing_left,
    },
];

/// `promtool check metrics` finds nothing to say of a scrape with dropped packets in it.
fn promtool(lab: &Lab, _: Family) -> Result<()> {
    for name in [
        "forwarded/nft_forward_drop/tcp443/ipv4",
        "inbound/no_listener/udp443/ipv6",
    ] {
        let row = rows::all().into_iter().find(|row| row.name() == name);
        row.with_context(|| format!("no row {name}"))?.run(lab)?;
    }
    let (_, body) = lab.daemon.get("/metrics")?;
    let mut command = std::process::Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("promtool")?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(body.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
    Ok(())
}

/// A second one in the same namespace ends with one sentence and disturbs nothing.
fn second_instance(lab: &Lab, _: Family) -> Result<()> {
    let before = attached(&lab.gw)?;
    let mut command = lab.gw.command(binary()?)?;
    let output = command
        .args(["run", "--listen", "127.0.0.1:9681"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1),
        "it ended with {}: {said}",
        output.status
    );
    ensure!(
        said.contains("already") || said.contains("another"),
        "it said: {said}"
    );
    ensure!(attached(&lab.gw)? == before, "it changed what is attached");
    let row = rows::all()
        .into_iter()
        .find(|row| row.name() == "forwarded/allowed/udp443/ipv4");
    row.context("no such row")?.run(lab)
}

/// The gateway's interfaces.
const INTERFACES: [&str; 6] = ["lo", "lan0", "wan0", "br0", "bp0", "bp1"];

/// How many programs the TCX chains and clsact filters of each interface have.
fn attached(netns: &NetNs) -> Result<Vec<(&'static str, u32)>> {
    let mut found = Vec::new();
    for interface in INTERFACES {
        let mut count = 0;
        for side in [Side::Ingress, Side::Egress] {
            count += tcx_count(netns, interface, side)?;
            let filters = netns.sh(&format!("tc filter show dev {interface} {}", side.name()))?;
            count += u32::try_from(
                filters
                    .lines()
                    .filter(|line| line.contains(" bpf "))
                    .count(),
            )?;
        }
        found.push((interface, count));
    }
    Ok(found)
}

/// After SIGTERM the interfaces have no program any more.
fn nothing_left(_: &Lab, _: Family) -> Result<()> {
    // A lab of its own, as its daemon ends here.
    let mut lab = Lab::create()?;
    let running = attached(&lab.gw)?;
    ensure!(
        running.iter().all(|(_, count)| *count > 0),
        "attached: {running:?}"
    );
    lab.daemon.stop()?;
    let left = attached(&lab.gw)?;
    ensure!(
        left.iter().all(|(_, count)| *count == 0),
        "left behind: {left:?}"
    );
    for interface in INTERFACES {
        let qdisc = lab.gw.sh(&format!("tc qdisc show dev {interface}"))?;
        ensure!(!qdisc.contains("clsact"), "left behind: {qdisc}");
    }
    Ok(())
}
