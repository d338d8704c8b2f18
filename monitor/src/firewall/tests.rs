//! What a rule says; `tables` is about whole tables, `bytes` about the decoding.

mod bytes;
mod reach;
mod tables;

use super::rules::{Base, Chain, Element, Expression, Field, Kind, Operator, Rule, Set, Verdict};
use super::*;
use crate::ruleset::TableFamily;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The ports of Delivery Optimization, and that of Teredo.
const PORTS: [Port; 3] = [
    port(Protocol::Tcp, 7680),
    port(Protocol::Udp, 7680),
    port(Protocol::Udp, 3544),
];

const fn port(protocol: Protocol, number: u16) -> Port {
    Port { protocol, number }
}

fn load(register: usize, kind: Kind) -> Expression {
    let (length, fields) = (16, vec![Field { kind, at: 0 }]);
    Expression::Load {
        register,
        length,
        fields,
    }
}

fn compare(operator: Operator, value: &[u8]) -> Expression {
    let (register, value) = (0, value.to_vec());
    Expression::Compare {
        register,
        operator,
        value,
    }
}

fn lookup(set: &str, inverted: bool, is_verdict: bool) -> Expression {
    let (register, set) = (0, set.to_owned());
    Expression::Lookup {
        register,
        set,
        inverted,
        is_verdict,
    }
}

/// `meta l4proto NUMBER`.
fn protocol(number: u8) -> [Expression; 2] {
    let load = load(0, Kind::Protocol);
    [load, compare(Operator::Equal, &[number])]
}

/// `th dport OPERATOR NUMBER`.
fn th_dport(operator: Operator, number: u16) -> [Expression; 2] {
    let load = load(0, Kind::Port);
    [load, compare(operator, &number.to_be_bytes())]
}

fn drop_() -> Expression {
    Expression::Verdict(Verdict::Drop)
}

fn jump(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(chain.to_owned()))
}

fn rule(expressions: impl IntoIterator<Item = Expression>) -> Rule {
    Rule {
        expressions: expressions.into_iter().collect(),
        ..Rule::default()
    }
}

fn chain(name: &str, hook: Option<&str>, rules: Vec<Rule>) -> Chain {
    let base = hook.map(|hook| Base {
        hook: hook.to_owned(),
        drops: hook == "forward",
    });
    let name = name.to_owned();
    Chain { name, base, rules }
}

fn table(family: TableFamily, name: &str, chains: Vec<Chain>) -> Table {
    let mut table = Table::new(family, name.to_owned());
    table.chains = chains;
    table
}

fn element(key: &[u8], is_interval_end: bool) -> Element {
    Element {
        key: key.to_vec(),
        is_interval_end,
        ..Element::default()
    }
}

fn set(has_intervals: bool, elements: Vec<Element>) -> Set {
    Set {
        name: "s".to_owned(),
        has_intervals,
        elements,
    }
}

fn shown(mentions: &[Mention]) -> Vec<String> {
    let show = |m: &Mention| format!("{} {} {} {}", m.chain, m.protocol, m.port, m.verdict);
    mentions.iter().map(show).collect()
}

/// What a rule of a base chain mentions, where the set `s` is as given: without the chain.
fn said(expressions: impl IntoIterator<Item = Expression>, sets: Vec<Set>) -> Vec<String> {
    let chains = vec![chain("c", Some("input"), vec![rule(expressions)])];
    let mut table = table(TableFamily::Inet, "t", chains);
    table.sets = sets;
    let mentions = shown(&analyse(&[table], &PORTS).mentions);
    let without = |line: String| line.trim_start_matches("c ").to_owned();
    mentions.into_iter().map(without).collect()
}

const BOTH_7680: [&str; 2] = ["tcp 7680 -", "udp 7680 -"];

#[test]
fn a_comparison_names_ports() {
    assert_eq!(said(th_dport(Operator::Equal, 7680), vec![]), BOTH_7680);
    assert_eq!(said(th_dport(Operator::NotEqual, 7680), vec![]), BOTH_7680);
    assert_eq!(said(th_dport(Operator::Greater, 7000), vec![]), BOTH_7680);
    assert_eq!(said(th_dport(Operator::Less, 7680), vec![]), ["udp 3544 -"]);
    let nothing: [&str; 0] = [];
    assert_eq!(said(th_dport(Operator::Equal, 80), vec![]), nothing);
    assert_eq!(said(th_dport(Operator::NotEqual, 80), vec![]), nothing);
    assert_eq!(said(th_dport(Operator::GreaterOrEqual, 0), vec![]), nothing);
    let all = th_dport(Operator::LessOrEqual, u16::MAX);
    assert_eq!(said(all, vec![]), nothing);
}

#[test]
fn two_comparisons_of_one_field_name_what_both_allow() {
    let between = |from: u16, to: u16| {
        [
            load(0, Kind::Port),
            compare(Operator::GreaterOrEqual, &from.to_be_bytes()),
            compare(Operator::LessOrEqual, &to.to_be_bytes()),
        ]
    };
    assert_eq!(said(between(7000, 8000), vec![]), BOTH_7680);
    assert_eq!(said(between(7000, 7679), vec![]), Vec::<String>::new());
    // Of two fields, each names its own.
    let fields = [
        th_dport(Operator::Equal, 80),
        th_dport(Operator::Equal, 7680),
    ];
    assert_eq!(said(fields.concat(), vec![]), BOTH_7680);
}

#[test]
fn a_range_names_ports_and_so_does_its_opposite() {
    let range = |inverted, from: u16, to: u16| {
        let (from, to) = (from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec());
        let register = 0;
        let range = Expression::Range {
            register,
            inverted,
            from,
            to,
        };
        said([load(0, Kind::Port), range, drop_()], vec![])
    };
    assert_eq!(range(false, 3540, 3550), ["udp 3544 drop"]);
    assert_eq!(range(true, 3540, 3550), ["udp 3544 drop"]);
    assert_eq!(range(false, 0, u16::MAX), Vec::<String>::new());
    assert_eq!(range(true, 0, 100), Vec::<String>::new());
}

#[test]
fn a_part_of_a_port_names_all_that_have_it() {
    let masked = |mask: u16, value: u16| {
        let mask = Expression::Mask {
            source: 0,
            register: 0,
            mask: mask.to_be_bytes().to_vec(),
            xor: vec![0, 0],
        };
        let compare = compare(Operator::Equal, &value.to_be_bytes());
        said([load(0, Kind::Port), mask, compare], vec![])
    };
    assert_eq!(masked(0xff00, 0x1e00), BOTH_7680);
    assert_eq!(masked(0xff00, 0x1f00), Vec::<String>::new());
    assert_eq!(masked(0, 0), Vec::<String>::new(), "nothing is compared");
}

#[test]
fn behind_the_registers_there_is_nothing() {
    let mask = |register, length: usize| Expression::Mask {
        source: 0,
        register,
        mask: vec![0xff; length],
        xor: vec![0; length],
    };
    let carried = |register, length| {
        let expressions = [load(0, Kind::Port), mask(register, length)];
        let value = [0x1e, 0].repeat(length / 2);
        let compare = Expression::Compare {
            register,
            operator: Operator::Equal,
            value,
        };
        said(expressions.into_iter().chain([compare]), vec![])
    };
    assert_eq!(carried(62, 2), BOTH_7680);
    assert_eq!(carried(63, 2), Vec::<String>::new());
}

#[test]
fn the_rule_tells_the_protocol() {
    let with = |number: u8| {
        said(
            [protocol(number), th_dport(Operator::Equal, 7680)].concat(),
            vec![],
        )
    };
    assert_eq!(with(TCP), ["tcp 7680 -"]);
    assert_eq!(with(UDP), ["udp 7680 -"]);
    assert_eq!(with(132), Vec::<String>::new(), "SCTP");
    let set = || {
        vec![set(
            false,
            vec![element(&[TCP], false), element(&[1], false)],
        )]
    };
    let by_set = |inverted| {
        let lookup = [load(0, Kind::Protocol), lookup("s", inverted, false)];
        said([lookup, th_dport(Operator::Equal, 7680)].concat(), set())
    };
    assert_eq!(by_set(false), ["tcp 7680 -"]);
    assert_eq!(by_set(true), ["udp 7680 -"]);
    let excluded = [load(0, Kind::Protocol), compare(Operator::NotEqual, &[TCP])];
    let excluded = [excluded, th_dport(Operator::Equal, 7680)].concat();
    assert_eq!(said(excluded, vec![]), ["udp 7680 -"]);
}

#[test]
fn a_set_names_ports() {
    let ask = |set, inverted| {
        said(
            [load(0, Kind::Port), lookup("s", inverted, false)],
            vec![set],
        )
    };
    let key = |port: u16, is_end| element(&port.to_be_bytes(), is_end);
    let plain = || set(false, vec![key(80, false), key(7680, false)]);
    assert_eq!(ask(plain(), false), BOTH_7680);
    assert_eq!(ask(plain(), true), BOTH_7680);
    // As the kernel lists them: 7000-7679 and 7681-8000, from the last to the first.
    let mut ends = vec![
        key(8001, true),
        key(7681, false),
        key(7680, true),
        key(7000, false),
    ];
    ends.push(key(0, true));
    assert_eq!(ask(set(true, ends.clone()), false), Vec::<String>::new());
    ends.insert(2, key(7680, false));
    assert_eq!(ask(set(true, ends), false), BOTH_7680, "up to the next");
    let open = set(true, vec![key(7000, false)]);
    assert_eq!(ask(open, false), BOTH_7680, "up to the last");
    let all = set(true, vec![key(0, false)]);
    assert_eq!(ask(all, false), Vec::<String>::new());
    assert_eq!(
        said([load(0, Kind::Port), lookup("gone", false, false)], vec![]),
        Vec::<String>::new()
    );
}

#[test]
fn a_concatenation_names_ports_of_its_protocols() {
    let fields = |end: Option<[u8; 6]>, key: [u8; 6]| {
        let end = end.map(|end| end.to_vec());
        let element = Element {
            end,
            ..element(&key, false)
        };
        // The load of a protocol says nothing of its length; what is behind it comes later.
        let loads = [load(0, Kind::Protocol), load(4, Kind::Port)];
        let lookup = lookup("s", false, false);
        let expressions = loads.into_iter().chain([lookup]);
        said(expressions, vec![set(false, vec![element])])
    };
    assert_eq!(fields(None, [UDP, 0, 0, 0, 0x1e, 0]), ["udp 7680 -"]);
    assert_eq!(fields(None, [TCP, 0, 0, 0, 0x1e, 1]), Vec::<String>::new());
    let (from, to) = ([0, 0, 0, 0, 0x1d, 0], [UDP, 0, 0, 0, 0x1f, 0]);
    assert_eq!(fields(Some(to), from), BOTH_7680);
}

#[test]
fn a_verdict_map_says_what_becomes_of_each() {
    let entry = |port: u16, verdict| Element {
        verdict: Some(verdict),
        ..element(&port.to_be_bytes(), false)
    };
    let map = vec![
        entry(7680, Verdict::Goto("other".to_owned())),
        entry(3544, Verdict::Drop),
        entry(80, Verdict::Accept),
    ];
    let expressions = [load(0, Kind::Port), lookup("s", false, true)];
    assert_eq!(
        said(expressions, vec![set(false, map)]),
        [
            "udp 3544 drop",
            "tcp 7680 goto other",
            "udp 7680 goto other"
        ]
    );
}

#[test]
fn verdicts_are_in_words() {
    let with = |last: &[Expression]| {
        let rule = [protocol(TCP), th_dport(Operator::Equal, 7680)].concat();
        said([rule, last.to_vec()].concat(), vec![])
    };
    let action = |word: &str| Expression::Action(word.to_owned());
    assert_eq!(with(&[jump("x")]), ["tcp 7680 jump x"]);
    assert_eq!(
        with(&[action("log"), action("reject")]),
        ["tcp 7680 reject"]
    );
    assert_eq!(
        with(&[action("reject"), action("log")]),
        ["tcp 7680 reject"]
    );
    assert_eq!(with(&[action("log"), drop_()]), ["tcp 7680 drop"]);
}

#[test]
fn matches_of_xtables_name_ports() {
    let ports = |protocol, ranges: &[(u16, u16)]| {
        let ranges = ranges.to_vec();
        said([Expression::Ports { protocol, ranges }], vec![])
    };
    assert_eq!(
        ports(Some(TCP), &[(0, u16::MAX), (7680, 7680)]),
        ["tcp 7680 -"]
    );
    assert_eq!(
        ports(Some(UDP), &[(3000, 8000), (0, u16::MAX)]),
        ["udp 3544 -", "udp 7680 -"]
    );
    assert_eq!(ports(None, &[(7680, 7680)]), BOTH_7680);
    assert_eq!(ports(None, &[(0, u16::MAX), (2, 1)]), Vec::<String>::new());
}

#[test]
fn matches_of_xtables_are_decoded() {
    let numbers = |numbers: &[u16]| {
        numbers
            .iter()
            .flat_map(|n| n.to_ne_bytes())
            .collect::<Vec<u8>>()
    };
    let ports = |protocol, ranges: &[(u16, u16)]| {
        let ranges = ranges.to_vec();
        Some(Expression::Ports { protocol, ranges })
    };
    let tcp = numbers(&[0, u16::MAX, 7680, 7680, 0, 0]);
    let expected = [(0, u16::MAX), (7680, 7680)];
    assert_eq!(
        xtables::decode_match("tcp", 0, &tcp),
        ports(Some(TCP), &expected)
    );
    assert_eq!(xtables::decode_match("udp", 0, &tcp[..7]), None);
    assert_eq!(xtables::decode_match("state", 0, &tcp), None);

    let mut multiport = vec![1, 3];
    multiport.extend(numbers(&[80, 7000, 8000]));
    multiport.resize(32, 0);
    let single = [(80, 80), (7000, 7000), (8000, 8000)];
    assert_eq!(
        xtables::decode_match("multiport", 0, &multiport),
        ports(None, &single)
    );
    multiport.extend([0, 1, 0]);
    multiport.resize(48, 0);
    let ranges = [(80, 80), (7000, 8000)];
    assert_eq!(
        xtables::decode_match("multiport", 1, &multiport),
        ports(None, &ranges)
    );
    multiport[1] = 255;
    let odd = xtables::decode_match("multiport", 1, &multiport);
    assert!(matches!(odd, Some(Expression::Ports { ranges, .. }) if ranges.len() == 14));
}
