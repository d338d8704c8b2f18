//! From which hooks a chain is reached, and by packets of which protocols.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use monitor_common::Protocol;

use super::analysis::{BOTH, Found, Protocols, Said, bit};
use super::rules::Table;

/// Who comes to a chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Reach {
    pub(super) hooks: BTreeSet<String>,
    pub(super) protocols: Protocols,
}

/// The reach of each chain of a table, in the order of its chains; `said` is what their rules say.
pub(super) fn reach(table: &Table, said: &[Vec<Said>]) -> Vec<Reach> {
    let chains = table.chains.iter().enumerate();
    let indices: HashMap<&str, usize> = chains
        .map(|(index, chain)| (chain.name.as_str(), index))
        .collect();
    let mut reached = vec![Reach::default(); table.chains.len()];
    let mut waiting = Vec::new();
    if !table.is_dormant {
        for (index, chain) in table.chains.iter().enumerate() {
            if let (Some(base), Some(reach)) = (&chain.base, reached.get_mut(index)) {
                reach.hooks.insert(base.hook.clone());
                reach.protocols = BOTH;
                waiting.push(index);
            }
        }
    }
    let mut given = Given::default();
    // It only grows, so it ends: a chain comes back when there is more that it hands on.
    while let Some(index) = waiting.pop() {
        let Some(from) = reached.get(index).cloned() else {
            continue;
        };
        let mut hand = |chain: &str, handed: Protocols| {
            let next = indices.get(chain).filter(|_| handed != 0);
            let Some((next, reach)) = next.and_then(|at| Some((*at, reached.get_mut(*at)?))) else {
                return;
            };
            let before = (reach.hooks.len(), reach.protocols);
            reach.hooks.extend(from.hooks.iter().cloned());
            reach.protocols |= handed;
            if before != (reach.hooks.len(), reach.protocols) {
                waiting.push(next);
            }
        };
        for said in said.get(index).into_iter().flatten() {
            if let Some((chain, protocols)) = &said.jump {
                hand(chain, from.protocols & protocols);
            }
            for (map, protocols) in &said.maps {
                let new = given.more(map, &from.hooks, from.protocols & protocols);
                if new != 0 {
                    map.jumps
                        .iter()
                        .for_each(|(chain, protocols)| hand(chain, new & protocols));
                }
            }
        }
    }
    reached
}

/// The hooks that were handed to all chains of a map, by the map and one protocol: many rules may look at one large map.
#[derive(Default)]
struct Given(HashMap<(*const Found, Protocols), BTreeSet<String>>);

impl Given {
    /// The protocols for which a map was not yet handed all of these hooks; now it is.
    fn more(
        &mut self,
        map: &Rc<Found>,
        hooks: &BTreeSet<String>,
        protocols: Protocols,
    ) -> Protocols {
        let mut new = 0;
        for protocol in Protocol::ALL.iter().map(|protocol| bit(*protocol)) {
            if protocols & protocol == 0 {
                continue;
            }
            let given = self.0.entry((Rc::as_ptr(map), protocol)).or_default();
            if !hooks.is_subset(given) {
                given.extend(hooks.iter().cloned());
                new |= protocol;
            }
        }
        new
    }
}
