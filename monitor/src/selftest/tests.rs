use std::collections::BTreeSet;
use std::net::IpAddr;

use monitor_common::counter::{Count, Series, Slot};
use monitor_common::drop::{Class, DropKey, Group};
use monitor_common::{Direction, Family, Flow, Protocol};

use super::cases::plans;
use super::counts::{Counts, Difference, Names, Rise, difference};
use super::route::Device;
use super::*;
use crate::bpf::Hook;
use crate::bpf::counters::Snapshot;
use crate::drop::ReasonTable;
use crate::netlink::{attributes, messages};
use crate::traffic::{Port, Traffics, builtin};

mod real;

fn traffics() -> Traffics {
    Traffics::new(builtin()).unwrap()
}

/// The only message of a datagram: its type, its flags, and what follows the header.
fn only(bytes: &[u8]) -> (u16, u16, &[u8]) {
    let all: Vec<_> = messages(bytes).collect();
    let [message] = all.as_slice() else {
        panic!("{} messages", all.len());
    };
    assert_eq!(bytes.len(), 16 + message.payload.len());
    (message.kind, message.flags, message.payload)
}

/// The value of an attribute of attributes.
fn inner<'a>(bytes: &'a [u8], path: &[u16]) -> &'a [u8] {
    path.iter().fold(bytes, |bytes, wanted| {
        let found = attributes(bytes).find(|(kind, _)| kind == wanted);
        found.unwrap_or_else(|| panic!("no attribute {wanted}")).1
    })
}

#[test]
#[cfg(target_endian = "little")]
fn a_device_that_is_set_up_and_an_address_are_written_as_the_kernel_reads_them() {
    assert_eq!(
        route::up(101),
        [
            32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, // RTM_NEWLINK, request and ack
            0, 0, 0, 0, 101, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, // IFF_UP
        ]
    );
    assert_eq!(
        route::address(101, "192.0.2.1".parse().unwrap(), 24),
        [
            40, 0, 0, 0, 20, 0, 5, 6, 1, 0, 0, 0, 0, 0, 0, 0, // and create, exclusively
            2, 24, 0, 0, 101, 0, 0, 0, // AF_INET
            8, 0, 2, 0, 192, 0, 2, 1, 8, 0, 1, 0, 192, 0, 2, 1,
        ]
    );
    let bytes = route::address(101, "2001:db8:1::1".parse().unwrap(), 64);
    assert_eq!(bytes[16..24], [10, 64, 2, 0, 101, 0, 0, 0], "nodad");
}

#[test]
#[cfg(target_endian = "little")]
fn routes_and_neighbours_are_written_as_the_kernel_reads_them() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(
        route::route(ip("198.51.100.0"), 24, ip("192.0.2.1"))[16..],
        [
            2, 24, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, // main table, static, unicast
            8, 0, 1, 0, 198, 51, 100, 0, 8, 0, 5, 0, 192, 0, 2, 1,
        ]
    );
    assert_eq!(
        route::neighbour(101, ip("192.0.2.2"), [2, 0, 0, 0, 1, 2])[16..],
        [
            2, 0, 0, 0, 101, 0, 0, 0, 0x80, 0, 0, 0, // permanent
            8, 0, 1, 0, 192, 0, 2, 2, 10, 0, 2, 0, 2, 0, 0, 0, 1, 2, 0, 0,
        ]
    );
}

#[test]
fn a_pair_has_its_other_end_in_the_namespace_of_the_descriptor() {
    let device = |name, index| Device {
        name,
        index,
        mac: [2, 0, 0, 0, 0, 7],
    };
    let bytes = route::pair(&device("client", 101), &device("gateway", 201), 33);
    let (kind, flags, payload) = only(&bytes);
    assert_eq!((kind, flags), (16, 0x605));
    assert_eq!(payload[4..8], 101_u32.to_ne_bytes());
    let links = &payload[16..];
    assert_eq!(inner(links, &[3]), b"client\0");
    assert_eq!(inner(links, &[1]), [2, 0, 0, 0, 0, 7]);
    assert_eq!(inner(links, &[18, 1]), b"veth\0");
    let peer = inner(links, &[18, 2, 1]);
    assert_eq!(peer[4..8], 201_u32.to_ne_bytes());
    assert_eq!(inner(&peer[16..], &[3]), b"gateway\0");
    assert_eq!(inner(&peer[16..], &[28]), 33_u32.to_ne_bytes());
}

#[test]
fn rules_are_one_transaction_of_a_table_three_chains_and_a_rule_for_each_port_in_each() {
    let ports: Vec<Port> = traffics().iter().flat_map(|t| t.ports.clone()).collect();
    let (batch, acknowledgements) = rules::batch(&ports);
    let all: Vec<_> = messages(&batch).collect();
    assert_eq!(all.len(), acknowledgements + 2);
    assert_eq!(acknowledgements, 1 + 3 + 3 * ports.len());
    assert_eq!(
        (all[0].kind, all[0].payload),
        (0x10, [0, 0, 0, 10].as_slice())
    );
    assert_eq!(all.last().unwrap().kind, 0x11);
    let chain = &all[2];
    assert_eq!(chain.kind, 10 << 8 | 3);
    assert_eq!(inner(&chain.payload[4..], &[3]), b"input\0");
    assert_eq!(inner(&chain.payload[4..], &[4, 1]), 1_u32.to_be_bytes());
    let rule = &all[5];
    assert_eq!((rule.kind, rule.flags), (10 << 8 | 6, 0xc05));
    assert_eq!(rule.payload[..4], [1, 0, 0, 0], "inet");
    let expressions: Vec<_> = attributes(inner(&rule.payload[4..], &[4])).collect();
    let names: Vec<_> = expressions
        .iter()
        .map(|(_, value)| inner(value, &[1]))
        .collect();
    assert_eq!(
        names,
        [
            b"meta\0".as_slice(),
            b"cmp\0",
            b"payload\0",
            b"cmp\0",
            b"immediate\0"
        ]
    );
    assert_eq!(inner(expressions[1].1, &[2, 3, 1]), [6], "TCP");
    assert_eq!(inner(expressions[3].1, &[2, 3, 1]), 7680_u16.to_be_bytes());
    assert_eq!(inner(expressions[4].1, &[2, 2, 2, 1]), [0; 4], "NF_DROP");
}

fn counts(rows: &[(&str, u64)]) -> Counts {
    rows.iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

#[test]
fn a_wrong_count_and_an_extra_series_are_named() {
    let expected = [Rise {
        series: "a".to_owned(),
        hook: Hook::Deliver,
        by: 7,
    }];
    let before = counts(&[("a", 3), ("b", 1)]);
    let wrong = |now: &[(&str, u64)]| difference(&expected, &before, &counts(now));
    let named = |series: &str, expected, counted| {
        Some(Difference {
            series: series.to_owned(),
            expected,
            counted,
        })
    };
    assert_eq!(wrong(&[("a", 10), ("b", 1)]), None);
    assert_eq!(wrong(&[("a", 8), ("b", 1)]), named("a", 7, 5));
    assert_eq!(wrong(&[("a", 17), ("b", 1)]), named("a", 7, 14));
    assert_eq!(wrong(&[("a", 3), ("b", 8)]), named("a", 7, 0));
    assert_eq!(wrong(&[("a", 10), ("b", 2)]), named("b", 0, 1));
    assert_eq!(wrong(&[("a", 10), ("b", 1), ("c", 9)]), named("c", 0, 9));
    assert_eq!(wrong(&[("b", 1)]), named("a", 7, 0), "fallen");
}

#[test]
fn what_was_counted_has_the_names_of_the_metrics() {
    let (traffics, reasons) = (traffics(), ReasonTable::unavailable());
    let names = Names {
        traffics: &traffics,
        reasons: &reasons,
        firewall: Some(reasons.firewall_reason()),
    };
    let series = Series {
        traffic: 1,
        protocol: Protocol::Udp,
        family: Family::Ipv4,
        direction: Direction::Inbound,
        flow: Flow::Request,
    };
    let count = |packets| Count { packets, bytes: 1 };
    let mut snapshot = Snapshot::default();
    snapshot.allowed.insert(Slot::of(&series), count(2));
    for (group, packets) in [(Group::Before, 5), (Group::Subtract, 1), (Group::After, 9)] {
        let key = DropKey {
            slot: Slot::of(&series).0,
            group: group.code(),
            class: Class::Firewall.code(),
            reason: reasons.firewall_reason(),
        };
        snapshot.drops.insert(key, count(packets));
    }
    let labels = "traffic=\"teredo\",protocol=\"udp\",family=\"ipv4\",direction=\"inbound\",flow=\"request\"";
    let metric = |name: &str, rest: &str| format!("peerwatch_{name}{{{labels},{rest}}}");
    assert_eq!(
        names.counts(&snapshot),
        Counts::from([
            (metric("packets_total", "verdict=\"allowed\""), 2),
            (metric("packets_total", "verdict=\"dropped\""), 6),
            (
                metric("drops_total", "class=\"firewall\",reason=\"unavailable\""),
                6
            ),
        ])
    );
    let unknown = Names {
        firewall: None,
        ..names
    };
    let all = unknown.counts(&snapshot).into_keys();
    assert!(all.eq([
        metric("packets_total", "verdict=\"allowed\""),
        metric("packets_total", "verdict=\"dropped\"")
    ]));
}

#[test]
fn every_case_has_a_name_and_a_number_of_its_own() {
    let plans = plans(&traffics());
    // Ports, families, directions, verdicts.
    assert_eq!(plans.len(), 4 * 2 * 3 * 2);
    let names: BTreeSet<String> = plans.iter().map(cases::Plan::name).collect();
    assert_eq!(names.len(), plans.len());
    assert!(names.contains("udp 3544 ipv4 inbound dropped"));
    let numbers: BTreeSet<u16> = plans.iter().map(|plan| plan.count).collect();
    assert_eq!(numbers.len(), plans.len());
    assert!(numbers.iter().all(|number| number % 2 == 1));
    let connections = plans.iter().filter(|plan| plan.connects());
    let connections: u16 = connections.map(|plan| plan.count).sum();
    assert!(connections < 256, "each takes a descriptor: {connections}");
}

#[test]
fn connections_count_both_ways_and_drops_by_their_reason() {
    let (traffics, reasons) = (traffics(), ReasonTable::unavailable());
    let names = Names {
        traffics: &traffics,
        reasons: &reasons,
        firewall: Some(reasons.firewall_reason()),
    };
    let find = |name: &str| {
        let plan = plans(&traffics)
            .into_iter()
            .find(|plan| plan.name() == name);
        let plan = plan.unwrap();
        let rises = plan.expected(names);
        let rows = rises
            .into_iter()
            .map(|rise| (rise.hook, rise.by / u64::from(plan.count)));
        (rows.collect::<Vec<_>>(), plan.hook())
    };
    assert_eq!(
        find("tcp 443 ipv6 inbound allowed"),
        (vec![(Hook::Deliver, 2), (Hook::Egress, 1)], Hook::Deliver)
    );
    assert_eq!(
        find("tcp 7680 ipv4 outbound allowed"),
        (vec![(Hook::Egress, 2), (Hook::Deliver, 1)], Hook::Egress)
    );
    assert_eq!(
        find("udp 443 ipv4 forwarded dropped"),
        (vec![(Hook::Drop, 1), (Hook::Drop, 1)], Hook::Drop)
    );
}

fn found(results: impl IntoIterator<Item = Outcome>) -> SelfTest {
    let case = |result| Case {
        name: "udp 443 ipv4 inbound allowed".to_owned(),
        result,
    };
    SelfTest {
        cases: results.into_iter().map(case).collect(),
        lacks: None,
        seconds: 1.25,
    }
}

#[test]
fn it_passed_where_something_ran_and_nothing_failed() {
    let not_run = || Outcome::NotRun {
        why: "no rules".to_owned(),
    };
    let failed = || Outcome::Failed {
        series: "a{}".to_owned(),
        expected: 7,
        counted: 5,
    };
    assert!(found([Outcome::Passed]).passed());
    assert!(found([Outcome::Passed, not_run()]).passed());
    assert!(!found([not_run()]).passed());
    assert!(!found([]).passed());
    assert!(!found([Outcome::Passed, failed()]).passed());
    assert_eq!(
        found([Outcome::Passed, not_run()]).summary(),
        "1 of 2 cases counted exactly in 1.2 s; 1 not run: no rules"
    );
    assert_eq!(
        found([Outcome::Passed, failed(), failed()]).summary(),
        "2 of 3 cases counted wrong, first udp 443 ipv4 inbound allowed: a{} expected 7, counted 5"
    );
    let text = serde_json::to_string(&found([failed(), not_run()]).cases).unwrap();
    assert!(
        text.contains(r#""result":{"outcome":"failed","series":"a{}","expected":7,"counted":5}"#)
    );
    assert!(text.contains(r#""result":{"outcome":"not_run","why":"no rules"}"#));
}
