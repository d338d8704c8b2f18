//! Firewalls of this network namespace: which there are, and what their rules say of each watched port.

use std::collections::BTreeSet;

use monitor_common::Protocol;
use serde::Serialize;

use super::finding::{Finding, Weight};
use super::interfaces::Watched;
use crate::firewall::{self, BackendUse, Flowtable, Mention, Policy, Port, Survey};
use crate::traffic::Traffics;

/// The hooks of netfilter that a packet of a watched port may be dropped at, in the order in which they come.
const HOOKS: [&str; 3] = ["input", "forward", "output"];

/// The port of Teredo, which is UDP alone (RFC 4380 section 2.1).
const TEREDO: u16 = 3544;

/// What was found of firewalls.
#[derive(Clone, Debug, Serialize)]
pub struct Firewall {
    /// Which are in use.
    pub backends: Vec<BackendUse>,
    /// What is said of each watched port.
    pub ports: Vec<Mentioned>,
    /// Base chains, and whether they drop what no rule decides.
    pub policies: Vec<Policy>,
    /// Flow tables, by which established connections pass the rules.
    pub flow_tables: Vec<Flowtable>,
    /// Why the rules could not be read.
    pub unknown: Option<String>,
}

/// A watched port, and the rules that name it.
#[derive(Clone, Debug, Serialize)]
pub struct Mentioned {
    /// The port, as `tcp/7680`.
    pub port: String,
    /// The traffic that it belongs to.
    pub traffic: String,
    /// The hooks at which no rule names it.
    pub silent_hooks: Vec<&'static str>,
    /// The rules that name it.
    pub rules: Vec<Mention>,
}

/// The watched ports.
pub(super) fn ports(traffics: &Traffics) -> Vec<(Port, String)> {
    let all = traffics.iter().flat_map(|traffic| {
        traffic.ports.iter().map(|port| {
            let port = Port {
                protocol: port.protocol,
                number: port.number,
            };
            (port, traffic.name.clone())
        })
    });
    all.collect()
}

impl Firewall {
    /// Looks at all rules.
    pub(super) fn look(
        watched: &[(Port, String)],
        interfaces: &[Watched],
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut wanted: Vec<Port> = watched.iter().map(|(port, _)| *port).collect();
        // Asked for as well, for a mistake that is made often.
        wanted.push(Port {
            protocol: Protocol::Tcp,
            number: TEREDO,
        });
        let (survey, unknown) = match firewall::survey(&wanted) {
            Ok(survey) => (survey, None),
            Err(error) => (Survey::default(), Some(error.to_string())),
        };
        find(&survey, unknown.as_deref(), watched, interfaces, findings);
        let ports = watched
            .iter()
            .map(|(port, traffic)| mentioned(*port, traffic, &survey))
            .collect();
        Self {
            backends: survey.backends,
            ports,
            policies: survey.policies,
            flow_tables: survey.flowtables,
            unknown,
        }
    }
}

fn is_of(mention: &Mention, port: Port) -> bool {
    mention.port == port.number && mention.protocol == port.protocol.as_str()
}

fn mentioned(port: Port, traffic: &str, survey: &Survey) -> Mentioned {
    let rules = survey
        .mentions
        .iter()
        .filter(|mention| is_of(mention, port));
    let rules: Vec<Mention> = rules.cloned().collect();
    let named: BTreeSet<&str> = rules
        .iter()
        .flat_map(|rule| rule.hooks.iter().map(String::as_str))
        .collect();
    let silent = HOOKS.into_iter().filter(|hook| !named.contains(hook));
    Mentioned {
        port: format!("{}/{}", port.protocol.as_str(), port.number),
        traffic: traffic.to_owned(),
        silent_hooks: silent.collect(),
        rules,
    }
}

pub(super) fn find(
    survey: &Survey,
    unknown: Option<&str>,
    watched: &[(Port, String)],
    interfaces: &[Watched],
    findings: &mut Vec<Finding>,
) {
    if let Some(why) = unknown {
        findings.push(Finding {
            id: "rules_unknown",
            weight: Weight::Note,
            what: format!("the firewall's rules cannot be read: {why}"),
            effect:
                "whether a rule names a watched port is not known; drops are counted all the same"
                    .to_owned(),
            hint: None,
        });
    }
    if survey.cut {
        findings.push(Finding {
            id: "rules_cut",
            weight: Weight::Note,
            what: "there are more rules or set elements than the doctor reads".to_owned(),
            effect: "rules that name a watched port may be missing here".to_owned(),
            hint: None,
        });
    }
    teredo_by_tcp(survey, watched, findings);
    flow_tables(&survey.flowtables, interfaces, findings);
}

/// TCP 3544 opened where UDP 3544 is not: Teredo is UDP alone.
fn teredo_by_tcp(survey: &Survey, watched: &[(Port, String)], findings: &mut Vec<Finding>) {
    let port = |protocol| Port {
        protocol,
        number: TEREDO,
    };
    let is_watched = watched
        .iter()
        .any(|(one, _)| one.protocol == Protocol::Udp && one.number == TEREDO);
    let says = |protocol, hook: &str, verdict: fn(&str) -> bool| {
        survey.mentions.iter().any(|mention| {
            is_of(mention, port(protocol))
                && mention.hooks.iter().any(|one| one == hook)
                && verdict(&mention.verdict)
        })
    };
    let opens = |verdict: &str| verdict.starts_with("accept");
    let closes = |verdict: &str| verdict.starts_with("drop") || verdict.starts_with("reject");
    for hook in HOOKS {
        let drops_the_rest = survey
            .policies
            .iter()
            .any(|policy| policy.hook == hook && policy.drops);
        let udp_is_closed = says(Protocol::Udp, hook, closes)
            || drops_the_rest && !says(Protocol::Udp, hook, opens);
        if is_watched && says(Protocol::Tcp, hook, opens) && udp_is_closed {
            findings.push(Finding {
                id: "teredo_tcp_rule",
                weight: Weight::Note,
                what: format!("a rule of hook {hook} opens TCP {TEREDO}, while UDP {TEREDO} is closed there: a mistake"),
                effect: "Teredo is UDP alone (RFC 4380), so the rule opens nothing and Teredo stays blocked".to_owned(),
                hint: Some(format!("let that rule say udp dport {TEREDO} in place of tcp dport {TEREDO}")),
            });
        }
    }
}

fn flow_tables(tables: &[Flowtable], interfaces: &[Watched], findings: &mut Vec<Finding>) {
    for table in tables {
        let name = format!("{} {} {}", table.family, table.table, table.name);
        if table.hardware {
            findings.push(Finding {
                id: "hardware_offload",
                weight: Weight::Limited,
                what: format!("flow table {name} puts connections into hardware"),
                effect: "forwarded packets of connections that are there pass unseen: only their first ones are counted".to_owned(),
                hint: Some("take `flags offload` off the flow table: connections in a flow table of software are counted".to_owned()),
            });
            continue;
        }
        let is_below = |line: &&Watched| {
            table.has(&line.name)
                && (line.slave_of.as_deref() == Some("bridge") || has_vlan_above(line, interfaces))
        };
        let below: Vec<&str> = interfaces
            .iter()
            .filter(is_below)
            .map(|line| line.name.as_str())
            .collect();
        if !below.is_empty() {
            findings.push(Finding {
                id: "flow_table_below",
                weight: Weight::Limited,
                what: format!("flow table {name} has devices that lie below others: {}", below.join(", ")),
                effect: "it may send straight through a bridge's port or below a VLAN, where forwarded packets are not counted".to_owned(),
                hint: Some("name the bridge or VLAN itself as device of the flow table".to_owned()),
            });
        }
    }
}

/// Whether a VLAN lies on an interface.
fn has_vlan_above(line: &Watched, interfaces: &[Watched]) -> bool {
    let mut vlans = interfaces
        .iter()
        .filter(|one| one.kind.as_deref() == Some("vlan"));
    vlans.any(|vlan| vlan.lies_on == Some(line.index))
}
