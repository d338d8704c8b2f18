//! Changes of the firewall's rules in this network namespace: when, of what kind, and by which process.
//!
//! The kernel tells of every nftables transaction (iptables-nft and firewalld make these too), so
//! nothing is polled there. It tells nothing of iptables-legacy: those tables are read every few
//! seconds and compared, where they exist. Out of sight, as no kernel tells of it and nothing cheap to
//! read shows it:
//!
//! - sets of `ipset`, ebtables and arptables of the legacy kind, and BPF programs;
//! - elements that a rule adds to a set (`add @set { ip saddr }`) or that time out: packets do that,
//!   not people;
//! - a table with the flag `owner` that goes because its process ended;
//! - iptables-legacy: who did it, and what was undone before the next look.

mod legacy;
mod message;
mod nftables;
mod summary;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::sleep_until;

use legacy::Legacy;
use nftables::Nftables;
pub use summary::Changes;

/// What changed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub enum Kind {
    /// Rules, and what they are made of: tables, chains with their policies, named objects (quotas,
    /// limits, counters), flowtables. Everything of iptables-legacy.
    Rules,
    /// Named sets and maps and their elements, and the unnamed sets that rules bring along.
    Sets,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Rules, Self::Sets];

    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Sets => "sets",
        }
    }
}

/// Which of the kernel's two firewalls a change was in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub enum Backend {
    /// `nf_tables`, also through `iptables-nft`.
    Nftables,
    /// `ip_tables` and `ip6_tables`.
    IptablesLegacy,
}

impl Backend {
    /// The name that people know it by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}

/// The family of a table (`NFPROTO_*` in `include/uapi/linux/netfilter.h`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// ARP.
    Arp,
    /// One device, before and after everything else.
    Netdev,
    /// Bridged frames.
    Bridge,
    /// IPv6.
    Ip6,
    /// Another one, by its number.
    Other(u8),
}

impl TableFamily {
    /// The family of a number of the kernel.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Inet,
            2 => Self::Ip,
            3 => Self::Arp,
            5 => Self::Netdev,
            7 => Self::Bridge,
            10 => Self::Ip6,
            other => Self::Other(other),
        }
    }

    /// The number that the kernel has for it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet => f.write_str("inet"),
            Self::Ip => f.write_str("ip"),
            Self::Arp => f.write_str("arp"),
            Self::Netdev => f.write_str("netdev"),
            Self::Bridge => f.write_str("bridge"),
            Self::Ip6 => f.write_str("ip6"),
            Self::Other(number) => write!(f, "family-{number}"),
        }
    }
}

/// A table; shown as nft writes it: `inet filter`.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Table {
    /// Its family.
    pub family: TableFamily,
    /// Its name. Whoever made it chose it, so it may hold any characters.
    pub name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A process, as the kernel told of it; it may be gone by now.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Process {
    /// Its number in the first PID namespace, whichever the daemon is in. (Of a process with threads,
    /// that of the thread.)
    pub pid: u32,
    /// Its name (`comm`: at most 15 bytes, any characters; it can be set by the process).
    pub name: String,
}

/// The most tables that a [`Change`] names.
pub const MAX_TABLES: usize = 8;

/// A change of one kind.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Change {
    /// When it was noticed, since the beginning of 1970 (UTC): of nftables moments after it took
    /// effect, of iptables-legacy seconds (with thousands of rules up to a minute).
    pub at: Duration,
    /// The same on the monotonic clock, the one of `bpf_ktime_get_ns`.
    pub monotonic: Duration,
    /// What changed.
    pub kind: Kind,
    /// Who did it, where the kernel says so.
    pub by: Option<Process>,
    /// Where.
    pub backend: Backend,
    /// The tables in which something of any kind changed: the first [`MAX_TABLES`]. Empty where the
    /// change itself was missed and only its having been is known.
    pub tables: Vec<Table>,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Moment {
    at: Duration,
    monotonic: Duration,
}

impl Moment {
    fn now() -> Self {
        Self {
            // Zero for a wall clock before 1970.
            at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            monotonic: clock_gettime(ClockId::CLOCK_MONOTONIC)
                .map_or(Duration::ZERO, Duration::from),
        }
    }
}

/// Why the rules can't be watched.
#[derive(Debug, thiserror::Error)]
#[error("can't watch the firewall's rules through netlink: {0}")]
pub struct RulesetError(io::Error);

/// The changes that datagrams of `nf_tables` tell of, where the last transaction before them was `before`.
pub(crate) fn replay<'a>(before: u32, datagrams: impl Iterator<Item = &'a [u8]>) -> Vec<Change> {
    let mut transactions = transaction::Transactions::default();
    let mut changes = Vec::new();
    changes.extend(transactions.compare(before, Moment::default()));
    for frame in datagrams.flat_map(message::decode) {
        transactions.apply(frame, Moment::default(), &mut changes);
    }
    changes
}

pub(crate) use legacy::{RawTable, fingerprint, raw_tables};

/// Tells changes of the rules in the network namespace in which it was made, from then on.
///
/// It reads, and opens its socket anew after a failure, in the namespace of the thread that polls it:
/// use it where no thread of the runtime changes its namespace. It needs `CAP_NET_ADMIN`. Its socket
/// makes the kernel load `nf_tables` where that is a module; modules of iptables are never loaded.
#[derive(Debug)]
pub struct RulesetWatcher {
    nftables: Nftables,
    legacy: Legacy,
    changes: VecDeque<Change>,
}

impl RulesetWatcher {
    /// Opens a socket and reads what there is of iptables-legacy; call it in a tokio runtime.
    ///
    /// A kernel without nftables, or without iptables-legacy, is no error: nothing comes from there.
    ///
    /// # Errors
    ///
    /// [`RulesetError`] where the kernel gives no socket, as for want of `CAP_NET_ADMIN`.
    pub fn new() -> Result<Self, RulesetError> {
        Self::with(nftables::RECEIVE_BUFFER, legacy::INTERVAL)
    }

    fn with(receive_buffer: usize, interval: Duration) -> Result<Self, RulesetError> {
        Ok(Self {
            nftables: Nftables::new(receive_buffer).map_err(RulesetError)?,
            legacy: Legacy::new(interval),
            changes: VecDeque::new(),
        })
    }

    /// The next change; waits for one. Nothing is lost when the future is dropped.
    ///
    /// It does not fail: where changes were missed or the socket broke, it goes on and tells one change
    /// for all that were missed.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return change;
            }
            tokio::select! {
                () = self.nftables.step(&mut self.changes) => {}
                () = sleep_until(self.legacy.due()) => self.changes.extend(self.legacy.look()),
            }
        }
    }
}
