//! `cargo xtask demo`: what blocked traffic looks like, on one machine and without a real client.
//!
//! ```text
//! east1 10.78.1.2 ─┐                                       ┌─ 10.78.2.2 west1
//!                  ├─ east ── east0 gateway west0 ── west ─┤
//! east2 10.78.1.3 ─┘                 wan0                  └─ 10.78.2.3 west2
//!                                     │
//!                             10.78.3.2 server
//! ```
//!
//! A network namespace for each; hosts that really talk on the watched ports, and in the gateway the daemon,
//! a Prometheus with the rules that are shipped, and a rule of the firewall that comes and goes. What the
//! table shows is scraped from the daemon; both servers can be reached from a browser of this machine.
//! Everything lives in guards, so that it goes away however this ends.

mod alerts;
mod daemon;
mod folder;
mod forward;
mod http;
mod namespace;
mod peers;
mod phases;
mod process;
mod prometheus;
mod screen;
mod show;
mod signals;
mod sites;
mod table;
mod teredo;

use std::{
    ffi::OsString,
    io::{IsTerminal as _, stdout},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build,
    cmd::{self, Privilege},
    packages,
    setup::{self, Needs},
};
use namespace::Tools;
use screen::Screen;
use show::{Programs, one_line, show};
use signals::Signals;

/// The options of the task.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// End after this many seconds [default: at Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Run this daemon instead of building it
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
    /// Run this Prometheus [default: the one that is installed, or Debian's, unpacked and not installed]
    #[arg(long, value_name = "FILE")]
    prometheus: Option<PathBuf>,
    /// No Prometheus and no alerts
    #[arg(long, conflicts_with = "prometheus")]
    without_prometheus: bool,
}

/// Sets up and builds as the calling user, then runs the demo as root.
///
/// # Errors
///
/// When something is missing, a step fails, or a program ends. Then too nothing is left behind.
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
    let prometheus = find_prometheus(options);
    match Privilege::find() {
        Privilege::Root => {
            let programs = Programs {
                daemon: &daemon,
                prometheus: prometheus.as_deref(),
                tools: &tools,
            };
            run(programs, options.seconds.map(Duration::from_secs))
        }
        Privilege::Sudo => become_root(&daemon, prometheus.as_deref(), options.seconds),
        Privilege::None => bail!("network namespaces need root: run this as root, or install sudo"),
    }
}

/// The Prometheus to run. The demo does without one that cannot be had.
fn find_prometheus(options: &Options) -> Option<PathBuf> {
    if options.without_prometheus {
        return None;
    }
    if options.prometheus.is_some() {
        return options.prometheus.clone();
    }
    match packages::prometheus::find_or_bring() {
        Ok(program) => Some(program),
        Err(error) => {
            let why = one_line(&format!("{error:#}"));
            println!("no alerts, without Prometheus: {why}");
            None
        }
    }
}

/// Starts this program again through sudo; everything is built and brought by now.
fn become_root(daemon: &Path, prometheus: Option<&Path>, seconds: Option<u64>) -> Result<()> {
    let here = std::env::current_exe().context("where this program is, is not known")?;
    // sudo resets the environment, hence `env`: the rules are those of this checkout.
    let mut checkout = OsString::from("CARGO_MANIFEST_DIR=");
    checkout.push(build::root()?.join("xtask"));
    let mut command = Privilege::Sudo.command("env");
    command.arg(checkout).arg(here);
    command.arg("demo").arg("--daemon").arg(daemon);
    match prometheus {
        Some(program) => command.arg("--prometheus").arg(program),
        None => command.arg("--without-prometheus"),
    };
    if let Some(seconds) = seconds {
        command.args([OsString::from("--seconds"), seconds.to_string().into()]);
    }
    // cargo's own library folders are not for a program that runs as root.
    let error = command.env_remove("LD_LIBRARY_PATH").exec();
    Err(error).with_context(|| format!("cannot start `{}`", cmd::display(&command)))
}

fn run(programs: Programs<'_>, limit: Option<Duration>) -> Result<()> {
    // First of all: threads inherit what is blocked here, so that a signal never ends this process
    // before its guards have cleaned up.
    let signals = Signals::block()?;
    namespace::remove_leftovers(programs.tools)?;
    folder::remove_leftovers()?;
    let mut screen = Screen::new(stdout(), stdout().is_terminal());
    let result = show(programs, limit, &signals, &mut screen);
    // The guards are gone by now, on success and on failure.
    screen.event("daemon, rule and namespaces are removed")?;
    result
}
