//! The packet log: each line against the packet that was sent.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::Daemon;
use monitor_tests::netns::run;
use monitor_tests::wait::{DEADLINE, until};
use serde_json::{Value, json};

use crate::site::{HERE, LENGTH, Site, THERE, all_packets, datagrams};

/// The lines, once there are so many.
fn lines(daemon: &Daemon, count: usize) -> Result<Vec<String>> {
    until("the lines of the packet log", DEADLINE, || {
        let log = daemon.log();
        Ok((log.lines().count() >= count && log.ends_with('\n'))
            .then(|| log.lines().map(str::to_owned).collect()))
    })
    .with_context(|| daemon.log())
}

/// The wall clock as the log writes it, to the second.
fn now() -> Result<String> {
    let text = run(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%S"]))?;
    Ok(text.trim().to_owned())
}

/// A time of the log: its form, and that it lies between two others (in whole seconds).
fn time_is_between(time: &str, from: &str, to: &str) -> Result<()> {
    let second = time.get(..19).with_context(|| time.to_owned())?;
    let fraction = time[19..]
        .strip_prefix('.')
        .and_then(|rest| rest.strip_suffix('Z'));
    ensure!(
        fraction
            .is_some_and(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit())),
        "{time} is no time in milliseconds"
    );
    ensure!(
        (from..=to).contains(&second),
        "{time} is not from {from} to {to}"
    );
    Ok(())
}

/// One SYN to a port that drops it; returns where it came from.
fn one_syn(site: &Site, to: (Ipv4Addr, u16)) -> Result<SocketAddr> {
    site.peer.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((THERE, 0)).into())?;
        let from = socket.local_addr()?.as_socket().context("no address")?;
        // Far shorter than the second after which the SYN is repeated.
        let silence =
            socket.connect_timeout(&SocketAddr::from(to).into(), Duration::from_millis(50));
        ensure!(silence.is_err(), "somebody answered");
        Ok(from)
    })
}

#[test]
fn json_lines_are_the_packets_that_were_dropped() -> Result<()> {
    let site = Site::create()?;
    site.drop_input("udp dport 3544")?;
    site.host
        .nft("add rule inet lifecycle input tcp dport 7680 drop")?;
    let daemon = site.daemon(&["--log-format", "json"])?;
    let begin = now()?;
    let udp = datagrams(&site.peer, (HERE, 3544), 3)?;
    let tcp = one_syn(&site, (HERE, 7680))?;
    let lines = lines(&daemon, 4)?;
    let end = now()?;
    ensure!(lines.len() == 4, "{lines:#?}");
    let datagram = json!({
        "verdict": "dropped", "traffic": "teredo", "direction": "inbound", "flow": "request",
        "protocol": "udp", "family": "ipv4",
        "source": THERE.to_string(), "source_port": udp.port(),
        "destination": HERE.to_string(), "destination_port": 3544,
        "interface": "lan0", "reason": "NETFILTER_DROP", "class": "firewall",
        "length": LENGTH, "segments": 1, "tcp_flags": null,
    });
    // A SYN of the kernel: header of 20 bytes, 20 of options.
    let syn = json!({
        "verdict": "dropped", "traffic": "do_peer", "direction": "inbound", "flow": "request",
        "protocol": "tcp", "family": "ipv4",
        "source": THERE.to_string(), "source_port": tcp.port(),
        "destination": HERE.to_string(), "destination_port": 7680,
        "interface": "lan0", "reason": "NETFILTER_DROP", "class": "firewall",
        "length": 60, "segments": 1, "tcp_flags": "S",
    });
    for (line, expected) in lines.iter().zip([&datagram, &datagram, &datagram, &syn]) {
        let mut value: Value = serde_json::from_str(line).with_context(|| line.clone())?;
        let object = value.as_object_mut().context("no object")?;
        let time = object.remove("time").context("no time")?;
        time_is_between(time.as_str().context("no text")?, &begin, &end)?;
        ensure!(value == *expected, "{value:#} instead of {expected:#}");
    }
    Ok(())
}

#[test]
fn text_lines_are_the_packets_that_were_dropped() -> Result<()> {
    let site = Site::create()?;
    site.drop_input("udp dport 3544")?;
    site.host
        .nft("add rule inet lifecycle input tcp dport 7680 drop")?;
    let daemon = site.daemon(&[])?;
    let begin = now()?;
    let udp = datagrams(&site.peer, (HERE, 3544), 2)?.port();
    let tcp = one_syn(&site, (HERE, 7680))?.port();
    let lines = lines(&daemon, 3)?;
    let end = now()?;
    let datagram = format!(
        "dropped teredo inbound udp {THERE}:{udp} > {HERE}:3544 lan0 NETFILTER_DROP firewall \
         {LENGTH} bytes"
    );
    let syn = format!(
        "dropped do_peer inbound tcp {THERE}:{tcp} > {HERE}:7680 lan0 NETFILTER_DROP firewall \
         60 bytes S"
    );
    let expected = [datagram.as_str(), &datagram, &syn];
    ensure!(lines.len() == expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        let (time, rest) = line.split_once(' ').context("one word")?;
        time_is_between(time, &begin, &end)?;
        ensure!(rest == expected, "{rest:?} instead of {expected:?}");
    }
    Ok(())
}

/// Two delivered, three sent, four dropped; returns the lines, without their times.
fn logged(which: &str) -> Result<Vec<String>> {
    let site = Site::create()?;
    site.drop_input("udp dport 3544")?;
    let socket = site.host.run(|| Ok(UdpSocket::bind((HERE, 443))?))?;
    let mut daemon = site.daemon(&["--log-packets", which])?;
    datagrams(&site.peer, (HERE, 443), 2)?;
    datagrams(&site.host, (THERE, 443), 3)?;
    datagrams(&site.peer, (HERE, 3544), 4)?;
    until("they are counted", DEADLINE, || {
        Ok((all_packets(&daemon.scrape()?) == 9).then_some(()))
    })?;
    drop(socket);
    // What was reported before the end is written by then.
    daemon.stop()?;
    let log = daemon.log();
    let lines = log.lines().map(|line| {
        let (_, rest) = line.split_once(' ').context("one word")?;
        Ok(rest.to_owned())
    });
    lines.collect()
}

/// How many begin so.
fn beginning(lines: &[String], words: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(words)).count()
}

#[test]
fn the_log_has_the_verdicts_that_are_asked_for() -> Result<()> {
    for (which, allowed, dropped) in [
        ("none", false, false),
        ("dropped", false, true),
        ("allowed", true, false),
        ("all", true, true),
    ] {
        let lines = logged(which)?;
        let expected = [
            ("allowed https inbound udp 10.77.1.2:", 2, allowed),
            ("allowed https outbound udp 10.77.1.1:", 3, allowed),
            ("dropped teredo inbound udp 10.77.1.2:", 4, dropped),
        ];
        let mut total = 0;
        for (words, count, wanted) in expected {
            let count = if wanted { count } else { 0 };
            total += count;
            ensure!(
                beginning(&lines, words) == count,
                "{which}: not {count} of {words:?}: {lines:#?}"
            );
        }
        ensure!(lines.len() == total, "{which}: {lines:#?}");
        let length = format!("lan0 {LENGTH} bytes");
        ensure!(
            lines
                .iter()
                .filter(|line| line.starts_with("allowed"))
                .all(|line| line.ends_with(&length)),
            "{which}: {lines:#?}"
        );
    }
    Ok(())
}

/// An attempt that this host makes and its own firewall drops is on no device.
#[test]
fn a_drop_on_no_device_has_no_interface() -> Result<()> {
    let site = Site::create()?;
    site.host.nft(
        "table inet lifecycle { chain output { type filter hook output priority 0; \
         tcp dport 7680 drop; }; }",
    )?;
    let daemon = site.daemon(&["--log-format", "json"])?;
    site.host.run(|| {
        let to = SocketAddr::from((THERE, 7680));
        ensure!(
            TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_err(),
            "somebody answered"
        );
        Ok(())
    })?;
    let lines = lines(&daemon, 1)?;
    let value: Value = serde_json::from_str(&lines[0])?;
    ensure!(
        value["direction"] == "outbound" && value["interface"].is_null(),
        "{value:#}"
    );
    Ok(())
}
