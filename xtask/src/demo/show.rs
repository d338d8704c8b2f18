//! The demo as it runs: everything that it starts lives in guards, so that it goes away however this ends.

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    alerts::{Alerts, BLOCKED},
    daemon::{self, Daemon},
    folder::Folder,
    forward::Forwarder,
    http::encoded,
    namespace::{Namespace, Tools},
    peers::Peers,
    phases::{Phases, Step, Turn},
    prometheus::{self, Prometheus},
    screen::Screen,
    signals::Signals,
    sites::Hosts,
    table::Table,
};

/// Between two scrapes.
const TICK: Duration = Duration::from_secs(1);
/// Between two tables where lines can't be redrawn.
const PLAIN_TABLE: Duration = Duration::from_secs(5);
/// Loading and attaching the kernel programs, and reading the rules.
const READY: Duration = Duration::from_secs(30);

/// The daemon's configuration where alerts are waited for: a quarter of an hour is too long to watch.
const FASTER: &str = "\
    [[traffic]]\nname = \"do_peer\"\nwindow = \"1m\"\nrecovery = \"5s\"\n\
    [[traffic]]\nname = \"teredo\"\nwindow = \"1m\"\nrecovery = \"5s\"\n\
    [[traffic]]\nname = \"https\"\nwindow = \"1m\"\nrecovery = \"5s\"\n";

/// What to type into Prometheus: attempts of the peers by how they ended, per second.
const EXPRESSION: &str = "sum by (outcome) (rate(peerwatch_attempts_total{traffic=\"do_peer\",direction=\"forwarded\"}[15s]))";

/// What the demo shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Programs<'a> {
    pub(super) daemon: &'a Path,
    pub(super) prometheus: Option<&'a Path>,
    pub(super) tools: &'a Tools,
}

/// Shows it until the limit is reached or a signal comes.
///
/// # Errors
///
/// When a step fails or a program ends.
pub(super) fn show<W: Write>(
    programs: Programs<'_>,
    limit: Option<Duration>,
    signals: &Signals,
    screen: &mut Screen<W>,
) -> Result<()> {
    // Dropped in reverse: the hosts go last.
    let hosts = Hosts::create(programs.tools)?;
    let folder = Folder::create()?;
    let faster = programs.prometheus.map_or("", |_| FASTER);
    let configuration = folder.write("peerwatch.toml", faster)?;
    let mut ports = vec![daemon::PORT];
    ports.extend(programs.prometheus.map(|_| prometheus::PORT));
    let forwarder = Forwarder::start(hosts.gateway.entrance()?, &ports)?;
    let mut daemon = Daemon::start(&hosts.gateway, programs.daemon, &configuration)?;
    let mut prometheus = None;
    if let Some((program, outside)) = programs.prometheus.zip(forwarder.address(1)) {
        prometheus = Some(Prometheus::start(
            &hosts.gateway,
            program,
            &folder,
            outside,
        )?);
    }
    if !get_ready(&mut daemon, &mut prometheus, signals, screen)? {
        return Ok(());
    }
    let peers = Peers::start(&hosts)?;
    greet(
        programs.daemon,
        &hosts.gateway,
        &forwarder,
        prometheus.as_ref(),
        limit,
        screen,
    )?;

    let start = Instant::now();
    let mut table = Table::default();
    let mut alerts = Alerts::default();
    let mut phases = Phases::new(prometheus.is_some());
    let mut next_table = Duration::ZERO;
    loop {
        let now = start.elapsed();
        let over = limit.is_some_and(|limit| now >= limit);
        if let Some(prometheus) = &mut prometheus {
            for news in alerts.update(&prometheus.alerts()?)? {
                screen.event(&format!("{} s: {news}", now.as_secs()))?;
            }
        }
        if !over && let Some(step) = phases.step(now, |traffic| alerts.blocked(traffic)) {
            let news = turn(step, &hosts.gateway, programs.tools)?;
            screen.event(&format!("{} s: {news}", now.as_secs()))?;
        }
        table.update(&daemon.metrics()?, now)?;
        if screen.live() || over || now >= next_table {
            next_table = now + PLAIN_TABLE;
            let mut lines = table.lines(now, screen.live());
            lines.push(table.states());
            lines.push(peers.summary());
            lines.extend(daemon.last_packet());
            if prometheus.is_some() {
                lines.extend(alerts.lines(screen.live()));
            }
            screen.table(&lines)?;
        }
        if over {
            // The last table stays.
            screen.keep();
            return Ok(screen.event(&format!("{} s: that was it", now.as_secs()))?);
        }
        if let Some(signal) = signals.wait(TICK)? {
            screen.keep();
            return Ok(screen.event(&format!("{} s: {signal}", start.elapsed().as_secs()))?);
        }
    }
}

/// Waits until both are ready; false when a signal came. The demo goes on without a Prometheus that does
/// not get ready, as one does that is too old for the rules.
fn get_ready<W: Write>(
    daemon: &mut Daemon,
    prometheus: &mut Option<Prometheus>,
    signals: &Signals,
    screen: &mut Screen<W>,
) -> Result<bool> {
    let deadline = Instant::now() + READY;
    loop {
        let is_late = Instant::now() > deadline;
        let mut is_ready = daemon.is_ready()?;
        if !is_ready && is_late {
            bail!(
                "the daemon is not ready after {} s\n{}",
                READY.as_secs(),
                daemon.errors()
            );
        }
        if let Some(server) = prometheus {
            let problem = match server.is_ready() {
                Ok(true) => None,
                Ok(false) if is_late => Some("it does not get ready".to_owned()),
                Ok(false) => {
                    is_ready = false;
                    None
                }
                Err(error) => Some(one_line(&format!("{error:#}"))),
            };
            if let Some(problem) = problem {
                screen.event(&format!("no alerts, without Prometheus: {problem}"))?;
                *prometheus = None;
            }
        }
        if is_ready {
            return Ok(true);
        }
        if signals.wait(Duration::from_millis(50))?.is_some() {
            return Ok(false);
        }
    }
}

/// The first line of a message, and the last, where programs say why they end.
pub(super) fn one_line(message: &str) -> String {
    let mut lines = message.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default().trim();
    match lines.next_back() {
        Some(last) => format!("{first} … {}", last.trim()),
        None => first.to_owned(),
    }
}

/// Says what runs, what to open and what to type.
fn greet<W: Write>(
    binary: &Path,
    gateway: &Namespace,
    forwarder: &Forwarder,
    prometheus: Option<&Prometheus>,
    limit: Option<Duration>,
    screen: &mut Screen<W>,
) -> Result<()> {
    let end = limit.map_or("; Ctrl-C ends it", |_| "");
    let daemon = forwarder.address(0).context("no address of the daemon")?;
    let binary = binary.display();
    let mut lines = vec![format!(
        "{binary} runs in {}, between two sites whose peers talk through it{end}",
        gateway.name(),
    )];
    if let Some((prometheus, address)) = prometheus.zip(forwarder.address(1)) {
        let pages = format!("http://{address}{}", prometheus.pages());
        lines.extend([
            format!("open {pages}/alerts"),
            format!(
                "     {BLOCKED} is pending some 15 s after a rule of the firewall comes, fires 3 s \
                 later, and is resolved some 25 s after the rule has gone"
            ),
            format!(
                "open {pages}/graph?g0.range_input=5m&g0.tab=0&g0.expr={}",
                encoded(EXPRESSION)
            ),
            "     the peers' attempts a second, by how they end: established, then dropped. Or type it:"
                .to_owned(),
            format!("     {EXPRESSION}"),
        ]);
    }
    lines.extend([
        format!("open http://{daemon}/metrics"),
        "     what a Prometheus scrapes".to_owned(),
        format!("type {binary} status --url http://{daemon}"),
        "     what is blocked, by whom, since when, who fails towards whom".to_owned(),
    ]);
    if prometheus.is_some() {
        lines.push(format!(
            "All is faster here: the shipped rules {} times, and a state is decided of 1 minute, not of 15",
            prometheus::FASTER
        ));
    }
    for line in lines {
        screen.event(&line)?;
    }
    Ok(())
}

/// Lets the rule come or go, and says so.
fn turn(step: Step, gateway: &Namespace, tools: &Tools) -> Result<String> {
    let (protocol, port) = (step.rule.protocol, step.rule.port);
    let news = match step.turn {
        Turn::Block => {
            gateway.nft(
                tools,
                &format!(
                    "add table inet demo; add chain inet demo forward {{ type filter hook forward \
                     priority 0; }}; add rule inet demo forward {protocol} dport {port} drop"
                ),
            )?;
            format!("nft drops {protocol}/{port} in forward now")
        }
        Turn::Open => {
            gateway.nft(tools, "delete table inet demo")?;
            format!("the nft rule for {protocol}/{port} is gone again")
        }
    };
    Ok(if step.is_late {
        format!("{news}, though the alert has not followed")
    } else {
        news
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_becomes_one_line() {
        assert_eq!(one_line("a"), "a");
        assert_eq!(one_line("it ended: 1\n\n  why\nso\n"), "it ended: 1 … so");
    }
}
