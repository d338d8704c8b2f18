//! Decoding of what `nf_tables` answers to dumps (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! A payload is what follows a message's `struct nlmsghdr`. One that lacks what makes it useful is left
//! out.

use super::Flowtable;
use super::expressions::{self, number, value, verdict};
use super::rules::{Base, Chain, Element, Rule, Set, Table};
use crate::netlink::{attribute, attributes, text};
use crate::ruleset::TableFamily;

/// `struct nfgenmsg`, bytes.
const NFGENMSG: usize = 4;

/// The table's name: `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE` and so on are all 1.
const NFTA_ANY_TABLE: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;

const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
/// `NF_MAX_HOOKS`: no family has more.
const MAX_HOOKS: u32 = 8;
/// `NF_DROP`.
const POLICY_DROP: u32 = 0;

const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_CONCAT: u32 = 0x80;

const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;

const NFTA_FLOWTABLE_NAME: u16 = 2;
const NFTA_FLOWTABLE_HOOK: u16 = 3;
const NFTA_FLOWTABLE_FLAGS: u16 = 7;
const NFTA_FLOWTABLE_HOOK_DEVS: u16 = 3;
const NFT_FLOWTABLE_HW_OFFLOAD: u32 = 0x1;
const NFTA_DEVICE_NAME: u16 = 1;
const NFTA_DEVICE_PREFIX: u16 = 2;

/// The table that something is in.
pub(super) type Place = (TableFamily, String);

/// The table, and the attributes.
fn place(payload: &[u8]) -> Option<(Place, &[u8])> {
    let family = TableFamily::from_number(*payload.first()?);
    let attributes = payload.get(NFGENMSG..)?;
    Some((
        (family, text(attribute(attributes, NFTA_ANY_TABLE)?)),
        attributes,
    ))
}

pub(super) fn table(payload: &[u8]) -> Option<Table> {
    let ((family, name), attributes) = place(payload)?;
    let flags = number(attributes, NFTA_TABLE_FLAGS).unwrap_or_default();
    let mut table = Table::new(family, name);
    table.is_dormant = flags & NFT_TABLE_F_DORMANT != 0;
    Some(table)
}

pub(super) fn chain(payload: &[u8]) -> Option<(Place, Chain)> {
    let (place, attributes) = place(payload)?;
    let base = attribute(attributes, NFTA_CHAIN_HOOK).and_then(|hook| {
        Some(Base {
            hook: hook_name(place.0, number(hook, NFTA_HOOK_HOOKNUM)?),
            drops: number(attributes, NFTA_CHAIN_POLICY) == Some(POLICY_DROP),
        })
    });
    let chain = Chain {
        name: text(attribute(attributes, NFTA_CHAIN_NAME)?),
        base,
        rules: Vec::new(),
    };
    Some((place, chain))
}

/// `enum nf_inet_hooks`, `enum nf_dev_hooks`, `NF_BR_…` and `NF_ARP_…`.
fn hook_name(family: TableFamily, number: u32) -> String {
    let names: &[&str] = match family {
        TableFamily::Netdev => &["ingress", "egress"],
        TableFamily::Arp => &["input", "output", "forward"],
        _ => &[
            "prerouting",
            "input",
            "forward",
            "output",
            "postrouting",
            "ingress",
        ],
    };
    usize::try_from(number)
        .ok()
        .and_then(|index| names.get(index))
        .map_or_else(
            || {
                if number < MAX_HOOKS {
                    format!("hook-{number}")
                } else {
                    "unknown".to_owned()
                }
            },
            |name| (*name).to_owned(),
        )
}

/// A rule, with its table and the name of its chain.
pub(super) fn rule(payload: &[u8]) -> Option<(Place, String, Rule)> {
    let (place, attributes) = place(payload)?;
    let list = attribute(attributes, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    let (expressions, is_compat) = expressions::decode(place.0, list);
    let handle = attribute(attributes, NFTA_RULE_HANDLE)
        .and_then(|value| <[u8; 8]>::try_from(value).ok())
        .map(u64::from_be_bytes);
    let chain = text(attribute(attributes, NFTA_RULE_CHAIN)?);
    let rule = Rule {
        handle,
        is_compat,
        expressions,
    };
    Some((place, chain, rule))
}

/// A set, without its elements.
pub(super) fn set(payload: &[u8]) -> Option<(Place, Set)> {
    let (place, attributes) = place(payload)?;
    let flags = number(attributes, NFTA_SET_FLAGS).unwrap_or_default();
    let set = Set {
        name: text(attribute(attributes, NFTA_SET_NAME)?),
        has_intervals: flags & (NFT_SET_INTERVAL | NFT_SET_CONCAT) == NFT_SET_INTERVAL,
        elements: Vec::new(),
    };
    Some((place, set))
}

/// Some elements of a set. The one for all that no other is for has no key, and says nothing of a port.
pub(super) fn elements(payload: &[u8]) -> impl Iterator<Item = Element> {
    let list = payload
        .get(NFGENMSG..)
        .and_then(|bytes| attribute(bytes, NFTA_SET_ELEM_LIST_ELEMENTS))
        .unwrap_or_default();
    attributes(list).map(|(_, element)| {
        let flags = number(element, NFTA_SET_ELEM_FLAGS).unwrap_or_default();
        Element {
            key: value(element, NFTA_SET_ELEM_KEY).unwrap_or_default(),
            end: value(element, NFTA_SET_ELEM_KEY_END),
            is_interval_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            verdict: verdict(element, NFTA_SET_ELEM_DATA),
        }
    })
}

pub(super) fn flowtable(payload: &[u8]) -> Option<Flowtable> {
    let ((family, table), outer) = place(payload)?;
    let flags = number(outer, NFTA_FLOWTABLE_FLAGS).unwrap_or_default();
    let devices = attribute(outer, NFTA_FLOWTABLE_HOOK)
        .and_then(|hook| attribute(hook, NFTA_FLOWTABLE_HOOK_DEVS))
        .unwrap_or_default();
    Some(Flowtable {
        family: family.to_string(),
        table,
        name: text(attribute(outer, NFTA_FLOWTABLE_NAME)?),
        hardware: flags & NFT_FLOWTABLE_HW_OFFLOAD != 0,
        devices: attributes(devices).filter_map(device).collect(),
    })
}

/// A device, or as nft writes it (`eth*`) what the names of several begin with. Linux 6.16 has that as a name without
/// its NUL, later ones have it by itself.
fn device((kind, name): (u16, &[u8])) -> Option<String> {
    match kind {
        NFTA_DEVICE_NAME if name.last() == Some(&0) => Some(text(name)),
        NFTA_DEVICE_NAME | NFTA_DEVICE_PREFIX => Some(text(name) + "*"),
        _ => None,
    }
}
