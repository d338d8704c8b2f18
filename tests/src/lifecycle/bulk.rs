//! Ten megabytes over TCP in coalesced packets, against the count of packets on the wire.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::{Result, ensure};

use super::connections::open;
use super::probe::{Counter, coalesced, coalesced_by_receiver, frames_sent, segments, without_arp};
use super::{BOTH, HTTPS, Trial, V4, allowed, https, nothing_dropped};
use crate::expect::{Family, Kind};
use crate::lab::{GATEWAY, Lab, Net, SERVER};
use crate::netns::NetNs;
use crate::packet::Protocol;
use crate::scrape::rise;
use crate::undo::Undo;
use crate::wait::{DEADLINE, until};

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "forwarded/10_mb_with_gso",
        families: BOTH,
        run: forwarded,
    },
    Trial {
        name: "outbound/10_mb_with_gso",
        families: BOTH,
        run: outbound,
    },
    Trial {
        name: "inbound/10_mb_with_gro",
        families: V4,
        run: inbound_gro,
    },
    Trial {
        name: "inbound/10_mb_with_gso",
        families: BOTH,
        run: inbound_gso,
    },
];

const BYTES: usize = 10_000_000;

/// Switches segmentation of an interface off, so that every packet on the wire is a frame.
pub(super) fn segment_in_software<'a>(
    netns: &'a NetNs,
    interface: &'static str,
    undo: &mut Undo<'a>,
) -> Result<()> {
    netns.sh(&format!(
        "ethtool -K {interface} tso off gso off tx-udp-segmentation off"
    ))?;
    undo.push(move || {
        let line = format!("ethtool -K {interface} tso on gso on tx-udp-segmentation on");
        netns.sh(&line).map(drop)
    });
    Ok(())
}

/// Sends the bytes one way. Returns the segments that the sender's kernel says it sent.
fn transfer(from: &NetNs, to: &NetNs, address: SocketAddr) -> Result<u64> {
    let listener = to.run(|| Ok(TcpListener::bind(address)?))?;
    let mut sender = from.run(|| Ok(TcpStream::connect_timeout(&address, DEADLINE)?))?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(DEADLINE))?;
    sender.set_write_timeout(Some(DEADLINE))?;
    sender.set_read_timeout(Some(DEADLINE))?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<usize> {
            let mut buffer = vec![0; 1 << 17];
            let mut total = 0;
            loop {
                match receiver.read(&mut buffer)? {
                    0 => break,
                    len => total += len,
                }
            }
            // Only now the other direction ends: the sender stays out of TIME_WAIT until it is read.
            Ok(total)
        });
        sender.write_all(&vec![7; BYTES])?;
        sender.shutdown(Shutdown::Write)?;
        let total = reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(total == BYTES, "{total} bytes arrived");
        ensure!(sender.read(&mut [0; 8])? == 0, "data behind the end");
        let (out, _) = segments(&sender)?;
        Ok(u64::from(out))
    })
}

/// Transfers, and compares the packets of one kind with a count of the wire; `check` says whether they
/// were coalesced.
fn compare_with_wire(
    lab: &Lab,
    kind: Kind,
    transfer: impl FnOnce() -> Result<u64>,
    wire: &dyn Fn(u64) -> Result<u64>,
    seen: &Counter<'_>,
    check: fn(u64, u64) -> Result<()>,
) -> Result<()> {
    let before = lab.daemon.settled()?;
    let sent = transfer()?;
    let agree = until("the counters agree", DEADLINE, || {
        let rises = rise(&before, &lab.daemon.settled()?)?;
        Ok((allowed(&rises, kind).0 == wire(sent)?).then_some(()))
    });
    let rises = rise(&before, &lab.daemon.settled()?)?;
    let ((packets, bytes), wire) = (allowed(&rises, kind), wire(sent)?);
    let pieces = seen.packets()?;
    ensure!(
        agree.is_ok(),
        "counted {packets} packets, on the wire {wire}, in {pieces} pieces"
    );
    check(wire, pieces)?;
    let headers = bytes.checked_sub(BYTES as u64);
    ensure!(
        headers.is_some_and(|headers| (pieces * 40..=wire * 80).contains(&headers)),
        "{bytes} bytes in {pieces} pieces"
    );
    nothing_dropped(&rises, Some("protocol"))
}

/// From the peer through the gateway, which segments on the way out.
fn forwarded(lab: &Lab, family: Family) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.peer, "eth0")?;
    open(lab, &mut undo, &lab.server, "eth0")?;
    segment_in_software(&lab.gw, "wan0", &mut undo)?;
    let wire = Counter::add(&lab.server, "netdev", "wire", INGRESS_ETH0, "tcp dport 443")?;
    let pieces = Counter::add(&lab.gw, "inet", "pieces", FORWARD, "tcp dport 443")?;
    let to = Lab::socket(family, Net::Wan, SERVER, HTTPS);
    let kind = https(Protocol::Tcp, family, "forwarded", "request");
    let go = || transfer(&lab.peer, &lab.server, to);
    compare_with_wire(lab, kind, go, &|_| wire.packets(), &pieces, coalesced)?;
    drop((wire, pieces));
    undo.finish()
}

/// From the gateway, which segments on the way out.
fn outbound(lab: &Lab, family: Family) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.server, "eth0")?;
    segment_in_software(&lab.gw, "wan0", &mut undo)?;
    let wire = Counter::add(&lab.server, "netdev", "wire", INGRESS_ETH0, "tcp dport 443")?;
    let pieces = Counter::add(&lab.gw, "inet", "pieces", OUTPUT, "tcp dport 443")?;
    let to = Lab::socket(family, Net::Wan, SERVER, HTTPS);
    let kind = https(Protocol::Tcp, family, "outbound", "request");
    let go = || transfer(&lab.gw, &lab.server, to);
    compare_with_wire(lab, kind, go, &|_| wire.packets(), &pieces, coalesced)?;
    drop((wire, pieces));
    undo.finish()
}

/// The peer segments, the gateway's device coalesces again (generic receive offload).
fn inbound_gro(lab: &Lab, family: Family) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.peer, "eth0")?;
    segment_in_software(&lab.peer, "eth0", &mut undo)?;
    without_arp(lab)?;
    lab.gw.sh("ethtool -K lan0 gro on")?;
    undo.push(|| lab.gw.sh("ethtool -K lan0 gro off").map(drop));
    let pieces = Counter::add(&lab.gw, "inet", "pieces", INPUT, "tcp dport 443")?;
    let to = Lab::socket(family, Net::Lan, GATEWAY, HTTPS);
    let kind = https(Protocol::Tcp, family, "inbound", "request");
    let before = frames_sent(&lab.peer, "eth0")?;
    let go = || transfer(&lab.peer, &lab.gw, to);
    let wire = |_| Ok(frames_sent(&lab.peer, "eth0")? - before);
    compare_with_wire(lab, kind, go, &wire, &pieces, coalesced_by_receiver)?;
    drop(pieces);
    undo.finish()
}

/// Coalesced packets come in as the peer made them: what its TCP says it sent is what counts.
fn inbound_gso(lab: &Lab, family: Family) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.peer, "eth0")?;
    let pieces = Counter::add(&lab.gw, "inet", "pieces", INPUT, "tcp dport 443")?;
    let to = Lab::socket(family, Net::Lan, GATEWAY, HTTPS);
    let kind = https(Protocol::Tcp, family, "inbound", "request");
    // The sender's socket has ended, with its last acknowledgement, in TIME_WAIT: that one is not in
    // its account.
    let go = || transfer(&lab.peer, &lab.gw, to);
    compare_with_wire(lab, kind, go, &Ok, &pieces, coalesced)?;
    drop(pieces);
    undo.finish()
}

const INGRESS_ETH0: &str = "filter hook ingress device eth0 priority -501";
const FORWARD: &str = "filter hook forward priority -400";
const OUTPUT: &str = "filter hook output priority -400";
const INPUT: &str = "filter hook input priority -400";
