//! What is told of whole tables.

use super::*;

/// Looks at a table that is so large that work which grows with the square of it would take minutes, which whoever runs
/// the tests notices.
fn look(table: Table) -> Survey {
    analyse(&[table], &PORTS)
}

#[test]
fn a_table_of_many_chains_is_looked_at_look() {
    let names = || vec![rule(th_dport(Operator::Equal, 7680))];
    let chains = (0..20_000).map(|at| chain(&format!("c{at}"), None, names()));
    let survey = look(table(TableFamily::Ip, "filter", chains.collect()));
    assert_eq!(survey.mentions.len(), 40_000);
    assert_eq!(survey.backends[0].name, "nftables");
}

/// A table with one map of many verdicts for port 7680, and many rules that look at it: with ports that differ by `xor`.
fn one_map_many_rules(verdicts: usize, xor: impl Fn(u16) -> u16) -> Table {
    let elements = (0..30_000).map(|at| Element {
        verdict: Some(Verdict::Jump(format!("j{}", at % verdicts))),
        ..element(
            &[
                &7680_u16.to_be_bytes(),
                [0, 0].as_slice(),
                &u32::to_be_bytes(at.try_into().unwrap()),
            ]
            .concat(),
            false,
        )
    });
    let rules = (0..5_000).map(|at| {
        let mask = Expression::Mask {
            source: 0,
            register: 0,
            mask: vec![0xff; 2],
            xor: xor(at).to_be_bytes().to_vec(),
        };
        rule([load(0, Kind::Port), mask, lookup("s", false, true)])
    });
    let mut chains = vec![chain("c", Some("input"), rules.collect())];
    chains.extend((0..verdicts).map(|at| chain(&format!("j{at}"), None, vec![])));
    let mut table = table(TableFamily::Inet, "t", chains);
    table.sets = vec![set(false, elements.collect())];
    table
}

#[test]
fn many_rules_with_one_map_are_looked_at_look() {
    let survey = look(one_map_many_rules(30_000, |_| 0));
    assert_eq!(survey.mentions.len(), 10_000);
    assert!(survey.mentions.iter().all(|one| one.verdict == "vmap"));
    assert!(!survey.cut);
    let survey = look(one_map_many_rules(3, |_| 0));
    assert_eq!(survey.mentions.len(), 30_000, "three verdicts are told");
    // Each looks at something else.
    assert!(look(one_map_many_rules(3, |rule| rule)).cut);
}

#[test]
fn a_map_leads_each_protocol_to_its_own_chains() {
    let entry = |protocol, to: &str| Element {
        verdict: Some(Verdict::Jump(to.to_owned())),
        ..element(&[protocol], false)
    };
    let ways = |number: u8| {
        let loads = [protocol(number).to_vec(), vec![load(0, Kind::Protocol)]].concat();
        rule([loads, vec![lookup("s", false, true)]].concat())
    };
    let names = || vec![rule(th_dport(Operator::Equal, 7680))];
    let mut one = table(
        TableFamily::Inet,
        "t",
        vec![
            chain("in", Some("input"), vec![ways(TCP)]),
            chain("out", Some("output"), vec![ways(UDP), rule([jump("more")])]),
            chain("more", None, vec![ways(TCP)]),
            chain("of_tcp", None, names()),
            chain("of_udp", None, names()),
        ],
    );
    one.sets = vec![set(false, vec![entry(TCP, "of_tcp"), entry(UDP, "of_udp")])];
    let survey = analyse(&[one], &PORTS);
    let expected = ["of_tcp tcp 7680 -", "of_udp udp 7680 -"];
    assert_eq!(shown(&survey.mentions), expected);
    let hooks: Vec<_> = survey.mentions.iter().map(|m| m.hooks.join(" ")).collect();
    assert_eq!(hooks, ["input output", "output"]);
}

#[test]
fn chains_have_the_hooks_and_the_protocols_of_who_jumps_to_them() {
    let names = || vec![rule(th_dport(Operator::Equal, 7680))];
    let from = |number, to: &str| rule([protocol(number).to_vec(), vec![jump(to)]].concat());
    let chains = || {
        let mut looping = names();
        looping.push(rule([jump("tcp_only")]));
        vec![
            chain(
                "in",
                Some("input"),
                vec![from(TCP, "tcp_only"), from(UDP, "both")],
            ),
            chain("out", Some("output"), vec![from(TCP, "both")]),
            chain("tcp_only", None, looping),
            chain("both", None, names()),
            chain("nobody", None, names()),
        ]
    };
    let mut one = table(TableFamily::Inet, "t", chains());
    let survey = analyse(std::slice::from_ref(&one), &PORTS);
    let expected = [
        "tcp_only tcp 7680 -",
        "both tcp 7680 -",
        "both udp 7680 -",
        "nobody tcp 7680 -",
        "nobody udp 7680 -",
    ];
    assert_eq!(shown(&survey.mentions), expected);
    let hooks: Vec<_> = survey.mentions.iter().map(|m| m.hooks.join(" ")).collect();
    assert_eq!(hooks, ["input", "input output", "input output", "", ""]);
    assert_eq!(survey.policies.len(), 2);

    one.is_dormant = true;
    let survey = analyse(&[one], &PORTS);
    assert!(survey.mentions.iter().all(|m| m.hooks.is_empty()));
    assert_eq!((survey.mentions.len(), survey.policies.len()), (6, 0));
}

#[test]
fn backends_are_known_by_names() {
    let one = || vec![rule([drop_()])];
    let mut legacy = table(
        TableFamily::Ip,
        "filter",
        vec![
            chain("INPUT", Some("input"), one()),
            chain("ufw-user-input", None, one()),
        ],
    );
    legacy.is_legacy = true;
    let built_in = vec![
        chain("FORWARD", Some("forward"), one()),
        chain("DOCKER-USER", None, one()),
        chain("KUBE-SERVICES", None, one()),
        chain("LIBVIRT_FWI", None, vec![]),
    ];
    let tables = [
        table(TableFamily::Ip, "filter", built_in),
        table(
            TableFamily::Ip,
            "nat",
            vec![chain("mine", Some("input"), one())],
        ),
        table(
            TableFamily::Inet,
            "firewalld",
            vec![chain("filter_INPUT", None, one())],
        ),
        legacy,
    ];
    let survey = analyse(&tables, &[]);
    let uses: Vec<_> = survey
        .backends
        .iter()
        .map(|b| (b.name, b.tables, b.rules))
        .collect();
    let expected = [
        ("nftables", 2, 2),
        ("iptables-nft", 1, 3),
        ("iptables-legacy", 1, 2),
        ("ufw", 1, 1),
        ("firewalld", 1, 1),
        ("docker", 1, 1),
        ("kubernetes", 1, 1),
        ("libvirt", 1, 0),
    ];
    assert_eq!(uses, expected);
    let dropping: Vec<_> = survey.policies.iter().filter(|p| p.drops).collect();
    assert_eq!(dropping.len(), 1);
    assert_eq!(
        (dropping[0].backend, dropping[0].chain.as_str()),
        ("iptables-nft", "FORWARD")
    );
    assert_eq!(analyse(&[], &PORTS), Survey::default());
}
