//! What the doctor reads of firewalls, interfaces and filters. The kernel writes it; names in it are anybody's.

use std::collections::BTreeSet;

use monitor::firewall::{Port, Survey};
use monitor::fuzz;
use monitor_common::Protocol;

use super::parts;

/// The ports that are looked for.
const PORTS: [Port; 4] = [
    port(Protocol::Tcp, 7680),
    port(Protocol::Udp, 7680),
    port(Protocol::Udp, 3544),
    port(Protocol::Tcp, 443),
];

/// The interfaces at which filters are looked for, from index 1 on.
pub const INTERFACES: [&str; 4] = ["lo", "one", "two", "three"];

const fn port(protocol: Protocol, number: u16) -> Port {
    Port { protocol, number }
}

/// `NLMSG_ERROR` and `NLMSG_DONE`: an answer ends there.
const ENDS: [u16; 2] = [2, 3];
/// `struct nlmsghdr`, bytes.
const HEADER: usize = 16;

/// The first byte says what the others are: datagrams of `nf_tables` (0), a table of iptables-legacy as the target of
/// that name has it (1), datagrams of rtnetlink about interfaces (2), or about queueing disciplines and filters (3).
///
/// # Panics
///
/// Where something is told that the bytes do not hold, or more than they can, or where it matters how messages are
/// spread over datagrams.
pub fn rules(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    match mode % 4 {
        0 => nftables(rest),
        1 => legacy(rest),
        2 => interfaces(rest),
        _ => filters(rest),
    }
}

fn nftables(data: &[u8]) {
    let ask = |datagrams: &[&[u8]]| {
        let survey = fuzz::survey(datagrams.iter().copied(), &PORTS);
        survey.map_err(|error| error.to_string())
    };
    if let Ok(survey) = any_datagrams(data, ask) {
        check(&survey, data);
    }
}

fn legacy(data: &[u8]) {
    let Some((family, rest)) = data.split_first() else {
        return;
    };
    let is_ipv6 = family & 1 == 1;
    let (info, entries) = rest.split_at(rest.len().min(84));
    let survey = || fuzz::survey_legacy(is_ipv6, info, entries, &PORTS);
    let one = survey().expect("nobody is asked");
    assert_eq!(one, survey().expect("nobody is asked"), "it changed");
    assert!(one.flowtables.is_empty() && !one.cut);
    let known = one.backends.iter().map(|backend| backend.name);
    assert!(known.clone().count() == 0 || known.clone().any(|name| name == "iptables-legacy"));
    // A hook has one chain, but two that begin at one place are one.
    assert!(one.policies.len() <= 5);
    // These names are not in the table.
    let known = b"filter PREROUTING INPUT FORWARD OUTPUT POSTROUTING";
    check(&one, &[data, known].concat());
}

fn interfaces(data: &[u8]) {
    let ask = |datagrams: &[&[u8]]| {
        let found = fuzz::interfaces(datagrams.iter().copied());
        found.map_err(|error| error.to_string())
    };
    let Ok(found) = any_datagrams(data, ask) else {
        return;
    };
    // An interface takes a message with two headers of 16 bytes and its name.
    assert!(found.len() * 36 <= data.len() + 4);
    assert!(found.is_sorted_by_key(|(interface, _)| interface.index));
    let mut names = BTreeSet::new();
    for (interface, xdp) in &found {
        assert_ne!(interface.index, 0);
        let program = xdp.map(|xdp| xdp.program.to_ne_bytes());
        let is_there = |number: [u8; 4]| data.windows(4).any(|bytes| bytes == number);
        assert!(program.is_none_or(|number| number == [0; 4] || is_there(number)));
        names.insert(interface.name.as_str());
        names.extend(interface.info_kind.as_deref());
        names.extend(interface.slave_kind.as_deref());
    }
    assert_occur(names, data);
}

fn filters(data: &[u8]) {
    let ask = |datagrams: &[&[u8]]| fuzz::in_hardware(datagrams.iter().copied(), &INTERFACES);
    let findings = any_datagrams(data, ask);
    let (found, unread): (Vec<_>, Vec<_>) =
        (findings.iter()).partition(|finding| finding.id == "tc_offload");
    // Each takes a filter: headers of 16 and 20 bytes, its kind, and its flags among its options.
    assert!(found.len() * 56 <= data.len());
    // What can't be read is what there is at all, or one of the two sides of a discipline: the same headers, and a kind.
    assert!(unread.len() <= 1 + 2 * (data.len() / 48));
    assert!(unread.iter().all(|finding| finding.id == "tc_unread"));
    for finding in found {
        let words: Vec<&str> = finding.what.split_whitespace().collect();
        let names = INTERFACES.iter().filter(|name| words.contains(name));
        assert_eq!(names.count(), 1, "{}", finding.what);
    }
}

/// Asks with the datagrams as they are, and gives the answer, which is always the same. And it is the same however the
/// messages of one answer are spread over datagrams.
fn any_datagrams<T: Eq + std::fmt::Debug>(data: &[u8], ask: impl Fn(&[&[u8]]) -> T) -> T {
    let datagrams = parts(data);
    let answer = ask(&datagrams);
    assert_eq!(ask(&datagrams), answer, "it changed");
    let (mut whole, mut alone) = (Vec::new(), Vec::new());
    let mut together = vec![Vec::new()];
    for datagram in datagrams {
        let messages = messages(datagram);
        for message in &messages {
            if let Some(last) = together.last_mut() {
                last.extend_from_slice(message);
            }
            if ENDS.contains(&kind(message)) {
                together.push(Vec::new());
            }
        }
        whole.push(messages.concat());
        alone.extend(messages);
    }
    let ask = |mut datagrams: Vec<Vec<u8>>| {
        datagrams.retain(|datagram| !datagram.is_empty());
        let datagrams: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
        ask(&datagrams)
    };
    let expected = ask(whole);
    assert_eq!(ask(alone), expected, "each message for itself");
    assert_eq!(ask(together), expected, "each answer in one");
    answer
}

fn kind(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[4], message[5]])
}

/// The messages of a datagram, padded, up to the end of an answer or to one whose length cannot be.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(length) = bytes.first_chunk() {
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else {
            break;
        };
        let mut padded = message.to_vec();
        padded.resize(length.next_multiple_of(4), 0);
        messages.push(padded);
        if ENDS.contains(&kind(message)) {
            break;
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

const HOOKS: [&str; 8] = [
    "prerouting",
    "input",
    "forward",
    "output",
    "postrouting",
    "ingress",
    "egress",
    "unknown",
];

const FAMILIES: [&str; 6] = ["inet", "ip", "ip6", "arp", "bridge", "netdev"];

const VERDICTS: [&str; 19] = [
    "-",
    "accept",
    "continue",
    "dnat",
    "drop",
    "dup",
    "fwd",
    "log",
    "masquerade",
    "notrack",
    "queue",
    "redirect",
    "reject",
    "return",
    "snat",
    "synproxy",
    "tproxy",
    "vmap",
    "many",
];

/// What is told of the bytes must be in them.
fn check(survey: &Survey, data: &[u8]) {
    let mut names = BTreeSet::new();
    let mut lower = BTreeSet::new();
    // Everything takes headers of 16 and 4 bytes and the name of its table.
    let rules = data.len() / 24;
    assert!(survey.mentions.len() <= rules * 2 * PORTS.len() * MOST_VERDICTS);
    for mention in &survey.mentions {
        let is_wanted =
            |port: &Port| port.number == mention.port && port.protocol.as_str() == mention.protocol;
        assert!(PORTS.iter().any(is_wanted), "{mention:?}");
        assert!(mention.hooks.is_sorted_by(|one, next| one < next));
        for hook in &mention.hooks {
            assert_hook(hook);
        }
        assert_family(&mention.family);
        names.extend([mention.table.as_str(), mention.chain.as_str()]);
        let verdict = mention.verdict.as_str();
        let of_chain = ["jump ", "goto ", "flow add "];
        let target = of_chain.iter().find_map(|word| verdict.strip_prefix(word));
        match target {
            Some(name) => drop(names.insert(name)),
            None if VERDICTS.contains(&verdict) => {}
            None => drop(lower.insert(verdict)),
        }
    }
    assert!(survey.policies.len() <= rules);
    for policy in &survey.policies {
        assert_hook(&policy.hook);
        assert_family(&policy.family);
        names.extend([policy.table.as_str(), policy.chain.as_str()]);
    }
    assert!(survey.flowtables.len() <= rules);
    for flowtable in &survey.flowtables {
        assert_family(&flowtable.family);
        names.extend([flowtable.table.as_str(), flowtable.name.as_str()]);
        let devices = flowtable.devices.iter();
        names.extend(devices.map(|name| name.strip_suffix('*').unwrap_or(name)));
    }
    assert!(survey.backends.len() <= 8);
    for backend in &survey.backends {
        assert!(backend.tables >= 1 && backend.tables <= rules && backend.rules <= rules);
    }
    assert_occur(names, data);
    if !lower.is_empty() {
        assert_occur(lower, &data.to_ascii_lowercase());
    }
}

/// The most verdicts that one rule has for one port.
const MOST_VERDICTS: usize = 18;

fn assert_hook(hook: &str) {
    let number = hook.strip_prefix("hook-").map(str::parse::<u32>);
    assert!(
        HOOKS.contains(&hook) || matches!(number, Some(Ok(_))),
        "{hook}"
    );
}

fn assert_family(family: &str) {
    let number = family.strip_prefix("family-").map(str::parse::<u8>);
    let is_number = matches!(number, Some(Ok(_)));
    assert!(FAMILIES.contains(&family) || is_number, "{family}");
}

/// That names are in the bytes, but for what is no UTF-8 in them.
fn assert_occur<'a>(names: impl IntoIterator<Item = &'a str>, data: &[u8]) {
    let data = String::from_utf8_lossy(data);
    for name in names {
        let mut known = name.split('\u{fffd}');
        assert!(known.all(|part| data.contains(part)), "{name:?}");
    }
}
