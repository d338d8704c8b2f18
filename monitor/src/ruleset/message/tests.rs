use super::*;
use crate::netlink::NLMSGHDR;

/// `nft add rule inet t c tcp dport 7680 drop` up to the chain, then its transaction, as Linux 6.18
/// sends them, but for the length of the rule.
fn datagram() -> Vec<u8> {
    let rule = [
        attribute(NFTA_ANY_TABLE, b"t\0"),
        attribute(2, b"c\0"),
        attribute(3, &5_u64.to_be_bytes()),
    ];
    let generation = [
        attribute(NFTA_GEN_ID, &0x0001_0008_u32.to_be_bytes()),
        attribute(NFTA_GEN_PROC_PID, &20305_u32.to_be_bytes()),
        attribute(NFTA_GEN_PROC_NAME, b"nft\0"),
    ];
    [
        message(10 << 8 | NFT_MSG_NEWRULE, 1, &rule.concat()),
        message(10 << 8 | NFT_MSG_NEWGEN, 0, &generation.concat()),
    ]
    .concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Of the generation 8 and the port 77.
fn message(kind: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = NLMSGHDR + NFGENMSG + attributes.len();
    bytes.extend(u32::try_from(length).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 6]);
    bytes.extend(77_u32.to_ne_bytes());
    bytes.extend([family, 0, 0, 8]);
    bytes.extend(attributes);
    bytes
}

fn bodies(datagram: &[u8]) -> Vec<Body> {
    decode(datagram).map(|frame| frame.body).collect()
}

fn table(name: &str) -> Table {
    Table {
        family: TableFamily::Inet,
        name: name.into(),
    }
}

#[test]
fn a_rule_and_its_transaction_are_read() {
    let frame = |body| Frame {
        port: 77,
        generation: 8,
        body,
    };
    let by = Process {
        pid: 20305,
        name: "nft".into(),
    };
    let frames: Vec<_> = decode(&datagram()).collect();
    assert_eq!(
        frames,
        [
            frame(Body::Part(Kind::Rules, Some(table("t")))),
            frame(Body::Generation {
                id: Some(0x0001_0008),
                by: Some(by)
            }),
        ]
    );
    assert_eq!(table("t").to_string(), "inet t");
}

#[test]
fn each_message_has_its_kind() {
    let kinds = |messages: &[u16]| -> Vec<Body> {
        messages
            .iter()
            .flat_map(|kind| bodies(&message(10 << 8 | kind, 1, &attribute(1, b"t\0"))))
            .collect()
    };
    let sets = kinds(&[9, 11, 12, 14]);
    assert_eq!(sets, vec![Body::Part(Kind::Sets, Some(table("t"))); 4]);
    let rules = kinds(&[0, 2, 3, 5, 6, 8, 18, 20, 22, 24]);
    assert_eq!(rules, vec![Body::Part(Kind::Rules, Some(table("t"))); 10]);
    let neither = kinds(&[1, 16, 17, 21, 200]);
    assert_eq!(neither, vec![Body::Other; 5]);
    let other_subsystem = message(1 << 8, 1, &attribute(1, b"t\0"));
    assert_eq!(bodies(&other_subsystem), [Body::Other]);
}

#[test]
fn what_is_missing_is_left_out() {
    let nameless = message(10 << 8 | NFT_MSG_NEWTABLE, 1, &[]);
    assert_eq!(bodies(&nameless), [Body::Part(Kind::Rules, None)]);
    let empty = message(10 << 8 | NFT_MSG_NEWGEN, 0, &[]);
    let nothing = Body::Generation { id: None, by: None };
    assert_eq!(bodies(&empty), [nothing]);
    let odd = [
        attribute(NFTA_GEN_ID, &[0, 1]),
        attribute(NFTA_GEN_PROC_NAME, b"no \xff NUL"),
    ];
    let odd = message(10 << 8 | NFT_MSG_NEWGEN, 0, &odd.concat());
    assert_eq!(bodies(&odd), [Body::Generation { id: None, by: None }]);
}

#[test]
fn no_bytes_are_too_odd() {
    let datagram = datagram();
    for length in 0..datagram.len() {
        assert!(decode(&datagram[..length]).count() < 2);
        // A message that says that it is shorter.
        let mut short = datagram.clone();
        short[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
        decode(&short).for_each(drop);
    }
    for offset in 0..datagram.len() {
        for byte in [0, 1, 3, 0x7f, 0x80, 0xff] {
            let mut odd = datagram.clone();
            odd[offset] = byte;
            decode(&odd).for_each(drop);
        }
    }
}

#[test]
fn the_request_asks_for_the_generation() {
    let request = generation_request();
    assert_eq!(request.len(), 20);
    assert_eq!(request[..4], 20_u32.to_ne_bytes());
    assert_eq!(request[4..6], (10_u16 << 8 | 16).to_ne_bytes());
    assert_eq!(request[6..8], 1_u16.to_ne_bytes());
    assert!(request[8..].iter().all(|byte| *byte == 0));
}
