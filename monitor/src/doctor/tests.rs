//! What follows from what is seen, and how it is said.

use std::path::Path;

use super::*;
use crate::bpf::kernel::Kernel;
use crate::bpf::others::Program;
use crate::firewall::{Flowtable, Mention, Policy, Survey};
use crate::selftest::{Case, Outcome};
use crate::traffic::{self, Traffics};

fn finding(id: &'static str, weight: Weight) -> Finding {
    Finding {
        id,
        weight,
        what: id.to_owned(),
        effect: "that follows".to_owned(),
        hint: Some("do this".to_owned()),
    }
}

fn ids(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.id).collect()
}

fn interface(name: &str, index: u32) -> Watched {
    Watched {
        name: name.to_owned(),
        index,
        kind: None,
        slave_of: None,
        lies_on: None,
        mode: Some("tcx"),
        hooks: vec!["egress", "ingress"],
        left_out: None,
        xdp: None,
    }
}

fn report(findings: Vec<Finding>) -> Report {
    let weights = findings.iter().map(|finding| finding.weight);
    Report {
        format: FORMAT,
        version: "1.2.3",
        revision: "abc",
        verdict: weights.max().unwrap_or(Weight::Note),
        host: Host {
            release: "6.1.0".to_owned(),
            machine: "x86_64".to_owned(),
            distribution: None,
            lockdown: Some("none".to_owned()),
            missing_capabilities: Vec::new(),
            btf: Ok("/sys/kernel/btf/vmlinux".to_owned()),
            network_namespace: Some(4_026_531_840),
            is_host_namespace: Some(true),
            cgroup_root: Ok("/sys/fs/cgroup".to_owned()),
            symbols: Ok(()),
        },
        features: Vec::new(),
        hooks: Vec::new(),
        interfaces: vec![interface("eth0", 2)],
        firewall: Firewall {
            backends: Vec::new(),
            ports: Vec::new(),
            policies: Vec::new(),
            flow_tables: Vec::new(),
            unknown: None,
        },
        conntrack: Some(Connections {
            entries: 5,
            limit: 50,
        }),
        programs: vec![OnHook {
            hook: "egress",
            interface: "eth0".to_owned(),
            programs: vec![Program {
                id: 7,
                name: "their\u{1b}[31m".to_owned(),
                ours: false,
                by: "tcx",
            }],
        }],
        findings,
        undetectable: blind::UNDETECTABLE,
        selftest: None,
    }
}

#[test]
fn the_worst_finding_is_the_verdict_and_the_exit_code() {
    let of = |weights: &[Weight]| {
        let findings = weights.iter().map(|weight| finding("x", *weight));
        report(findings.collect())
    };
    assert_eq!(of(&[]).exit_code(), 0);
    assert_eq!(of(&[Weight::Note]).exit_code(), 0);
    assert_eq!(of(&[Weight::Note, Weight::Limited]).exit_code(), 1);
    assert_eq!(of(&[Weight::CannotWork, Weight::Limited]).exit_code(), 2);
    let first = |report: &Report| report.text().lines().next().unwrap().to_owned();
    assert_eq!(
        first(&of(&[])),
        "PEERWATCH DOCTOR FINE - everything that passes here will be seen"
    );
    assert_eq!(
        first(&of(&[Weight::Limited, Weight::Limited])),
        "PEERWATCH DOCTOR LIMITED - 2 limitations"
    );
    assert_eq!(
        first(&of(&[Weight::CannotWork])),
        "PEERWATCH DOCTOR CANNOT WORK - 1 limitation"
    );
}

#[test]
fn what_weighs_most_and_helps_most_comes_first() {
    let mut findings = vec![
        finding("own_network_namespace", Weight::Note),
        finding("link_pinning", Weight::Limited),
        finding("native_xdp", Weight::Limited),
        finding("something_new", Weight::Limited),
        finding("capabilities", Weight::CannotWork),
    ];
    finding::sort(&mut findings);
    assert_eq!(
        ids(&findings),
        [
            "capabilities",
            "native_xdp",
            "link_pinning",
            "something_new",
            "own_network_namespace"
        ]
    );
}

#[test]
fn the_text_has_no_line_that_is_too_long_and_no_control_character() {
    let mut long = finding("native_xdp", Weight::Limited);
    long.effect = "word ".repeat(60);
    let text = report(vec![long]).text();
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert!(!line.ends_with(' '), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(
        text.contains("connection tracking    5 of 50 connections (10 %)"),
        "{text}"
    );
    assert!(text.contains("      do: do this"), "{text}");
    assert!(
        text.contains("egress eth0            their\u{fffd}[31m (7), tcx"),
        "{text}"
    );
}

#[test]
fn the_report_is_json_too() {
    let json = report(vec![finding("af_xdp", Weight::Limited)])
        .json()
        .unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["format"], 1);
    assert_eq!(value["verdict"], "limited");
    assert_eq!(value["findings"][0]["id"], "af_xdp");
    assert_eq!(value["host"]["btf"]["Ok"], "/sys/kernel/btf/vmlinux");
}

#[test]
fn small_files_are_read_as_they_are_written() {
    let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n";
    assert_eq!(
        host::pretty_name(text).as_deref(),
        Some("Debian GNU/Linux 13 (trixie)")
    );
    assert_eq!(host::pretty_name("PRETTY_NAME=\"\"\n"), None);
    assert_eq!(
        host::chosen("none [integrity] confidentiality\n").as_deref(),
        Some("integrity")
    );
    assert_eq!(host::chosen("none"), None);
    let protocols =
        "protocol  size sockets  memory press maxhdr\nXDP       1088      3      -1   NI       0\n";
    assert_eq!(blind::sockets_of(protocols, "XDP"), Some(3));
    assert_eq!(blind::sockets_of("", "XDP"), None);
    let udp = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
               14511: 00000000:0DD8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 130105 2 000000003c15208a 0\n\
               broken\n";
    assert_eq!(blind::bound_ports(udp), [(3544, 130_105)]);
    assert_eq!(blind::socket_of("socket:[130105]"), Some(130_105));
    assert_eq!(blind::socket_of("/dev/null"), None);
}

fn mention(protocol: &'static str, verdict: &str, hook: &str) -> Mention {
    Mention {
        backend: "nftables",
        family: "inet".to_owned(),
        table: "filter".to_owned(),
        chain: "input".to_owned(),
        hooks: vec![hook.to_owned()],
        protocol,
        port: 3544,
        verdict: verdict.to_owned(),
        handle: Some(4),
    }
}

fn policy(hook: &str, drops: bool) -> Policy {
    Policy {
        backend: "nftables",
        family: "inet".to_owned(),
        table: "filter".to_owned(),
        chain: hook.to_owned(),
        hook: hook.to_owned(),
        drops,
    }
}

fn found(survey: &Survey, interfaces: &[Watched]) -> Vec<&'static str> {
    let watched = firewall::ports(&Traffics::new(traffic::builtin()).unwrap());
    let mut findings = Vec::new();
    firewall::find(survey, None, &watched, interfaces, &mut findings);
    findings.iter().map(|finding| finding.id).collect()
}

#[test]
fn tcp_that_is_opened_for_teredo_is_a_mistake_only_where_udp_is_closed() {
    let of = |mentions: Vec<Mention>, policies: Vec<Policy>| {
        let survey = Survey {
            mentions,
            policies,
            ..Survey::default()
        };
        found(&survey, &[])
    };
    let tcp = || mention("tcp", "accept", "input");
    let mistake = ["teredo_tcp_rule"];
    assert_eq!(of(vec![tcp()], vec![policy("input", true)]), mistake);
    assert_eq!(
        of(vec![tcp(), mention("udp", "drop", "input")], vec![]),
        mistake
    );
    // Another hook's, both opened, nothing closed, TCP closed as well.
    assert!(of(vec![tcp()], vec![policy("forward", true)]).is_empty());
    let both = vec![tcp(), mention("udp", "accept", "input")];
    assert!(of(both, vec![policy("input", true)]).is_empty());
    assert!(of(vec![tcp()], vec![policy("input", false)]).is_empty());
    let closed = vec![mention("tcp", "drop", "input")];
    assert!(of(closed, vec![policy("input", true)]).is_empty());
}

#[test]
fn flow_tables_are_blind_in_hardware_and_below_bridges_and_vlans() {
    let table = |hardware, device: &str| Survey {
        flowtables: vec![Flowtable {
            family: "inet".to_owned(),
            table: "f".to_owned(),
            name: "fast".to_owned(),
            hardware,
            devices: vec![device.to_owned()],
        }],
        ..Survey::default()
    };
    let mut port = interface("lan0", 3);
    port.slave_of = Some("bridge".to_owned());
    let mut vlan = interface("blue", 4);
    vlan.kind = Some("vlan".to_owned());
    vlan.lies_on = Some(2);
    let all = [interface("eth0", 2), port, vlan, interface("eth1", 5)];
    assert_eq!(found(&table(true, "eth1"), &all), ["hardware_offload"]);
    assert_eq!(found(&table(false, "lan0"), &all), ["flow_table_below"]);
    assert_eq!(found(&table(false, "eth0"), &all), ["flow_table_below"]);
    assert_eq!(found(&table(false, "lan*"), &all), ["flow_table_below"]);
    assert!(found(&table(false, "eth1"), &all).is_empty());
    assert!(found(&table(false, "wan*"), &all).is_empty());
    assert!(found(&table(false, "lan"), &all).is_empty());
    assert!(found(&table(false, "blue"), &all).is_empty());
}

#[test]
fn filters_of_tc_are_in_hardware_where_the_kernel_says_so() {
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
    let filter = |kind: &str, number: u16, flags: u32| {
        let options = attribute(number, &flags.to_ne_bytes());
        let kind = attribute(1, &[kind.as_bytes(), b"\0"].concat());
        [vec![0; 20], kind, attribute(2, &options)].concat()
    };
    // skip_sw and in_hw; not_in_hw; in_hw at another classifier's place; a classifier that has no hardware.
    for (kind, number) in [("matchall", 3), ("bpf", 9), ("u32", 11), ("flower", 22)] {
        assert!(offload::is_in_hardware(&filter(kind, number, 6)), "{kind}");
        assert!(!offload::is_in_hardware(&filter(kind, number, 8)), "{kind}");
        assert!(
            !offload::is_in_hardware(&filter(kind, number + 1, 4)),
            "{kind}"
        );
    }
    assert!(!offload::is_in_hardware(&filter("basic", 3, 4)));
    let whole = filter("flower", 22, 4);
    for length in 0..whole.len() {
        assert!(!offload::is_in_hardware(&whole[..length]), "{length}");
    }
}

#[test]
fn a_failed_case_of_the_self_test_is_a_limitation_that_names_it() {
    let of = |result| SelfTest {
        cases: vec![Case {
            name: "udp 443 ipv4 inbound allowed".to_owned(),
            result,
        }],
        lacks: None,
        seconds: 1.0,
    };
    let mut findings = Vec::new();
    finding::of_self_test(&of(Outcome::Passed), &mut findings);
    assert!(findings.is_empty());
    let failed = Outcome::Failed {
        series: "peerwatch_packets_total{…}".to_owned(),
        expected: 7,
        counted: 6,
    };
    finding::of_self_test(&of(failed), &mut findings);
    assert_eq!(ids(&findings), ["self_test_failed"]);
    assert!(findings[0].what.contains("udp 443 ipv4 inbound allowed"));
    let mut report = report(findings);
    report.selftest = Some(of(Outcome::Failed {
        series: "peerwatch_packets_total{…}".to_owned(),
        expected: 7,
        counted: 6,
    }));
    let text = report.text();
    assert!(
        text.contains("peerwatch_packets_total{…} should be 7 and is 6"),
        "{text}"
    );
}

#[test]
fn every_call_of_this_host_has_an_answer() {
    let mut findings = Vec::new();
    let kernel = Kernel::read(None).unwrap();
    let host = Host::look(&kernel, Path::new("/nowhere"), &mut findings);
    assert!(!host.release.is_empty());
    assert!(ids(&findings).contains(&"no_bpf_file_system"));
    assert_eq!(host.can_load(), !ids(&findings).contains(&"capabilities"));
}
