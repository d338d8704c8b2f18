//! From which hooks a chain is reached, and by packets of which protocols.

use std::collections::{BTreeSet, HashMap};

use super::analysis::{BOTH, Protocols, Said};
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
    // It only grows, so it ends: a chain comes back when there is more that it hands on.
    while let Some(index) = waiting.pop() {
        let Some(from) = reached.get(index).cloned() else {
            continue;
        };
        let jumps = said.get(index).into_iter().flatten();
        for (chain, protocols) in jumps.flat_map(|said| &said.jumps) {
            let handed = from.protocols & protocols;
            let Some(next) = indices.get(chain.as_str()).filter(|_| handed != 0) else {
                continue;
            };
            let Some(reach) = reached.get_mut(*next) else {
                continue;
            };
            let before = reach.clone();
            reach.hooks.extend(from.hooks.iter().cloned());
            reach.protocols |= handed;
            if *reach != before {
                waiting.push(*next);
            }
        }
    }
    reached
}
