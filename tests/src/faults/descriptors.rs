//! A daemon without file descriptors.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::floods::NAMES;
use super::links::leaving;
use super::{Row, counters, descriptors_open, listed, risen, sum};
use crate::lab::Lab;
use crate::scrape::Counts;
use crate::send::FrameSender;
use crate::wait::{DEADLINE, until};

pub(super) const ROWS: &[Row] = &[Row {
    name: "out of file descriptors",
    injected: "RLIMIT_NOFILE at what is open + 3, 20 connections held, 4 interfaces come; then the limit goes",
    expected: "lives, says so, hook_attached 0; attached within 15 s, packets = sent",
    long: false,
    run: out_of_descriptors,
}];

/// How many interfaces come; each takes two descriptors.
const COME: u64 = 4;
/// Connections of clients that do nothing.
const CLIENTS: usize = 20;
/// Until the hooks are attached again.
const RECOVERED: Duration = Duration::from_secs(15);

/// Sets how many descriptors a process may have open; its hard limit stays.
fn limit(pid: u32, files: u64) -> Result<()> {
    let pid = i32::try_from(pid)?;
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let check = |result| {
        ensure!(result == 0, "prlimit: {}", std::io::Error::last_os_error());
        anyhow::Ok(())
    };
    // SAFETY: the limit lives through the call, and none is set.
    check(unsafe {
        let none = std::ptr::null();
        libc::prlimit64(pid, libc::RLIMIT_NOFILE, none, &raw mut limit)
    })?;
    limit.rlim_cur = files.min(limit.rlim_max);
    // SAFETY: the limit lives through the call, and the old one is not asked for.
    check(unsafe {
        let none = std::ptr::null_mut();
        libc::prlimit64(pid, libc::RLIMIT_NOFILE, &raw const limit, none)
    })
}

fn attached(counts: &Counts) -> u64 {
    sum(counts, &["hook_attached", "interface=\"fd"])
}

/// Connections to the daemon that have been served once, and are held.
fn clients(lab: &Lab) -> Result<Vec<TcpStream>> {
    lab.gw.run(|| {
        let one = |_| {
            let mut stream = TcpStream::connect("127.0.0.1:9680")?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: peerwatch\r\n\r\n")?;
            let read = stream.read(&mut [0; 512])?;
            ensure!(read > 0, "no answer");
            Ok(stream)
        };
        (0..CLIENTS).map(one).collect()
    })
}

fn out_of_descriptors() -> Result<String> {
    let mut lab = Lab::create()?;
    let held = clients(&lab)?;
    let open = descriptors_open(&lab.daemon)?;
    limit(lab.daemon.pid(), open + 3)?;
    let before = counters(&lab.daemon, &NAMES)?;
    for number in 0..COME {
        let peer = lab.peer.name();
        lab.gw.ip_batch(&format!(
            "link add fd{number} type veth peer name fd{number} netns {peer}\nlink set fd{number} up\n"
        ))?;
    }
    let hooks = || counters(&lab.daemon, &["hook_attached"]);
    let mut series = 0;
    until("hooks are missing", DEADLINE, || {
        let counts = hooks()?;
        series = counts
            .keys()
            .filter(|series| series.to_string().contains("\"fd"))
            .count();
        Ok((series as u64 == 2 * COME && attached(&counts) < 2 * COME).then_some(()))
    })
    .with_context(|| format!("{series} series\n{}", lab.daemon.errors()))?;
    let missing = 2 * COME - attached(&hooks()?);
    let said = lab.daemon.errors().contains("Too many open files");
    ensure!(said, "it is not said: {}", lab.daemon.errors());
    let (status, _) = lab.daemon.get("/readyz")?;
    ensure!(status == 503, "/readyz: {status}");
    // Nothing that was counted is gone, and nothing falls.
    crate::scrape::rise(&before, &counters(&lab.daemon, &NAMES)?)?;

    limit(lab.daemon.pid(), 4096)?;
    let free = Instant::now();
    until("all are attached", RECOVERED, || {
        std::thread::sleep(Duration::from_millis(50));
        Ok((attached(&hooks()?) == 2 * COME).then_some(()))
    })?;
    let took = free.elapsed();
    let mut sent = 0;
    for number in 0..COME {
        let sender = FrameSender::open(&lab.gw, &format!("fd{number}"))?;
        let frame = sender.frame([2; 6], &leaving()?);
        sent += sender.blast(&[frame], 5)?.offered;
    }
    let packets = |rises: &Counts| sum(rises, &["peerwatch_packets_total"]);
    let rises = risen(&lab.daemon, &NAMES, &before, DEADLINE, |rises| {
        packets(rises) >= sent
    })?;
    ensure!(
        packets(&rises) == sent,
        "{sent} were sent\n{}",
        listed(&rises)
    );
    drop(held);
    lab.daemon.stop()?;
    Ok(format!(
        "{missing} of {} hooks missing, said; attached after {:.1} s; then sent {sent}, counted {}",
        2 * COME,
        took.as_secs_f32(),
        packets(&rises)
    ))
}
