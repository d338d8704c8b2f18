//! A survey of the firewall in this network namespace: who uses it, which rules mention given ports, what
//! becomes of the packets that no rule is for, and what goes past the rules in flowtables.
//!
//! It only reads, and only from the kernel: nftables through netlink, iptables-legacy through socket
//! options, whose modules it never loads. Out of sight are what `ipset` holds, ebtables and arptables of
//! the legacy kind, BPF programs, and any comparison that has no port field (`u32`, raw bytes).

mod analysis;
mod backends;
mod decode;
mod dump;
mod expressions;
mod legacy;
mod reach;
mod read;
mod registers;
mod rules;
#[cfg(test)]
mod tests;
mod xtables;

use std::io;

use monitor_common::Protocol;
use serde::Serialize;

use crate::netlink::channel::Channel;
use crate::ruleset::RawTable;
use analysis::Analysis;
use backends::Owner;
pub(crate) use dump::kernel;
use read::Read;
use rules::Table;

/// A port to look for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// What the firewall is.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Survey {
    /// Who uses it: first the parts of the kernel, then programs that are known by the names they choose.
    pub backends: Vec<BackendUse>,
    /// The rules that mention one of the ports, in the order of the kernel.
    pub mentions: Vec<Mention>,
    /// What the base chains of tables that are switched on do with packets that no rule decides on.
    pub policies: Vec<Policy>,
    /// The flowtables.
    pub flowtables: Vec<Flowtable>,
    /// There is more than was read, or it changed each time while it was read.
    pub cut: bool,
}

/// A part of the kernel's firewall, or a program that fills it. A rule of `ufw` counts for `iptables-nft`
/// or `iptables-legacy` as well, one of firewalld for `nftables` as well.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct BackendUse {
    /// `nftables`, `iptables-nft`, `iptables-legacy`, `ufw`, `firewalld`, `docker`, `kubernetes` or
    /// `libvirt`.
    pub name: &'static str,
    /// Tables that have something of it.
    pub tables: usize,
    /// Its rules in them.
    pub rules: usize,
}

/// A rule that mentions a port.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Mention {
    /// Whose the rule is, as in [`BackendUse::name`]: the program, where the names tell one.
    pub backend: &'static str,
    /// The table's family, as nft calls it.
    pub family: String,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// The hooks from which packets come to the chain, sorted; none where the chain is not in use.
    pub hooks: Vec<String>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The port, which is the source, the destination, or one that the rule excludes.
    pub port: u16,
    /// What the rule does, as nft writes it (`drop`, `jump other`, `reject`); `-` for nothing, `vmap` where it looks at a map
    /// with many verdicts for the port.
    pub verdict: String,
    /// The rule's number (`nft -a list ruleset`); of iptables-legacy, its position in the chain.
    pub handle: Option<u64>,
}

/// A base chain, and what it does with packets that no rule decides on.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// Whose the chain is, as in [`BackendUse::name`].
    pub backend: &'static str,
    /// The table's family, as nft calls it.
    pub family: String,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// Its hook, as nft calls it.
    pub hook: String,
    /// It drops them.
    pub drops: bool,
}

/// A flowtable: packets of connections in it see no rules of the hook `forward`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Flowtable {
    /// The table's family, as nft calls it.
    pub family: String,
    /// The table's name.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The network cards forward by themselves, if they can: nothing of that is seen by this host.
    pub hardware: bool,
    /// The devices that it is for; with `*` at the end, all whose names begin so.
    pub devices: Vec<String>,
}

impl Flowtable {
    /// Whether it is for a device of this name.
    #[must_use]
    pub fn has(&self, device: &str) -> bool {
        self.devices.iter().any(|one| {
            let prefix = one.strip_suffix('*');
            one == device || prefix.is_some_and(|prefix| device.starts_with(prefix))
        })
    }
}

/// Why the firewall can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// For want of a capability.
    #[error("can't read {0} without CAP_NET_ADMIN")]
    Denied(&'static str),
    /// For another reason.
    #[error("can't read {what}: {source}")]
    Read {
        /// What it was.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl SurveyError {
    fn new(what: &'static str, source: io::Error) -> Self {
        // The list of the tables of iptables-legacy is a file, which gives EACCES.
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Denied(what)
        } else {
            Self::Read { what, source }
        }
    }
}

/// Looks at the firewall in the calling thread's network namespace. It blocks, for moments as a rule.
///
/// A kernel without nftables, or without iptables-legacy, is no error: nothing comes from there.
///
/// # Errors
///
/// [`SurveyError`] where something can't be read, as for want of `CAP_NET_ADMIN`.
pub fn survey(ports: &[Port]) -> Result<Survey, SurveyError> {
    Ok(conclude(read::read()?, ports))
}

/// The same, wherever the answers of nftables and the tables of iptables-legacy come from.
pub(crate) fn replay(
    channel: &mut dyn Channel,
    legacy: impl IntoIterator<Item = (bool, RawTable)>,
    ports: &[Port],
) -> Result<Survey, SurveyError> {
    let mut read = Read::default();
    read::nftables(channel, &mut read)?;
    for (is_ipv6, table) in legacy {
        read::legacy_table(is_ipv6, table, &mut read);
    }
    Ok(conclude(read, ports))
}

fn conclude(read: Read, ports: &[Port]) -> Survey {
    let mut survey = analyse(&read.tables, ports);
    survey.flowtables = read.flowtables;
    survey.cut |= read.cut;
    survey
}

/// What tables say of ports.
fn analyse(tables: &[Table], ports: &[Port]) -> Survey {
    let mut survey = Survey {
        backends: backends::in_use(tables),
        ..Survey::default()
    };
    for table in tables {
        survey.cut |= mentions(table, ports, &mut survey.mentions);
        if !table.is_dormant {
            policies(table, &mut survey.policies);
        }
    }
    survey
}

/// Adds the rules of a table that mention a port; true where not everything was looked at.
fn mentions(table: &Table, ports: &[Port], mentions: &mut Vec<Mention>) -> bool {
    let owner = Owner::new(table);
    let mut analysis = Analysis::new(table, ports);
    let mut said = Vec::new();
    for chain in &table.chains {
        let rules = chain.rules.iter();
        said.push(rules.map(|rule| analysis.rule(rule)).collect::<Vec<_>>());
    }
    let reached = reach::reach(table, &said);
    for ((chain, said), reach) in table.chains.iter().zip(&said).zip(&reached) {
        // Of a chain that nobody comes to, it is not known who would.
        let allowed = if reach.hooks.is_empty() {
            analysis::BOTH
        } else {
            reach.protocols
        };
        for (rule, said) in chain.rules.iter().zip(said) {
            for (port, protocols, verdict) in &said.mentions {
                for protocol in Protocol::ALL {
                    if analysis::bit(*protocol) & protocols & allowed == 0 {
                        continue;
                    }
                    mentions.push(Mention {
                        backend: owner.of_chain(chain),
                        family: table.family.to_string(),
                        table: table.name.clone(),
                        chain: chain.name.clone(),
                        hooks: reach.hooks.iter().cloned().collect(),
                        protocol: protocol.as_str(),
                        port: *port,
                        verdict: verdict.clone(),
                        handle: rule.handle,
                    });
                }
            }
        }
    }
    analysis.cut
}

fn policies(table: &Table, policies: &mut Vec<Policy>) {
    let owner = Owner::new(table);
    policies.extend(table.chains.iter().filter_map(|chain| {
        let base = chain.base.as_ref()?;
        Some(Policy {
            backend: owner.of_chain(chain),
            family: table.family.to_string(),
            table: table.name.clone(),
            chain: chain.name.clone(),
            hook: base.hook.clone(),
            drops: base.drops,
        })
    }));
}
