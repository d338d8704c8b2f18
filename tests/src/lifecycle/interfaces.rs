//! Interfaces that come and go while packets pass, without a restart and without losing a count.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

use super::{BOTH, HTTPS, Trial, compare, https};
use crate::case::PAYLOAD;
use crate::expect::{Expected, Family};
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, connect, give_addresses, mac};
use crate::packet::{Packet, Protocol};
use crate::scrape::rise;
use crate::send::{FrameSender, send_datagrams};
use crate::wait::{DEADLINE, until};

pub(super) const TRIALS: &[Trial] = &[Trial {
    name: "interface_comes_and_goes_under_load",
    families: BOTH,
    run: comes_and_goes,
}];

const ROUNDS: u64 = 3;
const COUNT: u64 = 20;

/// Waits until the daemon counts what leaves through an interface.
pub(crate) fn wait_attached(lab: &Lab, interface: &str) -> Result<()> {
    until(&format!("{interface} is watched"), DEADLINE, || {
        let (_, body) = lab.daemon.get("/metrics")?;
        Ok(["ingress", "egress"]
            .iter()
            .all(|hook| {
                body.lines().any(|line| {
                    line.starts_with("peerwatch_hook_attached{")
                        && line.contains(&format!("hook=\"{hook}\""))
                        && line.contains(&format!("interface=\"{interface}\""))
                        && line.ends_with(" 1")
                })
            })
            .then_some(()))
    })
}

/// Waits until the daemon has left an interface: what is below a bond.
pub(crate) fn wait_left(lab: &Lab, interface: &str) -> Result<()> {
    until(&format!("{interface} is left"), DEADLINE, || {
        let (_, body) = lab.daemon.get("/metrics")?;
        let attached = body.lines().any(|line| {
            line.starts_with("peerwatch_hook_attached{")
                && line.contains(&format!("interface=\"{interface}\""))
                && line.ends_with(" 1")
        });
        Ok((!attached).then_some(()))
    })
}

/// Waits until an interface that is gone is gone from the metrics too, and its counts in `other`.
pub(crate) fn wait_gone(lab: &Lab, interface: &str) -> Result<()> {
    until(&format!("{interface} is forgotten"), DEADLINE, || {
        let (_, body) = lab.daemon.get("/metrics")?;
        Ok((!body.contains(&format!("interface=\"{interface}\""))).then_some(()))
    })
}

/// What was sent, each packet in exactly one of these.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// The host got it.
    taken: u64,
    /// The queue of a busy processor had no room for it: the kernel drops it before it comes to the host.
    refused: u64,
}

impl Sent {
    fn offer(&mut self, sender: &FrameSender, net: Net, packet: &Packet) -> Result<()> {
        if sender.offer(mac(net, GATEWAY), &packet.ip())? {
            self.taken += 1;
        } else {
            self.refused += 1;
        }
        Ok(())
    }
}

/// Packets go on through `lan0` and `wan0` while a third interface comes, carries some, and goes.
fn comes_and_goes(lab: &Lab, family: Family) -> Result<()> {
    let before = lab.daemon.settled()?;
    let stop = AtomicBool::new(false);
    let mut passing = Sent::default();
    let (rounds, load) = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(lab, family, &stop));
        let rounds = (0..ROUNDS).try_for_each(|_| one_round(lab, family, &mut passing));
        stop.store(true, Ordering::Relaxed);
        (
            rounds,
            load.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    rounds?;
    let load = load?;
    ensure!(load.taken > 0 && passing.taken > 0, "{load:?}, {passing:?}");
    let bytes = family.header() + 8 + PAYLOAD as u64;
    let mut expected = Expected::nothing();
    let through = load.taken + passing.taken;
    let forwarded = https(Protocol::Udp, family, "forwarded", "request");
    expected.allowed(forwarded, "wan0", through, through * bytes);
    let outbound = https(Protocol::Udp, family, "outbound", "request");
    let sent = ROUNDS * COUNT;
    expected.allowed(outbound, "other", sent, sent * bytes);
    let full = ("overload", "CPU_BACKLOG");
    for (refused, interface) in [(load.refused, "lan0"), (passing.refused, "other")] {
        expected.dropped(outbound, full, interface, refused, refused * bytes);
    }
    until("the counters agree", DEADLINE, || {
        Ok(expected
            .reached_by(&rise(&before, &lab.daemon.scrape()?)?)
            .then_some(()))
    })
    .or_else(|_| anyhow::Ok(()))?;
    compare(
        "under load",
        &expected,
        &rise(&before, &lab.daemon.settled()?)?,
    )
}

fn datagram(lab: &Lab, family: Family, from: Net) -> Packet {
    let source = (address(family, from, PEER), lab.port());
    Packet::new(
        Protocol::Udp,
        source,
        (address(family, Net::Wan, SERVER), HTTPS),
    )
}

/// Forwards datagrams until told to stop, and says how many.
fn load(lab: &Lab, family: Family, stop: &AtomicBool) -> Result<Sent> {
    let mut sent = Sent::default();
    while !stop.load(Ordering::Relaxed) {
        sent.offer(&lab.lan, Net::Lan, &datagram(lab, family, Net::Lan))?;
        // A few thousand a second: enough to be there at every moment.
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    Ok(sent)
}

fn one_round(lab: &Lab, family: Family, sent: &mut Sent) -> Result<()> {
    let (here, there) = (format!("new{}", lab.port()), format!("new{}", lab.port()));
    connect(
        &lab.gw,
        &here,
        (Net::Passing, GATEWAY),
        &lab.peer,
        &there,
        PEER,
    )?;
    give_addresses(&lab.gw, &here, Net::Passing, GATEWAY, &[PEER])?;
    lab.peer.nft(&format!(
        "table netdev sink_{there} {{ chain it {{ \
         type filter hook ingress device {there} priority -500; policy drop; }}; }}"
    ))?;
    wait_attached(lab, &here)?;
    let sender = FrameSender::open(&lab.peer, &there)?;
    for _ in 0..COUNT {
        let packet = datagram(lab, family, Net::Passing);
        sent.offer(&sender, Net::Passing, &packet)?;
    }
    send_datagrams(
        &lab.gw,
        Lab::socket(family, Net::Passing, PEER, HTTPS),
        PAYLOAD,
        COUNT,
    )?;
    drop(sender);
    lab.gw.ip(&format!("link del {here}"))?;
    lab.peer.nft(&format!("delete table netdev sink_{there}"))?;
    wait_gone(lab, &here)
}
