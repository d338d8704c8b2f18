//! Netlink messages, and the tables of iptables-legacy. The kernel writes them; names in them are anybody's.

use std::collections::{BTreeMap, BTreeSet};

use monitor::fuzz;
use monitor::link::LinkEvent;
use monitor::ruleset::{Backend, Kind, MAX_TABLES};

use super::parts;

/// Datagrams about links and addresses: the first part is a dump, the others come behind it.
///
/// # Panics
///
/// Where the changes that are told do not add up to what is known at the end.
pub fn links(data: &[u8]) {
    let parts = parts(data);
    let (dump, notifications) = parts.split_at(parts.len().min(1));
    let (events, interfaces, addresses) =
        fuzz::links(dump.iter().copied(), notifications.iter().copied());
    // An interface takes a message with two headers of 16 bytes and its name.
    assert!(interfaces.len() * 32 <= data.len());
    let (mut told, mut here) = (BTreeMap::new(), BTreeSet::new());
    let mut synced = 0;
    for event in events {
        match event {
            LinkEvent::Link(interface) => {
                assert_ne!(interface.index, 0);
                assert!(!interface.name.contains('\0'));
                assert_ne!(interface.master, Some(0));
                assert_ne!(interface.lower, Some(interface.index));
                told.insert(interface.index, interface);
            }
            LinkEvent::Gone { index } => assert!(told.remove(&index).is_some(), "{index}"),
            LinkEvent::AddressAdded(address) => {
                assert!(
                    !address.is_unspecified() && here.insert(address),
                    "{address}"
                );
            }
            LinkEvent::AddressRemoved(address) => assert!(here.remove(&address), "{address}"),
            LinkEvent::Synced => synced += 1,
        }
    }
    assert_eq!(synced, 1);
    assert!(told.into_values().eq(interfaces));
    assert!(here.into_iter().eq(addresses));
}

/// A datagram of the neighbour table.
///
/// # Panics
///
/// Where more is told than the bytes can hold.
pub fn neighbours(data: &[u8]) {
    let Ok((_, neighbours)) = fuzz::neighbours(data) else {
        return;
    };
    // Headers of 16 and 12 bytes, an address of 8 at least, times of 20.
    assert!(neighbours.len() * 56 <= data.len() + 3);
    for neighbour in neighbours {
        // 32 bits of hundredths of a second.
        assert!(neighbour.ago.as_secs() <= u64::from(u32::MAX) / 100);
    }
}

/// Datagrams of `nf_tables`: the first four bytes are the number of the transaction before them.
///
/// # Panics
///
/// Where a change is one that no transaction makes.
pub fn nftables(data: &[u8]) {
    let Some((before, rest)) = data.split_first_chunk() else {
        return;
    };
    let before = u32::from_le_bytes(*before);
    let datagrams = parts(rest);
    let changes = fuzz::nftables(before, datagrams.iter().copied());
    // A transaction ends with a message of 20 bytes, and tells three changes at most.
    assert!(changes.len() * 20 <= data.len() * 3);
    for change in changes {
        assert_eq!(change.backend, Backend::Nftables);
        assert!(Kind::ALL.contains(&change.kind));
        assert!(change.tables.len() <= MAX_TABLES);
        for (at, table) in change.tables.iter().enumerate() {
            assert!(!table.name.contains('\0') && !change.tables[..at].contains(table));
        }
        assert!(change.by.is_none_or(|by| !by.name.contains('\0')));
    }
}

/// A table of iptables-legacy: a byte for the family, 84 bytes of `struct ipt_getinfo`, then the entries.
///
/// # Panics
///
/// Where the same bytes are not the same table.
pub fn iptables_legacy(data: &[u8]) {
    let Some((family, rest)) = data.split_first() else {
        return;
    };
    let is_ipv6 = family & 1 == 1;
    let (info, entries) = rest.split_at(rest.len().min(84));
    let table = fuzz::iptables_legacy(is_ipv6, info, entries);
    assert_eq!(table, fuzz::iptables_legacy(is_ipv6, info, entries));
    // Counters of the first entry tell nothing; any other byte of it does.
    let (next, counters) = if is_ipv6 { (142, 152) } else { (90, 96) };
    let is_whole = entries.len() > counters + 16
        && usize::from(u16::from_ne_bytes([entries[next], entries[next + 1]])) > counters + 16
        && usize::from(u16::from_ne_bytes([entries[next], entries[next + 1]])) <= entries.len();
    if is_whole {
        let mut counted = entries.to_vec();
        counted[counters] ^= 0xff;
        counted[counters + 15] ^= 0xff;
        assert_eq!(table, fuzz::iptables_legacy(is_ipv6, info, &counted));
        counted[0] ^= 1;
        if table.is_some() {
            assert_ne!(table, fuzz::iptables_legacy(is_ipv6, info, &counted));
        }
    }
}
