//! Whose a table or a chain is, by their names.

use super::BackendUse;
use super::rules::{Chain, Table};
use crate::ruleset::TableFamily;

const NFTABLES: &str = "nftables";
const IPTABLES_NFT: &str = "iptables-nft";
const IPTABLES_LEGACY: &str = "iptables-legacy";
const UFW: &str = "ufw";
const FIREWALLD: &str = "firewalld";
const DOCKER: &str = "docker";
const KUBERNETES: &str = "kubernetes";
const LIBVIRT: &str = "libvirt";

/// All of them, in the order in which they are told.
const ALL: [&str; 8] = [
    NFTABLES,
    IPTABLES_NFT,
    IPTABLES_LEGACY,
    UFW,
    FIREWALLD,
    DOCKER,
    KUBERNETES,
    LIBVIRT,
];

/// The tables of iptables.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
/// Its base chains.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

fn is_iptables(table: &Table) -> bool {
    matches!(table.family, TableFamily::Ip | TableFamily::Ip6)
        && IPTABLES.contains(&table.name.as_str())
        && table.chains.iter().any(|chain| {
            let is_built_in = chain.base.is_some() && BUILT_IN.contains(&chain.name.as_str());
            is_built_in || chain.rules.iter().any(|rule| rule.is_compat)
        })
}

/// Whose a table and its chains are.
pub(super) struct Owner {
    /// The part of the kernel that the table belongs to.
    part: &'static str,
    /// The program that made all of it, where its name tells.
    program: Option<&'static str>,
}

impl Owner {
    /// Looks at all of the table, once.
    pub(super) fn new(table: &Table) -> Self {
        let part = if table.is_legacy {
            IPTABLES_LEGACY
        } else if is_iptables(table) {
            IPTABLES_NFT
        } else {
            NFTABLES
        };
        Self {
            part,
            program: by_table(table),
        }
    }

    /// The program that made a chain, where the names tell; else what the table belongs to.
    pub(super) fn of_chain(&self, chain: &Chain) -> &'static str {
        self.program
            .or_else(|| by_chain(&chain.name))
            .unwrap_or(self.part)
    }
}

fn by_table(table: &Table) -> Option<&'static str> {
    match table.name.as_str() {
        _ if table.is_legacy => None,
        "firewalld" => Some(FIREWALLD),
        "docker-bridges" => Some(DOCKER),
        "kube-proxy" => Some(KUBERNETES),
        "libvirt_network" => Some(LIBVIRT),
        _ => None,
    }
}

fn by_chain(name: &str) -> Option<&'static str> {
    /// firewalld makes one of each for a zone (`IN_public`) and for its parts (`IN_public_allow`); these
    /// are the ones that a name of somebody else does not begin with by chance.
    const ZONES: [&str; 4] = ["IN_public", "FWDI_", "FWDO_", "FWD_public"];
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if begins(&["ufw-", "ufw6-"]) {
        Some(UFW)
    } else if begins(&["KUBE-"]) {
        Some(KUBERNETES)
    } else if begins(&["LIBVIRT_"]) {
        Some(LIBVIRT)
    } else if name == "DOCKER" || begins(&["DOCKER-"]) {
        Some(DOCKER)
    } else if name.ends_with("_ZONES") || name.ends_with("_ZONES_SOURCE") || begins(&ZONES) {
        Some(FIREWALLD)
    } else {
        None
    }
}

/// Which are in use. A table counts for the part of the kernel that it belongs to, and for each program
/// that has a chain in it.
pub(super) fn in_use(tables: &[Table]) -> Vec<BackendUse> {
    let mut uses = ALL.map(|name| BackendUse {
        name,
        tables: 0,
        rules: 0,
    });
    for table in tables {
        let owner = Owner::new(table);
        for one in &mut uses {
            let is_whole = owner.part == one.name || owner.program == Some(one.name);
            let chains = table
                .chains
                .iter()
                .filter(|chain| is_whole || owner.of_chain(chain) == one.name);
            let rules: Vec<usize> = chains.map(|chain| chain.rules.len()).collect();
            if is_whole || !rules.is_empty() {
                one.tables += 1;
                one.rules += rules.iter().sum::<usize>();
            }
        }
    }
    uses.into_iter().filter(|one| one.tables > 0).collect()
}
