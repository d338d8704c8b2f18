//! What the kernel programs say of themselves: nothing, unless asked. And that nobody has to listen.

use std::io::{PipeWriter, Write as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use monitor_tests::http::{is_ready, request};
use monitor_tests::wait::{DEADLINE, until};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::site::{HERE, LENGTH, START, Site, command, datagrams, packets};

/// Delivers three datagrams and drops two; returns the lines about them on stderr.
fn said(flags: &[&str], wait_for: usize) -> Result<Vec<String>> {
    let site = Site::create()?;
    let mut daemon = site.daemon(flags)?;
    let socket = site
        .host
        .run(|| Ok(std::net::UdpSocket::bind((HERE, 443))?))?;
    site.drop_input("udp dport 3544")?;
    datagrams(&site.peer, (HERE, 443), 3)?;
    datagrams(&site.peer, (HERE, 3544), 2)?;
    until("they are counted", DEADLINE, || {
        let counts = daemon.scrape()?;
        let all = packets(&counts, "https", "inbound", "allowed") == 3
            && packets(&counts, "teredo", "inbound", "dropped") == 2;
        Ok(all.then_some(()))
    })?;
    drop(socket);
    let about = |errors: &str| -> Vec<String> {
        errors
            .lines()
            .filter(|line| line.contains(" monitor_ebpf"))
            .map(str::to_owned)
            .collect()
    };
    until("the kernel programs have spoken", DEADLINE, || {
        Ok((about(&daemon.errors()).len() >= wait_for).then_some(()))
    })?;
    // What they said is written before it ends.
    daemon.stop()?;
    Ok(about(&daemon.errors()))
}

#[test]
fn the_kernel_programs_say_nothing_by_default() -> Result<()> {
    for flags in [&[][..], &["--log-level", "trace"]] {
        let lines = said(flags, 0)?;
        ensure!(lines.is_empty(), "{flags:?}: {lines:?}");
    }
    Ok(())
}

#[test]
fn the_kernel_programs_speak_when_asked() -> Result<()> {
    let lines = said(&["--bpf-log", "debug"], 5)?;
    let delivered = format!("delivered, {LENGTH} bytes");
    let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    ensure!(count(&delivered) == 3, "{lines:?}");
    ensure!(count("freed at ") == 2, "{lines:?}");
    ensure!(lines.iter().all(|line| line.contains("DEBUG")), "{lines:?}");
    Ok(())
}

/// Where metrics are, and after a while without packets that there were none.
#[test]
fn an_idle_daemon_says_where_it_is_and_that_there_is_no_demand() -> Result<()> {
    let site = Site::create()?;
    let daemon = site.daemon(&[])?;
    let place =
        "metrics on http://127.0.0.1:9680/metrics (this host only; --listen [::]:9680 for others)";
    // What is said goes through a queue: it may come a moment after the first answer.
    until("it says where it is", START, || {
        Ok(daemon.errors().contains(place).then_some(()))
    })?;
    until("it says so", Duration::from_secs(20), || {
        Ok(daemon.errors().contains("no demand yet").then_some(()))
    })?;
    let errors = daemon.errors();
    let line = errors.lines().find(|line| line.contains("no demand yet"));
    ensure!(
        line.is_some_and(|line| line.contains("`cargo xtask demo`")),
        "{errors}"
    );
    Ok(())
}

/// Standard error is a pipe that is full and that nobody reads, as a journal that is stuck.
#[test]
fn a_stuck_reader_of_diagnostics_stops_nothing() -> Result<()> {
    let site = Site::create()?;
    let (reader, mut writer) = std::io::pipe()?;
    set_nonblocking(&writer, true)?;
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    set_nonblocking(&writer, false)?;
    let mut start = command(&site.host, &["run", "--config", "/dev/null"])?;
    let mut child = start.stdout(Stdio::null()).stderr(writer).spawn()?;
    let ran = (|| {
        until("it is ready", START, || {
            ensure!(child.try_wait()?.is_none(), "it ended");
            Ok(is_ready(&site.host, 9680).then_some(()))
        })?;
        let status = request(&site.host, 9680, "GET /metrics", "")?.status;
        ensure!(status == 200, "metrics: {status}");
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        until("it ends", DEADLINE, || Ok(child.try_wait()?))
    })();
    if ran.is_err() {
        child.kill()?;
        child.wait()?;
    }
    // Nobody reads until here.
    drop(reader);
    let status = ran?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

fn set_nonblocking(pipe: &PipeWriter, yes: bool) -> Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, yes);
    fcntl(pipe, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
