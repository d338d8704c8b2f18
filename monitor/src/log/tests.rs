use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use monitor_common::counter::{Series, Slot};
use monitor_common::drop::Class;
use monitor_common::event::PacketEvent;
use monitor_common::{Direction, Family, Flow, Protocol, Verdict};
use serde_json::{Value, json};

use super::*;

struct Fake;

impl Names for Fake {
    fn traffic(&self, index: u8) -> Option<String> {
        (index == 0).then(|| "do_peer".to_owned())
    }

    fn interface(&self, index: u32) -> Option<String> {
        match index {
            7 => Some("eth0".to_owned()),
            8 => Some("e\x1b[2J\nx".to_owned()),
            _ => None,
        }
    }

    fn reason(&self, reason: u32) -> String {
        assert_eq!(reason, 8);
        "NETFILTER_DROP".to_owned()
    }
}

fn series(family: Family, protocol: Protocol) -> Series {
    Series {
        traffic: 0,
        protocol,
        family,
        direction: Direction::Inbound,
        flow: Flow::Request,
    }
}

fn event() -> PacketEvent {
    let mut source = [0; 16];
    source[..4].copy_from_slice(&[10, 0, 0, 2]);
    let mut destination = [0; 16];
    destination[..4].copy_from_slice(&[10, 0, 0, 1]);
    PacketEvent {
        time_ns: 1_500_000_000,
        location: 0xffff_ffff_8100_0000,
        source,
        destination,
        interface: 7,
        reason: 8,
        length: 60,
        segments: 1,
        source_port: 40_000_u16.to_be(),
        destination_port: 7680_u16.to_be(),
        slot: Slot::of(&series(Family::Ipv4, Protocol::Tcp)).0,
        verdict: Verdict::Dropped.code(),
        class: Class::Firewall.code(),
        tcp_flags: 0x02,
        pad: [0; 7],
    }
}

fn ipv6_udp() -> PacketEvent {
    let mut source = [0; 16];
    source[..2].copy_from_slice(&[0xfd, 0]);
    source[15] = 2;
    PacketEvent {
        source,
        destination: [0xff; 16],
        interface: 0,
        reason: 0,
        length: 4380,
        segments: 3,
        slot: Slot::of(&series(Family::Ipv6, Protocol::Udp)).0,
        verdict: Verdict::Allowed.code(),
        class: 0,
        tcp_flags: 0,
        ..event()
    }
}

/// The bytes as they come out of the ring buffer.
fn bytes(event: &PacketEvent) -> Vec<u8> {
    let start = std::ptr::from_ref(event).cast::<u8>();
    // SAFETY: a PacketEvent has no padding but its own `pad`, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(start, size_of::<PacketEvent>()) }.to_vec()
}

fn packet(event: &PacketEvent) -> Packet {
    Packet::from_bytes(&bytes(event)).unwrap()
}

/// The lines of some events, without their times, which are checked here.
fn lines(format: Format, events: &[PacketEvent]) -> Vec<String> {
    let mut out = Vec::new();
    let mut log = EventLog::new(format, &mut out);
    for event in events {
        log.packet(&packet(event), &Fake);
    }
    assert_eq!(log.write_errors(), 0);
    let text = String::from_utf8(out).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(time.len(), "2026-11-23T01:02:03.456Z".len(), "{time}");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    rest
}

#[test]
fn a_line_of_text_reads_from_left_to_right() {
    let gone = PacketEvent {
        interface: 9,
        tcp_flags: 0,
        ..event()
    };
    let other_traffic = Series {
        traffic: 5,
        direction: Direction::Forwarded,
        flow: Flow::Reply,
        ..series(Family::Ipv4, Protocol::Tcp)
    };
    let unknown = PacketEvent {
        slot: Slot::of(&other_traffic).0,
        tcp_flags: 0xff,
        ..event()
    };
    let lines = lines(Format::Text, &[event(), ipv6_udp(), gone, unknown]);
    let lines: Vec<_> = lines.iter().map(|line| without_time(line)).collect();
    assert_eq!(
        lines,
        [
            "dropped do_peer inbound tcp 10.0.0.2:40000 > 10.0.0.1:7680 eth0 NETFILTER_DROP firewall \
             60 bytes S",
            "allowed do_peer inbound udp [fd00::2]:40000 > [ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:7680 \
             - 4380 bytes in 3 packets",
            "dropped do_peer inbound tcp 10.0.0.2:40000 > 10.0.0.1:7680 interface#9 NETFILTER_DROP \
             firewall 60 bytes none",
            "dropped traffic#5 forwarded tcp 10.0.0.2:40000 > 10.0.0.1:7680 eth0 NETFILTER_DROP firewall \
             60 bytes FSRPAUEC",
        ]
    );
}

#[test]
fn a_line_of_json_has_every_key() {
    let lines = lines(Format::Json, &[event(), ipv6_udp()]);
    let mut values: Vec<Value> = lines
        .iter()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    for value in &mut values {
        let time = value.as_object_mut().unwrap().remove("time").unwrap();
        without_time(&format!("{} ", time.as_str().unwrap()));
    }
    assert_eq!(
        values,
        [
            json!({
                "verdict": "dropped", "traffic": "do_peer", "direction": "inbound", "flow": "request",
                "protocol": "tcp", "family": "ipv4", "source": "10.0.0.2", "source_port": 40_000,
                "destination": "10.0.0.1", "destination_port": 7680, "interface": "eth0",
                "reason": "NETFILTER_DROP", "class": "firewall", "length": 60, "segments": 1,
                "tcp_flags": "S",
            }),
            json!({
                "verdict": "allowed", "traffic": "do_peer", "direction": "inbound", "flow": "request",
                "protocol": "udp", "family": "ipv6", "source": "fd00::2", "source_port": 40_000,
                "destination": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "destination_port": 7680,
                "interface": null, "reason": null, "class": null, "length": 4380, "segments": 3,
                "tcp_flags": null,
            }),
        ]
    );
    assert!(lines[0].starts_with(r#"{"time":"20"#), "{}", lines[0]);
}

#[test]
fn names_cannot_write_the_log() {
    let hostile = PacketEvent {
        interface: 8,
        ..event()
    };
    for format in [Format::Text, Format::Json] {
        let lines = lines(format, &[hostile]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains('\x1b'), "{lines:?}");
    }
}

#[test]
fn what_no_program_writes_is_refused() {
    let good = bytes(&event());
    assert!(Packet::from_bytes(&good).is_some());
    assert_eq!(Packet::from_bytes(&good[..79]), None);
    assert_eq!(Packet::from_bytes(&[&good[..], &[0]].concat()), None);
    assert_eq!(Packet::from_bytes(&[]), None);
    for bad in [
        PacketEvent {
            slot: u16::MAX,
            ..event()
        },
        PacketEvent {
            verdict: 2,
            ..event()
        },
        PacketEvent {
            class: 11,
            ..event()
        },
    ] {
        assert_eq!(Packet::from_bytes(&bytes(&bad)), None, "{bad:?}");
    }
}

#[test]
fn suppressed_packets_are_told() {
    let limit = RateLimit {
        per_second: 10,
        burst: 100,
    };
    let mut out = Vec::new();
    let mut log = EventLog::new(Format::Text, &mut out);
    log.suppressed(12, Duration::from_secs(10), limit);
    log.suppressed(1, Duration::from_millis(2500), limit);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<_> = text.lines().map(without_time).collect();
    assert_eq!(
        lines,
        [
            "12 packet events suppressed in the last 10 s (rate limit 10/s, burst 100)",
            "1 packet event suppressed in the last 2.5 s (rate limit 10/s, burst 100)",
        ]
    );
    let mut out = Vec::new();
    EventLog::new(Format::Json, &mut out).suppressed(12, Duration::from_secs(10), limit);
    let mut value: Value = serde_json::from_slice(&out).unwrap();
    assert!(value.as_object_mut().unwrap().remove("time").is_some());
    let wanted = json!({
        "suppressed": 12, "interval_seconds": 10.0, "limit_per_second": 10, "burst": 100,
    });
    assert_eq!(value, wanted);
}

/// Takes `room` bytes, then fails until there is more.
struct Disk {
    room: mpsc::Receiver<usize>,
    left: usize,
    written: Vec<u8>,
}

impl Write for &mut Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.left = self.room.try_recv().unwrap_or(0);
        }
        let taken = bytes.len().min(self.left);
        if taken == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.left -= taken;
        self.written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_tears_one_line_only() {
    let (more, room) = mpsc::channel();
    let mut disk = Disk {
        room,
        left: 150,
        written: Vec::new(),
    };
    let mut log = EventLog::new(Format::Text, &mut disk);
    let packet = packet(&event());
    log.packet(&packet, &Fake);
    assert_eq!(log.write_errors(), 0);
    assert!(log.last_error().is_none());
    log.packet(&packet, &Fake);
    log.packet(&packet, &Fake);
    assert_eq!(log.write_errors(), 2);
    let why = log.last_error().map(io::Error::kind);
    assert_eq!(why, Some(io::ErrorKind::StorageFull));
    more.send(10_000).unwrap();
    log.packet(&packet, &Fake);
    log.packet(&packet, &Fake);
    assert_eq!(log.write_errors(), 2);
    let text = String::from_utf8(disk.written).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[1].len() < lines[0].len(), "{text}");
    for line in [lines[0], lines[2], lines[3]] {
        assert!(without_time(line).ends_with("60 bytes S"), "{text}");
    }
}

#[test]
fn a_reader_that_is_gone_ends_nothing() {
    let (reader, writer) = UnixStream::pair().unwrap();
    let mut log = EventLog::new(Format::Json, writer);
    let packet = packet(&event());
    log.packet(&packet, &Fake);
    assert_eq!(log.write_errors(), 0);
    // Closed whoever has it: a process that another test is about to start may have a copy for a moment.
    reader.shutdown(Shutdown::Both).unwrap();
    log.packet(&packet, &Fake);
    log.packet(&packet, &Fake);
    assert_eq!(log.write_errors(), 2);
}
