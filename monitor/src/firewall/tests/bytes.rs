//! Decoding, also of bytes that no kernel sends.

use proptest::prelude::*;

use super::super::rules::Operator;
use super::super::{decode, dump, legacy, xtables};
use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &attributes.concat())
}

fn payload(family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    [vec![family, 0, 0, 8], attributes.concat()].concat()
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    let name = attribute(1, &[name.as_bytes(), b"\0"].concat());
    nested(1, &[name, nested(2, data)])
}

/// `meta l4proto tcp tcp dport 7680 jump x` in the chain `c` of `inet t`.
fn rule_payload() -> Vec<u8> {
    let value = |kind, bytes: &[u8]| nested(kind, &[attribute(1, bytes)]);
    let verdict = [number(1, (-3_i32).cast_unsigned()), attribute(2, b"x\0")];
    let expressions = [
        expression("meta", &[number(1, 1), number(2, 16)]),
        expression("cmp", &[number(1, 1), number(2, 0), value(3, &[6])]),
        expression(
            "payload",
            &[number(1, 9), number(2, 2), number(3, 2), number(4, 2)],
        ),
        expression("cmp", &[number(1, 9), number(2, 0), value(3, &[0x1e, 0])]),
        expression("counter", &[]),
        expression(
            "immediate",
            &[number(1, 0), nested(2, &[nested(2, &verdict)])],
        ),
    ];
    let attributes = [
        attribute(1, b"t\0"),
        attribute(2, b"c\0"),
        attribute(3, &5_u64.to_be_bytes()),
        nested(4, &expressions),
    ];
    payload(1, &attributes)
}

#[test]
fn a_rule_is_decoded() {
    let (place, chain, rule) = decode::rule(&rule_payload()).unwrap();
    assert_eq!(place, (TableFamily::Inet, "t".to_owned()));
    assert_eq!(
        (chain.as_str(), rule.handle, rule.is_compat),
        ("c", Some(5), false)
    );
    let field = |register, length, kind| Expression::Load {
        register,
        length,
        fields: vec![Field { kind, at: 0 }],
    };
    let compare = |register, value: &[u8]| Expression::Compare {
        register,
        operator: Operator::Equal,
        value: value.to_vec(),
    };
    let expected = [
        field(0, 16, Kind::Protocol),
        compare(0, &[6]),
        field(4, 2, Kind::Port),
        compare(4, &[0x1e, 0]),
        jump("x"),
    ];
    assert_eq!(rule.expressions, expected);
}

/// The fields of `payload load LENGTH @ BASE + OFFSET`, as the kind and where it is.
fn loaded(family: u8, base: u32, offset: u32, length: u32) -> Vec<(Kind, usize)> {
    let data = [
        number(1, 1),
        number(2, base),
        number(3, offset),
        number(4, length),
    ];
    let attributes = [
        attribute(1, b"t\0"),
        attribute(2, b"c\0"),
        nested(4, &[expression("payload", &data)]),
    ];
    let (_, _, rule) = decode::rule(&payload(family, &attributes)).unwrap();
    let Some(Expression::Load { fields, .. }) = rule.expressions.first() else {
        return Vec::new();
    };
    fields.iter().map(|field| (field.kind, field.at)).collect()
}

#[test]
fn fields_that_are_loaded_at_once_are_told_apart() {
    let (inet, ip, ip6) = (1, 2, 10);
    assert_eq!(loaded(inet, 2, 0, 4), [(Kind::Port, 0), (Kind::Port, 2)]);
    assert_eq!(loaded(inet, 2, 0, 3), [(Kind::Port, 0)]);
    assert_eq!(loaded(inet, 2, 2, 6), [(Kind::Port, 0)]);
    assert_eq!(loaded(inet, 2, 4, 2), []);
    assert_eq!(loaded(ip, 1, 8, 2), [(Kind::Protocol, 1)]);
    assert_eq!(loaded(ip, 1, 6, 1), []);
    assert_eq!(loaded(ip6, 1, 6, 1), [(Kind::Protocol, 0)]);
    assert_eq!(loaded(inet, 1, 9, 1), [(Kind::Protocol, 0)]);
    assert_eq!(loaded(inet, 1, 8, 16), [], "an address");
    assert_eq!(loaded(inet, 2, u32::MAX, u32::MAX), []);
}

#[test]
fn a_swap_of_less_than_its_size_is_none() {
    let swap = |length, size| {
        let numbers = [number(1, 1), number(2, 1), number(3, 1), number(4, length)];
        let data = [numbers.as_slice(), &[number(5, size)]].concat();
        let expressions = nested(4, &[expression("byteorder", &data)]);
        let attributes = [attribute(1, b"t\0"), attribute(2, b"c\0"), expressions];
        let (_, _, rule) = decode::rule(&payload(1, &attributes)).unwrap();
        rule.expressions.len()
    };
    assert_eq!((swap(1, 2), swap(2, 2)), (0, 1));
}

#[test]
fn a_chain_and_a_flowtable_are_decoded() {
    let base = |family, hook| {
        let attributes = [
            attribute(1, b"t\0"),
            attribute(3, b"c\0"),
            nested(4, &[number(1, hook), number(2, 0)]),
            number(5, 0),
        ];
        let (_, chain) = decode::chain(&payload(family, &attributes)).unwrap();
        let base = chain.base.unwrap();
        assert!(base.drops);
        base.hook
    };
    assert_eq!(base(1, 5), "ingress");
    assert_eq!(base(2, 4), "postrouting");
    assert_eq!(base(3, 0), "input");
    assert_eq!(base(5, 1), "egress");
    assert_eq!(base(1, 7), "hook-7");
    assert_eq!(base(1, u32::MAX), "unknown");

    let devices = [
        attribute(1, b"eth0\0"),
        attribute(1, b"old"),
        attribute(2, b"lan\0"),
        attribute(2, b"wan"),
        attribute(3, b"later\0"),
    ];
    let attributes = [
        attribute(1, b"t\0"),
        attribute(2, b"f\0"),
        nested(3, &[number(1, 0), nested(3, &devices)]),
        number(7, 1),
    ];
    let flowtable = decode::flowtable(&payload(1, &attributes)).unwrap();
    assert_eq!((flowtable.name.as_str(), flowtable.hardware), ("f", true));
    assert_eq!(flowtable.devices, ["eth0", "old*", "lan*", "wan*"]);
    assert!(flowtable.has("eth0") && flowtable.has("wan1") && !flowtable.has("eth01"));
    assert!(
        decode::table(&payload(1, &[number(2, 1)])).is_none(),
        "no name"
    );
    let dormant = [attribute(1, b"t\0"), number(2, 1)];
    assert!(decode::table(&payload(1, &dormant)).unwrap().is_dormant);
}

#[test]
fn elements_are_decoded() {
    let value = |kind, bytes: &[u8]| nested(kind, &[attribute(1, bytes)]);
    let verdict = nested(2, &[nested(2, &[number(1, 0)])]);
    let list = [
        nested(1, &[value(1, &[0x1e, 0]), number(3, 1)]),
        nested(1, &[value(1, &[1, 2]), verdict, value(10, &[3, 4])]),
    ];
    let attributes = [attribute(1, b"t\0"), attribute(2, b"s\0"), nested(3, &list)];
    let elements: Vec<Element> = decode::elements(&payload(1, &attributes)).collect();
    let second = Element {
        end: Some(vec![3, 4]),
        verdict: Some(Verdict::Drop),
        ..element(&[1, 2], false)
    };
    assert_eq!(elements, [element(&[0x1e, 0], true), second]);
    let set = |flags| {
        let attributes = [attribute(1, b"t\0"), attribute(2, b"s\0"), number(3, flags)];
        decode::set(&payload(1, &attributes))
            .unwrap()
            .1
            .has_intervals
    };
    assert_eq!([0x3, 0x7, 0x84].map(set), [false, true, false]);
}

/// An entry of IPv4 with a match `tcp` of a destination port, for one that is not zero.
fn entry(port: u16, target: &str, data: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; 112];
    if port != 0 {
        entry[80] = TCP;
        let mut tcp = vec![0; 48];
        tcp[0] = 48;
        tcp[2..5].copy_from_slice(b"tcp");
        tcp[34..36].fill(0xff);
        tcp[36..38].copy_from_slice(&port.to_ne_bytes());
        tcp[38..40].copy_from_slice(&port.to_ne_bytes());
        entry.extend(tcp);
    }
    let target_at = u16::try_from(entry.len()).unwrap();
    let mut piece = vec![0; 32];
    piece[2..2 + target.len()].copy_from_slice(target.as_bytes());
    entry.extend(piece);
    entry.extend(data);
    entry.resize(entry.len().next_multiple_of(8), 0);
    let next = u16::try_from(entry.len()).unwrap();
    entry[88..90].copy_from_slice(&target_at.to_ne_bytes());
    entry[90..92].copy_from_slice(&next.to_ne_bytes());
    entry
}

/// `-P INPUT DROP`, `-A INPUT -p tcp --dport 7680 -j mine`, `-A mine -p tcp --dport 7680 -j REJECT`.
fn legacy_table() -> (Vec<u8>, Vec<u8>) {
    // The chain's first rule is behind 200 bytes of the jump, 152 of the policy, and 176 of the head.
    let entries = [
        entry(7680, "", &528_u32.to_ne_bytes()),
        entry(0, "", &(-1_i32).to_ne_bytes()),
        entry(0, "ERROR", b"mine\0                         "),
        entry(7680, "REJECT", &[0; 4]),
        entry(0, "", &(-5_i32).to_ne_bytes()),
        entry(0, "ERROR", b"ERROR\0                        "),
    ];
    let mut info = vec![0; 84];
    info[32] = 1 << 1;
    (info, entries.concat())
}

#[test]
fn a_table_of_iptables_legacy_is_decoded() {
    let (info, entries) = legacy_table();
    let table = legacy::table(false, "filter".to_owned(), &info, &entries);
    let survey = analyse(&[table], &PORTS);
    let expected = ["INPUT tcp 7680 jump mine", "mine tcp 7680 reject"];
    assert_eq!(shown(&survey.mentions), expected);
    assert_eq!(survey.mentions[1].hooks, ["input"]);
    assert_eq!(survey.mentions[1].handle, Some(1));
    assert!(survey.policies.len() == 1 && survey.policies[0].drops);
}

#[test]
fn the_name_of_a_chain_of_iptables_legacy_has_an_end() {
    let head = entry(0, "ERROR", &[b'n'; 1000]);
    let entries = [head, entry(0, "", &(-5_i32).to_ne_bytes())].concat();
    let table = legacy::table(false, "filter".to_owned(), &[0; 84], &entries);
    assert_eq!(table.chains[0].name, "n".repeat(30));
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn a_dump_ends_is_interrupted_or_fails() {
    let part = [
        message(10 << 8, 2, 7, b"one"),
        message(10 << 8, 2, 6, b"of another"),
        message(10 << 8, 0x12, 7, b"two"),
        message(3, 2, 7, &[0; 4]),
        message(10 << 8, 2, 7, b"behind the end"),
    ]
    .concat();
    let mut taken = Vec::new();
    let read = dump::read(&part, 7, |payload| {
        taken.push(payload.to_vec());
        true
    });
    let read = read.unwrap();
    assert_eq!(
        (read.is_last, read.is_interrupted, read.is_full),
        (true, true, false)
    );
    assert_eq!(taken, [b"one", b"two"]);
    let full = dump::read(&part, 7, |_| false).unwrap();
    assert_eq!((full.is_last, full.is_full), (false, true));
    let denied = message(2, 0, 7, &(-libc::EPERM).to_ne_bytes());
    let error = dump::read(&denied, 7, |_| true).unwrap_err();
    let error = SurveyError::new("it", error).to_string();
    assert_eq!(error, "can't read it without CAP_NET_ADMIN");
    let odd = message(2, 0, 7, &i32::MIN.to_ne_bytes());
    assert!(dump::read(&odd, 7, |_| true).is_err());
}

/// Whatever the bytes are, they are decoded and looked at.
fn all(bytes: &[u8], other: &[u8]) {
    let mut tables = vec![
        legacy::table(false, "filter".to_owned(), other, bytes),
        legacy::table(true, "nat".to_owned(), other, bytes),
    ];
    let mut nft = decode::table(bytes).unwrap_or_else(|| table(TableFamily::Ip, "t", vec![]));
    let set = decode::set(bytes).map(|(_, set)| set).unwrap_or_default();
    nft.sets.push(Set {
        elements: decode::elements(bytes).collect(),
        has_intervals: bytes.len().is_multiple_of(2),
        ..set
    });
    let mut chain =
        decode::chain(bytes).map_or_else(|| chain("c", None, vec![]), |(_, chain)| chain);
    chain
        .rules
        .extend(decode::rule(bytes).map(|(_, _, rule)| rule));
    chain.rules.extend([false, true].map(|is_verdict| {
        rule([
            load(0, Kind::Port),
            lookup(&nft.sets[0].name, !is_verdict, is_verdict),
        ])
    }));
    nft.chains.push(chain);
    tables.push(nft);
    analyse(&tables, &PORTS);
    decode::flowtable(bytes);
    for name in ["tcp", "udp", "multiport"] {
        xtables::decode_match(name, 1, bytes);
    }
    drop(dump::read(bytes, 0, |_| true));
}

#[test]
fn no_bytes_are_too_odd() {
    let (info, entries) = legacy_table();
    for sample in [rule_payload(), entries.clone(), info.clone()] {
        for length in 0..sample.len() {
            all(&sample[..length], &info);
        }
        for at in 0..sample.len() {
            for byte in [0, 1, 3, 0x7f, 0xff] {
                let mut odd = sample.clone();
                odd[at] = byte;
                all(&odd, &info);
            }
        }
    }
    for at in 0..info.len() {
        let mut odd = info.clone();
        odd[at] ^= 0xff;
        all(&entries, &odd[..at.max(40)]);
        all(&entries, &odd);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>, other: Vec<u8>) {
        all(&bytes, &other);
    }
}
