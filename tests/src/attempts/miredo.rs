//! A Teredo client and a server that are not ours: miredo, through the gateway. What it sends and when is its
//! own affair; one qualification of the client is one attempt.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::lab::{FAR, Lab, WAN};
use super::teredo::{END, FORWARD, REST, Trial};
use crate::daemon::lay_over;
use crate::expect::{Expected, Family};
use crate::lab::{Net, PEER, SERVER, address};
use crate::netns::{NetNs, TempDir, keep, unique_prefix};
use crate::process::{Process, find};
use crate::scrape::rise;
use crate::wait::{DEADLINE, until};

/// Addresses of the server; it has two of them, and speaks to nobody with a private one.
const SERVERS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Address of the client.
const CLIENT: &str = "198.51.100.2";

/// A qualification that fails: three tries, and two waits of 4 s in between.
const TRIES: Duration = Duration::from_secs(10);

/// Where an installed client has its helper.
const LIBEXEC: &str = "/usr/libexec";

/// Every trial, with its name.
#[must_use]
pub fn trials() -> Vec<(&'static str, Trial)> {
    vec![
        ("teredo/miredo/allowed", || {
            qualifies(|_| Ok(()), ("established", "none"))
        }),
        ("teredo/miredo/dropped_here", || {
            let drop = |lab: &Lab| rule(&lab.gw, "udp dport 3544 drop");
            qualifies(drop, ("dropped", "local_firewall"))
        }),
        ("teredo/miredo/answer_dropped_here", || {
            let drop = |lab: &Lab| rule(&lab.gw, "udp sport 3544 drop");
            qualifies(drop, ("reply_dropped", "local_firewall"))
        }),
        ("teredo/miredo/dropped_beyond", || {
            let drop = |lab: &Lab| rule(&lab.router, "udp dport 3544 drop");
            qualifies(drop, ("unanswered", "unknown"))
        }),
    ]
}

/// A rule of a host that forwards.
fn rule(host: &NetNs, what: &str) -> Result<()> {
    host.nft(&format!(
        "table ip f {{ chain it {{ {FORWARD}; {what}; }}; }}"
    ))
}

/// The client tries to qualify, with these rules in its way, and that is one attempt.
fn qualifies(rules: fn(&Lab) -> Result<()>, ended: (&str, &str)) -> Result<()> {
    let mut lab = Lab::create_with("")?;
    routes(&lab)?;
    rules(&lab)?;
    let before = lab.counts()?;
    let temp = TempDir::create(&unique_prefix())?;
    let server = start(
        &lab.server,
        &temp,
        "miredo-server",
        &format!(
            "ServerBindAddress {}\nServerBindAddress2 {}\n",
            SERVERS[0], SERVERS[1]
        ),
    )?;
    until("the server listens", DEADLINE, || {
        let sockets = lab.server.sh("ss -Hnul sport = :3544")?;
        std::thread::sleep(Duration::from_millis(50));
        // One on each of its addresses.
        Ok((sockets.lines().count() >= SERVERS.len()).then_some(()))
    })
    .with_context(|| server.said())?;
    let client = start(
        &lab.client,
        &temp,
        "miredo",
        &format!(
            "InterfaceName teredo\nBindAddress {CLIENT}\nServerAddress {}\nServerAddress2 {}\n",
            SERVERS[0], SERVERS[1]
        ),
    )?;
    let mut expected = Expected::nothing();
    expected.ended(("teredo", Family::V4, "forwarded"), ended, 1);
    let said = || format!("{}{}", server.said(), client.said());
    until(&format!("{expected:?}"), TRIES + END, || {
        let reached = expected.reached_by(&rise(&before, &lab.recent_counts()?)?);
        std::thread::sleep(Duration::from_millis(100));
        Ok(reached.then_some(()))
    })
    .with_context(said)?;
    std::thread::sleep(REST);
    let difference = expected.difference(&rise(&before, &lab.counts()?)?);
    ensure!(difference.is_none(), "{difference:?}: {}", said());
    if ended.0 == "established" {
        // The client is of the same opinion.
        until("the client qualifies", DEADLINE, || {
            let qualified = client.said().contains("Teredo pseudo-tunnel started");
            Ok(qualified.then_some(()))
        })
        .with_context(said)?;
    }
    client.stop()?;
    server.stop()?;
    if keep() {
        std::mem::forget(lab);
        return Ok(());
    }
    lab.daemon.stop()
}

/// The addresses of client and server, and the ways between them.
fn routes(lab: &Lab) -> Result<()> {
    let at = |net, host| address(Family::V4, net, host);
    lab.client.ip(&format!("address add {CLIENT}/32 dev lo"))?;
    lab.gw
        .ip(&format!("route add {CLIENT}/32 via {}", at(Net::Lan, PEER)))?;
    for one in SERVERS {
        lab.server.ip(&format!("address add {one}/32 dev lo"))?;
        lab.gw
            .ip(&format!("route add {one}/32 via {}", at(WAN, SERVER)))?;
        lab.router
            .ip(&format!("route add {one}/32 via {}", at(FAR, SERVER)))?;
    }
    Ok(())
}

/// Starts one of miredo's programs on a host, with this configuration.
fn start(host: &NetNs, temp: &TempDir, name: &str, text: &str) -> Result<Process> {
    let file = |what: &str| temp.path().join(format!("{name}.{what}"));
    std::fs::write(file("conf"), text)?;
    let program = find(name)?;
    let mut command = host.command(&program)?;
    command
        // In the foreground; it refuses to stay root.
        .args(["-f", "-u", "nobody", "-c"])
        .arg(file("conf"))
        .arg("-p")
        .arg(file("pid"));
    see_helper(&mut command, &program)?;
    Process::start(name, command, temp.path())
}

/// The client starts a helper by its absolute path. Where set-up unpacked it, and did not install it, it is
/// shown there.
fn see_helper(command: &mut Command, program: &std::path::Path) -> Result<()> {
    let files = program.with_file_name("miredo-files/usr/libexec");
    if !files.is_dir() {
        return Ok(());
    }
    let files = files.to_str().context("a path that is no UTF-8")?;
    lay_over(command, &[(files, LIBEXEC)])
}
