//! A hook that is missing takes away what it counts, says so, and comes back when it can: it never ends
//! the daemon.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use monitor_tests::bpf::{Side, cgroup_root, tcx_fill};
use monitor_tests::daemon::{Daemon, Start};
use monitor_tests::netns::run;
use monitor_tests::scrape::{Series, parse};
use monitor_tests::wait::{DEADLINE, until};

use crate::attached::Ids;
use crate::site::{HERE, Site, THERE, datagrams, packets, packets_series};

/// What failed is tried again every 10 s; the rest is for a busy machine.
const RETRIED: Duration = Duration::from_secs(25);

fn attached(daemon: &Daemon, hook: &str, interface: &str) -> Result<bool> {
    let (_, body) = daemon.get("/metrics")?;
    let counts = parse(&body, &["hook_attached"])?;
    let labels = [("hook", hook), ("interface", interface)];
    let series = Series::new("peerwatch_hook_attached", &labels);
    let value = counts
        .get(&series)
        .with_context(|| format!("no {series}"))?;
    Ok(*value == 1)
}

/// The lines of a level, which must be this many and have this text in the first.
fn said(daemon: &Daemon, level: &str, text: &str) -> Result<()> {
    let lines = || {
        let log = daemon.errors();
        let of_level = |line: &&str| line.contains(&format!(" {level} ")) && line.contains(text);
        log.lines().filter(of_level).count()
    };
    // What is said goes through a queue: it may come a moment after the first answer.
    until("it is said", DEADLINE, || Ok((lines() > 0).then_some(())))
        .with_context(|| format!("{level} {text:?}: {}", daemon.errors()))?;
    ensure!(lines() == 1, "{level} {text:?}: {}", daemon.errors());
    Ok(())
}

fn not_ready(daemon: &Daemon, why: &str) -> Result<()> {
    let (status, body) = daemon.get("/readyz")?;
    ensure!(status == 503 && body.contains(why), "{status}: {body}");
    Ok(())
}

/// A field that the drop program needs has another name in the kernel's BTF. The daemon cannot find out
/// that this is not so: the kernel's own is hidden, and it may not ask for it.
#[test]
fn a_refused_drop_program_takes_only_the_drops_away() -> Result<()> {
    const FIELD: &[u8] = b"\0skb_iif\0";
    let site = Site::create()?;
    let mut btf = std::fs::read("/sys/kernel/btf/vmlinux")?;
    let at = btf.windows(FIELD.len()).position(|bytes| bytes == FIELD);
    btf[at.context("no field skb_iif")? + 1] = b'x';
    let path = site.temp.path().join("btf");
    std::fs::write(&path, btf)?;
    let start = Start {
        flags: &["--config", "/dev/null", "--btf", &path.to_string_lossy()],
        hidden: &["/sys/kernel/btf/vmlinux"],
        wrapper: &[
            "setpriv",
            "--bounding-set=-sys_admin",
            "--inh-caps=-sys_admin",
        ],
        ready: false,
        ..Start::default()
    };
    let daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    said(
        &daemon,
        "WARN",
        "could not be checked against the running kernel",
    )?;
    said(&daemon, "ERROR", "drops are not counted, ")?;
    said(&daemon, "ERROR", "sk_buff.skb_iif")?;
    not_ready(
        &daemon,
        "hook drop: the place of the field sk_buff.skb_iif is not known",
    )?;
    ensure!(!attached(&daemon, "drop", "")?, "the drop hook is attached");
    datagrams(&site.host, (THERE, 443), 4)?;
    let counts = daemon.settled()?;
    ensure!(
        packets(&counts, "https", "outbound", "allowed") == 4,
        "{counts:?}"
    );
    let dropped = packets_series("https", "inbound", "dropped");
    ensure!(!counts.contains_key(&dropped), "{dropped} is there");
    ensure!(
        !counts
            .keys()
            .any(|series| series.metric().contains("drops_total")),
        "{counts:?}"
    );
    Ok(())
}

/// The cgroup tree is out of reach at first: something lies over it, and the daemon may not mount it
/// itself.
#[test]
fn a_cgroup_root_that_comes_later_is_taken() -> Result<()> {
    let site = Site::create()?;
    let root = cgroup_root()?.to_string_lossy().into_owned();
    let script = format!("mount -t tmpfs none {root} && exec \"$@\"");
    let start = Start {
        flags: &["--config", "/dev/null"],
        wrapper: &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            &script,
            "sh",
            "setpriv",
            "--bounding-set=-sys_admin",
            "--inh-caps=-sys_admin",
        ],
        ready: false,
        ..Start::default()
    };
    let daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    said(
        &daemon,
        "ERROR",
        "inbound packets that are allowed are not measured",
    )?;
    not_ready(&daemon, "hook deliver: no cgroup v2 hierarchy")?;
    let allowed = packets_series("https", "inbound", "allowed");
    ensure!(
        !daemon.scrape()?.contains_key(&allowed),
        "{allowed} is there"
    );
    ensure!(
        attached(&daemon, "drop", "")?,
        "the drop hook is not attached"
    );

    let namespace = format!("--mount=/proc/{}/ns/mnt", daemon.pid());
    run(Command::new("nsenter").args([&namespace, "umount", &root]))?;
    until("the deliver hook is attached", RETRIED, || {
        Ok(attached(&daemon, "deliver", "")?.then_some(()))
    })?;
    said(&daemon, "INFO", "hook deliver is attached now")?;
    ensure!(daemon.get("/readyz")?.0 == 200, "not ready");
    let before = daemon.settled()?;
    ensure!(
        packets(&before, "https", "inbound", "allowed") == 0,
        "{before:?}"
    );
    let _socket = site
        .host
        .run(|| Ok(std::net::UdpSocket::bind((HERE, 443))?))?;
    datagrams(&site.peer, (HERE, 443), 3)?;
    let counts = daemon.settled()?;
    ensure!(
        packets(&counts, "https", "inbound", "allowed") == 3,
        "{counts:?}"
    );
    Ok(())
}

/// The chain of programs at an interface is full at first. What could be attached stays as it is.
#[test]
fn an_interface_that_had_no_room_is_tried_again() -> Result<()> {
    let site = Site::create()?;
    let others = tcx_fill(&site.host, "lan0", Side::Egress)?;
    let start = Start {
        flags: &["--config", "/dev/null"],
        ready: false,
        ..Start::default()
    };
    let daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    said(&daemon, "WARN", "egress of lan0 could not be attached")?;
    not_ready(&daemon, "hook egress of lan0: ")?;
    ensure!(
        attached(&daemon, "ingress", "lan0")?,
        "ingress is not attached"
    );
    let left = |direction| {
        let place = [("interface", "lan0"), ("direction", direction)];
        let labels = [place[0], place[1], ("verdict", "allowed")];
        Series::new("peerwatch_interface_packets_total", &labels)
    };
    let counts = daemon.scrape()?;
    ensure!(
        !counts.contains_key(&left("outbound")) && counts.contains_key(&left("inbound")),
        "{counts:?}"
    );
    let held = Ids::of(daemon.pid())?;
    drop(others);
    until("egress is attached", RETRIED, || {
        Ok(attached(&daemon, "egress", "lan0")?.then_some(()))
    })?;
    ensure!(
        daemon.scrape()?.contains_key(&left("outbound")),
        "no {}",
        left("outbound")
    );
    said(&daemon, "INFO", "interface lan0 is watched now")?;
    ensure!(daemon.get("/readyz")?.0 == 200, "not ready");
    ensure!(
        held.all_in(&Ids::of(daemon.pid())?),
        "what was attached was attached anew"
    );
    datagrams(&site.host, (THERE, 443), 5)?;
    let counts = daemon.settled()?;
    ensure!(
        packets(&counts, "https", "outbound", "allowed") == 5,
        "{counts:?}"
    );
    Ok(())
}
