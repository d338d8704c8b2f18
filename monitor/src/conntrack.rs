//! How full the kernel's table of connections is in this network namespace. Once it is full, the kernel
//! drops the first packet of every new connection, whatever the rules say.

use std::fs;

/// The connection table, as it was at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Conntrack {
    /// Connections in the table.
    pub entries: u64,
    /// The most that it takes; 0 for no limit. The entries of each namespace are counted by themselves,
    /// but on most kernels the limit is one for all.
    pub limit: u64,
    /// Packets that were dropped since the namespace began, because the table was full or, rarely, its
    /// memory could not be had: the `drop` column of the kernel's statistics. The kernel counts in 32
    /// bits for each CPU, so compare for being different rather than for being more. `None` where the
    /// kernel shows no statistics (`CONFIG_NF_CONNTRACK_PROCFS`).
    pub drops: Option<u64>,
    /// Connections that had to go early to make room for new ones, counted like `drops`: the
    /// `early_drop` column. The new connection's packet was not dropped then.
    pub evictions: Option<u64>,
}

/// The kernel resolves it for the namespace of the thread that opens it (`net_ctl_header_lookup`).
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// As [`COUNT`].
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// `/proc/net` would be that of the process's first thread.
const STATISTICS: &str = "/proc/thread-self/net/stat/nf_conntrack";

/// Reads the connection table of the calling thread's network namespace: three short files. `None`
/// where the kernel has none, or has not loaded it, or /proc is not mounted.
#[must_use]
pub fn read() -> Option<Conntrack> {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
    let (drops, evictions) = fs::read_to_string(STATISTICS)
        .ok()
        .and_then(|text| statistics(&text))
        .unzip();
    Some(Conntrack {
        entries: number(COUNT)?,
        limit: number(MAX)?,
        drops,
        evictions,
    })
}

/// The sums of the columns `drop` and `early_drop`: one line with their names, then one for each CPU,
/// in hexadecimal (`ct_cpu_seq_show`). Columns came and went over time, so they go by name.
pub(crate) fn statistics(text: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let position = |wanted| names.iter().position(|name| *name == wanted);
    let (drop, early_drop) = (position("drop")?, position("early_drop")?);
    let mut sums = (0_u64, 0_u64);
    for line in lines {
        let value = |column| {
            let value = line.split_whitespace().nth(column)?;
            u32::from_str_radix(value, 16).ok()
        };
        sums.0 += u64::from(value(drop)?);
        sums.1 += u64::from(value(early_drop)?);
    }
    Some(sums)
}

#[cfg(test)]
mod tests;
