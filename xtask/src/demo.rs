//! `cargo xtask demo`: what blocked traffic looks like, on one machine and without a real client.
//!
//! ```text
//! peer 10.78.1.2 ─── lan0 gateway wan0 ─── 10.78.2.2 server
//! ```
//!
//! Three network namespaces; hosts that really talk on the watched ports, the daemon in the gateway,
//! and a firewall rule there that comes and goes. What the table shows is scraped from the daemon.
//! Everything lives in guards, so that it goes away however this ends.

mod daemon;
mod namespace;
mod peers;
mod screen;
mod signals;
mod table;

use std::{
    ffi::OsString,
    io::{IsTerminal as _, stdout},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build,
    cmd::{self, Privilege},
    packages,
    setup::{self, Needs},
};
use daemon::Daemon;
use namespace::{Hosts, Tools};
use peers::Peers;
use screen::Screen;
use signals::Signals;
use table::Table;

/// How long the rule stays away, and how long it stays.
const PHASE: Duration = Duration::from_secs(6);
/// Between two scrapes.
const TICK: Duration = Duration::from_secs(1);
/// Between two tables where lines can't be redrawn.
const PLAIN_TABLE: Duration = Duration::from_secs(5);
/// Loading and attaching the kernel programs.
const READY: Duration = Duration::from_secs(30);

/// What the rules drop in the gateway, one after the other.
const RULES: [(&str, &str); 2] = [("tcp", "7680"), ("udp", "3544")];

/// The options of the task.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// End after this many seconds [default: at Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Run this daemon instead of building it
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
}

/// Sets up and builds as the calling user, then runs the demo as root.
///
/// # Errors
///
/// When something is missing, a step fails, or the daemon ends. Then too nothing is left behind.
pub(crate) fn demo(options: &Options) -> Result<()> {
    let tools = Tools::find().with_context(|| {
        let packages = ["iproute2", "nftables"];
        format!(
            "the demo needs them to make hosts and a firewall; on Debian-like systems:\n{}",
            packages::commands(&packages)
        )
    })?;
    let daemon = if let Some(daemon) = &options.daemon {
        daemon.clone()
    } else {
        setup::setup(Needs {
            root: true,
            ..Needs::default()
        })?;
        build::daemon()?
    };
    match Privilege::find() {
        Privilege::Root => run(&daemon, options.seconds.map(Duration::from_secs), &tools),
        Privilege::Sudo => become_root(&daemon, options.seconds),
        Privilege::None => bail!("network namespaces need root: run this as root, or install sudo"),
    }
}

/// Starts this program again through sudo; the daemon is built by now.
fn become_root(daemon: &Path, seconds: Option<u64>) -> Result<()> {
    let here = std::env::current_exe().context("where this program is, is not known")?;
    let mut command = Privilege::Sudo.command(here);
    command.arg("demo").arg("--daemon").arg(daemon);
    if let Some(seconds) = seconds {
        command.args([OsString::from("--seconds"), seconds.to_string().into()]);
    }
    // cargo's own library folders are not for a program that runs as root.
    let error = command.env_remove("LD_LIBRARY_PATH").exec();
    Err(error).with_context(|| format!("cannot start `{}`", cmd::display(&command)))
}

fn run(binary: &Path, limit: Option<Duration>, tools: &Tools) -> Result<()> {
    // First of all: threads inherit what is blocked here, so that a signal never ends this process
    // before its guards have cleaned up.
    let signals = Signals::block()?;
    namespace::remove_leftovers(tools)?;
    let mut screen = Screen::new(stdout(), stdout().is_terminal());
    let result = show(binary, limit, tools, &signals, &mut screen);
    // The guards are gone by now, on success and on failure.
    screen.event("daemon, rule and namespaces are removed")?;
    result
}

/// The demo itself; it owns everything that must not outlive it.
fn show<W: std::io::Write>(
    binary: &Path,
    limit: Option<Duration>,
    tools: &Tools,
    signals: &Signals,
    screen: &mut Screen<W>,
) -> Result<()> {
    // Dropped in reverse: the hosts go last.
    let hosts = Hosts::create(tools)?;
    let mut daemon = Daemon::start(&hosts.gateway, binary)?;
    let deadline = Instant::now() + READY;
    while !daemon.is_ready()? {
        if signals.wait(Duration::from_millis(50))?.is_some() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the daemon is not ready after {} s\n{}",
                READY.as_secs(),
                daemon.errors()
            );
        }
    }
    let peers = Peers::start(&hosts)?;
    screen.event(&format!(
        "{} runs in {}; 10.78.1.2 talks to 10.78.2.2 through it{}",
        binary.display(),
        hosts.gateway.name(),
        if limit.is_none() {
            "; Ctrl-C ends it"
        } else {
            ""
        }
    ))?;

    let start = Instant::now();
    let mut table = Table::default();
    let mut rules = 0_u32;
    let mut next_table = Duration::ZERO;
    loop {
        let now = start.elapsed();
        let over = limit.is_some_and(|limit| now >= limit);
        let phase = u32::try_from(now.as_millis() / PHASE.as_millis())?;
        if phase != rules && !over {
            rules = phase;
            screen.event(&format!(
                "{} s: {}",
                now.as_secs(),
                turn(phase, &hosts, tools)?
            ))?;
        }
        table.update(&daemon.metrics()?, now)?;
        if screen.live() || over || now >= next_table {
            next_table = now + PLAIN_TABLE;
            let mut lines = table.lines(now, screen.live());
            lines.push(peers.summary());
            lines.extend(daemon.last_packet());
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

/// Lets the rule of a phase come (odd phases) or go, and says so.
fn turn(phase: u32, hosts: &Hosts, tools: &Tools) -> Result<String> {
    let at = (phase.saturating_sub(1) / 2) as usize % RULES.len();
    let (protocol, port) = RULES[at];
    if phase % 2 == 1 {
        hosts.gateway.nft(
            tools,
            &format!(
                "add table inet demo; add chain inet demo forward {{ type filter hook forward \
                 priority 0; }}; add rule inet demo forward {protocol} dport {port} drop"
            ),
        )?;
        Ok(format!("nft drops {protocol}/{port} in forward now"))
    } else {
        hosts.gateway.nft(tools, "delete table inet demo")?;
        Ok(format!("the nft rule for {protocol}/{port} is gone again"))
    }
}
