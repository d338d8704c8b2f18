//! Packets that no honest stack sends: they are no attempts, or merge with one.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::act::{Act, Way};
use super::lab::Lab;
use super::{Scene, scene};
use crate::expect::Expected;
use crate::lab::{Net, mac};
use crate::packet::{Packet, Protocol, flags};
use crate::send::FrameSender;

/// The scenes.
#[must_use]
pub fn scenes() -> Vec<Scene> {
    vec![
        scene("same_number_twice", &[Way::Forwarded], same_number).alone(),
        scene("bad_input", &[Way::Inbound, Way::Forwarded], bad_input).alone(),
    ]
}

/// A sender on the client's interface.
///
/// # Errors
///
/// When it can't be opened.
pub fn sender(lab: &Lab) -> Result<FrameSender> {
    FrameSender::open(&lab.client, "eth0")
}

/// Sends an IP packet from the client to the gateway.
///
/// # Errors
///
/// When it can't be sent.
pub fn send(sender: &FrameSender, packet: &[u8]) -> Result<()> {
    sender.send(mac(Net::Lan, 1), packet)
}

/// A SYN of this scene from a spoofed address.
#[must_use]
pub fn spoofed_syn(act: &Act<'_>, host: u8, port: u16) -> Packet {
    let to = act.destination();
    Packet::new(
        Protocol::Tcp,
        (act.spoofed(host), port),
        (to.ip(), to.port()),
    )
}

fn same_number(act: &Act<'_>) -> Result<Expected> {
    act.rule(
        act.host(),
        "type filter hook input priority 0",
        &format!("{} drop", act.syn()),
    )?;
    let sender = sender(act.lab)?;
    for (host, port) in [(3, 1000), (4, 1001)] {
        let mut packet = spoofed_syn(act, host, port);
        packet.sequence = 7;
        send(&sender, &packet.ip())?;
    }
    let mut expected = act.only("unanswered", "unknown", 1);
    expected.lost("collision", 1);
    Ok(expected)
}

fn bad_input(act: &Act<'_>) -> Result<Expected> {
    let sender = sender(act.lab)?;
    for packet in bad_packets(act) {
        send(&sender, &packet)?;
    }
    // Whatever was taken for an attempt is counted as unanswered after 7 s.
    std::thread::sleep(Duration::from_secs(8));
    let (status, _) = act.lab.daemon.get("/healthz")?;
    ensure!(status == 200, "/healthz: {status}");
    Ok(Expected::nothing())
}

fn bad_packets(act: &Act<'_>) -> Vec<Vec<u8>> {
    let syn = |port: u16| spoofed_syn(act, 5, port);
    let mut all = Vec::new();
    for n in 0..200_u16 {
        // SYN-ACKs and RSTs that answer nothing, with numbers all over.
        for tcp_flags in [
            flags::SYN | flags::ACK,
            flags::RST,
            flags::RST | flags::ACK,
            flags::SYN | flags::RST,
            0,
            0xff,
        ] {
            let mut packet = syn(2000 + n);
            packet.tcp_flags = tcp_flags;
            packet.acknowledgement = u32::from(n).wrapping_mul(0x9e37_79b9);
            if n % 2 == 1 {
                std::mem::swap(&mut packet.source_port, &mut packet.destination_port);
            }
            all.push(packet.ip());
        }
    }
    // TCP headers whose length is too small, and beyond the packet.
    for offset in [0_u8, 1, 4, 15] {
        let mut packet = syn(3000 + u16::from(offset)).ip();
        let tcp = packet.len() - 20;
        packet[tcp + 12] = offset << 4;
        all.push(packet);
    }
    // SYNs that are cut off in their header.
    for length in 1..20_usize {
        let whole = syn(3100).ip();
        all.push(shortened(&whole, whole.len() - length));
    }
    all.extend(bad_quotes(act));
    if matches!(act.target, IpAddr::V6(_)) {
        all.push(many_extensions(&syn(3200).ip(), 20));
    }
    all
}

/// The first bytes of an IP packet, with its length set right.
fn shortened(packet: &[u8], length: usize) -> Vec<u8> {
    let mut packet = packet[..length].to_vec();
    with_length(&mut packet);
    packet
}

/// Sets the length in an IP header, and IPv4's checksum.
fn with_length(packet: &mut [u8]) {
    let len = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    if packet[0] >> 4 == 6 {
        packet[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        return;
    }
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&sum);
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}

/// An ICMP error around these bytes, from a spoofed address to where SYNs of this scene go.
fn icmp_error(act: &Act<'_>, quote: &[u8]) -> Vec<u8> {
    icmp_error_like(&spoofed_syn(act, 6, 1), quote)
}

/// An ICMP error around these bytes, between the addresses of a packet.
#[must_use]
pub fn icmp_error_like(packet: &Packet, quote: &[u8]) -> Vec<u8> {
    let mut packet = packet.ip();
    let is_ipv6 = packet[0] >> 4 == 6;
    let header = if is_ipv6 { 40 } else { 20 };
    packet.truncate(header);
    packet[if is_ipv6 { 6 } else { 9 }] = if is_ipv6 { 58 } else { 1 };
    // Port unreachable, in both families.
    let mut icmp = if is_ipv6 {
        vec![1, 4, 0, 0, 0, 0, 0, 0]
    } else {
        vec![3, 3, 0, 0, 0, 0, 0, 0]
    };
    icmp.extend(quote);
    let mut start = 0;
    if is_ipv6 {
        // The pseudo header: addresses, length, next header (RFC 4443 section 2.3).
        let pseudo = !u16::from_be_bytes(checksum(&packet[8..40], 0));
        start = u32::from(pseudo) + u32::try_from(icmp.len()).unwrap_or(0) + 58;
    }
    let sum = checksum(&icmp, start);
    icmp[2..4].copy_from_slice(&sum);
    packet.extend(icmp);
    with_length(&mut packet);
    packet
}

/// ICMP errors whose quotes are too short, too long, of other errors, or of nothing that was sent.
fn bad_quotes(act: &Act<'_>) -> Vec<Vec<u8>> {
    let quoted = spoofed_syn(act, 7, 4000).ip();
    let mut all: Vec<Vec<u8>> = (0..quoted.len())
        .map(|length| icmp_error(act, &quoted[..length]))
        .collect();
    let mut long = quoted.clone();
    long.resize(1200, 0x55);
    all.push(icmp_error(act, &long));
    let mut nested = quoted.clone();
    for _ in 0..8 {
        nested = icmp_error(act, &nested);
        all.push(nested.clone());
    }
    // IPv4 header lengths below the least and beyond the packet; another version in the quote.
    for first in [0x40, 0x44, 0x4f, 0x60, 0x00, 0xff] {
        let mut odd = quoted.clone();
        odd[0] = first;
        all.push(icmp_error(act, &odd));
    }
    all
}

/// An IPv6 packet with this many destination options headers before its own.
fn many_extensions(packet: &[u8], count: usize) -> Vec<u8> {
    let mut long = packet[..40].to_vec();
    let last = long[6];
    long[6] = 60;
    for n in 0..count {
        let next = if n + 1 == count { last } else { 60 };
        // Eight bytes with a PadN of four (RFC 8200 section 4.2).
        long.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    long.extend(&packet[40..]);
    with_length(&mut long);
    long
}
