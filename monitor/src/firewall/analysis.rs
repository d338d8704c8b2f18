//! What one rule says of the ports that are looked for.
//!
//! A rule mentions a port where a comparison of a port field names it, by itself, in a range or in a
//! set. What is excluded (`!= 7680`) is named as well. All ports (0-65535) name none.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use monitor_common::Protocol;

use super::Port as Wanted;
use super::registers::{Demand, Key, Port, Step, port_at, steps};
use super::rules::{Element, Operator, Rule, Set, Table, Verdict};

/// A set of the protocols that can be, a bit for each.
pub(super) type Protocols = u8;

pub(super) const TCP: Protocols = 1;
pub(super) const UDP: Protocols = 2;
pub(super) const BOTH: Protocols = TCP | UDP;

pub(super) const fn bit(protocol: Protocol) -> Protocols {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

/// The protocols whose number fits (`IPPROTO_TCP`, `IPPROTO_UDP`).
fn fitting(fits: impl Fn(u8) -> bool) -> Protocols {
    let bit = |number, bit| if fits(number) { bit } else { 0 };
    bit(6, TCP) | bit(17, UDP)
}

/// The most verdicts of one map that are told for a port. Where there are more, as in a map by port and address, it is
/// only said that there is a map.
const MOST_VERDICTS: usize = 16;

/// The most ways in which the key of one set is put together that are looked at: there is one as a rule.
const MOST_KEYS: usize = 32;

/// What a lookup finds in a set.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Found {
    /// With a port in the key: what is named, and the verdicts there in words.
    named: BTreeMap<(Protocols, u16), BTreeSet<Option<String>>>,
    /// The protocols in the keys.
    protocols: Protocols,
    /// The chains that the elements' verdicts lead to.
    pub(super) jumps: BTreeSet<(String, Protocols)>,
}

/// What a rule says.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Said {
    /// What it mentions, for which protocols, and what it does then.
    pub(super) mentions: BTreeSet<(u16, Protocols, String)>,
    /// The chain that packets of these protocols may go to.
    pub(super) jump: Option<(String, Protocols)>,
    /// The maps of such chains, and the protocols that they are asked for.
    pub(super) maps: Vec<(Rc<Found>, Protocols)>,
}

/// A demand of one port field, as far as it names ports.
enum Named {
    Demand(Port, Demand<u16>),
    Found(Rc<Found>),
}

/// The lookups in one table, each done once: many rules may look at one set.
pub(super) struct Analysis<'a> {
    sets: HashMap<&'a str, &'a Set>,
    wanted: &'a [Wanted],
    found: HashMap<&'a str, HashMap<Key, Rc<Found>>>,
    /// Not everything was looked up.
    pub(super) cut: bool,
}

impl<'a> Analysis<'a> {
    pub(super) fn new(table: &'a Table, wanted: &'a [Wanted]) -> Self {
        let sets = table.sets.iter().map(|set| (set.name.as_str(), set));
        Self {
            sets: sets.collect(),
            wanted,
            found: HashMap::new(),
            cut: false,
        }
    }

    /// What a rule says.
    pub(super) fn rule(&mut self, rule: &'a Rule) -> Said {
        let mut said = Said::default();
        let mut protocols = BOTH;
        // By the load that they are of: what all must allow, and what is excluded.
        let mut demands: HashMap<usize, Vec<Named>> = HashMap::new();
        let mut excluded: Vec<Named> = Vec::new();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let mut by_map: Vec<Rc<Found>> = Vec::new();
        let (mut verdict, mut action) = (None, None);
        for step in steps(rule) {
            match step {
                Step::Protocol(demand) => protocols &= fitting(|number| demand.holds(number)),
                Step::Port(port, demand) => match positive(demand) {
                    Some((demand, false)) => {
                        let demand = Named::Demand(port, demand);
                        demands.entry(port.load).or_default().push(demand);
                    }
                    Some((demand, true)) => excluded.push(Named::Demand(port, demand)),
                    None => {}
                },
                Step::Ports(named) => {
                    ranges.extend(named.iter().filter(|range| **range != (0, u16::MAX)));
                }
                Step::Lookup {
                    set,
                    inverted,
                    is_verdict,
                    key,
                } => {
                    let load = key.ports.first().map(|(_, port)| port.load);
                    let is_protocol = load.is_none() && !key.protocols.is_empty();
                    let found = self.lookup(set, key);
                    if is_verdict {
                        action = Some("vmap");
                        by_map.push(Rc::clone(&found));
                    }
                    match load {
                        _ if is_protocol && inverted => protocols &= !found.protocols,
                        _ if is_protocol => protocols &= found.protocols,
                        Some(_) if inverted => excluded.push(Named::Found(found)),
                        Some(load) if !is_verdict => {
                            demands.entry(load).or_default().push(Named::Found(found));
                        }
                        _ => {}
                    }
                }
                Step::Verdict(now) => verdict = Some(now),
                // A log is not what becomes of a packet.
                Step::Action("log") => action = action.or(Some("log")),
                Step::Action(word) => action = Some(word),
            }
        }
        let words = verdict.map_or_else(|| action.unwrap_or("-").to_owned(), Verdict::words);
        for wanted in self.wanted {
            let asked = bit(wanted.protocol) & protocols;
            let is_named = demands
                .values()
                .any(|all| all.iter().all(|named| names(named, wanted.number, asked)))
                || excluded
                    .iter()
                    .any(|named| names(named, wanted.number, asked))
                || ranges
                    .iter()
                    .any(|(from, to)| (from..=to).contains(&&wanted.number));
            if is_named && asked != 0 {
                said.mentions.insert((wanted.number, asked, words.clone()));
            }
            for verdict in by_map
                .iter()
                .filter_map(|found| found.named.get(&(asked, wanted.number)))
                .flatten()
            {
                let words = verdict.clone().unwrap_or_else(|| "vmap".to_owned());
                said.mentions.insert((wanted.number, asked, words));
            }
        }
        if protocols != 0 {
            let chain = verdict.and_then(Verdict::chain);
            said.jump = chain.map(|chain| (chain.to_owned(), protocols));
            said.maps = by_map.into_iter().map(|map| (map, protocols)).collect();
        }
        said
    }

    fn lookup(&mut self, name: &'a str, mut key: Key) -> Rc<Found> {
        // What is found is the same whichever load a field comes from.
        for (_, port) in &mut key.ports {
            port.load = 0;
        }
        let of_set = self.found.entry(name).or_default();
        let count = of_set.len();
        match of_set.entry(key) {
            Entry::Occupied(found) => Rc::clone(found.get()),
            Entry::Vacant(_) if count == MOST_KEYS => {
                self.cut = true;
                let protocols = BOTH;
                Rc::new(Found {
                    protocols,
                    ..Found::default()
                })
            }
            Entry::Vacant(place) => {
                let set = self.sets.get(name);
                let elements = set.map(|set| ranges(set)).unwrap_or_default();
                let found = find(&elements, place.key(), self.wanted);
                Rc::clone(place.insert(Rc::new(found)))
            }
        }
    }
}

/// A demand that names ports by what it allows, or (true) by what it does not. Those that allow all name
/// none.
const fn positive(demand: Demand<u16>) -> Option<(Demand<u16>, bool)> {
    match demand {
        Demand::Is(Operator::GreaterOrEqual, 0)
        | Demand::Is(Operator::LessOrEqual, u16::MAX)
        | Demand::Within(0, u16::MAX) => None,
        Demand::Is(Operator::NotEqual, value) => Some((Demand::Is(Operator::Equal, value), true)),
        Demand::NotWithin(from, to) => Some((Demand::Within(from, to), true)),
        demand => Some((demand, false)),
    }
}

fn names(named: &Named, number: u16, asked: Protocols) -> bool {
    match named {
        Named::Demand(port, demand) => demand.holds(port.value(number)),
        Named::Found(found) => found.named.contains_key(&(asked, number)),
    }
}

/// An element as the first and the last key.
struct Span<'a> {
    from: &'a [u8],
    to: Vec<u8>,
    verdict: Option<&'a Verdict>,
}

/// The elements of a set as spans. In a set of intervals each element is where one begins or where one
/// ends; the kernel lists them from the last to the first.
fn ranges(set: &Set) -> Vec<Span<'_>> {
    let span = |element: &'_ Element| element.end.as_ref().unwrap_or(&element.key).clone();
    if !set.has_intervals {
        let elements = set.elements.iter().map(|element| Span {
            from: &element.key,
            to: span(element),
            verdict: element.verdict.as_ref(),
        });
        return elements.collect();
    }
    let mut elements: Vec<&Element> = set.elements.iter().collect();
    elements.sort_by(|one, other| {
        let ends_first = other.is_interval_end.cmp(&one.is_interval_end);
        one.key.cmp(&other.key).then(ends_first)
    });
    let mut spans = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        if element.is_interval_end {
            continue;
        }
        // Without a next one it goes on to the last key that there is.
        let to = match elements.get(index + 1) {
            Some(next) => before(&next.key),
            None => vec![u8::MAX; element.key.len()],
        };
        spans.push(Span {
            from: &element.key,
            to,
            verdict: element.verdict.as_ref(),
        });
    }
    spans
}

/// The key that comes before another one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != u8::MAX {
            break;
        }
    }
    key
}

fn find(spans: &[Span<'_>], key: &Key, wanted: &[Wanted]) -> Found {
    let mut found = Found::default();
    for span in spans {
        let protocols = key.protocols.iter().fold(BOTH, |protocols, at| {
            let Some((from, to)) = span.from.get(*at).zip(span.to.get(*at)) else {
                return protocols;
            };
            protocols & fitting(|number| (*from..=*to).contains(&number))
        });
        found.protocols |= protocols;
        if let Some(chain) = span.verdict.and_then(Verdict::chain) {
            found.jumps.insert((chain.to_owned(), protocols));
        }
        for (at, port) in &key.ports {
            let Some((from, to)) = port_at(span.from, *at).zip(port_at(&span.to, *at)) else {
                continue;
            };
            if (from, to) == (0, u16::MAX) {
                continue;
            }
            for wanted in wanted {
                let protocols = protocols & bit(wanted.protocol);
                if protocols != 0 && (from..=to).contains(&port.value(wanted.number)) {
                    let verdicts = found.named.entry((protocols, wanted.number)).or_default();
                    if verdicts.len() <= MOST_VERDICTS {
                        verdicts.insert(span.verdict.map(Verdict::words));
                    }
                }
            }
        }
    }
    for verdicts in found.named.values_mut() {
        if verdicts.len() > MOST_VERDICTS {
            *verdicts = BTreeSet::from([None]);
        }
    }
    found
}

/// The names of a table's sets whose elements matter: looked up by a port or a protocol, or leading to
/// chains.
pub(super) fn sets_that_matter(table: &Table) -> BTreeSet<String> {
    table
        .chains
        .iter()
        .flat_map(|chain| &chain.rules)
        .flat_map(steps)
        .filter_map(|step| match step {
            Step::Lookup {
                set,
                is_verdict,
                key,
                ..
            } if is_verdict || !key.is_empty() => Some(set.to_owned()),
            _ => None,
        })
        .collect()
}
