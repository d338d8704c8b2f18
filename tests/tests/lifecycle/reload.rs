//! SIGHUP: traffics that come, go and stay; a bad file changes nothing.

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::Daemon;
use monitor_tests::scrape::{Series, parse};
use monitor_tests::wait::{DEADLINE, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::site::{Site, THERE, datagrams, packets, packets_series};

/// A file with these traffics, one port each.
fn file(traffics: &[(&str, &str)]) -> String {
    let tables: Vec<String> = traffics
        .iter()
        .map(|(name, port)| format!("[[traffic]]\nname = \"{name}\"\nports = [\"{port}\"]\n"))
        .collect();
    format!("builtin_traffics = false\n{}", tables.concat())
}

fn hang_up(daemon: &Daemon) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(daemon.pid())?);
    Ok(kill(pid, Signal::SIGHUP)?)
}

fn successful(daemon: &Daemon) -> Result<u64> {
    let (_, body) = daemon.get("/metrics")?;
    let name = "config_last_reload_successful";
    let counts = parse(&body, &[name])?;
    let series = Series::new(&format!("peerwatch_{name}"), &[]);
    counts.get(&series).copied().context("no such metric")
}

fn wait_successful(daemon: &Daemon, wanted: u64) -> Result<()> {
    until("the reload is done", DEADLINE, || {
        Ok((successful(daemon)? == wanted).then_some(()))
    })
}

#[test]
fn traffics_come_go_and_stay() -> Result<()> {
    let site = Site::create()?;
    let first = file(&[("kept", "udp/7001"), ("removed", "udp/7002")]);
    let path = site.file("peerwatch.toml", &first)?;
    let daemon = site.daemon(&["--config", &path.to_string_lossy()])?;
    let count = |traffic: &str| -> Result<u64> {
        Ok(packets(&daemon.settled()?, traffic, "outbound", "allowed"))
    };
    let has = |traffic: &str| -> Result<bool> {
        let series = packets_series(traffic, "outbound", "allowed");
        Ok(daemon.scrape()?.contains_key(&series))
    };
    datagrams(&site.host, (THERE, 7001), 3)?;
    datagrams(&site.host, (THERE, 7002), 2)?;
    // Not watched yet.
    datagrams(&site.host, (THERE, 7003), 9)?;
    ensure!((count("kept")?, count("removed")?) == (3, 2), "at first");
    ensure!(!has("new")?, "it is not in the file");

    site.file(
        "peerwatch.toml",
        &file(&[("kept", "udp/7001"), ("new", "udp/7003")]),
    )?;
    hang_up(&daemon)?;
    until("the new traffic is there", DEADLINE, || {
        Ok(has("new")?.then_some(()))
    })?;
    let (_, body) = daemon.get("/metrics")?;
    ensure!(
        !body.contains("traffic=\"removed\""),
        "a series of a traffic that is not watched any more"
    );
    ensure!(
        (count("kept")?, count("new")?) == (3, 0),
        "after the reload, before any packet"
    );
    datagrams(&site.host, (THERE, 7001), 2)?;
    datagrams(&site.host, (THERE, 7002), 5)?;
    datagrams(&site.host, (THERE, 7003), 4)?;
    ensure!(
        (count("kept")?, count("new")?) == (5, 4),
        "after the reload: kept {}, new {}",
        count("kept")?,
        count("new")?
    );

    // It comes back with its counts: a counter must not begin anew while the process lives.
    site.file("peerwatch.toml", &first)?;
    hang_up(&daemon)?;
    until("the old traffic is back", DEADLINE, || {
        Ok(has("removed")?.then_some(()))
    })?;
    datagrams(&site.host, (THERE, 7002), 1)?;
    ensure!(
        (count("kept")?, count("removed")?) == (5, 3),
        "after it came back: kept {}, removed {}",
        count("kept")?,
        count("removed")?
    );
    ensure!(successful(&daemon)? == 1, "the reloads were good");
    Ok(())
}

#[test]
fn a_bad_file_keeps_the_old_traffics() -> Result<()> {
    let site = Site::create()?;
    let path = site.file("peerwatch.toml", &file(&[("kept", "udp/7001")]))?;
    let name = path.to_string_lossy().into_owned();
    let daemon = site.daemon(&["--config", &name])?;
    ensure!(successful(&daemon)? == 1, "the first load was good");
    let said = daemon.errors().lines().count();

    site.file("peerwatch.toml", &file(&[("other", "udp/70000")]))?;
    hang_up(&daemon)?;
    wait_successful(&daemon, 0)?;
    let errors = daemon.errors();
    let new: Vec<&str> = errors.lines().skip(said).collect();
    let [line] = new[..] else {
        anyhow::bail!("not one line: {new:?}");
    };
    ensure!(line.contains(" ERROR "), "{line}");
    // File, line, column and key.
    let place = format!("{name}:4:10: traffic.ports: ");
    ensure!(line.contains(&place), "no {place:?} in {line:?}");

    datagrams(&site.host, (THERE, 7001), 3)?;
    let counts = daemon.settled()?;
    ensure!(
        packets(&counts, "kept", "outbound", "allowed") == 3,
        "the old traffic counts no more: {counts:?}"
    );
    ensure!(
        !counts.contains_key(&packets_series("other", "outbound", "allowed")),
        "the bad file's traffic is there"
    );

    // A file that is gone is as bad as one that is wrong.
    std::fs::remove_file(&path)?;
    hang_up(&daemon)?;
    until("the second error is there", DEADLINE, || {
        Ok((daemon.errors().lines().count() == said + 2).then_some(()))
    })?;
    ensure!(successful(&daemon)? == 0, "there is no file");

    site.file(
        "peerwatch.toml",
        &file(&[("kept", "udp/7001"), ("other", "udp/7002")]),
    )?;
    hang_up(&daemon)?;
    wait_successful(&daemon, 1)?;
    let counts = daemon.settled()?;
    ensure!(
        packets(&counts, "kept", "outbound", "allowed") == 3,
        "counts are lost: {counts:?}"
    );
    Ok(())
}
