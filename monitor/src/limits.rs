//! How much memory the daemon's tables may take, from the most entries that each may have: docs/limits.md has
//! the numbers, and a test floods a daemon and compares.

use crate::{attempt, bpf, diagnostics, state};

/// The program itself, what it reads of the kernel's BTF and symbols at start, its threads, and what an
/// allocator keeps beside what is in use.
pub const BASE: usize = 64 << 20;

/// 1,024 lines that wait for the reader of the log, with their names.
const LINES: usize = 1024 * 1024;

/// 160 connections, each with headers of 16 KiB and an answer that its client does not read: twice that of the
/// largest set of series with the built-in traffics.
const ANSWERS: usize = 160 * (16 + 512) * 1024;

/// A part of the daemon's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// What it holds.
    pub name: &'static str,
    /// The most that it takes, bytes.
    pub bytes: usize,
}

/// The parts with `max_attempts` attempts in the kernel's table and so many states of traffics and directions.
#[must_use]
pub fn parts(max_attempts: usize, states: usize) -> Vec<Part> {
    let part = |name, bytes| Part { name, bytes };
    vec![
        part("program", BASE),
        part("reading of attempts", bpf::attempts::room(max_attempts)),
        part("attempts", attempt::tracker::room(max_attempts)),
        part("Teredo rounds", attempt::teredo::room()),
        part("windows", states * state::room()),
        part("lines of the log", LINES),
        part("diagnostics", diagnostics::WAITING),
        part("HTTP", ANSWERS),
    ]
}

/// The most bytes that the process may have resident.
#[must_use]
pub fn most(max_attempts: usize, states: usize) -> usize {
    parts(max_attempts, states)
        .iter()
        .map(|part| part.bytes)
        .sum()
}

/// What a hash table takes that grew to so many entries: a power of two of buckets, seven of eight used at
/// most, with a byte of control for each. While it grows, the half as large one before is there too.
pub(crate) const fn hash_table<T>(entries: usize) -> usize {
    let buckets = (entries * 8).div_ceil(7).next_power_of_two();
    let table = buckets * (size_of::<T>() + 1);
    table + table / 2
}

/// What a list takes that grew to so many entries by doubling, with the one before.
pub(crate) const fn list<T>(entries: usize) -> usize {
    let list = entries.next_power_of_two() * size_of::<T>();
    list + list / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo test -p peerwatch limits -- --nocapture` prints the table of docs/limits.md.
    #[test]
    fn the_documented_bound_is_the_sum_of_its_parts() {
        // do_peer, https and teredo, outbound and forwarded.
        let states = 6;
        for part in parts(65_536, states) {
            println!("| {} | {} MiB |", part.name, part.bytes.div_ceil(1 << 20));
        }
        let most = most(65_536, states).div_ceil(1 << 20);
        println!("{most} MiB");
        let text = include_str!("../../docs/limits.md");
        assert!(
            text.contains(&format!("{most} MiB")),
            "{most} MiB is not documented"
        );
    }
}
