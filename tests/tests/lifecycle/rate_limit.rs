//! The rate limit of the packet log: no packet is lost in silence.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::Daemon;
use monitor_tests::scrape::{Counts, parse};
use monitor_tests::wait::{DEADLINE, until};
use serde_json::Value;

use crate::site::{HERE, Site, datagrams, packets};

const PACKETS: u64 = 1000;

/// What kept packets out of the log: by the limit, and lost.
fn losses(daemon: &Daemon) -> Result<(u64, u64)> {
    let (_, body) = daemon.get("/metrics")?;
    let sum = |counts: Counts| counts.values().sum();
    Ok((
        sum(parse(&body, &["log_suppressed_total"])?),
        sum(parse(&body, &["events_lost_total"])?),
    ))
}

/// Sends the packets, fast; returns the numbers of lines, suppressed and lost, and the whole log.
fn logged(flags: &[&str]) -> Result<(u64, u64, u64, Vec<Value>)> {
    let site = Site::create()?;
    site.drop_input("udp dport 3544")?;
    let mut all = vec!["--log-format", "json"];
    all.extend(flags);
    let mut daemon = site.daemon(&all)?;
    datagrams(&site.peer, (HERE, 3544), PACKETS)?;
    until("they are counted", DEADLINE, || {
        let counts = daemon.scrape()?;
        Ok((packets(&counts, "teredo", "inbound", "dropped") == PACKETS).then_some(()))
    })?;
    let (suppressed, lost) = losses(&daemon)?;
    daemon.stop()?;
    let log = daemon.log();
    let values: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    let lines = values.iter().filter(|value| value["verdict"] == "dropped");
    Ok((lines.count() as u64, suppressed, lost, values))
}

/// The packets that lines of their own report as suppressed.
fn reported(values: &[Value]) -> u64 {
    values
        .iter()
        .filter_map(|value| value["suppressed"].as_u64())
        .sum()
}

#[test]
fn a_thousand_packets_are_logged_suppressed_or_lost() -> Result<()> {
    let start = Instant::now();
    let (lines, suppressed, lost, values) = logged(&[])?;
    ensure!(
        lines + suppressed + lost == PACKETS,
        "{lines} lines, {suppressed} suppressed, {lost} lost"
    );
    // The burst, and 10 for each second; packets on two CPUs at once may share one charge.
    let most = 2 * (100 + 10 * (start.elapsed().as_secs() + 1));
    ensure!(
        (100..=most).contains(&(lines + lost)),
        "{lines} lines, {lost} lost"
    );
    ensure!(
        reported(&values) == suppressed,
        "{} reported, {suppressed} suppressed",
        reported(&values)
    );
    let report = values
        .iter()
        .find(|value| value["suppressed"].is_u64())
        .context("no report")?;
    ensure!(
        report["limit_per_second"] == 10 && report["burst"] == 100,
        "{report}"
    );
    Ok(())
}

/// The limit holds lines back for a while, and not for good: in a stream of drops there is another one at its time.
#[test]
fn what_is_held_back_is_held_back_for_its_time() -> Result<()> {
    let site = Site::create()?;
    site.drop_input("udp dport 3544")?;
    let flags = [
        "--log-format",
        "json",
        "--log-packets-rate",
        "10",
        "--log-packets-burst",
        "1",
    ];
    let mut daemon = site.daemon(&flags)?;
    let lines = |daemon: &Daemon| daemon.log().matches("\"verdict\":\"dropped\"").count();
    // Seven lines take six periods of a tenth of a second, each of which begins with a pause.
    until("lines come, again and again", DEADLINE, || {
        datagrams(&site.peer, (HERE, 3544), 20)?;
        Ok((lines(&daemon) >= 7).then_some(()))
    })?;
    let (suppressed, _) = losses(&daemon)?;
    ensure!(suppressed > 0, "nothing was held back");
    daemon.stop()
}

#[test]
fn the_limit_is_the_one_that_is_set() -> Result<()> {
    let (lines, suppressed, lost, values) =
        logged(&["--log-packets-rate", "1", "--log-packets-burst", "5"])?;
    ensure!(
        lines + suppressed + lost == PACKETS && suppressed > 900,
        "{lines} lines, {suppressed} suppressed, {lost} lost"
    );
    ensure!(reported(&values) == suppressed, "{values:?}");

    let (lines, suppressed, lost, values) = logged(&[
        "--log-packets-rate",
        "1000000",
        "--log-packets-burst",
        "1000000",
    ])?;
    ensure!(
        suppressed == 0 && lines + lost == PACKETS && values.len() as u64 == lines,
        "{lines} lines, {suppressed} suppressed, {lost} lost"
    );
    Ok(())
}
