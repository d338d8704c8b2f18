//! More changes of interfaces than the kernel keeps for a daemon that does not read them.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::floods::{NAMES, frame};
use super::links::leaving;
use super::{COUNTED, Row, counters, listed, risen, sum};
use crate::expect::Family;
use crate::lab::{Lab, Net, PEER, address};
use crate::lifecycle::interfaces::wait_attached;
use crate::packet::{Packet, Protocol};
use crate::scrape::rise;
use crate::send::FrameSender;
use crate::wait::until;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "interface replaced unseen",
        injected: "SIGSTOP; ip link del, ip link add with the same name and index, 4,000 changes; SIGCONT",
        expected: "packets = sent from 3 s after it runs again on",
        long: false,
        run: replaced_unseen,
    },
    Row {
        name: "netlink overrun",
        injected: "SIGSTOP; 60 interfaces and addresses come, 30 go, 4,000 changes; SIGCONT",
        expected: "said in the log; all attached, addresses right, packets = sent",
        long: false,
        run: overrun,
    },
];

/// The daemon looks for programs that somebody took off each second.
const LOOKED_AT: Duration = Duration::from_secs(3);

/// Interfaces that come, and how many of them go again.
const COME: u8 = 60;
const GO: u8 = 30;
/// Packets through each interface that stays.
const EACH: u64 = 5;

/// The address of the gateway on an interface.
fn own(number: u8) -> String {
    format!("10.79.{number}.1")
}

/// Commands that make interfaces, change them often, and remove some.
fn churn(lab: &Lab) -> Result<String> {
    let mut text = String::new();
    for number in 0..COME {
        let peer = lab.peer.name();
        writeln!(
            text,
            "link add ov{number} type veth peer name ov{number} netns {peer}\n\
             link set ov{number} up\naddress add {}/24 dev ov{number}",
            own(number)
        )?;
    }
    text.push_str(&changes("ov1"));
    for number in 0..GO {
        writeln!(text, "link del ov{number}")?;
    }
    Ok(text)
}

/// Far more changes of an interface than the kernel keeps for a reader.
fn changes(name: &str) -> String {
    let change = |number: u32| format!("link set {name} mtu {}\n", 1300 + number % 7);
    (0..4000).map(change).collect()
}

/// A packet to an address that is dropped before it is routed: whose it is, the daemon must know.
fn to_address(lab: &Lab, number: u8) -> Result<Vec<u8>> {
    let packet = Packet::new(
        Protocol::Udp,
        (address(Family::V4, Net::Lan, PEER), 40_000),
        (own(number).parse()?, 443),
    );
    Ok(frame(lab, &packet))
}

fn overrun() -> Result<String> {
    let mut lab = Lab::create()?;
    lab.gw.nft(
        "table inet flood { chain it { type filter hook prerouting priority -300; udp dport 443 drop; }; }",
    )?;
    let commands = churn(&lab)?;
    lab.daemon.signal(Signal::SIGSTOP)?;
    let done = lab.gw.ip_batch(&commands);
    lab.daemon.signal(Signal::SIGCONT)?;
    done?;
    until("it is said", COUNTED, || {
        let said = lab.daemon.errors().contains("reading all again");
        Ok(said.then_some(()))
    })?;
    for number in GO..COME {
        wait_attached(&lab, &format!("ov{number}"))?;
    }
    let before = counters(&lab.daemon, &NAMES)?;
    for number in GO..COME {
        let sender = FrameSender::open(&lab.gw, &format!("ov{number}"))?;
        let packet = Packet::new(
            Protocol::Udp,
            (own(number).parse()?, 40_000),
            (format!("10.79.{number}.2").parse()?, 3544),
        );
        sender.blast(&[sender.frame([2; 6], &packet.ip())], EACH)?;
    }
    // One address that stayed, one that went.
    lab.lan.blast(&[to_address(&lab, COME - 1)?], EACH)?;
    lab.lan.blast(&[to_address(&lab, 0)?], EACH)?;
    let stayed = u64::from(COME - GO);
    let all = (stayed + 2) * EACH;
    let packets = |rises: &_| sum(rises, &["peerwatch_packets_total"]);
    let rises = risen(
        &lab.daemon,
        &NAMES,
        &before,
        Duration::from_secs(5),
        |rises| packets(rises) >= all,
    )?;
    let outbound = sum(&rises, &["peerwatch_packets_total", "outbound", "allowed"]);
    let inbound = sum(&rises, &["peerwatch_packets_total", "inbound", "dropped"]);
    let forwarded = sum(&rises, &["peerwatch_packets_total", "forwarded", "dropped"]);
    ensure!(
        (outbound, inbound, forwarded, packets(&rises)) == (stayed * EACH, EACH, EACH, all),
        "{}",
        listed(&rises)
    );
    lab.daemon.stop()?;
    Ok(format!(
        "resynced; {stayed} of {stayed} attached, outbound {outbound} of {outbound}; to an address that stayed \
         {inbound} inbound, to one that went {forwarded} forwarded"
    ))
}

/// To the daemon the new interface looks like the one that it knows; nothing is attached to it.
fn replaced_unseen() -> Result<String> {
    let mut lab = Lab::create()?;
    let peer = lab.peer.name();
    let make = format!(
        "link add same0 index 5000 address 02:77:00:00:50:00 type veth peer name same0 netns {peer}\n\
         link set same0 up\n"
    );
    lab.gw.ip_batch(&make)?;
    wait_attached(&lab, "same0")?;
    lab.daemon.signal(Signal::SIGSTOP)?;
    let commands = format!("{}link del same0\n{make}", changes("same0"));
    let done = lab.gw.ip_batch(&commands);
    lab.daemon.signal(Signal::SIGCONT)?;
    done?;
    until("it is said", COUNTED, || {
        let said = lab.daemon.errors().contains("reading all again");
        Ok(said.then_some(()))
    })?;
    let before = counters(&lab.daemon, &NAMES)?;
    let sender = FrameSender::open(&lab.gw, "same0")?;
    let frame = sender.frame([2; 6], &leaving()?);
    let packets = |rises: &_| sum(rises, &["peerwatch_packets_total"]);
    // One each moment, until one is counted: from then on all are.
    let mut missed = 0;
    until("it is watched again", LOOKED_AT, || {
        missed += sender.blast(std::slice::from_ref(&frame), 1)?.offered;
        std::thread::sleep(Duration::from_millis(100));
        let rises = rise(&before, &counters(&lab.daemon, &NAMES)?)?;
        Ok((packets(&rises) > 0).then_some(()))
    })?;
    let before = counters(&lab.daemon, &NAMES)?;
    let sent = sender.blast(&[frame], 100)?.offered;
    let rises = risen(
        &lab.daemon,
        &NAMES,
        &before,
        Duration::from_secs(5),
        |rises| packets(rises) >= sent,
    )?;
    ensure!(packets(&rises) == sent, "{}", listed(&rises));
    lab.daemon.stop()?;
    Ok(format!(
        "watched again after {missed} packets, 0.1 s apart; then {sent} sent, counted {}",
        packets(&rises)
    ))
}
