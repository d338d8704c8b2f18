//! What the daemon itself takes: time to get ready, CPU time, memory, and the time and size of a scrape.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use monitor_tests::daemon::Daemon;
use monitor_tests::faults::resident_memory;
use monitor_tests::netns::{NetNs, TempDir, unique_prefix};
use monitor_tests::packet::{Packet, Protocol};
use monitor_tests::send::FrameSender;
use monitor_tests::wait::until;
use serde::Serialize;

use crate::spread::Spread;

/// How long something is looked at.
const WHILE: Duration = Duration::from_secs(5);

/// Attempts a second, where there are many.
const ATTEMPTS: u32 = 10_000;

/// How many attempts fill the table, and more.
const FULL: u32 = 70_000;

/// Interfaces that appear at once.
const INTERFACES: u64 = 500;

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    what: &'static str,
    unit: &'static str,
    found: Spread,
    /// What it is to be at most, where there is such a number.
    target: Option<f64>,
}

/// The rows as a table for people.
pub(crate) fn show(rows: &[Row]) -> Result<String> {
    if rows.is_empty() {
        return Ok(String::new());
    }
    let mut text = format!(
        "\nThe daemon: median (min..max).\n\n{:<50} {:>10}  {:<22} target\n",
        "what", "", ""
    );
    for row in rows {
        let Spread { median, min, max } = row.found;
        let range = format!("({min:.2}..{max:.2}) {}", row.unit);
        let target = row
            .target
            .map_or_else(String::new, |target| format!("{target}"));
        writeln!(
            text,
            "{:<50} {median:>10.2}  {range:<22} {target}",
            row.what
        )?;
    }
    Ok(text)
}

/// A client and a gateway, as in a network behind one.
struct Lab {
    client: NetNs,
    gateway: NetNs,
    folder: TempDir,
}

impl Lab {
    fn create() -> Result<Self> {
        let prefix = unique_prefix();
        let client = NetNs::create(&format!("{prefix}client"))?;
        let gateway = NetNs::create(&format!("{prefix}gw"))?;
        client.ip(&format!(
            "link add c0 type veth peer name g0 netns {}",
            gateway.name()
        ))?;
        client.ip("link set c0 up")?;
        gateway.ip_batch("link set g0 up\naddress add 10.9.1.1/24 dev g0\nlink set lo up\n")?;
        gateway.nft(
            "table inet drops { chain input { type filter hook input priority 0; \
             tcp dport 7680 drop; }; }",
        )?;
        Ok(Self {
            client,
            gateway,
            folder: TempDir::create(&prefix)?,
        })
    }

    fn start(&self, flags: &[&str]) -> Result<Daemon> {
        Daemon::start_with(&self.gateway, self.folder.path(), flags)
    }

    /// SYNs to a port that drops them, each an attempt of its own, so many in each second; `first` is the number of the
    /// first, of those that were sent before.
    fn attempts(&self, first: u32, count: u32, rate: u32) -> Result<()> {
        let sender = FrameSender::open(&self.client, "c0")?;
        let mac = self.gateway.mac("g0")?;
        let start = Instant::now();
        for part in 0..count.div_ceil(64) {
            let frames: Vec<_> = (part * 64..(part * 64 + 64).min(count))
                .map(|number| {
                    let number = first + number;
                    let host = u8::try_from(2 + number / 60_000)?;
                    let port = u16::try_from(1024 + number % 60_000)?;
                    let from: IpAddr = [10, 9, 1, host].into();
                    let to: IpAddr = [10, 9, 1, 1].into();
                    let packet = Packet::new(Protocol::Tcp, (from, port), (to, 7680));
                    let mut packet = packet;
                    packet.sequence = number.wrapping_mul(0x9e37_79b1);
                    Ok(sender.frame(mac, &packet.ip()))
                })
                .collect::<Result<_>>()?;
            let sent = sender.blast(&frames, frames.len() as u64)?;
            ensure!(sent.refused == 0, "{} frames found no room", sent.refused);
            let due = Duration::from_secs(1) * (part * 64) / rate;
            if let Some(early) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
        }
        Ok(())
    }
}

/// CPU time of all threads of a process, nanoseconds (`/proc/PID/task/TID/schedstat`).
fn cpu_time(daemon: &Daemon) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        // One that ends meanwhile counts no more.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let time = text
            .split(' ')
            .next()
            .and_then(|word| word.parse::<u64>().ok());
        sum += time.unwrap_or(0);
    }
    Ok(sum)
}

/// Percent of one CPU that the daemon takes while something is done.
fn percent(daemon: &Daemon, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (start, before) = (Instant::now(), cpu_time(daemon)?);
    work()?;
    let took = Duration::from_nanos(cpu_time(daemon)?.saturating_sub(before));
    Ok(100.0 * took.as_secs_f64() / start.elapsed().as_secs_f64())
}

fn row(
    what: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    target: Option<f64>,
) -> Result<Row> {
    Ok(Row {
        what,
        unit,
        found: Spread::of(values).context("no rounds")?,
        target,
    })
}

fn mebibytes(daemon: &Daemon) -> Result<f64> {
    // In KiB.
    Ok(f64::from(u32::try_from(resident_memory(daemon)?)?) / 1024.0)
}

/// Ready, idle, busy, and with a full table.
fn quiet_and_busy(lab: &Lab, rounds: u32, rows: &mut Vec<Row>) -> Result<()> {
    let [
        mut ready,
        mut idle,
        mut small,
        mut busy,
        mut full,
        mut large,
    ] = [const { Vec::new() }; 6];
    for _ in 0..rounds {
        let start = Instant::now();
        let mut daemon = lab.start(&[])?;
        ready.push(start.elapsed().as_secs_f64());
        std::thread::sleep(Duration::from_secs(1));
        idle.push(percent(&daemon, || {
            std::thread::sleep(WHILE);
            Ok(())
        })?);
        small.push(mebibytes(&daemon)?);
        busy.push(percent(&daemon, || {
            lab.attempts(0, ATTEMPTS * 5, ATTEMPTS)
        })?);
        lab.attempts(ATTEMPTS * 5, FULL, 100_000)?;
        std::thread::sleep(Duration::from_secs(4));
        full.push(percent(&daemon, || {
            std::thread::sleep(WHILE);
            Ok(())
        })?);
        large.push(mebibytes(&daemon)?);
        daemon.stop()?;
    }
    rows.push(row("from start to ready", "s", ready, Some(0.5))?);
    rows.push(row("CPU, idle", "%", idle, Some(0.2))?);
    rows.push(row("resident, idle", "MiB", small, Some(16.0))?);
    rows.push(row("CPU at 10,000 attempts a second", "%", busy, None)?);
    rows.push(row("CPU, the table of attempts full", "%", full, None)?);
    rows.push(row(
        "resident, the table of attempts full",
        "MiB",
        large,
        None,
    )?);
    Ok(())
}

/// Scrapes with as many traffics as there may be, on 64 interfaces.
fn scrapes(lab: &Lab, rounds: u32, rows: &mut Vec<Row>) -> Result<()> {
    let mut file = String::from("builtin_traffics = false\n");
    for number in 0..16 {
        writeln!(
            file,
            "[[traffic]]\nname = \"traffic{number}\"\nports = [\"tcp/{port}\", \"udp/{port}\"]",
            port = 7000 + number
        )?;
    }
    let path = lab.folder.path().join("scrapes.toml");
    fs::write(&path, file)?;
    let mut lines = String::new();
    for number in 0..32 {
        writeln!(lines, "link add s{number} type veth peer name t{number}")?;
    }
    lab.gateway.ip_batch(&lines)?;
    let path = path.to_str().context("a path that is no text")?;
    let mut daemon = lab.start(&["--config", path])?;
    let (mut times, mut sizes, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    // The first one fills what is kept.
    daemon.get("/metrics")?;
    for _ in 0..rounds * 20 {
        let (start, before) = (Instant::now(), cpu_time(&daemon)?);
        let (status, body) = daemon.get("/metrics")?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        let took = u32::try_from(cpu_time(&daemon)?.saturating_sub(before))?;
        cpu.push(f64::from(took) / 1e6);
        ensure!(status == 200, "{status}: {body}");
        sizes.push(f64::from(u32::try_from(body.len())?) / 1024.0);
    }
    daemon.stop()?;
    for number in 0..32 {
        lab.gateway.ip(&format!("link del s{number}"))?;
    }
    rows.push(row(
        "scrape, 16 traffics, 64 interfaces",
        "ms",
        times,
        Some(5.0),
    )?);
    rows.push(row("CPU of that scrape", "ms", cpu, None)?);
    rows.push(row("size of that scrape", "KiB", sizes, None)?);
    Ok(())
}

/// Five hundred interfaces at once: until each is watched on both sides.
fn interfaces(lab: &Lab, rounds: u32, rows: &mut Vec<Row>) -> Result<()> {
    let (mut times, mut cpu, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.min(3) {
        let mut daemon = lab.start(&[])?;
        let attached = |daemon: &Daemon| -> Result<u64> {
            let hooks = daemon.scrape_of(&["hook_attached"])?;
            Ok(hooks.values().sum())
        };
        let already = attached(&daemon)?;
        let mut lines = String::new();
        for number in 0..INTERFACES / 2 {
            writeln!(lines, "link add m{number} type veth peer name n{number}")?;
        }
        let (start, before) = (Instant::now(), cpu_time(&daemon)?);
        lab.gateway.ip_batch(&lines)?;
        let made = start.elapsed();
        until("every interface is watched", DEADLINE, || {
            // A scrape of them all takes its time, too.
            std::thread::sleep(Duration::from_millis(200));
            Ok((attached(&daemon)? >= already + 2 * INTERFACES).then_some(()))
        })?;
        times.push(start.elapsed().saturating_sub(made).as_secs_f64());
        let took = Duration::from_nanos(cpu_time(&daemon)?.saturating_sub(before));
        cpu.push(took.as_secs_f64());
        memory.push(mebibytes(&daemon)?);
        let mut lines = String::new();
        for number in 0..INTERFACES / 2 {
            writeln!(lines, "link del m{number}")?;
        }
        lab.gateway.ip_batch(&lines)?;
        // It has nothing to take off any more.
        until("the interfaces are forgotten", DEADLINE, || {
            Ok((attached(&daemon)? <= already).then_some(()))
        })?;
        daemon.stop()?;
    }
    rows.push(row(
        "500 interfaces at once: watched after",
        "s",
        times,
        None,
    )?);
    rows.push(row("CPU time of that", "s", cpu, None)?);
    rows.push(row("resident with 500 interfaces", "MiB", memory, None)?);
    Ok(())
}

/// Measures all of it, `rounds` times.
pub(crate) fn measure(rounds: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if rounds == 0 {
        return Ok(rows);
    }
    let lab = Lab::create()?;
    quiet_and_busy(&lab, rounds, &mut rows)?;
    scrapes(&lab, rounds, &mut rows)?;
    interfaces(&lab, rounds, &mut rows)?;
    Ok(rows)
}
