//! Seeds for the target `rules`: what this kernel answers in a namespace with rules, interfaces and filters, and messages
//! that no kernel sends. `PEERWATCH_SEEDS=1 cargo test --test corpus seeds` writes them anew, as root.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use monitor::fuzz;
use monitor_tests::bpf;
use monitor_tests::fuzz::INTERFACES;
use monitor_tests::netns::{NetNs, unique_prefix};

const RULES: &str = "
table inet filter {
  set ports { type inet_service; flags interval; elements = { 443, 7000-8000 }; }
  set pairs { type inet_proto . inet_service; elements = { udp . 3544, tcp . 443 }; }
  set ranges { type inet_proto . inet_service; flags interval; elements = { udp . 3000-4000 }; }
  map ways { type inet_service : verdict; elements = { 7680 : jump other, 3544 : drop }; }
  chain other { tcp dport 7680 drop; udp dport 3544 log reject; }
  chain input {
    type filter hook input priority 0; policy drop;
    tcp dport @ports accept
    meta l4proto . th dport @pairs goto other
    meta l4proto . th dport @ranges counter
    th dport vmap @ways
    tcp dport & 0xff00 == 0x1e00 drop
    udp sport . udp dport { 1 . 3544 } accept
  }
  chain forward { type filter hook forward priority 0; udp dport != 3544 return; }
}
table ip nat {
  chain pre { type nat hook prerouting priority -100; tcp dport 7680 dnat to 192.0.2.1:7681; }
  chain post { type nat hook postrouting priority 100; tcp dport 443-445 masquerade; }
}
table ip6 later { flags dormant; chain c { type filter hook output priority 0; tcp sport 7680 drop; }; }
table netdev edge { chain c { type filter hook ingress device one priority 0; ip protocol udp udp dport 3544 drop; }; }
";

const IPTABLES: [&str; 7] = [
    "-P FORWARD DROP",
    "-N mine",
    "-A INPUT -p tcp --dport 7680 -j mine",
    "-A mine -p udp -m multiport --dports 3544,7000:8000 -j DROP",
    "-A mine -p tcp ! --dport 443 -g other",
    "-A mine -p tcp -m multiport --ports 443,80 -j LOG",
    "-A OUTPUT ! -p tcp -j ACCEPT",
];

/// Writes all of them.
pub(crate) fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let write = |name: &str, bytes: Vec<u8>| {
        fs::write(folder.join(name), bytes).with_context(|| name.to_owned())
    };
    let netns = NetNs::create(&format!("{}seeds", unique_prefix()))?;
    let [_, one, two, three] = INTERFACES;
    netns.ip_batch(&format!(
        "link add {one} type veth peer name {two}\nlink add {three} type bridge\nlink set {one} master {three}\n\
         link set {two} up"
    ))?;
    netns.nft(RULES)?;
    for interface in [one, two] {
        netns.sh(&format!("tc qdisc add dev {interface} clsact"))?;
    }
    let _native = bpf::xdp_drop_native(&netns, one)?;
    let _generic = bpf::xdp_drop(&netns, two)?;
    let [rules, links, filters] = netns.run(|| Ok(fuzz::heard(&INTERFACES)?))?;
    write("kernel-nftables", seed(0, &rules))?;
    write("kernel-interfaces", seed(2, &links))?;
    write("kernel-filters", seed(3, &filters))?;
    for (family, tool) in ["iptables-legacy", "ip6tables-legacy"].iter().enumerate() {
        netns.sh(&format!("{tool} -N other"))?;
        for rule in IPTABLES {
            netns.sh(&format!("{tool} {rule}"))?;
        }
        let tables = netns.run(|| Ok(fuzz::legacy_tables(family == 1)?))?;
        let (info, entries) = tables.first().context("no table")?;
        let bytes = [&[1, u8::try_from(family)?], info.as_slice(), entries].concat();
        write(&format!("kernel-{tool}"), bytes)?;
    }
    write("filters-in-hardware", seed(3, &filters_in_hardware()))?;
    write("chains-in-a-ring", seed(0, &chains_in_a_ring()))?;
    write("one-map-many-rules", seed(0, &one_map_many_rules()))?;
    write("many-hooks", seed(0, &many_hooks()))?;
    write("many-chains", seed(0, &many_chains()))?;
    write("flow-tables", seed(0, &flow_tables()))?;
    write("masks-of-masks", seed(0, &masks()))?;
    write("interrupted-and-refused", seed(0, &interrupted()))
}

/// The mode, and datagrams behind their lengths.
fn seed(mode: u8, datagrams: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![mode];
    for datagram in datagrams {
        // The kernel's are 32 KiB at most.
        bytes.extend(short(datagram.len()).to_le_bytes());
        bytes.extend(datagram);
    }
    bytes
}

/// Lengths here are short.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = short(4 + value.len());
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), b"\0"].concat())
}

fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &parts.concat())
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::from(short(16 + payload.len()));
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    bytes.extend([sequence.to_ne_bytes(), [0; 4]].concat());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The answers to the requests 1, 2 and so on: for each the number of the answer's messages (`NFT_MSG_NEW…`) and what
/// follows `struct nfgenmsg` in each.
fn answers(all: &[(u16, Vec<Vec<Vec<u8>>>)]) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    for (sequence, (kind, payloads)) in (1..).zip(all) {
        let mut datagram = Vec::new();
        for attributes in payloads {
            // `AF_INET`: a table `filter` may be one of iptables.
            let payload = [vec![2, 0, 0, 0], attributes.concat()].concat();
            datagram.extend(message(10 << 8 | kind, 2, sequence, &payload));
        }
        datagram.extend(message(3, 2, sequence, &[0; 4]));
        datagrams.push(datagram);
    }
    datagrams
}

const TABLE: u16 = 0;
const CHAIN: u16 = 3;
const RULE: u16 = 6;
const SET: u16 = 9;
const ELEMENTS: u16 = 12;
const FLOWTABLE: u16 = 22;

fn tables() -> (u16, Vec<Vec<Vec<u8>>>) {
    (TABLE, vec![vec![text(1, "filter")]])
}

fn chain(name: &str, hook: Option<u32>) -> Vec<Vec<u8>> {
    let mut attributes = vec![text(1, "filter"), text(3, name)];
    attributes.extend(hook.map(|hook| nest(4, &[number(1, hook)])));
    attributes
}

fn rule(chain: &str, expressions: &[Vec<u8>]) -> Vec<Vec<u8>> {
    vec![text(1, "filter"), text(2, chain), nest(4, expressions)]
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nest(1, &[text(1, name), nest(2, data)])
}

/// A nested verdict: `NFT_JUMP`, which is -3.
fn jump(kind: u16, chain: &str) -> Vec<u8> {
    let code = number(1, (-3_i32).cast_unsigned());
    nest(kind, &[nest(2, &[code, text(2, chain)])])
}

fn jumps(chain: &str) -> Vec<u8> {
    expression("immediate", &[number(1, 0), jump(2, chain)])
}

/// `th dport` in a register.
fn load(register: u32) -> Vec<u8> {
    let place = [
        number(1, register),
        number(2, 2),
        number(3, 2),
        number(4, 2),
    ];
    expression("payload", &place)
}

fn compare(register: u32, value: &[u8]) -> Vec<u8> {
    let value = nest(3, &[attribute(1, value)]);
    expression("cmp", &[number(1, register), number(2, 0), value])
}

fn is_7680() -> [Vec<u8>; 2] {
    [load(1), compare(1, &[0x1e, 0])]
}

/// Each chain jumps to the next one and to itself, the last to the first.
fn chains_in_a_ring() -> Vec<Vec<u8>> {
    let name = |at: usize| format!("c{at}");
    let count = 12;
    let chains = (0..count).map(|at| chain(&name(at), (at < 2).then_some(1)));
    let rules = (0..count).map(|at| {
        let to_both = [jumps(&name((at + 1) % count)), jumps(&name(at))];
        rule(&name(at), &[is_7680().concat(), to_both.concat()])
    });
    let chains = chains.collect();
    answers(&[tables(), (CHAIN, chains), (RULE, rules.collect())])
}

/// A map with many elements, each with a verdict of its own, and many rules that look at it.
fn one_map_many_rules() -> Vec<Vec<u8>> {
    let lookup = expression("lookup", &[text(1, "m"), number(2, 1), number(3, 0)]);
    let rules = (0..60).map(|_| rule("c", &[load(1), lookup.clone()]));
    let set = vec![text(1, "filter"), text(2, "m")];
    let elements = (0..60).map(|at| {
        let key = nest(1, &[attribute(1, &[0x1e, 0])]);
        nest(1, &[key, jump(2, &format!("j{at}"))])
    });
    let elements: Vec<Vec<u8>> = elements.collect();
    let elements = vec![text(1, "filter"), text(2, "m"), nest(3, &elements)];
    answers(&[
        tables(),
        (CHAIN, vec![chain("c", Some(1))]),
        (RULE, rules.collect()),
        (SET, vec![set]),
        (ELEMENTS, vec![elements]),
    ])
}

/// Many base chains with hooks that no kernel has, all of which jump to one chain with many jumps.
fn many_hooks() -> Vec<Vec<u8>> {
    let mut chains: Vec<_> = (0..60)
        .map(|at| chain(&format!("b{at}"), Some(at)))
        .collect();
    chains.push(chain("c", None));
    let mut rules: Vec<_> = (0..60)
        .map(|at| rule(&format!("b{at}"), &[jumps("c")]))
        .collect();
    rules.extend((0..60).map(|at| rule("c", &[jumps(&format!("b{at}"))])));
    answers(&[tables(), (CHAIN, chains), (RULE, rules)])
}

/// Many chains with a rule each, of a table that has a name of iptables but nothing else of it.
fn many_chains() -> Vec<Vec<u8>> {
    let chains = (0..120).map(|at| chain(&format!("c{at}"), None));
    let rules = (0..120).map(|at| rule(&format!("c{at}"), &is_7680()));
    let chains = chains.collect();
    answers(&[tables(), (CHAIN, chains), (RULE, rules.collect())])
}

/// A flow table of hardware with devices named in each way, and one without any.
fn flow_tables() -> Vec<Vec<u8>> {
    let devices = [
        text(1, "one"),
        attribute(1, b"old"),
        text(2, "wan"),
        attribute(1, b"\xff\x1b[2J\0"),
    ];
    let hook = nest(3, &[number(1, 0), nest(3, &devices)]);
    let first = vec![text(1, "filter"), text(2, "f"), hook, number(7, 1)];
    let second = vec![text(1, "filter"), text(2, "g")];
    let add = expression("flow_offload", &[text(1, "f")]);
    let rules = vec![rule("c", &[is_7680().concat(), add])];
    answers(&[
        tables(),
        (CHAIN, vec![chain("c", Some(2))]),
        (RULE, rules),
        (SET, vec![]),
        (FLOWTABLE, vec![first, second]),
    ])
}

/// Masks that carry a field further and further behind the registers.
fn masks() -> Vec<Vec<u8>> {
    let value = |kind| nest(kind, &[attribute(1, &[0xff; 400])]);
    let zero = nest(5, &[attribute(1, &[0; 400])]);
    let mask = expression(
        "bitwise",
        &[number(1, 1), number(2, 23), number(3, 4), value(4), zero],
    );
    let compare = compare(1, &[0x1e; 400]);
    let expressions = [vec![load(1)], vec![mask; 12], vec![compare; 4]].concat();
    let rules = vec![rule("c", &expressions)];
    let chains = vec![chain("c", Some(1))];
    answers(&[tables(), (CHAIN, chains), (RULE, rules)])
}

/// Two interrupted answers, and then a refusal.
fn interrupted() -> Vec<Vec<u8>> {
    let payload = [vec![2, 0, 0, 0], text(1, "filter")].concat();
    let table = |sequence| message(10 << 8, 0x12, sequence, &payload);
    let done = |sequence| message(3, 2, sequence, &[0; 4]);
    vec![
        [table(1), done(1)].concat(),
        table(2),
        [table(9), done(2)].concat(),
        message(2, 0, 3, &(-1_i32).to_ne_bytes()),
    ]
}

/// Filters of each kind, in the hardware of an interface, on both sides.
fn filters_in_hardware() -> Vec<Vec<u8>> {
    let tc = |kind, sort: &str, options: &[Vec<u8>]| {
        let mut payload = vec![0; 20];
        payload[4] = 2;
        payload.extend([text(1, sort), nest(2, options)].concat());
        message(kind, 2, 1, &payload)
    };
    let done = || message(3, 2, 1, &[0; 4]);
    let flags = |kind| attribute(kind, &4_u32.to_ne_bytes());
    let filter = |sort: &str, kind| tc(44, sort, &[flags(kind)]);
    vec![
        [tc(36, "clsact", &[]), tc(36, "noqueue", &[]), done()].concat(),
        [filter("flower", 22), filter("bpf", 9)].concat(),
        done(),
        [filter("matchall", 3), filter("u32", 11), done()].concat(),
    ]
}
