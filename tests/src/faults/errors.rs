//! ICMP errors as fast as the machine can send them, around SYNs that were sent and around others.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Row, counters, listed, mib, peak_memory, resident_memory, risen, sum};
use crate::attempts::crafted::icmp_error_like;
use crate::attempts::lab::{Lab, SPOOFED, TARGETS, WAN};
use crate::expect::Family;
use crate::lab::{Net, address, mac};
use crate::packet::{Packet, Protocol, flags};
use crate::scrape::{Counts, rise};
use crate::send::FrameSender;

pub(super) const ROWS: &[Row] = &[Row {
    name: "flood of ICMP errors",
    injected: "errors of a box in between: quotes of 50 answered SYNs, of 50 that wait, of 100 unknown ones",
    expected: "50 established, 50 rejected by middlebox, nothing else; 100 records; memory as before",
    long: false,
    run: errors,
}];

/// SYNs of each kind.
const SYNS: u16 = 50;
/// Errors.
const ERRORS: u64 = 100_000;

const NAMES: [&str; 2] = ["attempts_total", "attempts_lost_total"];

/// How much more memory may be resident afterwards, KiB: what scrapes and readings take for a moment.
const GROWTH: u64 = 8 * 1024;

/// A SYN with a known number, of a client that hears nothing, to a target that does not answer.
pub(super) fn syn(number: u16) -> Packet {
    let host = 10 + u8::try_from(number % 200).unwrap_or(0);
    let mut packet = Packet::new(
        Protocol::Tcp,
        (address(Family::V4, SPOOFED, host), 20_000 + number),
        (address(Family::V4, TARGETS, host), 7680),
    );
    packet.sequence = u32::from(number + 1).wrapping_mul(0x9e37_79b1);
    packet
}

/// The SYN-ACK to it.
fn answer(syn: &Packet) -> Packet {
    let mut packet = Packet::new(
        Protocol::Tcp,
        (syn.destination, syn.destination_port),
        (syn.source, syn.source_port),
    );
    packet.tcp_flags = flags::SYN | flags::ACK;
    packet.acknowledgement = syn.sequence.wrapping_add(1);
    packet
}

/// An error of the router that quotes a SYN, as much of it as any router does.
pub(super) fn error(syn: &Packet) -> Vec<u8> {
    let from = (address(Family::V4, WAN, 2), 1);
    let like = Packet::new(Protocol::Tcp, from, (syn.source, 1));
    icmp_error_like(&like, &syn.ip()[..28])
}

/// Attempts that ended like this.
fn ended(rises: &Counts, outcome: &str, by: &str) -> u64 {
    let by = format!("blocked_by=\"{by}\"");
    sum(rises, &["attempts_total", outcome, &by])
}

fn errors() -> Result<String> {
    let mut lab = Lab::create()?;
    lab.server.nft(
        "table inet flood { chain it { type filter hook input priority 0; tcp dport 7680 drop; }; }",
    )?;
    let client = FrameSender::open(&lab.client, "eth0")?;
    let router = FrameSender::open(&lab.router, "rt0")?;
    let before = counters(&lab.daemon, &NAMES)?;
    let records = sum(&counters(&lab.daemon, &["map_entries"])?, &["attempts"]);
    for number in 0..2 * SYNS {
        client.send(mac(Net::Lan, 1), &syn(number).ip())?;
    }
    for number in 0..SYNS {
        router.send(mac(WAN, 1), &answer(&syn(number)).ip())?;
    }
    // As a link through which they went first: an error that overtakes its SYN finds no record.
    std::thread::sleep(Duration::from_millis(100));
    let resident = resident_memory(&lab.daemon)?;
    let frames: Vec<Vec<u8>> = (0..4 * SYNS)
        .map(|number| router.frame(mac(WAN, 1), &error(&syn(number))))
        .collect();
    let blast = router.blast(&frames, ERRORS)?;
    let established = |rises: &Counts| ended(rises, "outcome=\"established\"", "none");
    let rejected = |rises: &Counts| ended(rises, "outcome=\"rejected\"", "middlebox");
    let wanted = u64::from(SYNS);
    risen(
        &lab.daemon,
        &NAMES,
        &before,
        Duration::from_secs(15),
        |rises| established(rises) >= wanted && rejected(rises) >= wanted,
    )?;
    // Whatever else was taken for an attempt is counted as unanswered after 7 s.
    std::thread::sleep(Duration::from_secs(8));
    let rises = rise(&before, &counters(&lab.daemon, &NAMES)?)?;
    ensure!(
        established(&rises) == wanted
            && rejected(&rises) == wanted
            && sum(&rises, &[]) == 2 * wanted,
        "{blast:?}\n{}",
        listed(&rises)
    );
    let entries = sum(&counters(&lab.daemon, &["map_entries"])?, &["attempts"]);
    ensure!(
        entries == records + 2 * wanted,
        "{entries} records, {records} before"
    );
    let now = resident_memory(&lab.daemon)?;
    ensure!(
        now < resident + GROWTH,
        "{now} KiB resident, {resident} before"
    );
    let peak = mib(peak_memory(&lab.daemon)?);
    lab.daemon.stop()?;
    Ok(format!(
        "{} errors at {:.0}/s; established {}, rejected {}, others 0, records {}; resident {} KiB before, {now} \
         after, peak {peak} MiB",
        blast.offered,
        blast.rate(),
        established(&rises),
        rejected(&rises),
        entries - records,
        resident,
    ))
}
