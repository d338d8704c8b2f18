//! The rules of iptables-legacy, out of the entries of a table.
//!
//! `struct ipt_entry`, `struct ip6t_entry` (`netfilter_ipv4/ip_tables.h`, `netfilter_ipv6/ip6_tables.h`)
//! and `struct xt_entry_match`, `xt_entry_target`, `xt_standard_target`, `xt_error_target`
//! (`netfilter/x_tables.h`), all of `include/uapi/linux`; numbers are in the host's order.

use std::collections::HashMap;

use super::rules::{Base, Chain, Expression, Rule, Table, Verdict};
use super::xtables::{decode_match, decode_target};
use crate::netlink::{i32_at, text, u16_at, u32_at};
use crate::ruleset::TableFamily;

/// The hooks by their number (`enum nf_inet_hooks`): the chain's name, and how nft calls it.
const HOOKS: [(&str, &str); 5] = [
    ("PREROUTING", "prerouting"),
    ("INPUT", "input"),
    ("FORWARD", "forward"),
    ("OUTPUT", "output"),
    ("POSTROUTING", "postrouting"),
];

/// In `struct ipt_getinfo`: a bit for each hook, and where its chain begins.
const INFO_HOOKS: usize = 32;
const INFO_ENTRY: usize = 36;

/// `struct xt_counters`, bytes.
const COUNTERS: usize = 16;
/// `struct xt_entry_match` and `struct xt_entry_target`, bytes: the size, the name, the revision.
const PIECE: usize = 32;
const PIECE_NAME: usize = 2;
const PIECE_REVISION: usize = 31;
/// `XT_FUNCTION_MAXNAMELEN`: room for the name of a chain, bytes.
const CHAIN_NAME: usize = 30;
/// `XT_INV_PROTO`.
const INV_PROTO: u8 = 0x40;
/// `-NF_ACCEPT - 1`, `-NF_DROP - 1`, `-NF_QUEUE - 1`, `XT_RETURN`.
const ACCEPT: i32 = -2;
const DROP: i32 = -1;
const QUEUE: i32 = -4;
const RETURN: i32 = -5;

/// Where things are in an entry, bytes from its beginning.
struct Layout {
    protocol: usize,
    flags: usize,
    inverse_flags: usize,
    /// The target is a goto (`IPT_F_GOTO`, `IP6T_F_GOTO`).
    goto: u8,
    /// The protocol is to be looked at (`IP6T_F_PROTO`); IPv4 has no such flag.
    has_protocol: u8,
    /// Of the target, and of the next entry, 16 bits each.
    offsets: usize,
    counters: usize,
}

const IPV4: Layout = Layout {
    protocol: 80,
    flags: 82,
    inverse_flags: 83,
    goto: 0x02,
    has_protocol: 0,
    offsets: 88,
    counters: 96,
};
const IPV6: Layout = Layout {
    protocol: 128,
    flags: 131,
    inverse_flags: 132,
    goto: 0x04,
    has_protocol: 0x01,
    offsets: 140,
    counters: 152,
};

/// What an entry's target is.
enum Target {
    /// The head of a chain.
    Head(String),
    Verdict(i32),
    Other(Expression),
}

/// An entry, with where it and the next one begin.
struct Entry {
    next: usize,
    is_goto: bool,
    expressions: Vec<Expression>,
    target: Target,
}

/// A table, out of its `struct ipt_getinfo` and its entries. What follows an entry that can't be is left
/// out.
pub(super) fn table(is_ipv6: bool, name: String, info: &[u8], entries: &[u8]) -> Table {
    let (family, layout) = if is_ipv6 {
        (TableFamily::Ip6, &IPV6)
    } else {
        (TableFamily::Ip, &IPV4)
    };
    let mut chains: Vec<(Chain, Vec<Entry>)> = Vec::new();
    // The user's chains, by where their first rule begins.
    let mut names: HashMap<usize, String> = HashMap::new();
    let mut offset = 0;
    while let Some(entry) = entries
        .get(offset..)
        .and_then(|rest| entry(layout, offset, rest))
    {
        if let Some((chain, hook)) = hook_at(info, offset) {
            let base = Some(Base {
                hook: hook.to_owned(),
                drops: false,
            });
            let name = chain.to_owned();
            let rules = Vec::new();
            chains.push((Chain { name, base, rules }, Vec::new()));
        }
        offset = entry.next;
        if let Target::Head(name) = entry.target {
            names.insert(offset, name.clone());
            let (base, rules) = (None, Vec::new());
            chains.push((Chain { name, base, rules }, Vec::new()));
        } else if let Some((_, entries)) = chains.last_mut() {
            entries.push(entry);
        }
    }
    let mut table = Table::new(family, name);
    table.is_legacy = true;
    table.chains = chains
        .into_iter()
        .filter_map(|(chain, entries)| finish(chain, entries, &names))
        .collect();
    table
}

/// The hook whose chain begins at an offset.
fn hook_at(info: &[u8], offset: usize) -> Option<(&'static str, &'static str)> {
    let valid = u32_at(info, INFO_HOOKS)?;
    HOOKS.iter().enumerate().find_map(|(number, names)| {
        let entry = u32_at(info, INFO_ENTRY + 4 * number)?;
        let is_here = valid & (1 << number) != 0 && usize::try_from(entry) == Ok(offset);
        is_here.then_some(*names)
    })
}

/// The last entry of a chain is its policy, or its return; the head without any marks the table's end.
fn finish(
    mut chain: Chain,
    mut entries: Vec<Entry>,
    names: &HashMap<usize, String>,
) -> Option<Chain> {
    let last = entries.pop()?;
    if let Some(base) = &mut chain.base {
        base.drops = matches!(last.target, Target::Verdict(DROP));
    }
    chain.rules = (1..)
        .zip(entries)
        .map(|(position, entry)| rule(position, entry, names))
        .collect();
    Some(chain)
}

fn rule(position: u64, entry: Entry, names: &HashMap<usize, String>) -> Rule {
    let mut expressions = entry.expressions;
    expressions.extend(match entry.target {
        Target::Head(_) => None,
        Target::Other(expression) => Some(expression),
        Target::Verdict(code) => verdict(code, entry.next, entry.is_goto, names),
    });
    Rule {
        handle: Some(position),
        is_compat: true,
        expressions,
    }
}

/// A verdict of zero or more is where to go on: at the next entry, or in a chain.
fn verdict(
    code: i32,
    next: usize,
    is_goto: bool,
    names: &HashMap<usize, String>,
) -> Option<Expression> {
    let verdict = match code {
        ACCEPT => Verdict::Accept,
        DROP => Verdict::Drop,
        QUEUE => Verdict::Queue,
        RETURN => Verdict::Return,
        _ => {
            let to = usize::try_from(code).ok().filter(|to| *to != next)?;
            let name = names.get(&to)?.clone();
            if is_goto {
                Verdict::Goto(name)
            } else {
                Verdict::Jump(name)
            }
        }
    };
    Some(Expression::Verdict(verdict))
}

/// The entry that begins at an offset of the table.
fn entry(layout: &Layout, offset: usize, rest: &[u8]) -> Option<Entry> {
    let target_at = usize::from(u16_at(rest, layout.offsets)?);
    let length = usize::from(u16_at(rest, layout.offsets + 2)?);
    let matches_at = layout.counters + COUNTERS;
    if target_at < matches_at || length < target_at + PIECE {
        return None;
    }
    let entry = rest.get(..length)?;
    let flags = *entry.get(layout.flags)?;
    let mut expressions = Vec::new();
    let protocol = u8::try_from(u16_at(entry, layout.protocol)?).unwrap_or_default();
    // An entry for any protocol has zero here.
    if protocol != 0 && flags & layout.has_protocol == layout.has_protocol {
        expressions.push(Expression::Protocol {
            number: protocol,
            inverted: entry.get(layout.inverse_flags)? & INV_PROTO != 0,
        });
    }
    expressions.extend(matches(entry.get(matches_at..target_at)?));
    Some(Entry {
        next: offset + length,
        is_goto: flags & layout.goto != 0,
        expressions,
        target: target(entry.get(target_at..)?)?,
    })
}

fn matches(mut bytes: &[u8]) -> impl Iterator<Item = Expression> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let (piece, rest) = bytes.split_at_checked(length)?;
        let name = text(piece.get(PIECE_NAME..PIECE_REVISION)?);
        let revision = u32::from(*piece.get(PIECE_REVISION)?);
        bytes = rest;
        Some(decode_match(&name, revision, piece.get(PIECE..)?))
    })
    .flatten()
}

fn target(bytes: &[u8]) -> Option<Target> {
    let name = text(bytes.get(PIECE_NAME..PIECE_REVISION)?);
    let data = bytes.get(PIECE..)?;
    Some(match name.as_str() {
        "" => Target::Verdict(i32_at(data, 0)?),
        "ERROR" => Target::Head(text(data.get(..CHAIN_NAME).unwrap_or(data))),
        _ => Target::Other(decode_target(&name)),
    })
}
