//! Reading one table of iptables-legacy, and telling whether it is as it was.
//!
//! `struct ipt_getinfo`, `ipt_get_entries`, `ipt_entry` and their twins `ip6t_…` in
//! `include/uapi/linux/netfilter_ipv4/ip_tables.h` and `netfilter_ipv6/ip6_tables.h`.

use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::fd::AsRawFd as _;

use socket2::Socket;

use super::Family;
use crate::netlink::{i32_at, u16_at, u32_at};

/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, valid hooks, 5 entry points, 5 underflows, number of entries, their
/// size; all but the name are 32 bits.
const INFO: usize = 84;
const INFO_HOOKS: usize = 32;
const INFO_ENTRIES: usize = 76;
const INFO_SIZE: usize = 80;
/// `struct ipt_get_entries`: name, size, 4 bytes of padding.
const ENTRIES: usize = 40;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`, `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

/// `struct xt_counters`, bytes: packets and bytes.
const COUNTERS: usize = 16;
/// The verdict in `struct xt_standard_target`, behind the 32 bytes of `struct xt_entry_target`.
const VERDICT: usize = 32;
/// `-NF_ACCEPT - 1`.
const ACCEPT: i32 = -2;

/// How often a table that changes meanwhile is tried again.
const TRIES: usize = 3;
/// Of larger tables only the sizes are compared (some 130,000 rules), bytes.
const LARGEST: usize = 64 << 20;

/// What a table holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// No rules, no chains, and every policy is "accept": so it is made when somebody only lists it.
    AsNew,
    /// Something else, by a hash of all but the counters; it means something in this process only.
    Hash(u64),
    /// It changed each time while it was read.
    Unknown,
}

/// Where things are in an entry, bytes from its beginning.
struct Layout {
    /// The level of the socket options.
    level: libc::c_int,
    /// Of the target, and of the next entry, 16 bits each.
    offsets: usize,
    /// The `struct xt_counters`.
    counters: usize,
}

const IPV4: Layout = Layout {
    level: libc::IPPROTO_IP,
    offsets: 88,
    counters: 96,
};
const IPV6: Layout = Layout {
    level: libc::IPPROTO_IPV6,
    offsets: 140,
    counters: 152,
};

/// A table, as far as it could be read.
pub(super) enum Read {
    /// Its `struct ipt_getinfo`, and its entries.
    Whole { info: Vec<u8>, entries: Vec<u8> },
    /// It is larger than [`LARGEST`].
    TooLarge { info: Vec<u8> },
    /// It changed each time.
    Changing,
}

/// Tells what a table that exists holds.
///
/// # Errors
///
/// As [`read`].
pub(super) fn content(socket: &Socket, family: Family, name: &str) -> io::Result<Content> {
    Ok(match read(socket, family, name)? {
        Read::Whole { info, entries } => of_bytes(family, &info, &entries),
        Read::TooLarge { info } => hash(&info, layout(family), &[]),
        Read::Changing => Content::Unknown,
    })
}

/// Reads a table that exists.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN`; `ENOENT` where the table is gone meanwhile.
pub(super) fn read(socket: &Socket, family: Family, name: &str) -> io::Result<Read> {
    let layout = layout(family);
    let mut named = name.as_bytes().to_vec();
    named.resize(NAME, 0);
    for _ in 0..TRIES {
        let mut info = named.clone();
        info.resize(INFO, 0);
        get(socket, layout.level, GET_INFO, &mut info)?;
        let size = u32_at(&info, INFO_SIZE).unwrap_or_default();
        let length = usize::try_from(size).map_err(io::Error::other)?;
        if length > LARGEST {
            return Ok(Read::TooLarge { info });
        }
        let mut entries = named.clone();
        entries.extend(size.to_ne_bytes());
        entries.resize(ENTRIES + length, 0);
        match get(socket, layout.level, GET_ENTRIES, &mut entries) {
            Ok(()) => {
                entries.drain(..ENTRIES);
                return Ok(Read::Whole { info, entries });
            }
            // It is not as large as it was a moment ago.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Read::Changing)
}

const fn layout(family: Family) -> &'static Layout {
    match family {
        Family::Ipv4 => &IPV4,
        Family::Ipv6 => &IPV6,
    }
}

/// What a table holds, out of what the kernel says of it and its entries.
pub(super) fn of_bytes(family: Family, info: &[u8], entries: &[u8]) -> Content {
    let layout = layout(family);
    if is_as_new(info, layout, entries) {
        Content::AsNew
    } else {
        hash(info, layout, entries)
    }
}

/// Reads a socket option, whose name the buffer holds, into all of the buffer.
fn get(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes at most `length` bytes of the buffer, which is that long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The entries, up to the first whose length can't be.
fn each<'a>(layout: &'a Layout, mut entries: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    std::iter::from_fn(move || {
        let next = usize::from(u16_at(entries, layout.offsets + 2)?);
        if next < layout.counters + COUNTERS {
            return None;
        }
        let (entry, rest) = entries.split_at_checked(next)?;
        entries = rest;
        Some(entry)
    })
}

/// One entry for each hook, which is its policy, and one that marks the end.
fn is_as_new(info: &[u8], layout: &Layout, entries: &[u8]) -> bool {
    let number = u32_at(info, INFO_ENTRIES).unwrap_or_default();
    let hooks = u32_at(info, INFO_HOOKS).unwrap_or_default().count_ones();
    let accepting = each(layout, entries)
        .filter(|entry| {
            let target = u16_at(entry, layout.offsets).map_or(usize::MAX, usize::from);
            let verdict = target
                .checked_add(VERDICT)
                .and_then(|offset| i32_at(entry, offset));
            target == layout.counters + COUNTERS && verdict == Some(ACCEPT)
        })
        .count();
    number == hooks + 1 && u32::try_from(accepting) == Ok(hooks)
}

fn hash(info: &[u8], layout: &Layout, entries: &[u8]) -> Content {
    let mut hasher = DefaultHasher::new();
    hasher.write(info);
    for entry in each(layout, entries) {
        hasher.write(entry.get(..layout.counters).unwrap_or_default());
        hasher.write(entry.get(layout.counters + COUNTERS..).unwrap_or_default());
    }
    Content::Hash(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `iptables-legacy -L` makes the table `filter`.
    fn filter(verdicts: [i32; 3]) -> (Vec<u8>, Vec<u8>) {
        let mut entries = Vec::new();
        for verdict in verdicts {
            let mut entry = vec![0; 152];
            entry[88..90].copy_from_slice(&112_u16.to_ne_bytes());
            entry[90..92].copy_from_slice(&152_u16.to_ne_bytes());
            entry[144..148].copy_from_slice(&verdict.to_ne_bytes());
            entries.extend(entry);
        }
        let mut end = vec![0; 176];
        end[88..90].copy_from_slice(&112_u16.to_ne_bytes());
        end[90..92].copy_from_slice(&176_u16.to_ne_bytes());
        end[114..119].copy_from_slice(b"ERROR");
        end[144..148].copy_from_slice(b"ERRO");
        entries.extend(end);
        let mut info = vec![0; INFO];
        info[INFO_HOOKS..][..4].copy_from_slice(&0xe_u32.to_ne_bytes());
        info[INFO_ENTRIES..][..4].copy_from_slice(&4_u32.to_ne_bytes());
        (info, entries)
    }

    #[test]
    fn a_table_without_rules_is_as_new() {
        let (info, mut entries) = filter([ACCEPT; 3]);
        assert!(is_as_new(&info, &IPV4, &entries));
        entries[96..112].fill(7);
        assert!(is_as_new(&info, &IPV4, &entries), "counters tell nothing");
        let (_, dropping) = filter([ACCEPT, -1, ACCEPT]);
        assert!(!is_as_new(&info, &IPV4, &dropping), "a policy");
        let (mut info, entries) = filter([ACCEPT; 3]);
        info[INFO_ENTRIES] = 6;
        assert!(!is_as_new(&info, &IPV4, &entries), "a chain");
    }

    #[test]
    fn a_hash_leaves_out_the_counters_only() {
        let (info, mut entries) = filter([ACCEPT, -1, ACCEPT]);
        let before = hash(&info, &IPV4, &entries);
        for offset in [96, 111, 152 + 96, 304 + 111] {
            entries[offset] ^= 1;
            assert_eq!(hash(&info, &IPV4, &entries), before, "{offset}");
        }
        for offset in [0, 95, 112, 144, 152, 152 + 144, 456] {
            entries[offset] ^= 1;
            assert_ne!(hash(&info, &IPV4, &entries), before, "{offset}");
            entries[offset] ^= 1;
        }
    }

    #[test]
    fn no_bytes_are_too_odd() {
        let (info, entries) = filter([ACCEPT; 3]);
        for length in 0..entries.len() {
            assert!(length >= 456 || !is_as_new(&info, &IPV4, &entries[..length]));
            hash(&info, &IPV6, &entries[..length]);
        }
        for byte in 0..=255 {
            let odd = [byte; 400];
            assert!(!is_as_new(&odd, &IPV4, &odd));
            assert!(!is_as_new(&odd[..40], &IPV6, &odd));
            hash(&[], &IPV6, &odd);
        }
    }
}
