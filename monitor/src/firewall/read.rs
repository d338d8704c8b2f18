//! Reading all of the firewall that matters.

use std::collections::HashMap;
use std::io;

use super::dump::{self, Dumps, Topic};
use super::rules::Table;
use super::{Flowtable, SurveyError, analysis, decode, legacy};
use crate::netlink::channel::Channel;
use crate::ruleset::{RawTable, TableFamily, fingerprint, raw_tables};

/// The most rules, and other things than elements, of nftables that are read.
const MOST_RULES: usize = 100_000;
/// The most elements of all sets together. Only sets that may matter are read.
const MOST_ELEMENTS: usize = 1_000_000;

/// `NFTA_SET_ELEM_LIST_TABLE`, `NFTA_SET_ELEM_LIST_SET`.
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) tables: Vec<Table>,
    pub(super) flowtables: Vec<Flowtable>,
    /// Not all of it.
    pub(super) cut: bool,
}

/// Reads both firewalls of the thread's network namespace.
pub(super) fn read() -> Result<Read, SurveyError> {
    let mut read = Read::default();
    nftables(&mut dump::kernel(), &mut read)?;
    for is_ipv6 in [false, true] {
        iptables(is_ipv6, &mut read)?;
    }
    Ok(read)
}

/// Reads nftables.
pub(super) fn nftables(channel: &mut dyn Channel, read: &mut Read) -> Result<(), SurveyError> {
    let mut dumps = match Dumps::open(channel) {
        Ok(dumps) => dumps,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(SurveyError::new(Topic::Tables.as_str(), error)),
    };
    let mut tables = match dumps.all(Topic::Tables, 0, &[], MOST_RULES, decode::table) {
        Ok(tables) => tables,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(SurveyError::new(Topic::Tables.as_str(), error)),
    };
    if tables.is_empty() {
        return Ok(());
    }
    fill(&mut dumps, &mut tables)?;
    elements(&mut dumps, &mut tables)?;
    let flowtables = dumps.all(Topic::Flowtables, 0, &[], MOST_RULES, decode::flowtable);
    read.flowtables = match flowtables {
        Ok(flowtables) => flowtables,
        // The kernel is too old for them.
        Err(error) if is_absent(&error) => Vec::new(),
        Err(error) => return Err(SurveyError::new(Topic::Flowtables.as_str(), error)),
    };
    read.cut |= dumps.cut;
    read.tables.extend(tables);
    Ok(())
}

/// A kernel without `nf_tables`, or whose `nf_tables` knows no such request: `nfnetlink_rcv_msg` gives
/// `EINVAL` then.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

/// Puts chains, rules and sets into their tables; those whose table came meanwhile are left out.
fn fill(dumps: &mut Dumps<'_>, tables: &mut [Table]) -> Result<(), SurveyError> {
    let chains = all(dumps, Topic::Chains, decode::chain)?;
    let rules = all(dumps, Topic::Rules, decode::rule)?;
    let sets = all(dumps, Topic::Sets, decode::set)?;
    let indices: HashMap<(TableFamily, String), usize> = tables
        .iter()
        .enumerate()
        .map(|(index, table)| ((table.family, table.name.clone()), index))
        .collect();
    let mut places: HashMap<(usize, String), usize> = HashMap::new();
    for (place, chain) in chains {
        let Some((&index, table)) = indices
            .get(&place)
            .and_then(|index| Some((index, tables.get_mut(*index)?)))
        else {
            continue;
        };
        places.insert((index, chain.name.clone()), table.chains.len());
        table.chains.push(chain);
    }
    for (place, chain, rule) in rules {
        let chain = indices.get(&place).and_then(|index| {
            let place = places.get(&(*index, chain))?;
            tables.get_mut(*index)?.chains.get_mut(*place)
        });
        if let Some(chain) = chain {
            chain.rules.push(rule);
        }
    }
    for (place, set) in sets {
        let table = indices.get(&place).and_then(|index| tables.get_mut(*index));
        if let Some(table) = table {
            table.sets.push(set);
        }
    }
    Ok(())
}

fn all<T>(
    dumps: &mut Dumps<'_>,
    topic: Topic,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, SurveyError> {
    dumps
        .all(topic, 0, &[], MOST_RULES, decode)
        .map_err(|error| SurveyError::new(topic.as_str(), error))
}

/// Reads the elements of the sets that matter.
fn elements(dumps: &mut Dumps<'_>, tables: &mut [Table]) -> Result<(), SurveyError> {
    let mut left = MOST_ELEMENTS;
    for table in tables {
        let wanted = analysis::sets_that_matter(table);
        for set in &mut table.sets {
            if !wanted.contains(&set.name) {
                continue;
            }
            let names = [
                (ELEMENTS_TABLE, table.name.as_str()),
                (ELEMENTS_SET, set.name.as_str()),
            ];
            let family = table.family.number();
            let elements = dumps.all(Topic::Elements, family, &names, left, |payload| {
                decode::elements(payload).collect::<Vec<_>>()
            });
            set.elements = match elements {
                Ok(elements) => elements,
                // It went meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
                Err(error) => return Err(SurveyError::new(Topic::Elements.as_str(), error)),
            };
            left = left.saturating_sub(set.elements.len());
        }
    }
    Ok(())
}

/// Reads iptables-legacy of one family. A table that is as new is not in use: to list it makes it.
fn iptables(is_ipv6: bool, read: &mut Read) -> Result<(), SurveyError> {
    let what = if is_ipv6 {
        "the tables of ip6tables-legacy"
    } else {
        "the tables of iptables-legacy"
    };
    let tables = raw_tables(is_ipv6).map_err(|error| SurveyError::new(what, error))?;
    for table in tables {
        legacy_table(is_ipv6, table, read);
    }
    Ok(())
}

/// Takes a table of iptables-legacy.
pub(super) fn legacy_table(is_ipv6: bool, table: RawTable, read: &mut Read) {
    let RawTable {
        name,
        info,
        entries: Some(entries),
    } = table
    else {
        read.cut = true;
        return;
    };
    if fingerprint(is_ipv6, &info, &entries).is_some() {
        let table = legacy::table(is_ipv6, name, &info, &entries);
        read.tables.push(table);
    }
}
