//! What the kernel programs say of themselves: nothing, unless asked.

use anyhow::{Result, ensure};
use monitor_tests::wait::{DEADLINE, until};

use crate::site::{HERE, LENGTH, Site, datagrams, packets};

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
