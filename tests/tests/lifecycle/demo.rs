//! `cargo xtask demo`: that it shows a block, ends as it should, and leaves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::binary;
use monitor_tests::wait::until;
use nix::sys::signal::Signal;

use crate::attached::{orphans, wait_no_orphans};
use crate::site::{Outcome, Process, Site};

/// The xtask beside this test: `cargo xtask` builds it for debugging.
fn xtask() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    // target/<profile>/deps/<test binary>
    let target = here.ancestors().nth(3).context("no target directory")?;
    let path = target.join("debug/xtask");
    ensure!(path.is_file(), "no {}: build it first", path.display());
    Ok(path)
}

fn start(site: &Site, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(xtask()?);
    command.arg("demo").arg("--daemon").arg(binary()?);
    command.args(arguments);
    Process::start(command, site, "demo")
}

/// Namespaces of the demo that this process ran.
fn namespaces(pid: u32) -> Result<Vec<String>> {
    let prefix = format!("pwdemo{pid}-");
    let names = std::fs::read_dir("/run/netns")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    Ok(names
        .into_iter()
        .filter(|name| name.starts_with(&prefix))
        .collect())
}

fn nothing_left(pid: u32, before: &std::collections::BTreeSet<u64>) -> Result<()> {
    let left = namespaces(pid)?;
    ensure!(left.is_empty(), "left: {left:?}");
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "it runs");
    wait_no_orphans(before)
}

fn ended(outcome: &Outcome) -> Result<()> {
    ensure!(
        outcome.code == Some(0) && outcome.stderr.is_empty(),
        "{outcome:?}"
    );
    ensure!(
        outcome
            .stdout
            .ends_with("daemon, rule and namespaces are removed\n"),
        "{outcome:?}"
    );
    Ok(())
}

#[test]
fn it_shows_a_block_and_ends_by_itself() -> Result<()> {
    let site = Site::create()?;
    let before = orphans()?;
    let process = start(&site, &["--seconds", "14"])?;
    let pid = process.pid();
    let outcome = process.outcome()?;
    ended(&outcome)?;
    let text = &outcome.stdout;
    ensure!(text.contains("nft drops tcp/7680 in forward now"), "{text}");
    ensure!(
        text.contains("the nft rule for tcp/7680 is gone again"),
        "{text}"
    );
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("do_peer   forwarded"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let last = rows.last().with_context(|| text.clone())?;
    let [_, _, allowed, dropped, _, _, "firewall", "NETFILTER_DROP"] = last[..] else {
        anyhow::bail!("{last:?}");
    };
    let (allowed, dropped): (u64, u64) = (allowed.parse()?, dropped.parse()?);
    ensure!(allowed > 100 && dropped >= 3, "{last:?}");
    nothing_left(pid, &before)
}

/// Colours and cursor movements are for terminals; this is a file.
#[test]
fn a_signal_ends_it_and_nothing_is_left() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let site = Site::create()?;
        let before = orphans()?;
        let mut process = start(&site, &[])?;
        let pid = process.pid();
        let stdout = site.temp.path().join("demo.stdout");
        process.wait_for("the demo talks", || {
            Ok(std::fs::read_to_string(&stdout)?.contains("do_peer"))
        })?;
        ensure!(namespaces(pid)?.len() == 3, "{:?}", namespaces(pid)?);
        process.signal(signal)?;
        let outcome = process.outcome()?;
        ended(&outcome)?;
        ensure!(outcome.stdout.contains(signal.as_str()), "{outcome:?}");
        ensure!(!outcome.stdout.contains('\x1b'), "{outcome:?}");
        nothing_left(pid, &before)?;
    }
    Ok(())
}

/// A daemon that does not start: the demo says why and cleans up.
#[test]
fn an_error_leaves_nothing() -> Result<()> {
    let site = Site::create()?;
    let mut command = Command::new(xtask()?);
    command.args(["demo", "--daemon", "/bin/false"]);
    let process = Process::start(command, &site, "demo")?;
    let pid = process.pid();
    let outcome = process.outcome()?;
    ensure!(
        outcome.code == Some(1) && outcome.stderr.contains("the daemon ended"),
        "{outcome:?}"
    );
    ensure!(namespaces(pid)?.is_empty(), "{:?}", namespaces(pid)?);
    Ok(())
}

/// What a killed one leaves is removed by the next.
#[test]
fn the_next_one_removes_what_a_killed_one_left() -> Result<()> {
    let site = Site::create()?;
    let mut killed = start(&site, &[])?;
    let pid = killed.pid();
    let stdout = site.temp.path().join("demo.stdout");
    killed.wait_for("the demo talks", || {
        Ok(std::fs::read_to_string(&stdout)?.contains("do_peer"))
    })?;
    killed.signal(Signal::SIGKILL)?;
    ensure!(killed.outcome()?.code.is_none(), "it was not killed");
    ensure!(namespaces(pid)?.len() == 3, "{:?}", namespaces(pid)?);
    let before = orphans()?;
    let next = start(&site, &["--seconds", "1"])?;
    ended(&next.outcome()?)?;
    until("they are gone", Duration::from_secs(5), || {
        Ok(namespaces(pid)?.is_empty().then_some(()))
    })?;
    wait_no_orphans(&before)
}
