//! `cargo xtask demo`: that it shows a block, ends as it should, and leaves nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::binary;
use monitor_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::attached::{orphans, wait_no_orphans};
use crate::site::{Outcome, Process, START, Site};

/// How many namespaces it has: gateway, server, and two sites with a switch and two peers each.
const HOSTS: usize = 8;
/// How long an alert may take: half of a minute's attempts must have failed.
const ALERT: Duration = Duration::from_mins(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

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

/// The folder of the demo that this process ran.
fn folder(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("peerwatch-demo-{pid}"))
}

/// Programs that were started with files of this folder.
fn users(folder: &Path) -> Result<Vec<String>> {
    let folder = format!("{}/", folder.display());
    let mut users = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        // Not every entry is a process, and one may end between the list and the look.
        if let Ok(line) = std::fs::read(entry?.path().join("cmdline")) {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            users.extend(line.contains(&folder).then_some(line));
        }
    }
    Ok(users)
}

fn nothing_left(pid: u32, before: &std::collections::BTreeSet<u64>) -> Result<()> {
    let left = namespaces(pid)?;
    ensure!(left.is_empty(), "left: {left:?}");
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "it runs");
    let folder = folder(pid);
    ensure!(!folder.exists(), "{} is left", folder.display());
    let users = users(&folder)?;
    ensure!(users.is_empty(), "they run: {users:?}");
    wait_no_orphans(before)
}

/// What it has said so far.
fn said(site: &Site) -> Result<String> {
    Ok(std::fs::read_to_string(
        site.temp.path().join("demo.stdout"),
    )?)
}

/// The page with this end that it says to open: the server's address and the path.
fn to_open(text: &str, end: &str) -> Result<(SocketAddr, String)> {
    let page = text
        .lines()
        .filter_map(|line| line.strip_prefix("open http://"))
        .find(|page| page.ends_with(end));
    let page = page.with_context(|| format!("nothing to open with {end}: {text}"))?;
    let at = page.find('/').context("no path")?;
    Ok((page[..at].parse()?, page[at..].to_owned()))
}

/// What a server of this machine answers: the status and the body.
fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, START)?;
    stream.set_read_timeout(Some(START))?;
    // Of version 1.0, so that the body comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let answer = String::from_utf8_lossy(&bytes);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP head")?;
    let status = head.split(' ').nth(1).context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// A page and every script that it wants: without these a browser shows nothing.
fn shows(server: SocketAddr, path: &str) -> Result<()> {
    let (status, page) = get(server, path)?;
    ensure!(status == 200, "{path}: {status}");
    let scripts: Vec<_> = page
        .split(" src=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|source| source.trim_start_matches('.'))
        .filter(|source| source.starts_with('/'))
        .collect();
    ensure!(!scripts.is_empty(), "no script in {path}: {page}");
    for script in scripts {
        let (status, body) = get(server, script)?;
        ensure!(status == 200 && !body.is_empty(), "{script}: {status}");
    }
    Ok(())
}

/// Whether the alert about peers that are blocked has come so far.
fn blocked_is(state: &str, prometheus: SocketAddr) -> Result<bool> {
    let (status, body) = get(prometheus, "/api/v1/alerts")?;
    ensure!(status == 200, "{status}: {body}");
    let document: Value = serde_json::from_str(&body)?;
    let alerts = document["data"]["alerts"].as_array().context(body)?;
    Ok(alerts.iter().any(|alert| {
        let labels = &alert["labels"];
        labels["alertname"] == "PeerwatchTrafficBlocked"
            && labels["severity"] == "critical"
            && labels["traffic"] == "do_peer"
            && labels["direction"] == "forwarded"
            && labels["blocked_by"] == "local_firewall"
            && alert["state"] == state
    }))
}

fn wait(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, ALERT, || {
        let holds = condition()?;
        if !holds {
            std::thread::sleep(PAUSE);
        }
        Ok(holds.then_some(()))
    })
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
    let process = start(&site, &["--seconds", "14", "--without-prometheus"])?;
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

/// What it says to open can be opened here, where its hosts cannot be reached; and to type.
#[test]
fn its_pages_can_be_opened_here_and_an_alert_fires() -> Result<()> {
    let site = Site::create()?;
    let before = orphans()?;
    let mut process = start(&site, &[])?;
    let pid = process.pid();
    process.wait_for("it says what to type", || {
        Ok(said(&site)?.contains("\ntype "))
    })?;
    let text = said(&site)?;
    let (daemon, metrics) = to_open(&text, "/metrics")?;
    let (prometheus, alerts) = to_open(&text, "/alerts")?;
    let (status, scrape) = get(daemon, &metrics)?;
    ensure!(
        status == 200 && scrape.contains("\npeerwatch_packets_total{"),
        "{status}: {scrape}"
    );
    shows(prometheus, &alerts)?;
    ensure!(!blocked_is("firing", prometheus)?, "without a cause");

    wait("the alert fires", || blocked_is("firing", prometheus))
        .with_context(|| said(&site).unwrap_or_default())?;
    let status = Command::new(binary()?)
        .args(["status", "--url", &format!("http://{daemon}")])
        .output()?;
    let first = String::from_utf8_lossy(&status.stdout);
    ensure!(
        status.status.code() == Some(2)
            && first.contains("do_peer forwarded blocked by local_firewall"),
        "{status:?}"
    );
    // The rule goes when the alert has been there for a while, not before.
    wait("the rule goes", || {
        Ok(said(&site)?.contains("the nft rule for tcp/7680 is gone again"))
    })?;
    let text = said(&site)?;
    let at = |what: &str| {
        text.find(what)
            .with_context(|| format!("no {what}: {text}"))
    };
    let fires = "PeerwatchTrafficBlocked (critical, blocked_by=local_firewall \
                 direction=forwarded traffic=do_peer) is firing";
    ensure!(
        at("nft drops tcp/7680")? < at(fires)? && at(fires)? < at("is gone again")?,
        "{text}"
    );

    process.signal(Signal::SIGINT)?;
    ended(&process.outcome()?)?;
    for server in [daemon, prometheus] {
        ensure!(TcpStream::connect(server).is_err(), "{server} is there");
    }
    nothing_left(pid, &before)
}

/// As one that is too old for the rules: the table is worth seeing without alerts too.
#[test]
fn it_goes_on_without_a_prometheus_that_does_not_start() -> Result<()> {
    let site = Site::create()?;
    let before = orphans()?;
    let process = start(&site, &["--seconds", "1", "--prometheus", "/bin/false"])?;
    let pid = process.pid();
    let outcome = process.outcome()?;
    ended(&outcome)?;
    let says = outcome
        .stdout
        .lines()
        .filter(|line| line.contains("without Prometheus"))
        .collect::<Vec<_>>();
    ensure!(
        matches!(says[..], [line] if line.contains("Prometheus ended: exit status: 1")),
        "{outcome:?}"
    );
    ensure!(outcome.stdout.contains("\ndo_peer "), "{outcome:?}");
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
        process.wait_for("the demo talks", || Ok(said(&site)?.contains("\ndo_peer ")))?;
        ensure!(namespaces(pid)?.len() == HOSTS, "{:?}", namespaces(pid)?);
        ensure!(users(&folder(pid))?.len() == 2, "daemon and Prometheus");
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
    killed.wait_for("the demo talks", || Ok(said(&site)?.contains("\ndo_peer ")))?;
    killed.signal(Signal::SIGKILL)?;
    ensure!(killed.outcome()?.code.is_none(), "it was not killed");
    ensure!(namespaces(pid)?.len() == HOSTS, "{:?}", namespaces(pid)?);
    ensure!(folder(pid).is_dir(), "it has no folder");
    let before = orphans()?;
    let next = start(&site, &["--seconds", "1"])?;
    ended(&next.outcome()?)?;
    until("they are gone", Duration::from_secs(5), || {
        let is_gone = namespaces(pid)?.is_empty() && !folder(pid).exists();
        Ok((is_gone && users(&folder(pid))?.is_empty()).then_some(()))
    })?;
    wait_no_orphans(&before)
}
