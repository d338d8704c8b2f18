//! Interfaces that are made again, many at once, and a namespace whose name goes.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::floods::NAMES;
use super::{COUNTED, Row, counters, listed, one_flood, risen, sum};
use crate::lab::Lab;
use crate::lifecycle::interfaces::{wait_attached, wait_gone};
use crate::netns::run;
use crate::packet::{Packet, Protocol};
use crate::scrape::Counts;
use crate::send::FrameSender;
use crate::wait::{DEADLINE, until};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "interface made again",
        injected: "ip link del, ip link add with the same name: three times",
        expected: "packets = sent, by interface too",
        long: false,
        run: || made_again(None),
    },
    Row {
        name: "interface made again with its index",
        injected: "ip link del, ip link add with the same name and index: three times",
        expected: "packets = sent, by interface too",
        long: false,
        run: || made_again(Some(4000)),
    },
    Row {
        name: "300 interfaces come and go",
        injected: "300 veths with packets on each, twice, beside scrapes",
        expected: "packets = sent, in 64 names and other; no counter falls",
        long: false,
        run: many,
    },
    Row {
        name: "namespace deleted",
        injected: "ip netns del, then ip link del of all interfaces, then a new one",
        expected: "counters stay, the new one is watched, ends with 0",
        long: false,
        run: namespace_deleted,
    },
];

/// A packet that leaves through an interface.
pub(super) fn leaving() -> Result<Vec<u8>> {
    let packet = Packet::new(
        Protocol::Udp,
        ("10.79.0.1".parse()?, 40_000),
        ("10.79.0.2".parse()?, 443),
    );
    Ok(packet.ip())
}

/// Sends packets out of an interface of the gateway.
fn leave_by(lab: &Lab, interface: &str, count: u64) -> Result<u64> {
    let sender = FrameSender::open(&lab.gw, interface)?;
    Ok(sender
        .blast(&[sender.frame([2; 6], &leaving()?)], count)?
        .offered)
}

fn packets(rises: &Counts) -> u64 {
    sum(rises, &["peerwatch_packets_total"])
}

fn by_interface(rises: &Counts, name: &str) -> u64 {
    let label = format!("interface=\"{name}\"");
    sum(rises, &["interface_packets_total", &label])
}

/// Makes an interface three times, with packets each time.
fn made_again(index: Option<u32>) -> Result<String> {
    let mut lab = Lab::create()?;
    let before = counters(&lab.daemon, &NAMES)?;
    let words = index
        .map(|index| format!("index {index}"))
        .unwrap_or_default();
    let mut sent = 0;
    let mut last = 0;
    for round in 1..=3 {
        let peer = lab.peer.name();
        lab.gw.ip_batch(&format!(
            "link add again0 {words} type veth peer name again0 netns {peer}\nlink set again0 up\n"
        ))?;
        wait_attached(&lab, "again0")?;
        last = leave_by(&lab, "again0", 10 * round)?;
        sent += last;
        until("they are counted", DEADLINE, || {
            let counts = counters(&lab.daemon, &NAMES)?;
            Ok((packets(&counts) >= sent).then_some(()))
        })?;
        if round < 3 {
            lab.gw.ip("link del again0")?;
            wait_gone(&lab, "again0")?;
        }
    }
    let mut after = counters(&lab.daemon, &NAMES)?;
    // It was not there before; of what is there, each must have risen by what was sent.
    let new = by_interface(&after, "again0");
    after.retain(|series, _| !series.to_string().contains("again0"));
    let rises = crate::scrape::rise(&before, &after)?;
    let other = by_interface(&rises, "other");
    ensure!(
        packets(&rises) == sent && new == last && new + other == sent,
        "{sent} were sent, {last} of them last: again0 {new}\n{}",
        listed(&rises)
    );
    lab.daemon.stop()?;
    Ok(format!(
        "sent {sent}, counted {}; by interface: again0 {new}, other {other}",
        packets(&rises)
    ))
}

/// How many at once, and how often.
const MANY: u64 = 300;
const ROUNDS: u64 = 2;
/// Packets through each.
const EACH: u64 = 3;

fn many() -> Result<String> {
    let _alone = one_flood();
    let mut lab = Lab::create()?;
    let names = ["packets_total", "interface_packets_total"];
    let before = counters(&lab.daemon, &names)?;
    let mut last = before.clone();
    let mut scrapes = 0;
    let mut look = |lab: &Lab| -> Result<()> {
        let now = counters(&lab.daemon, &names)?;
        for (series, was) in &last {
            // Series of interfaces come and go; the others never fall.
            let text = series.to_string();
            let stays = !text.contains("interface=\"m");
            ensure!(
                !stays || now.get(series) >= Some(was),
                "{series} fell from {was}"
            );
        }
        last = now;
        scrapes += 1;
        Ok(())
    };
    for round in 0..ROUNDS {
        let mut text = String::new();
        for number in 0..MANY {
            let peer = lab.peer.name();
            writeln!(
                text,
                "link add m{round}x{number} type veth peer name m{round}x{number} netns {peer}\n\
                 link set m{round}x{number} group 7 up"
            )?;
        }
        lab.gw.ip_batch(&text)?;
        until("all are watched", COUNTED, || {
            look(&lab)?;
            let hooks = counters(&lab.daemon, &["hook_attached"])?;
            Ok((sum(&hooks, &["interface=\"m"]) == 2 * MANY).then_some(()))
        })?;
        for number in 0..MANY {
            leave_by(&lab, &format!("m{round}x{number}"), EACH)?;
            if number % 50 == 0 {
                look(&lab)?;
            }
        }
        lab.gw.ip("link del group 7")?;
        until("all are gone", COUNTED, || {
            look(&lab)?;
            let hooks = counters(&lab.daemon, &["hook_attached"])?;
            Ok((sum(&hooks, &["interface=\"m"]) == 0).then_some(()))
        })?;
    }
    let sent = MANY * ROUNDS * EACH;
    let rises = risen(
        &lab.daemon,
        &names,
        &before,
        Duration::from_secs(5),
        |rises| packets(rises) >= sent && by_interface(rises, "other") >= sent,
    )?;
    let full = counters(&lab.daemon, &["map_full_total"])?;
    ensure!(
        packets(&rises) == sent
            && by_interface(&rises, "other") == sent
            && sum(&full, &["interfaces"]) == 0,
        "{sent} were sent\n{}{}",
        listed(&rises),
        listed(&full)
    );
    lab.daemon.stop()?;
    Ok(format!(
        "sent {sent}, counted {}, in other {}; {scrapes} scrapes beside; map full 0",
        packets(&rises),
        by_interface(&rises, "other")
    ))
}

fn namespace_deleted() -> Result<String> {
    let mut lab = Lab::create()?;
    lab.daemon.find_by_process();
    let sent = leave_by(&lab, "lan0", 20)?;
    until("they are counted", DEADLINE, || {
        Ok((packets(&counters(&lab.daemon, &NAMES)?) == sent).then_some(()))
    })?;
    let (name, pid) = (lab.gw.name().to_owned(), lab.daemon.pid().to_string());
    run(Command::new("ip").args(["netns", "del", &name]))?;
    let inside = |line: &str| {
        let net = format!("--net=/proc/{pid}/ns/net");
        let mut command = Command::new("nsenter");
        run(command.arg(net).args(line.split_whitespace()))
    };
    let result = (|| -> Result<()> {
        for interface in ["lan0", "wan0", "bp0", "bp1", "br0"] {
            inside(&format!("ip link del {interface}"))?;
        }
        let hooks = || counters(&lab.daemon, &["hook_attached"]);
        until("none is watched", DEADLINE, || {
            Ok((sum(&hooks()?, &["gress", "0\""]) == 0).then_some(()))
        })?;
        inside("ip link add late0 type veth peer name late1")?;
        inside("ip link set late0 up")?;
        inside("ip link set late1 up")?;
        wait_attached(&lab, "late0")
    })();
    // Its name again, for those who clean up.
    run(Command::new("ip").args(["netns", "attach", &name, &pid]))?;
    result?;
    let more = leave_by(&lab, "late0", 7)?;
    let all = sent + more;
    // What leaves arrives at the other end, with an address that is nobody's here.
    let outbound = |counts: &Counts| sum(counts, &["peerwatch_packets_total", "outbound"]);
    until("they are counted", DEADLINE, || {
        Ok((outbound(&counters(&lab.daemon, &NAMES)?) >= all).then_some(()))
    })?;
    let counted = outbound(&counters(&lab.daemon, &NAMES)?);
    ensure!(counted == all, "{counted} of {all}");
    lab.daemon.stop()?;
    Ok(format!(
        "sent {sent}, then {more} through the new one; counted {counted}; exit code 0"
    ))
}
