//! The packet log under pressure: the daemon that does not read, the reader that does not, a disk without room.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::floods::{data_packet, frame};
use super::{COUNTED, Row, counters, listed, risen, sum};
use crate::daemon::{Daemon, Start};
use crate::expect::Family;
use crate::lab::{GATEWAY, Lab, Net};
use crate::netns::{TempDir, unique_prefix};
use crate::packet::Protocol;
use crate::scrape::Counts;
use crate::send::Blast;
use crate::wait::{DEADLINE, until};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "event ring full",
        injected: "SIGSTOP while drops come, log rate 1,000,000/s",
        expected: "lines + lost + suppressed = dropped",
        long: false,
        run: ring_full,
    },
    Row {
        name: "log reader stuck",
        injected: "stdout is a pipe that nobody reads",
        expected: "metrics within 1 s, dropped = sent, lines + lost = dropped; lines flow when it is read",
        long: false,
        run: reader_stuck,
    },
    Row {
        name: "disk full",
        injected: "stdout is a file on a tmpfs of 64 KiB",
        expected: "dropped = sent, lines + lost = dropped; lines flow when there is room",
        long: false,
        run: disk_full,
    },
];

const NAMES: [&str; 3] = ["packets_total", "events_lost_total", "log_suppressed_total"];

/// Far more lines than a pipe, a disk and the queue before them have room for.
const PACKETS: u64 = 20_000;

const FLAGS: &[&str] = &[
    "--log-format=json",
    "--log-packets-rate=1000000",
    "--log-packets-burst=1000000",
];

/// A lab that drops what `send` sends, with a daemon that logs each.
fn lab(stdout: Option<&std::path::Path>) -> Result<Lab> {
    let lab = Lab::create_with(&Start {
        flags: FLAGS,
        stdout,
        ..Start::default()
    })?;
    lab.gw.nft(
        "table inet flood { chain it { type filter hook input priority 0; udp dport 443 drop; }; }",
    )?;
    Ok(lab)
}

fn send(lab: &Lab, count: u64) -> Result<Blast> {
    let packet = data_packet(Protocol::Udp, Family::V4, (Net::Lan, GATEWAY), 443);
    lab.lan.blast(&[frame(lab, &packet)], count)
}

fn dropped(rises: &Counts) -> u64 {
    sum(rises, &["peerwatch_packets_total", "verdict=\"dropped\""])
}

fn lost(rises: &Counts, stream: &str) -> u64 {
    let stream = format!("stream=\"{stream}\"");
    sum(rises, &["peerwatch_events_lost_total", &stream])
}

/// What is not in the log: of all streams but `drops`, which are packets that were not looked at.
fn missing(rises: &Counts) -> u64 {
    ["packets", "packet_log", "log_write"]
        .iter()
        .map(|stream| lost(rises, stream))
        .sum::<u64>()
        + sum(rises, &["log_suppressed_total", "stream=\"packets\""])
}

/// Whole lines about packets.
fn packet_lines(log: &str) -> u64 {
    let whole = log
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let values = whole.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    values
        .filter(|value| value.get("verdict").is_some())
        .count() as u64
}

/// Waits until everything that was sent is counted, and is in the log or known to be missing there.
fn accounted(
    daemon: &Daemon,
    before: &Counts,
    sent: u64,
    lines: impl Fn() -> u64,
) -> Result<(Counts, u64)> {
    let all = |rises: &Counts| dropped(rises) >= sent && lines() + missing(rises) >= sent;
    let rises = risen(daemon, &NAMES, before, COUNTED, all)?;
    let lines = lines();
    ensure!(
        dropped(&rises) == sent && lines + missing(&rises) == sent,
        "{sent} were sent, {lines} are in the log\n{}{}",
        listed(&rises),
        daemon.errors()
    );
    Ok((rises, lines))
}

fn ring_full() -> Result<String> {
    let mut lab = lab(None)?;
    let before = counters(&lab.daemon, &NAMES)?;
    lab.daemon.signal(Signal::SIGSTOP)?;
    let blast = send(&lab, PACKETS);
    lab.daemon.signal(Signal::SIGCONT)?;
    let blast = blast?;
    let lines = || packet_lines(&lab.daemon.log());
    let (rises, lines) = accounted(&lab.daemon, &before, blast.offered, lines)?;
    ensure!(lost(&rises, "packets") > 0, "the ring buffer was not full");
    lab.daemon.stop()?;
    Ok(format!(
        "sent {} at {:.0}/s; lines {lines}, lost packets {}, packet_log {}, suppressed {}",
        blast.offered,
        blast.rate(),
        lost(&rises, "packets"),
        lost(&rises, "packet_log"),
        sum(&rises, &["log_suppressed_total"]),
    ))
}

fn reader_stuck() -> Result<String> {
    let temp = TempDir::create(&unique_prefix())?;
    let path = temp.path().join("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o600))?;
    // Writable too, so that opening it waits for nobody.
    let mut reader = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)?;
    let mut lab = lab(Some(&path))?;
    let before = counters(&lab.daemon, &NAMES)?;
    let blast = send(&lab, PACKETS)?;
    let rises = risen(&lab.daemon, &NAMES, &before, COUNTED, |rises| {
        dropped(rises) >= blast.offered && lost(rises, "packet_log") > 0
    })?;
    ensure!(
        dropped(&rises) == blast.offered && lost(&rises, "packet_log") > 0,
        "{blast:?}\n{}",
        listed(&rises)
    );
    let asked = Instant::now();
    counters(&lab.daemon, &NAMES)?;
    let took = asked.elapsed();
    ensure!(took < Duration::from_secs(1), "a scrape took {took:?}");

    let mut log = Vec::new();
    let mut bytes = vec![0; 65_536];
    let mut read = || -> Result<u64> {
        while let Ok(length @ 1..) = reader.read(&mut bytes) {
            log.extend_from_slice(&bytes[..length]);
        }
        Ok(packet_lines(&String::from_utf8_lossy(&log)))
    };
    let mut lines = 0;
    let mut rises = Counts::new();
    until("what is not lost comes", COUNTED, || {
        lines = read()?;
        rises = crate::scrape::rise(&before, &counters(&lab.daemon, &NAMES)?)?;
        Ok((lines + missing(&rises) >= blast.offered).then_some(()))
    })?;
    ensure!(
        lines + missing(&rises) == blast.offered,
        "{lines} lines of {blast:?}\n{}",
        listed(&rises)
    );
    let again = send(&lab, 5)?;
    until("lines flow again", DEADLINE, || {
        Ok((read()? == lines + again.offered).then_some(()))
    })?;
    lab.daemon.stop()?;
    Ok(format!(
        "sent {} at {:.0}/s, all counted; lines {lines}, lost packet_log {}, packets {}; scrape {} ms; \
         then 5 of 5 lines",
        blast.offered,
        blast.rate(),
        lost(&rises, "packet_log"),
        lost(&rises, "packets"),
        took.as_millis(),
    ))
}

/// Two files on a file system of 64 KiB that nobody else sees, and that is gone with them.
fn tiny_disk(temp: &TempDir) -> Result<(File, File)> {
    let target = CString::new(temp.path().display().to_string())?;
    let open = move || -> Result<(File, File)> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
        let mount =
            |kind: &std::ffi::CStr, target: &std::ffi::CStr, flags, data: *const libc::c_char| {
                // SAFETY: the strings live through the call; there are no other arguments in memory.
                let result = unsafe {
                    libc::mount(
                        kind.as_ptr(),
                        target.as_ptr(),
                        kind.as_ptr(),
                        flags,
                        data.cast(),
                    )
                };
                ensure!(result == 0, "mount: {}", std::io::Error::last_os_error());
                Ok(())
            };
        mount(
            c"none",
            c"/",
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )?;
        mount(c"tmpfs", &target, 0, c"size=64k".as_ptr())?;
        let file = |name: &str| {
            let path = PathBuf::from(target.to_str()?).join(name);
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(false).read(true).write(true);
            options
                .open(&path)
                .with_context(|| path.display().to_string())
        };
        Ok((file("log")?, file("other")?))
    };
    let thread = std::thread::spawn(open);
    let opened = thread.join();
    opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn disk_full() -> Result<String> {
    let temp = TempDir::create(&unique_prefix())?;
    let (log, mut other) = tiny_disk(&temp)?;
    let path = PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        log.as_raw_fd()
    ));
    // Half of it is somebody else's.
    other.write_all(&vec![0; 32 * 1024])?;
    let mut lab = lab(Some(&path))?;
    let before = counters(&lab.daemon, &NAMES)?;
    // One after the other: here the disk is to be what is full.
    let mut blast = Blast::default();
    for _ in 0..20 {
        blast = blast.beside(send(&lab, 100)?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let lines = || packet_lines(&lab.daemon.log());
    let (rises, full) = accounted(&lab.daemon, &before, blast.offered, lines)?;
    ensure!(lost(&rises, "log_write") > 0, "the disk was not full");
    until("it is said", DEADLINE, || {
        let said = lab.daemon.errors().contains("No space left on device");
        Ok(said.then_some(()))
    })?;
    other.set_len(0)?;
    let again = send(&lab, 10)?;
    let sent = blast.offered + again.offered;
    let (rises, after) = accounted(&lab.daemon, &before, sent, lines)?;
    ensure!(after == full + again.offered, "{after} lines after {full}");
    until("it is said", DEADLINE, || {
        let said = lab
            .daemon
            .errors()
            .contains("the packet log is written again");
        Ok(said.then_some(()))
    })?;
    lab.daemon.stop()?;
    Ok(format!(
        "sent {sent}, all counted; lines {after}, lost log_write {}, packet_log {}, packets {}; with room \
         10 of 10 lines",
        lost(&rises, "log_write"),
        lost(&rises, "packet_log"),
        lost(&rises, "packets"),
    ))
}
