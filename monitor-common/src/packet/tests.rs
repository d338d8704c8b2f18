//! What the parser and the glance make of packets that are made byte by byte.

extern crate std;
use std::vec::Vec;

use super::*;

fn ipv4(options: usize, protocol: u8, offset: u16) -> Vec<u8> {
    let header = 20 + options;
    let mut p = std::vec![0_u8; header + 20];
    p[0] = 0x40 | u8::try_from(header / 4).unwrap();
    let length = u16::try_from(p.len()).unwrap();
    p[2..4].copy_from_slice(&length.to_be_bytes());
    p[6..8].copy_from_slice(&offset.to_be_bytes());
    p[9] = protocol;
    p
}

#[test]
fn ipv4_options_move_the_transport_header() {
    for options in (0..=40).step_by(4) {
        let p = ipv4(options, 6, 0);
        let headers = parse_ipv4(&Bytes(&p), 0).unwrap();
        assert_eq!(headers.transport, u32::try_from(20 + options).unwrap());
        assert_eq!(headers.length, u32::try_from(p.len()).unwrap());
    }
}

#[test]
fn ipv4_headers_that_lie_are_refused() {
    let mut p = ipv4(0, 17, 0);
    p[0] = 0x44;
    assert_eq!(parse_ipv4(&Bytes(&p), 0), None, "header length below 20");
    p[0] = 0x65;
    assert_eq!(parse_ipv4(&Bytes(&p), 0), None, "version 6");
    p[0] = 0x45;
    p[2..4].copy_from_slice(&22_u16.to_be_bytes());
    assert_eq!(parse_ipv4(&Bytes(&p), 0), None, "ports in the padding");
    assert_eq!(parse_ipv4(&Bytes(&p[..19]), 0), None, "short");
    assert_eq!(parse_ipv4(&Bytes(&ipv4(0, 1, 0)), 0), None, "ICMP");
}

#[test]
fn a_later_fragment_has_no_ports() {
    let later = parse_ipv4(&Bytes(&ipv4(0, 17, 0x2001)), 0).unwrap();
    assert_eq!(later.later_fragment, 1);
    let first = parse_ipv4(&Bytes(&ipv4(0, 17, 0x2000)), 0).unwrap();
    assert_eq!(first.later_fragment, 0);
}

fn ipv6(chain: &[(u8, usize)], last: u8) -> Vec<u8> {
    let mut p = std::vec![0_u8; 40];
    p[0] = 0x60;
    let kinds: Vec<u8> = chain.iter().map(|(kind, _)| *kind).chain([last]).collect();
    p[6] = kinds[0];
    for (i, (kind, length)) in chain.iter().enumerate() {
        let mut header = std::vec![0_u8; *length];
        header[0] = kinds[i + 1];
        header[1] = match kind {
            51 => u8::try_from(length / 4 - 2).unwrap(),
            44 => 0,
            _ => u8::try_from(length / 8 - 1).unwrap(),
        };
        p.extend(header);
    }
    p.extend([0_u8; 20]);
    let payload = u16::try_from(p.len() - 40).unwrap();
    p[4..6].copy_from_slice(&payload.to_be_bytes());
    p
}

#[test]
fn ipv6_extension_headers_are_followed() {
    let p = ipv6(&[(0, 8), (60, 16), (43, 24), (51, 24), (44, 8)], 6);
    let headers = parse_ipv6(&Bytes(&p), 0).unwrap();
    assert_eq!(headers.transport, 40 + 8 + 16 + 24 + 24 + 8);
    assert_eq!(headers.later_fragment, 0);
    let chain: Vec<_> = (0..MAX_EXTENSION_HEADERS).map(|_| (60, 8)).collect();
    assert!(parse_ipv6(&Bytes(&ipv6(&chain, 17)), 0).is_some());
    let chain: Vec<_> = (0..20).map(|_| (60, 8)).collect();
    assert_eq!(parse_ipv6(&Bytes(&ipv6(&chain, 17)), 0), None);
}

#[test]
fn a_glance_takes_two_extension_headers_that_hold_options_and_no_others() {
    let look = |chain: &[(u8, usize)]| glance_ipv6_extended(&Bytes(&ipv6(chain, 6)), 0);
    for chain in [&[(0, 8), (60, 8)][..], &[(43, 24)], &[(60, 2048), (0, 16)]] {
        let header: usize = chain.iter().map(|(_, length)| length).sum();
        let glance = look(chain).unwrap();
        assert_eq!(glance.header, 40 + u32::try_from(header).unwrap());
        assert!(glance.is_tcp && glance.length() == glance.header + 20);
    }
    for chain in [
        &[][..],
        &[(0, 8), (60, 8), (60, 8)],
        &[(44, 8)],
        &[(0, 8), (51, 16)],
    ] {
        assert_eq!(look(chain), None, "{chain:?}");
    }
}

#[test]
fn a_segment_without_options_is_read_in_one() {
    let (p4, p6) = (ipv4(0, 6, 0), ipv6(&[], 6));
    let start4: Start4 = Bytes(&p4).get(0).unwrap();
    assert_eq!(start4.plain_length(), Some(40));
    let start6: Start6 = Bytes(&p6).get(0).unwrap();
    assert_eq!(start6.plain_length(), Some(60));
    for other in [ipv4(4, 6, 0), ipv4(0, 17, 0), ipv4(0, 6, 0x2001)] {
        let start: Start4 = Bytes(&other).get(0).unwrap();
        assert_eq!(start.plain_length(), None);
    }
    for other in [ipv6(&[(0, 8)], 6), ipv6(&[], 17)] {
        let start: Start6 = Bytes(&other).get(0).unwrap();
        assert_eq!(start.plain_length(), None);
    }
}

#[test]
fn segments_come_from_the_count_or_the_payload() {
    assert_eq!(segments(0, 0, 1500, 40), 1);
    assert_eq!(segments(7, 1448, 10_000, 52), 7);
    assert_eq!(segments(0, 1000, 2541, 40), 3);
    assert_eq!(segments(0, 1000, 40, 40), 1);
}
