//! More changes of interfaces than the kernel keeps for a daemon that does not read them.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::floods::{NAMES, frame};
use super::{COUNTED, Row, counters, listed, risen, sum};
use crate::expect::Family;
use crate::lab::{Lab, Net, PEER, address};
use crate::lifecycle::interfaces::wait_attached;
use crate::packet::{Packet, Protocol};
use crate::send::FrameSender;
use crate::wait::until;

pub(super) const ROWS: &[Row] = &[Row {
    name: "netlink overrun",
    injected: "SIGSTOP; 60 interfaces and addresses come, 30 go, 4,000 changes; SIGCONT",
    expected: "said in the log; all attached, addresses right, packets = sent",
    long: false,
    run: overrun,
}];

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
    for change in 0..4000 {
        writeln!(text, "link set ov{} mtu {}", change % 60, 1300 + change % 7)?;
    }
    for number in 0..GO {
        writeln!(text, "link del ov{number}")?;
    }
    Ok(text)
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
    let rises = risen(&lab.daemon, &NAMES, &before, Duration::from_secs(5), |rises| {
        packets(rises) >= all
    })?;
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
