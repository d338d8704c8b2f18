//! How it ends, and that it is alone in its namespace.

use anyhow::{Result, ensure};
use monitor_tests::http::{is_ready, request};
use monitor_tests::wait::{DEADLINE, until};
use nix::sys::signal::Signal;

use crate::attached::{Ids, OnInterface, named_as_ours};
use crate::site::{Process, START, Site, command};

/// Before, during and after: programs, links, filters and queueing disciplines.
fn ends_clean(signal: Signal) -> Result<()> {
    let site = Site::create()?;
    let before = OnInterface::look(&site.host, "lan0")?;
    ensure!(before.programs == 0, "before: {before:?}");
    let known = Ids::in_kernel()?;

    let start = command(&site.host, &["run", "--config", "/dev/null"])?;
    let mut process = Process::start(start, &site, "daemon")?;
    process.wait_for("ready", || Ok(is_ready(&site.host, 9680)))?;
    let held = Ids::of(process.pid())?;
    let during = OnInterface::look(&site.host, "lan0")?;
    // drop, deliver, and lan0's two.
    ensure!(held.programs.len() >= 4, "it holds {held:?}");
    ensure!(held.links.len() >= 2, "it holds {held:?}");
    ensure!(held.all_in(&Ids::in_kernel()?), "bpftool lacks {held:?}");
    // What tests of bad input look for afterwards.
    let named = named_as_ours()?;
    ensure!(held.programs.is_subset(&named), "{held:?}, {named:?}");
    ensure!(!held.all_in(&known), "{held:?} were there before");
    ensure!(during.programs == 2, "during: {during:?}");

    process.signal(signal)?;
    let outcome = process.outcome()?;
    ensure!(outcome.code == Some(0), "{signal}: {outcome:?}");
    ensure!(
        outcome.stderr.contains(signal.as_str()),
        "it does not say why it ends: {outcome:?}"
    );
    held.wait_gone()?;
    let after = OnInterface::look(&site.host, "lan0")?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    Ok(())
}

#[test]
fn nothing_is_left_after_sigterm() -> Result<()> {
    ends_clean(Signal::SIGTERM)
}

#[test]
fn nothing_is_left_after_sigint() -> Result<()> {
    ends_clean(Signal::SIGINT)
}

/// TCX and tracepoint links go with their process; so does the place of the one instance.
#[test]
fn a_killed_daemon_leaves_nothing_that_hinders_the_next() -> Result<()> {
    let site = Site::create()?;
    let before = OnInterface::look(&site.host, "lan0")?;
    let start = || command(&site.host, &["run", "--config", "/dev/null"]);
    let mut first = Process::start(start()?, &site, "first")?;
    first.wait_for("ready", || Ok(is_ready(&site.host, 9680)))?;
    let held = Ids::of(first.pid())?;
    first.signal(Signal::SIGKILL)?;
    ensure!(first.outcome()?.code.is_none(), "it was not killed");
    held.wait_gone()?;
    let after = OnInterface::look(&site.host, "lan0")?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    let mut second = Process::start(start()?, &site, "second")?;
    second.wait_for("ready", || Ok(is_ready(&site.host, 9680)))
}

/// Filters of clsact outlive their process, on the loopback device too: the next one takes them away.
#[test]
fn filters_of_a_killed_daemon_go_with_the_next() -> Result<()> {
    let site = Site::create()?;
    let look = |interface| OnInterface::look(&site.host, interface);
    let before = (look("lo")?, look("lan0")?);
    let start = |name| -> Result<Process> {
        let mut command = command(&site.host, &["run", "--config", "/dev/null"])?;
        command.env("PEERWATCH_WITHOUT", "tcx");
        let mut process = Process::start(command, &site, name)?;
        process.wait_for("ready", || Ok(is_ready(&site.host, 9680)))?;
        Ok(process)
    };
    let first = start("first")?;
    let running = (look("lo")?, look("lan0")?);
    ensure!(running != before, "running: {running:?}");
    first.signal(Signal::SIGKILL)?;
    ensure!(first.outcome()?.code.is_none(), "it was not killed");
    let left = (look("lo")?, look("lan0")?);
    ensure!(left.0 != before.0, "nothing is left to take away: {left:?}");
    let second = start("second")?;
    second.signal(Signal::SIGTERM)?;
    let outcome = second.outcome()?;
    ensure!(outcome.code == Some(0), "{outcome:?}");
    let after = (look("lo")?, look("lan0")?);
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    Ok(())
}

#[test]
fn a_second_instance_is_refused_in_the_same_namespace_only() -> Result<()> {
    let site = Site::create()?;
    let first = site.daemon(&[])?;
    let before = OnInterface::look(&site.host, "lan0")?;
    let words = ["run", "--config", "/dev/null", "--listen", "127.0.0.1:9681"];
    let second = Process::start(command(&site.host, &words)?, &site, "second")?;
    let outcome = second.outcome()?;
    ensure!(outcome.code == Some(1), "{outcome:?}");
    ensure!(outcome.stderr.lines().count() == 1, "{outcome:?}");
    ensure!(
        outcome.stderr.starts_with(&format!(
            "peerwatch: process {} (peerwatch) is already the peerwatch of this network namespace",
            first.pid()
        )),
        "{outcome:?}"
    );
    let after = OnInterface::look(&site.host, "lan0")?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");

    let mut third = Process::start(command(&site.peer, &words)?, &site, "third")?;
    third.wait_for("ready", || Ok(is_ready(&site.peer, 9681)))?;
    ensure!(first.get("/readyz")?.0 == 200, "the first one is disturbed");
    third.signal(Signal::SIGTERM)?;
    ensure!(third.outcome()?.code == Some(0), "the third one failed");
    Ok(())
}

/// A reader of the log that never reads must not keep it from ending.
#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end() -> Result<()> {
    let site = Site::create()?;
    site.drop_input("udp dport 3544")?;
    let words = [
        "run",
        "--config",
        "/dev/null",
        "--log-packets-rate",
        "1000000",
    ];
    let (reader, writer) = std::io::pipe()?;
    let mut start = command(&site.host, &words)?;
    let stderr = site.temp.path().join("stderr");
    start.stdout(writer).stderr(std::fs::File::create(&stderr)?);
    let mut child = start.spawn()?;
    // The parent's copy of the writing end goes with the command.
    drop(start);
    let result = (|| {
        until("ready", START, || {
            Ok(is_ready(&site.host, 9680).then_some(()))
        })?;
        // Over 64 KiB of lines: more than a pipe holds.
        crate::site::datagrams(&site.peer, (crate::site::HERE, 3544), 2000)?;
        until("the packets are counted", DEADLINE, || {
            let answer = request(&site.host, 9680, "GET /metrics", "")?;
            let counts = monitor_tests::scrape::parse(answer.text()?, &["packets_total"])?;
            Ok((crate::site::all_packets(&counts) == 2000).then_some(()))
        })?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
            Signal::SIGTERM,
        )?;
        until("it ends", DEADLINE, || Ok(child.try_wait()?))
    })();
    if result.is_err() {
        child.kill()?;
        child.wait()?;
    }
    drop(reader);
    let status = result?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    Ok(())
}
