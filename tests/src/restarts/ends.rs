//! What is left when a daemon ends, and what the next one shows.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType};

use crate::daemon::binary;
use crate::expect::Family;
use crate::netns::run;
use crate::wait::{DEADLINE, until};

use super::load::{Load, exactly};
use super::{Rig, TRAFFICS, Trial};

/// The tests of this file.
pub const TRIALS: &[Trial] = &[
    ("ephemeral_leaves_nothing", ephemeral_leaves_nothing),
    ("uninstall/tcx", || uninstall(&[])),
    ("uninstall/clsact", || {
        uninstall(&[("PEERWATCH_WITHOUT", "tcx")])
    }),
    ("unwanted_filters_go/next_is_pinned", || {
        unwanted_filters_go(&[])
    }),
    ("unwanted_filters_go/next_is_ephemeral", || {
        unwanted_filters_go(&["--ephemeral"])
    }),
    ("states_go_on", states_go_on),
    ("traffics_keep_their_counts", traffics_keep_their_counts),
    ("interfaces_change_meanwhile", interfaces_change_meanwhile),
];

/// How many of our programs are on an interface: in TCX chains, and as filters.
fn on_interface(rig: &Rig, interface: &str) -> Result<usize> {
    let mut text = String::new();
    for of in ["filter", "filter", "qdisc"]
        .into_iter()
        .zip(["ingress", "egress", "clsact"])
    {
        let line = format!("tc {} show dev {interface} {}", of.0, of.1);
        text.push_str(&rig.lab.gw.sh(&line)?);
    }
    let ours = ["gress_etherne", "gress_loopback", "clsact"];
    let is_ours = |line: &&str| ours.iter().any(|name| line.contains(name));
    let filters = text.lines().filter(is_ours).count();
    let chains = rig.lab.gw.run(|| {
        let mut count = 0;
        for attach_type in [TcAttachType::Ingress, TcAttachType::Egress] {
            // Kernels before 6.6 have no such chains.
            let chain = SchedClassifier::query_tcx(interface, attach_type);
            count += chain.map_or(0, |(_, programs)| programs.len());
        }
        Ok(count)
    })?;
    Ok(filters + chains)
}

fn nothing_is_left(rig: &Rig) -> Result<()> {
    // The kernel lets go of links a moment after their last pin went.
    until("the interfaces are free", DEADLINE, || {
        let counts = ["lan0", "wan0", "lo"].map(|name| on_interface(rig, name));
        let sum: usize = counts.into_iter().sum::<Result<usize>>()?;
        Ok((sum == 0).then_some(()))
    })?;
    let pinned = rig.pinned()?;
    ensure!(pinned.is_empty(), "pinned: {pinned:?}");
    ensure!(!rig.bpffs.join("peerwatch").exists(), "its folder is there");
    let files = fs::read_dir(&rig.state).map_or(0, Iterator::count);
    ensure!(files == 0, "{files} files in {}", rig.state.display());
    Ok(())
}

/// It takes away what one before left, counts from 0, and leaves nothing.
fn ephemeral_leaves_nothing() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    rig.lab.daemon.kill()?;
    ensure!(!rig.pinned()?.is_empty(), "nothing was pinned");
    rig.start(&["--ephemeral"])?;
    ensure!(rig.pinned()?.is_empty(), "pinned: {:?}", rig.pinned()?);
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    rig.lab.daemon.stop()?;
    nothing_is_left(&rig)
}

pub(super) fn uninstall(environment: &[(&'static str, &'static str)]) -> Result<()> {
    let mut rig = Rig::create(environment, &[])?;
    let refused = rig.uninstall();
    let Err(error) = refused else {
        bail!("it takes away what a daemon needs: {refused:?}");
    };
    ensure!(format!("{error:#}").contains("stop it first"), "{error:#}");
    rig.lab.daemon.stop()?;
    ensure!(on_interface(&rig, "lan0")? > 0, "nothing goes on");
    let said = rig.uninstall()?;
    ensure!(said.contains("removed "), "{said}");
    nothing_is_left(&rig)?;
    let said = rig.uninstall()?;
    ensure!(said.starts_with("nothing of peerwatch is in "), "{said}");
    // What begins now begins at 0.
    rig.start(&[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    rig.lab.daemon.stop()?;
    rig.uninstall()?;
    nothing_is_left(&rig)
}

/// Filters of an interface that the next daemon is told to leave out: they have no pins.
fn unwanted_filters_go(flags: &[&str]) -> Result<()> {
    let mut rig = Rig::create(&[("PEERWATCH_WITHOUT", "tcx")], &[])?;
    rig.lab.daemon.kill()?;
    ensure!(on_interface(&rig, "wan0")? > 0, "nothing goes on");
    rig.start(&[&["--exclude-interface=wan0"], flags].concat())?;
    let left = on_interface(&rig, "wan0")?;
    ensure!(left == 0, "{left} are left");
    ensure!(on_interface(&rig, "lan0")? > 0, "nothing is attached");
    rig.lab.daemon.stop()
}

/// A block that was proven stands, since the same moment, for a daemon that was killed and one that was
/// swapped.
fn states_go_on() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    let labels = [("traffic", "barred"), ("direction", "forwarded")];
    let blocked = [
        ("traffic", "barred"),
        ("direction", "forwarded"),
        ("state", "blocked"),
    ];
    let is_blocked = |rig: &Rig| rig.gauge("state", &blocked);
    // A block is proven by failures over 10 s.
    until("it is blocked", DEADLINE * 4, || {
        Ok((is_blocked(&rig)? > 0.5).then_some(()))
    })?;
    drop(load);
    let names = [
        "blocked_since_timestamp_seconds",
        "state_since_timestamp_seconds",
    ];
    let moments = |rig: &Rig| -> Result<Vec<u64>> {
        // To the microsecond: what is shown goes through a fraction.
        let read = |name: &&str| Ok((rig.gauge(name, &labels)? * 1e6).to_bits());
        names.iter().map(read).collect()
    };
    // The file is written within half a second.
    let changed = fs::metadata(state_file(&rig)?)?.modified()?;
    until("it is noted", DEADLINE, || {
        let now = fs::metadata(state_file(&rig)?)?.modified()?;
        Ok((now > changed).then_some(()))
    })?;
    let before = moments(&rig)?;
    for flags in [&[][..], &["--log-packets", "all"]] {
        rig.lab.daemon.kill()?;
        rig.start(flags)?;
        // From the first scrape on.
        ensure!(is_blocked(&rig)? > 0.5, "it is not blocked any more");
        ensure!(moments(&rig)? == before, "other moments");
    }
    rig.lab.daemon.stop()
}

/// The one state file of a rig.
pub(super) fn state_file(rig: &Rig) -> Result<std::path::PathBuf> {
    let files = fs::read_dir(&rig.state)?.map(|entry| Ok(entry?.path()));
    let files: Vec<_> = files.collect::<Result<_>>()?;
    let is_state = |path: &&std::path::PathBuf| path.extension().is_some_and(|end| end == "state");
    match files.iter().filter(is_state).collect::<Vec<_>>()[..] {
        [file] => Ok(file.clone()),
        _ => bail!("state files: {files:?}"),
    }
}

/// Counts belong to names, wherever these stand in the file.
fn traffics_keep_their_counts() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    rig.lab.daemon.kill()?;
    let sent = load.end()?;
    // One comes first, one goes, the others change places.
    let with = |names: &[(&str, u16)]| {
        let traffic = |(name, port): &(&str, u16)| {
            format!("[[traffic]]\nname = \"{name}\"\nports = [\"udp/{port}\", \"tcp/{port}\"]\n")
        };
        let traffics: String = names.iter().map(traffic).collect();
        format!("builtin_traffics = false\nlog_packets = \"none\"\n{traffics}")
    };
    rig.lab.configure(&with(&[
        ("fresh", 7710),
        ("barred", 7702),
        ("passed", 7701),
    ]))?;
    rig.start(&[])?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    let counts = rig.lab.daemon.scrape_of(&["packets_total"])?;
    let fresh = counts
        .iter()
        .filter(|(series, _)| series.to_string().contains("\"fresh\""));
    ensure!(
        fresh.clone().count() > 0 && fresh.map(|(_, count)| count).sum::<u64>() == 0,
        "fresh ones"
    );
    rig.lab.daemon.kill()?;
    rig.lab.configure(TRAFFICS)?;
    rig.start(&[])?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    // The counts of a traffic are kept when it goes. 16 names in all are what there is room for.
    rig.lab.daemon.stop()?;
    let names: Vec<String> = (0..14).map(|number| format!("other{number}")).collect();
    let other: Vec<(&str, u16)> = names.iter().map(String::as_str).zip(7720..).collect();
    rig.lab.configure(&with(&other))?;
    let texts = [&rig.bpffs, &rig.state].map(|path| path.display().to_string());
    let config = rig
        .lab
        .temp
        .path()
        .join("peerwatch.toml")
        .display()
        .to_string();
    let mut command = rig.lab.gw.command(binary()?)?;
    command.args([
        "run",
        "--config",
        &config,
        "--bpffs",
        &texts[0],
        "--state-dir",
        &texts[1],
    ]);
    let refused = run(&mut command);
    let Err(error) = refused else {
        bail!("it ended well");
    };
    let error = format!("{error:#}");
    ensure!(error.contains("peerwatch uninstall"), "{error}");
    Ok(())
}

/// An interface that goes, or comes again under its name and number, while no daemon runs.
fn interfaces_change_meanwhile() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    let number = rig.lab.gw.ifindex("lan0")?;
    let make = "link add extra0 index 4711 type veth peer name extra1\nlink set extra0 up\nlink set extra1 up\n";
    rig.lab.gw.ip_batch(make)?;
    let attached = |rig: &Rig, name: &str| {
        let labels = [("hook", "egress"), ("interface", name)];
        rig.gauge("hook_attached", &labels)
    };
    until("extra0 is attached", DEADLINE, || {
        Ok(attached(&rig, "extra0")
            .is_ok_and(|value| value > 0.5)
            .then_some(()))
    })?;
    ensure!(
        rig.bpffs.join("peerwatch").exists()
            && rig
                .pinned()?
                .iter()
                .any(|path| path.ends_with("/egress_4711")),
        "it is not pinned: {:?}",
        rig.pinned()?
    );
    let load = Load::begin(&rig.lab, Family::V4)?;
    rig.lab.daemon.kill()?;
    rig.lab.gw.ip("link delete extra0")?;
    rig.lab.gw.ip_batch(make)?;
    rig.start(&[])?;
    ensure!(attached(&rig, "extra0")? > 0.5, "extra0 is not attached");
    let gap = rig.gauge("restart_gap_seconds", &[("hook", "egress")])?;
    ensure!(gap > 0.0, "it says that extra0 was counted all the time");
    // One that is gone leaves no pin.
    rig.lab.daemon.kill()?;
    rig.lab.gw.ip("link delete extra0")?;
    rig.start(&[])?;
    let pinned = rig.pinned()?;
    ensure!(
        !pinned.iter().any(|path| path.ends_with("_4711")),
        "{pinned:?}"
    );
    ensure!(
        pinned
            .iter()
            .any(|path| path.ends_with(&format!("/egress_{number}"))),
        "{pinned:?}"
    );
    // One that is wanted no more is let go.
    rig.lab.daemon.stop()?;
    rig.start(&["--exclude-interface", "wan0"])?;
    let number = rig.lab.gw.ifindex("wan0")?;
    ensure!(
        !rig.pinned()?
            .iter()
            .any(|path| path.ends_with(&format!("_{number}"))),
        "wan0 is pinned"
    );
    until("wan0 is free", DEADLINE, || {
        Ok((on_interface(&rig, "wan0")? == 0).then_some(()))
    })?;
    rig.lab.daemon.stop()?;
    rig.start(&[])?;
    load.end()?;
    rig.lab.daemon.stop()
}
