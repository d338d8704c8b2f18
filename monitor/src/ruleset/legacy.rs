//! iptables-legacy: its tables are read from time to time and compared, since the kernel tells nothing.
//!
//! Only tables that exist are asked for: to ask for another makes the kernel load its module.

mod entries;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use super::{Backend, Change, Kind, MAX_TABLES, Moment, Table, TableFamily};
use entries::Content;

/// How often they are read.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// Reading takes this part of the time at most: a table is copied as a whole, with the counters of all
/// CPUs added up, so the pace slows down with its size.
const SHARE: u32 = 200;

/// One of the two kinds of tables.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// The tables of the thread's namespace, one name a line.
    const fn names(self) -> &'static str {
        match self {
            Self::Ipv4 => "/proc/thread-self/net/ip_tables_names",
            Self::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
        }
    }

    const fn table_family(self) -> TableFamily {
        match self {
            Self::Ipv4 => TableFamily::Ip,
            Self::Ipv6 => TableFamily::Ip6,
        }
    }

    const fn domain(self) -> Domain {
        match self {
            Self::Ipv4 => Domain::IPV4,
            Self::Ipv6 => Domain::IPV6,
        }
    }
}

/// What a table held; one that does not exist is not in the map, and is as good as one that is as new.
type Tables = BTreeMap<String, Content>;

/// The tables of one family.
#[derive(Debug)]
struct Side {
    family: Family,
    /// As they were; `None` as long as they could not be read.
    tables: Option<Tables>,
    /// They could not be read the last time, which has been said.
    failing: bool,
}

impl Side {
    const fn new(family: Family) -> Self {
        Self {
            family,
            tables: None,
            failing: false,
        }
    }

    /// Reads them, and gives the names of those that changed.
    fn look(&mut self) -> Vec<String> {
        match read(self.family) {
            Ok(now) => {
                self.failing = false;
                let changed = self
                    .tables
                    .as_ref()
                    .map(|before| differences(before, &now))
                    .unwrap_or_default();
                self.tables = Some(now);
                changed
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.family.names();
                    tracing::warn!(%error, path, "can't see changes of iptables-legacy rules");
                }
                Vec::new()
            }
        }
    }
}

/// Follows the tables of iptables-legacy.
#[derive(Debug)]
pub(super) struct Legacy {
    sides: [Side; 2],
    interval: Duration,
    due: Instant,
}

impl Legacy {
    /// Reads what there is.
    pub(super) fn new(interval: Duration) -> Self {
        let mut legacy = Self {
            sides: [Side::new(Family::Ipv4), Side::new(Family::Ipv6)],
            interval,
            due: Instant::now(),
        };
        legacy.look();
        legacy
    }

    /// When to look next.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// Compares the tables with what they were. All that changed since then is one change.
    pub(super) fn look(&mut self) -> Option<Change> {
        let begin = Instant::now();
        let mut tables = Vec::new();
        for side in &mut self.sides {
            let family = side.family.table_family();
            tables.extend(side.look().into_iter().map(|name| Table { family, name }));
        }
        let end = Instant::now();
        self.due = end + self.interval.max((end - begin) * SHARE);
        tables.truncate(MAX_TABLES);
        let Moment { at, monotonic } = Moment::now();
        (!tables.is_empty()).then_some(Change {
            at,
            monotonic,
            kind: Kind::Rules,
            by: None,
            backend: Backend::IptablesLegacy,
            tables,
        })
    }
}

/// The names of the tables that differ, as far as both contents are known.
fn differences(before: &Tables, now: &Tables) -> Vec<String> {
    let names = before.keys().chain(
        now.keys()
            .filter(|name| !before.contains_key(name.as_str())),
    );
    let content = |tables: &Tables, name: &str| tables.get(name).copied().unwrap_or(Content::AsNew);
    names
        .filter(|name| match (content(before, name), content(now, name)) {
            (Content::Unknown, _) | (_, Content::Unknown) => false,
            (before, now) => before != now,
        })
        .cloned()
        .collect()
}

/// What a table is compared by, out of what the kernel gives of it: `None` for one that is as new.
pub(crate) fn fingerprint(is_ipv6: bool, info: &[u8], entries: &[u8]) -> Option<u64> {
    let family = if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    match entries::of_bytes(family, info, entries) {
        Content::Hash(hash) => Some(hash),
        Content::AsNew | Content::Unknown => None,
    }
}

/// A table as the kernel gives it.
#[derive(Debug)]
pub(crate) struct RawTable {
    pub(crate) name: String,
    /// Its `struct ipt_getinfo`.
    pub(crate) info: Vec<u8>,
    /// Its entries; `None` where there are too many to read.
    pub(crate) entries: Option<Vec<u8>>,
}

/// Reads all tables of a family in the thread's network namespace. One that changed each time while it
/// was read comes without entries.
pub(crate) fn raw_tables(is_ipv6: bool) -> io::Result<Vec<RawTable>> {
    let family = if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    each(family, |socket, name| {
        let (info, entries) = match entries::read(socket, family, name)? {
            entries::Read::Whole { info, entries } => (info, Some(entries)),
            entries::Read::TooLarge { info } => (info, None),
            entries::Read::Changing => (Vec::new(), None),
        };
        let name = name.to_owned();
        Ok(RawTable {
            name,
            info,
            entries,
        })
    })
}

/// Reads all tables of a family in the thread's network namespace.
fn read(family: Family) -> io::Result<Tables> {
    each(family, |socket, name| {
        let content = entries::content(socket, family, name)?;
        Ok((name.to_owned(), content))
    })
}

/// Reads something of each table of a family in the thread's network namespace.
fn each<T, C: FromIterator<T> + Default>(
    family: Family,
    take: impl Fn(&Socket, &str) -> io::Result<T>,
) -> io::Result<C> {
    let names = match std::fs::read_to_string(family.names()) {
        Ok(names) => names,
        // The kernel has no such tables, or not now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(C::default()),
        Err(error) => return Err(error),
    };
    if names.is_empty() {
        return Ok(C::default());
    }
    // Any socket of the family will do; this one takes no capability.
    let socket = Socket::new(family.domain(), Type::DGRAM, None)?;
    names.lines().map(|name| take(&socket, name)).collect()
}

#[cfg(test)]
mod tests;
