//! The daemon as a guest of its host: what it serves is well formed, a second one is refused, and
//! nothing of it is left behind.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::{Trial, V4};
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

/// What `bpftool` shows attached to the interfaces of a namespace.
fn attached(netns: &NetNs) -> Result<String> {
    netns.sh("bpftool net list")
}

/// After SIGTERM the interfaces have no program any more.
fn nothing_left(_: &Lab, _: Family) -> Result<()> {
    // A lab of its own, as its daemon ends here.
    let mut lab = Lab::create()?;
    let running = attached(&lab.gw)?;
    for interface in ["lan0", "wan0", "br0", "bp0", "bp1"] {
        ensure!(
            running.contains(interface),
            "nothing at {interface}: {running}"
        );
    }
    lab.daemon.stop()?;
    let left = attached(&lab.gw)?;
    for interface in ["lan0", "wan0", "br0", "bp0", "bp1"] {
        ensure!(!left.contains(interface), "left behind: {left}");
        let qdisc = lab.gw.sh(&format!("tc qdisc show dev {interface}"))?;
        ensure!(!qdisc.contains("clsact"), "left behind: {qdisc}");
    }
    Ok(())
}
