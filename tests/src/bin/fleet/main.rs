//! What a fleet costs a Prometheus: thousands of hosts, the shipped job, the shipped rules.
//!
//! It serves all hosts from one port, starts Prometheus with `deploy/prometheus/scrape/fleet.yml` and
//! `rules/fleet.yml` as they are, and prints what Prometheus says of itself after some minutes. It fails where a
//! host has more series than it should, a rule fails, or a host is missing in what the rules count.

mod host;
mod prometheus;
mod server;

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;

use prometheus::{Prometheus, sum};

/// A host's series may not be more, with those that Prometheus adds.
const MOST_SERIES: f64 = 150.0;

/// Series that Prometheus adds to each target.
const OWN_SERIES: f64 = 5.0;

/// What a fleet costs a Prometheus
#[derive(Debug, Parser)]
#[command(name = "fleet")]
struct Options {
    /// How many hosts
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    hosts: u64,
    /// For how long; figures are of the last two
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(4..))]
    minutes: u64,
    /// The program, where it is not on PATH
    #[arg(long, value_name = "FILE", default_value = "prometheus")]
    prometheus: PathBuf,
}

/// Targets for the service discovery by file: 50 hosts are a site.
fn targets(hosts: u64, port: u16) -> Result<String> {
    let mut text = String::new();
    for number in 0..hosts {
        writeln!(
            text,
            "- {{targets: ['127.0.0.1:{port}'], labels: {{instance: 'gw{number}', site: 'site{}', \
             __metrics_path__: /{number}/metrics}}}}",
            number / 50
        )?;
    }
    Ok(text)
}

fn run(options: &Options) -> Result<()> {
    let port = server::start()?;
    let prometheus = Prometheus::start(&options.prometheus, &targets(options.hosts, port)?)?;
    eprintln!("{} hosts, {} minutes", options.hosts, options.minutes);
    thread::sleep(Duration::from_mins(options.minutes - 2));
    let (before, start) = (prometheus.metrics()?, Instant::now());
    thread::sleep(Duration::from_mins(2));
    let (after, seconds) = (prometheus.metrics()?, start.elapsed().as_secs_f64());
    let rate = |name| Ok::<_, anyhow::Error>((sum(&after, name)? - sum(&before, name)?) / seconds);

    let series = prometheus.query("max(scrape_samples_post_metric_relabeling)")? + OWN_SERIES;
    println!("hosts                    {}", options.hosts);
    println!("hosts that answer        {}", prometheus.query("sum(up)")?);
    println!(
        "series of a scrape       {}",
        prometheus.query("max(scrape_samples_scraped)")?
    );
    println!("series kept of a host    {series}");
    println!(
        "head series              {}",
        sum(&after, "prometheus_tsdb_head_series")?
    );
    println!(
        "samples a second         {:.0}",
        rate("prometheus_tsdb_head_samples_appended_total")?
    );
    println!(
        "resident memory          {:.0} MB",
        sum(&after, "process_resident_memory_bytes")? / 1e6
    );
    println!(
        "heap in use              {:.0} MB",
        sum(&after, "go_memstats_heap_inuse_bytes")? / 1e6
    );
    println!(
        "CPU                      {:.1} % of one",
        100.0 * rate("process_cpu_seconds_total")?
    );
    println!(
        "scrape, the slowest      {:.3} s",
        prometheus.query("max(scrape_duration_seconds)")?
    );
    println!(
        "all rules, once a minute {:.3} s",
        sum(&after, "prometheus_rule_group_last_duration_seconds")?
    );
    for (name, seconds) in prometheus.rules()?.into_iter().take(5) {
        println!("  {seconds:.3} s  {name}");
    }

    ensure!(
        series <= MOST_SERIES,
        "{series} series of a host are kept, {MOST_SERIES} are allowed"
    );
    // A host whose scrape comes while the rules run may be in one number and not yet in the other.
    let same = |one: f64, other: f64| (one - other).abs() <= 2.0 + one / 100.0;
    let counted = prometheus.query("sum(site:peerwatch_hosts:count)")?;
    let targets = prometheus.query("count(up)")?;
    ensure!(
        same(counted, targets),
        "the rules count {counted} of {targets} hosts"
    );
    let blocked = prometheus.query("sum(site_traffic_direction:peerwatch_hosts_blocked:count)")?;
    let by_whom =
        prometheus.query("sum(site_traffic_direction_blocked_by:peerwatch_hosts_blocked:count)")?;
    println!("states that are blocked  {blocked}");
    ensure!(
        blocked > 0.0,
        "nothing is blocked: the simulation shows nothing"
    );
    ensure!(
        same(blocked, by_whom),
        "of {blocked} it is known by whom, of {by_whom} that it is"
    );
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_site_has_fifty_hosts() {
        let text = targets(101, 1).unwrap();
        assert_eq!(text.lines().count(), 101);
        assert_eq!(text.matches("'site1'").count(), 50);
        assert_eq!(text.matches("'site2'").count(), 1);
    }
}
