//! A rule drops what receive offload has put together: the packets that came, each once, although the
//! kernel frees the pieces one by one.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::bulk::segment_in_software;
use super::connections::open;
use super::probe::{Counter, coalesced_by_receiver, frames_sent, without_arp};
use super::{BOTH, HTTPS, Trial, https};
use crate::expect::{Expected, Family};
use crate::lab::{GATEWAY, Lab, Net, PEER, address};
use crate::netns::run;
use crate::packet::{Packet, Protocol, flags};
use crate::scrape::{Counts, rise};
use crate::send::FrameSender;
use crate::undo::Undo;
use crate::wait::{DEADLINE, until};

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "inbound/coalesced_and_dropped",
        families: BOTH,
        run: coalesced,
    },
    Trial {
        name: "inbound/chained_and_dropped",
        families: V6,
        run: chained,
    },
];

/// IPv4 segments would need identifications that count up, too.
const V6: &[Family] = &[Family::V6];

/// Enough for the sender's window to open wide.
const WARM_UP: usize = 2_000_000;

const INPUT: &str = "filter hook input priority -400";

/// Packets and bytes that were dropped, and in which classes.
fn dropped(rises: &Counts) -> (u64, Vec<String>) {
    let mut packets = 0;
    let mut classes = Vec::new();
    for (series, count) in rises {
        let text = series.to_string();
        if series.metric() == "peerwatch_packets_total" && text.contains("verdict=\"dropped\"") {
            packets += count;
        } else if series.metric().contains("drops_total") {
            classes.push(format!("{text} {count}"));
        }
    }
    (packets, classes)
}

/// What has room in one buffer's list of pages.
fn coalesced(lab: &Lab, family: Family) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.peer, "eth0")?;
    segment_in_software(&lab.peer, "eth0", &mut undo)?;
    without_arp(lab)?;
    lab.gw.sh("ethtool -K lan0 gro on")?;
    undo.push(|| lab.gw.sh("ethtool -K lan0 gro off").map(drop));

    let address = Lab::socket(family, Net::Lan, GATEWAY, HTTPS);
    let listener = lab.gw.run(|| Ok(TcpListener::bind(address)?))?;
    let mut sender = lab
        .peer
        .run(|| Ok(TcpStream::connect_timeout(&address, DEADLINE)?))?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(DEADLINE))?;
    sender.set_write_timeout(Some(DEADLINE))?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<TcpStream> {
            let mut buffer = vec![0; WARM_UP];
            receiver.read_exact(&mut buffer)?;
            Ok(receiver)
        });
        sender.write_all(&vec![7; WARM_UP])?;
        // The socket must stay: its end would be packets of its own.
        let receiver = reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        undo.push(move || {
            drop(receiver);
            Ok(())
        });
        anyhow::Ok(())
    })?;
    let before = lab.daemon.settled()?;

    let pieces = Counter::add(&lab.gw, "inet", "pieces", INPUT, "tcp dport 443")?;
    lab.gw.nft(
        "table inet wall { chain it { type filter hook input priority 0; tcp dport 443 drop; }; }",
    )?;
    undo.push(|| lab.gw.nft("delete table inet wall"));
    let sent_before = frames_sent(&lab.peer, "eth0")?;
    sender.set_nonblocking(true)?;
    match sender.write(&vec![7; WARM_UP]) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error).context("writing"),
    }
    until("something is dropped", DEADLINE, || {
        Ok((pieces.packets()? > 0).then_some(()))
    })?;
    // An end without waiting for anybody: one RST, and no repetition after it.
    SockRef::from(&sender).set_linger(Some(Duration::ZERO))?;
    drop(sender);

    let sent = || Ok::<u64, anyhow::Error>(frames_sent(&lab.peer, "eth0")? - sent_before);
    let agree = until("the counters agree", DEADLINE, || {
        let rises = rise(&before, &lab.daemon.settled()?)?;
        Ok((dropped(&rises).0 == sent()?).then_some(()))
    });
    let rises = rise(&before, &lab.daemon.settled()?)?;
    let ((packets, classes), wire, pieces) = (dropped(&rises), sent()?, pieces.packets()?);
    ensure!(
        agree.is_ok(),
        "counted {packets} packets, on the wire {wire}, in {pieces} pieces: {classes:?}"
    );
    coalesced_by_receiver(wire, pieces)?;
    let kind = https(Protocol::Tcp, family, "inbound", "request");
    let bytes = rises
        .iter()
        .find(|(series, _)| series.metric() == "peerwatch_bytes_total")
        .map_or(0, |(_, bytes)| *bytes);
    let mut expected = Expected::nothing();
    expected.dropped(kind, ("firewall", "NETFILTER_DROP"), "lan0", wire, bytes);
    super::compare("coalesced packets are dropped", &expected, &rises)?;
    undo.finish()
}

/// How many segments are sent at once.
const SEGMENTS: u32 = 16;
/// Bytes of data in each.
const DATA: u32 = 500;

/// Whole buffers hang on the first one where the data of each is in one piece: these are freed one by one,
/// each with headers of its own.
fn chained(lab: &Lab, family: Family) -> Result<()> {
    let mut undo = Undo::new();
    // What comes from a device that segments by itself is not put together again.
    segment_in_software(&lab.peer, "eth0", &mut undo)?;
    lab.gw.sh("ethtool -K lan0 gro on")?;
    undo.push(|| lab.gw.sh("ethtool -K lan0 gro off").map(drop));
    // Held back until all have come: otherwise each frame is a poll of its own.
    hold_back(lab, "200000000", "100")?;
    undo.push(|| hold_back(lab, "0", "0"));
    let pieces = Counter::add(&lab.gw, "inet", "pieces", INPUT, "tcp dport 443")?;
    lab.gw.nft(
        "table inet wall { chain it { type filter hook input priority 0; tcp dport 443 drop; }; }",
    )?;
    undo.push(|| lab.gw.nft("delete table inet wall"));

    let before = lab.daemon.settled()?;
    let (from, to) = (
        address(family, Net::Lan, PEER),
        address(family, Net::Lan, GATEWAY),
    );
    let mut packet = Packet::new(Protocol::Tcp, (from, 50_000), (to, HTTPS));
    packet.tcp_flags = flags::ACK;
    packet.acknowledgement = 1;
    packet.payload = usize::try_from(DATA)?;
    let packets: Vec<Vec<u8>> = (0..SEGMENTS)
        .map(|number| {
            packet.sequence = number * DATA;
            packet.ip()
        })
        .collect();
    let sender = FrameSender::open(&lab.peer, "eth0")?;
    let mac = lab.gw.mac("lan0")?;
    for packet in &packets {
        sender.send(mac, packet)?;
    }

    let sent = u64::from(SEGMENTS);
    let agree = until("all are dropped", DEADLINE, || {
        let rises = rise(&before, &lab.daemon.settled()?)?;
        Ok((dropped(&rises).0 >= sent).then_some(()))
    });
    let rises = rise(&before, &lab.daemon.settled()?)?;
    let ((packets, classes), pieces) = (dropped(&rises), pieces.packets()?);
    ensure!(
        agree.is_ok() && packets == sent,
        "counted {packets} of {sent} packets, in {pieces} pieces: {classes:?}"
    );
    coalesced_by_receiver(sent, pieces)?;
    undo.finish()
}

/// How long `lan0` holds back what it coalesces, in nanoseconds, and for how many polls: in the files of
/// the gateway's namespace, which only a mount of its own shows.
fn hold_back(lab: &Lab, nanoseconds: &str, polls: &str) -> Result<()> {
    let script = format!(
        "mount -t sysfs sysfs /sys && echo {polls} >/sys/class/net/lan0/napi_defer_hard_irqs && \
         echo {nanoseconds} >/sys/class/net/lan0/gro_flush_timeout"
    );
    let mut command = lab.gw.command("unshare")?;
    run(command.args(["-m", "sh", "-c", &script])).map(drop)
}
