//! Packets laid out as in public captures of Teredo.

use monitor_common::packet::Ports;
use monitor_common::teredo::COPIED;
use proptest::prelude::*;

use super::*;

const NONCE: Nonce = [0x31, 0x9c, 0x04, 0x77, 0xe0, 0x5a, 0x12, 0x88];
const CLIENT: &str = "fe80::ffff:ffff:fffe";
const CONE_CLIENT: &str = "fe80::8000:ffff:ffff:fffe";

fn authentication_header(id: &[u8], value: &[u8], nonce: Nonce) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let mut bytes = vec![0, 1, length(id), length(value)];
    bytes.extend([id, value, &nonce, &[0]].concat());
    bytes
}

fn ipv6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 255];
    bytes[5] = u8::try_from(payload.len()).unwrap();
    for address in [source, destination] {
        bytes.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    bytes.extend(payload);
    bytes
}

fn solicitation(source: &str) -> Vec<u8> {
    ipv6(source, "ff02::2", 58, &[133, 0, 0x7d, 0x38, 0, 0, 0, 0])
}

fn advertisement(destination: &str) -> Vec<u8> {
    let mut icmp = vec![134, 0, 0xab, 0xcd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0xd0];
    icmp.extend([3, 4, 64, 0x40]);
    icmp.extend([0xff; 8]);
    icmp.extend([0; 4]);
    icmp.extend(
        "2001:0:53aa:64c::"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    ipv6("fe80::8000:f227:ac55:f9b3", destination, 58, &icmp)
}

fn origin() -> Vec<u8> {
    vec![0, 0, 0xf2, 0x3b, 0x52, 0xf1, 0x9c, 0x7e]
}

#[test]
fn a_solicitation_is_recognised() {
    let payload = [authentication_header(&[], &[], NONCE), solicitation(CLIENT)].concat();
    assert_eq!(payload.len(), 61, "as captured");
    let nonce = Some(NONCE);
    assert_eq!(
        parse(&payload),
        Message::Solicitation { nonce, cone: false }
    );
    let cone = [
        authentication_header(&[], &[], NONCE),
        solicitation(CONE_CLIENT),
    ]
    .concat();
    assert_eq!(parse(&cone), Message::Solicitation { nonce, cone: true });
    // Miredo's link-local addresses end in letters.
    let other = [
        authentication_header(&[], &[], NONCE),
        solicitation("fe80::8000:5445:5245:444f"),
    ];
    assert_eq!(
        parse(&other.concat()),
        Message::Solicitation { nonce, cone: true }
    );
}

#[test]
fn an_advertisement_is_recognised() {
    let payload = [
        authentication_header(&[], &[], NONCE),
        origin(),
        advertisement(CLIENT),
    ];
    let payload = payload.concat();
    assert_eq!(payload.len(), 109, "as captured");
    let nonce = Some(NONCE);
    assert_eq!(
        parse(&payload),
        Message::Advertisement { nonce, cone: false }
    );
    // All that a driver with a small linear part leaves.
    assert_eq!(
        parse(&payload[..62]),
        Message::Advertisement { nonce, cone: false }
    );
    assert_eq!(parse(&payload[..61]), Message::Other);
    let cone = [origin(), advertisement(CONE_CLIENT)].concat();
    assert_eq!(
        parse(&cone),
        Message::Advertisement {
            nonce: None,
            cone: true
        }
    );
}

#[test]
fn authentication_data_is_skipped() {
    let header = authentication_header(b"client", &[7; 20], NONCE);
    let payload = [header, solicitation(CLIENT)].concat();
    let nonce = Some(NONCE);
    assert_eq!(
        parse(&payload),
        Message::Solicitation { nonce, cone: false }
    );
    let header = authentication_header(&[1; 255], &[2; 255], NONCE);
    assert_eq!(parse(&header[..128]), Message::Other);
}

#[test]
fn a_nonce_of_zeros_is_none() {
    let payload = [
        authentication_header(&[], &[], [0; 8]),
        solicitation(CLIENT),
    ]
    .concat();
    let none = Message::Solicitation {
        nonce: None,
        cone: false,
    };
    assert_eq!(parse(&payload), none);
    assert_eq!(
        parse(&solicitation(CLIENT)),
        none,
        "no authentication header"
    );
}

#[test]
fn anything_else_is_other() {
    let bubble = ipv6("2001:0:53aa:64c::1", "2001:0:53aa:64c::2", 59, &[]);
    assert_eq!(parse(&bubble), Message::Other);
    assert_eq!(parse(&[]), Message::Other);
    assert_eq!(parse(&[0, 1]), Message::Other);
    assert_eq!(parse(&solicitation("2001:0:53aa:64c::1")), Message::Other);
    let echo = ipv6(CLIENT, "ff02::2", 58, &[128, 0, 0, 0]);
    assert_eq!(parse(&echo), Message::Other);
    let tcp = ipv6(CLIENT, "ff02::2", 6, &[133, 0, 0, 0]);
    assert_eq!(parse(&tcp), Message::Other);
    let mut version_4 = solicitation(CLIENT);
    version_4[0] = 0x45;
    assert_eq!(parse(&version_4), Message::Other);
}

fn record(payload: &[u8]) -> TeredoPacket {
    let mut copied = [0xee; COPIED as usize];
    copied[..payload.len()].copy_from_slice(payload);
    TeredoPacket {
        time_ns: 5,
        location: 9,
        addresses: [[10, 0, 0, 2], [192, 0, 2, 1]],
        reason: 12,
        ports: Ports {
            source: 50_000_u16.to_be(),
            destination: 3544_u16.to_be(),
        },
        length: u16::try_from(payload.len()).unwrap(),
        copied: u16::try_from(payload.len()).unwrap(),
        traffic: 1,
        stage: Stage::Dropped.code(),
        direction: Direction::Forwarded.code(),
        class: Class::Firewall.code(),
        pad: [0; 4],
        payload: copied,
    }
}

#[test]
fn records_are_decoded() {
    let packet = Packet::from_record(&record(&solicitation(CLIENT))).unwrap();
    assert_eq!(packet.source, "10.0.0.2:50000".parse().unwrap());
    assert_eq!(packet.destination, "192.0.2.1:3544".parse().unwrap());
    assert_eq!(packet.direction, Direction::Forwarded);
    let dropped = packet.dropped.unwrap();
    assert_eq!((dropped.class, dropped.reason), (Class::Firewall, 12));
    assert!(matches!(packet.message, Message::Solicitation { .. }));
    let mut odd = record(&[]);
    odd.copied = 129;
    assert_eq!(
        Packet::from_record(&odd),
        None,
        "more than there is room for"
    );
    odd = record(&[]);
    odd.stage = 9;
    assert_eq!(Packet::from_record(&odd), None, "an unknown code");
    assert_eq!(Packet::from_bytes(&[0; 175]), None);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _message = parse(&bytes);
        let header = [&[0, 1][..], &bytes].concat();
        let _message = parse(&header);
    }

    #[test]
    fn any_record_is_taken(bytes in prop::collection::vec(any::<u8>(), size_of::<TeredoPacket>())) {
        let _packet = Packet::from_bytes(&bytes);
    }
}
