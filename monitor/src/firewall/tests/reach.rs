//! Who comes to which chain, compared with a reckoning that is as simple as it can be.

use proptest::collection::vec;
use proptest::option;

use proptest::prelude::*;

use super::*;

/// A rule: the protocol that it is for, and whether it jumps to a chain or looks at a map.
type Way = (Option<bool>, Result<usize, usize>);

/// Chains, each with its hook and its rules, and maps by protocol to chains.
#[derive(Clone, Debug)]
struct Graph {
    chains: Vec<(Option<usize>, Vec<Way>)>,
    maps: Vec<Vec<(bool, usize)>>,
}

const HOOKS: [&str; 3] = ["forward", "input", "output"];
const CHAINS: usize = 6;
const MAPS: usize = 2;

fn graphs() -> impl Strategy<Value = Graph> {
    let to = prop_oneof![(0..CHAINS).prop_map(Ok), (0..MAPS).prop_map(Err)];
    let ways = vec((any::<Option<bool>>(), to), 0..4);
    let chains = vec((option::of(0..HOOKS.len()), ways), CHAINS);
    let maps = vec(vec((any::<bool>(), 0..CHAINS), 0..4), MAPS);
    (chains, maps).prop_map(|(chains, maps)| Graph { chains, maps })
}

fn number(is_tcp: bool) -> u8 {
    if is_tcp { TCP } else { UDP }
}

fn name(of: &str, at: usize) -> String {
    format!("{of}{at}")
}

fn table_of(graph: &Graph) -> Table {
    let way = |(for_one, to): &Way| {
        let mut expressions = Vec::new();
        expressions.extend(
            for_one
                .map(|is_tcp| protocol(number(is_tcp)))
                .into_iter()
                .flatten(),
        );
        match to {
            Ok(chain) => expressions.push(jump(&name("c", *chain))),
            Err(map) => expressions.extend([
                load(0, Kind::Protocol),
                lookup(&name("m", *map), false, true),
            ]),
        }
        rule(expressions)
    };
    let chains = graph.chains.iter().enumerate().map(|(at, (hook, ways))| {
        let mut rules: Vec<Rule> = ways.iter().map(way).collect();
        rules.push(rule(th_dport(Operator::Equal, 7680)));
        chain(&name("c", at), hook.map(|hook| HOOKS[hook]), rules)
    });
    let mut table = table(TableFamily::Inet, "t", chains.collect());
    let sets = graph.maps.iter().enumerate().map(|(at, elements)| Set {
        name: name("m", at),
        has_intervals: false,
        elements: elements
            .iter()
            .map(|(is_tcp, to)| Element {
                verdict: Some(Verdict::Jump(name("c", *to))),
                ..element(&[number(*is_tcp)], false)
            })
            .collect(),
    });
    table.sets = sets.collect();
    table
}

/// The hooks of each chain, and whether UDP and TCP come to it: every rule hands on what its chain has, until nothing
/// changes.
fn reckoned(graph: &Graph) -> Vec<(Vec<bool>, [bool; 2])> {
    let begin = |hook: &Option<usize>| {
        let hooks = (0..HOOKS.len()).map(|at| *hook == Some(at)).collect();
        (hooks, [hook.is_some(); 2])
    };
    let mut all: Vec<(Vec<bool>, [bool; 2])> =
        graph.chains.iter().map(|(hook, _)| begin(hook)).collect();
    loop {
        let before = all.clone();
        for (from, (_, ways)) in graph.chains.iter().enumerate() {
            for (for_one, to) in ways {
                let edges: Vec<(Option<bool>, usize)> = match to {
                    Ok(chain) => vec![(None, *chain)],
                    Err(map) => {
                        let elements = graph.maps[*map].iter();
                        elements.map(|(one, to)| (Some(*one), *to)).collect()
                    }
                };
                for (of_element, to) in edges {
                    let (hooks, protocols) = all[from].clone();
                    let handed = [false, true].map(|one| {
                        let fits = |only: Option<bool>| only.is_none_or(|only| only == one);
                        protocols[usize::from(one)] && fits(*for_one) && fits(of_element)
                    });
                    if handed.contains(&true) {
                        for (mine, more) in all[to].0.iter_mut().zip(hooks) {
                            *mine |= more;
                        }
                        for (mine, more) in all[to].1.iter_mut().zip(handed) {
                            *mine |= more;
                        }
                    }
                }
            }
        }
        if all == before {
            return all;
        }
    }
}

proptest! {
    #[test]
    fn chains_are_reached_as_reckoned(graph in graphs()) {
        let mut expected = Vec::new();
        for (at, (hooks, protocols)) in reckoned(&graph).into_iter().enumerate() {
            let hooks: Vec<&str> = HOOKS.into_iter().zip(hooks).filter_map(|(name, is)| is.then_some(name)).collect();
            // Of a chain that nobody comes to, it is not known who would.
            let [udp, tcp] = if hooks.is_empty() { [true; 2] } else { protocols };
            for (name, is_there) in [("tcp", tcp), ("udp", udp)] {
                expected.extend(is_there.then(|| format!("c{at} {name} {}", hooks.join(" "))));
            }
        }
        let survey = analyse(&[table_of(&graph)], &PORTS[..2]);
        let shown = survey.mentions.iter().map(|one| format!("{} {} {}", one.chain, one.protocol, one.hooks.join(" ")));
        prop_assert_eq!(shown.collect::<Vec<_>>(), expected);
    }
}
