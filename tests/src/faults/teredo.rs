//! Solicitations to a Teredo server faster than the daemon reads them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Row, counters, listed, mib, peak_memory, risen, sum};
use crate::attempts::teredo::solicitation;
use crate::expect::Family;
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, mac};
use crate::packet::{Packet, Protocol};
use crate::scrape::Counts;
use crate::send::FrameSender;

pub(super) const ROWS: &[Row] = &[Row {
    name: "flood of Teredo solicitations",
    injected: "40,000 clients at once, each by one solicitation that a forward rule drops",
    expected: "attempts ended + lost{teredo} = solicitations; packets = sent",
    long: false,
    run: solicitations,
}];

const NAMES: [&str; 3] = ["attempts_total", "attempts_lost_total", "packets_total"];

/// A round is judged when its last try has had its time (13 s), and the daemon reads twice a second.
const JUDGED: Duration = Duration::from_secs(40);

/// Frames of solicitations, each of a client and with a nonce of its own.
pub(super) fn frames(lab: &Lab, clients: u16) -> Vec<Vec<u8>> {
    let server = address(Family::V4, Net::Wan, SERVER);
    frames_from(&lab.lan, server, 0, clients)
}

/// The same for another sender and server; each round has clients of its own.
pub(super) fn frames_from(
    sender: &FrameSender,
    server: IpAddr,
    round: u64,
    clients: u16,
) -> Vec<Vec<u8>> {
    let [.., a, b, c] = round.to_be_bytes();
    // Another port each round, so that none of its clients is taken for one of the round before.
    let first = 10_000 + u16::try_from(round * u64::from(clients) % 40_000).unwrap_or(0);
    let frames = (0..clients).map(|client| {
        let [high, low] = client.to_be_bytes();
        let payload = solicitation([9, high, low, a, b, c, 4, 5], false);
        let port = 10_000 + (first - 10_000 + client) % 50_000;
        let mut packet = Packet::new(
            Protocol::Udp,
            (address(Family::V4, Net::Lan, PEER), port),
            (server, 3544),
        );
        packet.payload = payload.len();
        let mut bytes = packet.ip();
        let start = bytes.len() - payload.len();
        bytes[start..].copy_from_slice(&payload);
        // No checksum, as IPv4 allows.
        bytes[start - 2..start].fill(0);
        sender.frame(mac(Net::Lan, GATEWAY), &bytes)
    });
    frames.collect()
}

pub(super) fn accounted(rises: &Counts) -> u64 {
    sum(rises, &["attempts_total", "traffic=\"teredo\""])
        + sum(rises, &["attempts_lost_total", "stream=\"teredo\""])
}

fn solicitations() -> Result<String> {
    let mut lab = Lab::create()?;
    lab.gw.nft(
        "table inet flood { chain it { type filter hook forward priority 0; udp dport 3544 drop; }; }",
    )?;
    let before = counters(&lab.daemon, &NAMES)?;
    let frames = frames(&lab, 40_000);
    let blast = lab.lan.blast(&frames, frames.len() as u64)?;
    let rises = risen(&lab.daemon, &NAMES, &before, JUDGED, |rises| {
        accounted(rises) >= blast.offered
    })?;
    let ended = sum(
        &rises,
        &["attempts_total", "outcome=\"dropped\"", "local_firewall"],
    );
    let lost = sum(&rises, &["attempts_lost_total", "stream=\"teredo\""]);
    let packets = sum(&rises, &["packets_total", "verdict=\"dropped\"", "teredo"]);
    let overload = sum(&rises, &["attempts_total", "local_overload"]);
    ensure!(
        ended + overload + lost == blast.offered && packets == blast.offered && lost > 0,
        "{blast:?}\n{}",
        listed(&rises)
    );
    let peak = mib(peak_memory(&lab.daemon)?);
    lab.daemon.stop()?;
    Ok(format!(
        "sent {} at {:.0}/s, dropped {packets}; attempts {ended}, lost {lost}; peak {peak} MiB",
        blast.offered,
        blast.rate(),
    ))
}
