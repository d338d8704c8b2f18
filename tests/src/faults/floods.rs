//! Packets of a watched port as fast as the machine can send them: dropped, and forwarded.

use anyhow::{Result, ensure};

use super::{COUNTED, Row, counters, listed, mib, one_flood, peak_memory, risen, sum};
use crate::expect::Family;
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, mac};
use crate::packet::{Packet, Protocol, flags};
use crate::scrape::Counts;
use crate::send::{Blast, FrameSender};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "flood of drops",
        injected: "two senders, UDP and TCP to ports that an nft rule of the input hook drops",
        expected: "dropped = sent",
        long: false,
        run: drops,
    },
    Row {
        name: "flood of data",
        injected: "two senders, UDP and TCP segments to 443, forwarded",
        expected: "allowed = sent",
        long: false,
        run: data,
    },
];

/// Packets of each sender.
const EACH: u64 = 150_000;

pub(super) const NAMES: [&str; 3] = ["packets_total", "drops_total", "interface_packets_total"];

/// A packet from the peer, as a frame to the gateway.
pub(super) fn frame(lab: &Lab, packet: &Packet) -> Vec<u8> {
    lab.lan.frame(mac(Net::Lan, GATEWAY), &packet.ip())
}

/// A packet of the peer to a port, in the middle of a connection where it is TCP.
pub(super) fn data_packet(protocol: Protocol, family: Family, to: (Net, u8), port: u16) -> Packet {
    let mut packet = Packet::new(
        protocol,
        (address(family, Net::Lan, PEER), 40_000),
        (address(family, to.0, to.1), port),
    );
    packet.tcp_flags = flags::ACK;
    packet
}

/// Sends these side by side, each again and again.
pub(super) fn side_by_side(lab: &Lab, packets: [Packet; 2], each: u64) -> Result<Blast> {
    let frames = packets.map(|packet| [frame(lab, &packet)]);
    let sender = FrameSender::open(&lab.peer, "eth0")?;
    let _alone = one_flood();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| sender.blast(&frames[0], each));
        let this = lab.lan.blast(&frames[1], each)?;
        let other = other.join();
        Ok(this.beside(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?))
    })
}

/// What a queue before the rules had no room for, so that it never came to them.
fn overload(rises: &Counts) -> u64 {
    sum(rises, &["drops_total", "reason=\"CPU_BACKLOG\""])
}

fn drops() -> Result<String> {
    let lab = Lab::create()?;
    lab.gw.nft(
        "table inet flood { chain it { type filter hook input priority 0; \
         udp dport 443 drop; tcp dport 7680 drop; }; }",
    )?;
    let before = counters(&lab.daemon, &NAMES)?;
    let gateway = (Net::Lan, GATEWAY);
    let blast = side_by_side(
        &lab,
        [
            data_packet(Protocol::Udp, Family::V4, gateway, 443),
            data_packet(Protocol::Tcp, Family::V6, gateway, 7680),
        ],
        EACH,
    )?;
    let dropped = |rises: &Counts| sum(rises, &["peerwatch_packets_total", "verdict=\"dropped\""]);
    let rises = risen(&lab.daemon, &NAMES, &before, COUNTED, |rises| {
        dropped(rises) >= blast.offered
    })?;
    let by_rule = sum(&rises, &["drops_total", "reason=\"NETFILTER_DROP\""]);
    ensure!(
        dropped(&rises) == blast.offered
            && by_rule + overload(&rises) == blast.offered
            && sum(&rises, &["peerwatch_packets_total"]) == blast.offered
            && sum(&rises, &["interface_packets_total"]) == blast.offered,
        "{blast:?}\n{}",
        listed(&rises)
    );
    finish(
        lab,
        &blast,
        &format!("dropped {}", dropped(&rises)),
        overload(&rises),
    )
}

fn data() -> Result<String> {
    let lab = Lab::create()?;
    let before = counters(&lab.daemon, &NAMES)?;
    let server = (Net::Wan, SERVER);
    let blast = side_by_side(
        &lab,
        [
            data_packet(Protocol::Udp, Family::V4, server, 443),
            data_packet(Protocol::Tcp, Family::V4, server, 443),
        ],
        EACH,
    )?;
    let packets = |rises: &Counts| sum(rises, &["peerwatch_packets_total"]);
    let rises = risen(&lab.daemon, &NAMES, &before, COUNTED, |rises| {
        packets(rises) >= blast.offered
    })?;
    let allowed = sum(&rises, &["peerwatch_packets_total", "verdict=\"allowed\""]);
    ensure!(
        packets(&rises) == blast.offered && allowed + overload(&rises) == blast.offered,
        "{blast:?}\n{}",
        listed(&rises)
    );
    finish(lab, &blast, &format!("allowed {allowed}"), overload(&rises))
}

/// Stops the daemon, and says what was measured.
fn finish(mut lab: Lab, blast: &Blast, counted: &str, overload: u64) -> Result<String> {
    let peak = mib(peak_memory(&lab.daemon)?);
    lab.daemon.stop()?;
    Ok(format!(
        "sent {} at {:.0}/s, {counted}, overload {overload} ({} refused); peak {peak} MiB",
        blast.offered,
        blast.rate(),
        blast.refused
    ))
}
