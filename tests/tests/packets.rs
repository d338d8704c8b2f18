//! The kernel programs' packet parser beside another decoder: on packets that were captured, that are made at random
//! and as bytes at random.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what makes packets for tests is outside of them"
)]

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use monitor_tests::fuzz::packet::{Reason, Reasons, compare_frame, compare_ip};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How many packets of each kind are made; with `--long` thirty times as many.
const CASES: u32 = 10_000;

fn cases() -> u32 {
    if std::env::var_os("PEERWATCH_LONG").is_some() {
        CASES * 30
    } else {
        CASES
    }
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: cases(),
        failure_persistence: None,
        ..Config::default()
    })
}

/// The frames of a capture (`pcap-savefile(5)`, microseconds, of this machine's byte order or the other).
fn frames(capture: &[u8]) -> Vec<&[u8]> {
    let is_little = match capture[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] => false,
        _ => panic!("no capture: {:02x?}", &capture[..4]),
    };
    let number = |bytes: &[u8]| {
        let bytes = *bytes.first_chunk().expect("four bytes");
        let number = if is_little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        };
        usize::try_from(number).expect("fits")
    };
    assert_eq!(number(&capture[20..]), 1, "Ethernet");
    let mut frames = Vec::new();
    let mut rest = &capture[24..];
    while !rest.is_empty() {
        let (frame, behind) = rest[16..].split_at(number(&rest[8..]));
        frames.push(frame);
        rest = behind;
    }
    frames
}

#[test]
fn captured_packets_are_taken_alike() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let (mut count, mut reasons) = (0, Reasons::new());
    for file in fs::read_dir(folder).unwrap() {
        let capture = fs::read(file.unwrap().path()).unwrap();
        for frame in frames(&capture) {
            compare_frame(frame, &mut reasons);
            // As an interface without a link header has them, and cut short.
            for end in 0..frame.len() {
                compare_frame(&frame[..end], &mut reasons);
            }
            count += 1;
        }
    }
    println!("{count} frames, whole and cut: {reasons:?}");
    assert!(count >= 100, "{count}");
}

#[test]
fn random_bytes_are_taken_alike() {
    let strategy = (any::<bool>(), any::<bool>(), vec(any::<u8>(), 0..200));
    let reasons = RefCell::new(Reasons::new());
    runner()
        .run(&strategy, |(is_ipv6, has_start, mut bytes)| {
            // Pure noise is hardly ever IP.
            if has_start && let Some(first) = bytes.first_mut() {
                *first = if is_ipv6 { 0x60 } else { 0x45 };
            }
            compare_ip(&bytes, &mut reasons.borrow_mut());
            Ok(())
        })
        .unwrap();
    println!("{} packets: {:?}", cases(), reasons.into_inner());
}

/// Transport header and what is behind it, and its number.
fn transport() -> BoxedStrategy<(u8, Vec<u8>)> {
    let tcp = (
        any::<[u8; 12]>(),
        0_u8..16,
        any::<u8>(),
        vec(any::<u8>(), 6..60),
    )
        .prop_map(|(start, words, flags, rest)| {
            let mut bytes = start.to_vec();
            bytes.extend([words << 4, flags]);
            bytes.extend(rest);
            (6, bytes)
        });
    let udp = vec(any::<u8>(), 0..40).prop_map(|bytes| (17, bytes));
    let other = (any::<u8>(), vec(any::<u8>(), 0..40));
    prop_oneof![4 => tcp, 3 => udp, 1 => other].boxed()
}

/// An IPv4 packet with options, fragments of all kinds, and a length that may lie.
fn ipv4(transport: BoxedStrategy<(u8, Vec<u8>)>) -> BoxedStrategy<Vec<u8>> {
    let offset =
        prop_oneof![3 => Just(0_u16), 1 => Just(0x2000), 1 => Just(0x4000), 1 => any::<u16>()];
    let words = prop_oneof![6 => 5_u8..16, 1 => 0_u8..5];
    let length =
        prop_oneof![6 => Just(None), 1 => Just(Some(0_u16)), 1 => any::<u16>().prop_map(Some)];
    (
        transport,
        words,
        offset,
        length,
        any::<[u8; 8]>(),
        vec(any::<u8>(), 40),
    )
        .prop_map(
            |((number, data), words, offset, length, addresses, options)| {
                let header = usize::from(words.max(5)) * 4;
                let total = u16::try_from(header + data.len()).unwrap();
                let mut packet = vec![0x40 | words, 0];
                packet.extend(length.unwrap_or(total).to_be_bytes());
                packet.extend([0, 0]);
                packet.extend(offset.to_be_bytes());
                packet.extend([64, number, 0, 0]);
                packet.extend(addresses);
                packet.extend(&options[..header - 20]);
                packet.extend(data);
                packet
            },
        )
        .boxed()
}

/// One extension header: its number and its bytes, the first of which becomes the next number.
fn extension() -> BoxedStrategy<(u8, Vec<u8>)> {
    let plain = prop_oneof![
        Just(0_u8),
        Just(43),
        Just(60),
        Just(135),
        Just(139),
        Just(140)
    ];
    let plain = (plain, 0_u8..4, any::<u8>()).prop_map(|(number, units, fill)| {
        let mut bytes = vec![fill; (usize::from(units) + 1) * 8];
        bytes[1] = units;
        (number, bytes)
    });
    let authentication = (0_u8..8).prop_map(|words| {
        let mut bytes = vec![0; (usize::from(words) + 2) * 4];
        bytes[1] = words;
        (51, bytes)
    });
    let offset = prop_oneof![2 => Just(0_u16), 2 => Just(1), 1 => any::<u16>()];
    let fragment = offset.prop_map(|offset| {
        let [high, low] = offset.to_be_bytes();
        (44, vec![0, 0, high, low, 1, 2, 3, 4])
    });
    prop_oneof![4 => plain, 1 => authentication, 1 => fragment].boxed()
}

/// An IPv6 packet with extension headers in any order, and a length that may lie.
fn ipv6(transport: BoxedStrategy<(u8, Vec<u8>)>) -> BoxedStrategy<Vec<u8>> {
    let length =
        prop_oneof![6 => Just(None), 1 => Just(Some(0_u16)), 1 => any::<u16>().prop_map(Some)];
    let extensions = prop_oneof![4 => vec(extension(), 0..4), 1 => vec(extension(), 0..12)];
    (transport, extensions, length, any::<[u8; 32]>())
        .prop_map(|((number, data), extensions, length, addresses)| {
            let mut next: Vec<u8> = extensions.iter().map(|(number, _)| *number).collect();
            next.push(number);
            let mut body = Vec::new();
            for ((_, mut header), next) in extensions.into_iter().zip(&next[1..]) {
                header[0] = *next;
                body.extend(header);
            }
            body.extend(data);
            let payload = u16::try_from(body.len()).unwrap();
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.unwrap_or(payload).to_be_bytes());
            packet.extend([next[0], 64]);
            packet.extend(addresses);
            packet.extend(body);
            packet
        })
        .boxed()
}

/// An ICMP message of any type, errors mostly, with a packet in it.
fn icmp(is_ipv6: bool) -> BoxedStrategy<(u8, Vec<u8>)> {
    let kind = if is_ipv6 {
        prop_oneof![6 => 1_u8..5, 1 => any::<u8>()].boxed()
    } else {
        prop_oneof![6 => prop_oneof![Just(3_u8), Just(11), Just(12)], 1 => any::<u8>()].boxed()
    };
    let quoted = if is_ipv6 {
        ipv6(transport())
    } else {
        ipv4(transport())
    };
    let shown = prop_oneof![2 => Just(usize::MAX), 1 => 0_usize..80];
    (kind, 0_u8..16, any::<[u8; 6]>(), quoted, shown)
        .prop_map(move |(kind, code, rest, quoted, shown)| {
            let mut bytes = vec![kind, code];
            bytes.extend(rest);
            bytes.extend(&quoted[..shown.min(quoted.len())]);
            (if is_ipv6 { 58 } else { 1 }, bytes)
        })
        .boxed()
}

/// A frame with up to three tags, some of it missing or padding behind it.
fn frame() -> BoxedStrategy<Vec<u8>> {
    let packet = prop_oneof![
        3 => ipv4(transport()).prop_map(|packet| (0x0800_u16, packet)),
        4 => ipv6(transport()).prop_map(|packet| (0x86dd, packet)),
        2 => ipv4(icmp(false)).prop_map(|packet| (0x0800, packet)),
        2 => ipv6(icmp(true)).prop_map(|packet| (0x86dd, packet)),
    ];
    let tags = vec(prop_oneof![Just(0x8100_u16), Just(0x88a8)], 0..3);
    let end = prop_oneof![4 => Just(0_isize), 1 => -60_isize..0, 1 => 1_isize..40];
    (packet, tags, end)
        .prop_map(|((ethertype, packet), tags, end)| {
            let mut frame = vec![2; 12];
            for tag in tags {
                frame.extend(tag.to_be_bytes());
                frame.extend([0, 5]);
            }
            frame.extend(ethertype.to_be_bytes());
            frame.extend(packet);
            let length = frame.len().saturating_add_signed(end);
            frame.resize(length, 0);
            frame
        })
        .boxed()
}

#[test]
fn packets_of_all_kinds_are_taken_alike_or_differ_for_a_known_reason() {
    let reasons = RefCell::new(Reasons::new());
    runner()
        .run(&frame(), |frame| {
            compare_frame(&frame, &mut reasons.borrow_mut());
            Ok(())
        })
        .unwrap();
    println!("{} frames: {:#?}", cases(), reasons.into_inner());
}

/// An IPv4 packet of a protocol, with everything right about it.
fn plain_ipv4(protocol: u8, data: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + data.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(data);
    packet
}

/// An IPv6 packet with this number in its header.
fn plain_ipv6(next: u8, data: &[u8]) -> Vec<u8> {
    let payload = u16::try_from(data.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(payload.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([1; 32]);
    packet.extend(data);
    packet
}

/// A packet for each reason, so that none is left that no packet gives rise to: it would let off what should be found.
#[test]
fn every_reason_has_its_packet() {
    let syn = [
        &[0x9c, 0x40, 0x1e, 0x00, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2][..],
        &[0; 6],
    ]
    .concat();
    let unreachable = |packet: &[u8]| [&[3, 1, 0, 0, 0, 0, 0, 0], packet].concat();
    let options = |next: u8, units: u8| {
        let mut header = vec![0; (usize::from(units) + 1) * 8];
        header[..2].copy_from_slice(&[next, units]);
        header
    };
    let changed = |packet: &[u8], at: usize, bytes: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let tcp = plain_ipv4(6, &syn);
    let error = plain_ipv4(1, &unreachable(&tcp));
    let chain = |count: usize, units: u8| {
        let mut body = options(60, units).repeat(count - 1);
        body.extend(options(6, units));
        body.extend(&syn);
        plain_ipv6(60, &body)
    };
    let authentication = [&[6, 1][..], &[0; 10], &syn].concat();
    let empty = [&[6, 0][..], &[0; 6], &syn].concat();
    let later = plain_ipv6(44, &[6, 0, 1, 0, 0, 0, 0, 0]);
    let error6 = plain_ipv6(
        58,
        &[&[1, 3, 0, 0, 0, 0, 0, 0], chain(1, 0).as_slice()].concat(),
    );
    // An IPv4 header of 16 bytes: the destination is where ICMP would begin.
    let outer = [
        &changed(&plain_ipv4(1, &[]), 16, &[3, 1, 0, 0])[..],
        &[0; 4],
        &tcp,
    ]
    .concat();
    let packets = [
        (Reason::Ipv4Authentication, plain_ipv4(51, &authentication)),
        (Reason::Ipv4TooShort, changed(&tcp, 2, &[0, 19])),
        (
            Reason::Ipv4OptionsCut,
            changed(&changed(&tcp, 0, &[0x4f]), 6, &[0, 9]),
        ),
        (
            Reason::OtherExtension,
            plain_ipv6(135, &[&options(6, 0)[..], &syn].concat()),
        ),
        (
            Reason::HopByHopLater,
            plain_ipv6(60, &[&options(0, 0)[..], &options(6, 0), &syn].concat()),
        ),
        (Reason::LongChain, chain(9, 0)),
        (Reason::EmptyAuthentication, plain_ipv6(51, &empty)),
        (Reason::TooFar, chain(8, 255)),
        (Reason::FragmentHeaderCut, later[..46].to_vec()),
        (Reason::TcpHeaderCut, tcp[..38].to_vec()),
        (Reason::ErrorInFragment, changed(&error, 6, &[0, 9])),
        (Reason::ErrorTooShort, changed(&error, 2, &[0, 40])),
        (Reason::QuotedHeaderLength, changed(&error, 28, &[0x42])),
        (Reason::QuotedFragment, changed(&error, 28 + 6, &[0, 9])),
        (Reason::QuotedExtension, error6),
        (Reason::OuterHeader, changed(&outer, 0, &[0x44])),
    ];
    assert_eq!(packets.len(), Reason::ALL.len());
    for (reason, packet) in packets {
        let mut reasons = Reasons::new();
        compare_ip(&packet, &mut reasons);
        assert_eq!(
            reasons.keys().collect::<Vec<_>>(),
            [&reason],
            "{packet:02x?}"
        );
    }
}
