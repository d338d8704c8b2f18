//! Records that the kernel programs write, and the Teredo packets in them, which anybody on the network makes.

use std::mem::offset_of;
use std::net::IpAddr;
use std::time::Duration;

use monitor::attempt::Finished;
use monitor::attempt::teredo::TeredoTracker;
use monitor::attempt::totals::{Totals, possible};
use monitor::attempt::tracker::{Table, Tracker};
use monitor::log::{EventLog, Format, Names, Packet};
use monitor::teredo::{self, Message};
use monitor_common::attempt::{Attempt, AttemptKey};
use monitor_common::event::PacketEvent;
use monitor_common::packet::{Bytes, Plain, Reader};
use monitor_common::teredo::{COPIED, TeredoPacket};
use monitor_common::traffic::MAX_TRAFFICS;

use super::assert_printable;

/// Names as somebody would choose them who wants to write the log.
struct Hostile;

impl Names for Hostile {
    fn traffic(&self, index: u8) -> Option<String> {
        (index < 2).then(|| "do_peer".to_owned())
    }

    fn interface(&self, index: u32) -> Option<String> {
        (index % 2 == 1).then(|| "a b\n\u{1b}[2J\u{202e}\"".to_owned())
    }

    fn reason(&self, reason: u32) -> String {
        format!("REASON_{reason}\r\n")
    }
}

/// One line of each format, and what must be true of it.
fn lines(write: impl Fn(&mut EventLog<&mut Vec<u8>>)) {
    for format in [Format::Text, Format::Json] {
        let mut out = Vec::new();
        let mut log = EventLog::new(format, &mut out);
        write(&mut log);
        assert_eq!(log.write_errors(), 0);
        let text = String::from_utf8(out).expect("a line is UTF-8");
        let line = text.strip_suffix('\n').expect("a line has an end");
        assert_printable(line);
        if format == Format::Json {
            assert!(
                serde_json::from_str::<serde_json::Value>(line).is_ok(),
                "{line}"
            );
        }
    }
}

/// A record out of plain bytes, as the daemon takes one from a map: each field from its place.
fn attempt(bytes: &[u8]) -> Option<(AttemptKey, Attempt)> {
    // All of it is integers, whose alignment is that of the reader's copies.
    #[derive(Clone, Copy)]
    #[repr(C, packed)]
    struct Raw(AttemptKey, Attempt);
    // SAFETY: integers only, no padding (packed), alignment 1.
    unsafe impl Plain for Raw {}
    Bytes(bytes).get::<Raw>(0).map(|raw| (raw.0, raw.1))
}

/// What must be true of an attempt that ended.
fn check(finished: &Finished, totals: &mut Totals) {
    totals.add(finished);
    lines(|log| log.attempt(finished, &Hostile));
}

/// Records of packets (80 bytes) and of attempts (160 bytes with their key).
///
/// # Panics
///
/// Where a line of the log is more than a line, or attempts do not add up.
pub fn records(data: &[u8]) {
    const EVENT: usize = size_of::<PacketEvent>();
    for record in data.chunks(EVENT).take(8) {
        match Packet::from_bytes(record) {
            Some(packet) => {
                assert_eq!(record.len(), EVENT);
                assert!(packet.series.traffic < MAX_TRAFFICS);
                assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
                lines(|log| log.packet(&packet, &Hostile));
            }
            None if record.len() == EVENT => {}
            None => assert!(record.len() < EVENT),
        }
    }
    let entries: Vec<_> = data.chunks(160).take(64).filter_map(attempt).collect();
    let (mut tracker, mut totals) = (Tracker::default(), Totals::default());
    let mut ended = 0;
    for seconds in [0, 1, 10, 200, u64::MAX / 1_000_000_000] {
        let now = Duration::from_secs(seconds);
        let scan = tracker.scan(
            now,
            &[0; MAX_TRAFFICS as usize],
            entries.iter().copied(),
            Table::default(),
        );
        assert!(scan.forget.len() <= entries.len());
        for finished in &scan.finished {
            check(finished, &mut totals);
        }
        ended += scan.finished.len() as u64;
    }
    let counted: u64 = (0..=u8::MAX)
        .flat_map(|traffic| totals.counted(traffic).collect::<Vec<_>>())
        .map(|series| totals.attempts(&series))
        .sum();
    assert_eq!(counted, ended);
    assert!(tracker.live() <= entries.len() as u64);
}

/// A record of the kernel programs about a Teredo packet, or the payload of one.
///
/// # Panics
///
/// Where a message is more than the packet says, or rounds do not add up.
pub fn teredo(data: &[u8]) {
    let message = teredo::parse(data);
    if message != Message::Other {
        // An IPv6 header and the type of a message.
        assert!(data.len() > 40);
    }
    if let Message::Solicitation { nonce, .. } | Message::Advertisement { nonce, .. } = message {
        assert_ne!(nonce, Some([0; 8]));
    }
    let mut tracker = TeredoTracker::default();
    let (mut last, mut packets) = (Duration::ZERO, 0);
    for record in data.chunks(size_of::<TeredoPacket>()).take(32) {
        let Some(packet) = teredo::Packet::from_bytes(record) else {
            continue;
        };
        let payload = &record[offset_of!(TeredoPacket, payload)..][..COPIED as usize];
        if packet.message != Message::Other {
            assert!((0..=payload.len()).any(|n| teredo::parse(&payload[..n]) == packet.message));
        }
        last = last.max(packet.time);
        packets += 1;
        tracker.packet(&packet);
    }
    let mut totals = Totals::default();
    for seconds in [0, 60, 3600] {
        let now = last.saturating_add(Duration::from_secs(seconds));
        let scan = tracker.scan(now, Table::default(), |_: IpAddr| false);
        assert!(scan.finished.len() <= packets && scan.late.len() <= packets);
        for finished in &scan.finished {
            let who = possible(finished.outcome, finished.direction);
            assert!(who.contains(&finished.blocked_by), "{finished:?}");
            check(finished, &mut totals);
        }
    }
}
