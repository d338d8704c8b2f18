//! What is known of interfaces and addresses, and what changed: a state machine without a socket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use super::message::{Address, Message};
use super::{Interface, LinkEvent};

/// What a key of the tables is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Key {
    Link(u32),
    Address(Address),
}

/// A dump that is under way.
#[derive(Debug, Default)]
struct Dump {
    /// What was known before and is not confirmed yet: gone, if it stays so.
    unconfirmed: BTreeSet<Key>,
    /// What a notification told of meanwhile. It outranks the dump, which newer kernels make without a
    /// lock, so that it may hold what was so a moment earlier.
    notified: BTreeSet<Key>,
}

/// The interfaces and addresses of a network namespace.
#[derive(Debug, Default)]
pub(super) struct LinkTable {
    interfaces: BTreeMap<u32, Interface>,
    /// With every IP address of this host that each stands for.
    addresses: BTreeMap<Address, BTreeSet<IpAddr>>,
    /// How many entries of `addresses` stand for an IP address.
    references: BTreeMap<IpAddr, usize>,
    dump: Option<Dump>,
}

impl LinkTable {
    /// The interfaces, in the order of their indexes.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values()
    }

    /// The IP addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.references.keys().copied()
    }

    /// Takes a notification.
    pub(super) fn apply(&mut self, message: Message, events: &mut VecDeque<LinkEvent>) {
        if let Some(dump) = &mut self.dump {
            let key = key(&message);
            dump.unconfirmed.remove(&key);
            dump.notified.insert(key);
        }
        self.update(message, events);
    }

    /// Begins a dump of everything; a former one that has not ended is forgotten.
    pub(super) fn begin_dump(&mut self) {
        let links = self.interfaces.keys().map(|index| Key::Link(*index));
        let addresses = self.addresses.keys().cloned().map(Key::Address);
        self.dump = Some(Dump {
            unconfirmed: links.chain(addresses).collect(),
            ..Dump::default()
        });
    }

    /// Takes a message of the dump.
    pub(super) fn apply_dumped(&mut self, message: Message, events: &mut VecDeque<LinkEvent>) {
        if let Some(dump) = &mut self.dump {
            let key = key(&message);
            if dump.notified.contains(&key) {
                return;
            }
            dump.unconfirmed.remove(&key);
        }
        self.update(message, events);
    }

    /// Ends the dump: what it did not confirm is gone, and the table is as the kernel's.
    pub(super) fn end_dump(&mut self, events: &mut VecDeque<LinkEvent>) {
        for key in self.dump.take().unwrap_or_default().unconfirmed {
            match key {
                Key::Link(index) => self.update(Message::DelLink(index), events),
                Key::Address(address) => self.update(Message::DelAddress(address), events),
            }
        }
        events.push_back(LinkEvent::Synced);
    }

    fn update(&mut self, message: Message, events: &mut VecDeque<LinkEvent>) {
        match message {
            Message::NewLink(interface) => {
                if self.interfaces.get(&interface.index) != Some(&interface) {
                    self.interfaces.insert(interface.index, interface.clone());
                    events.push_back(LinkEvent::Link(interface));
                }
            }
            Message::DelLink(index) => {
                // The kernel tells of the addresses first; should one of these be missed, the
                // interface takes it along.
                let rest: Vec<_> = self
                    .addresses
                    .keys()
                    .filter(|a| a.index == index)
                    .cloned()
                    .collect();
                for address in rest {
                    self.replace(address, BTreeSet::new(), events);
                }
                if self.interfaces.remove(&index).is_some() {
                    events.push_back(LinkEvent::Gone { index });
                }
            }
            Message::NewAddress(address, broadcast) => {
                let ips = ips(&address, broadcast);
                self.replace(address, ips, events);
            }
            Message::DelAddress(address) => self.replace(address, BTreeSet::new(), events),
        }
    }

    /// Sets the IP addresses that an address stands for.
    fn replace(
        &mut self,
        address: Address,
        ips: BTreeSet<IpAddr>,
        events: &mut VecDeque<LinkEvent>,
    ) {
        let before = self.addresses.remove(&address).unwrap_or_default();
        for ip in ips.difference(&before) {
            let references = self.references.entry(*ip).or_default();
            *references += 1;
            if *references == 1 {
                events.push_back(LinkEvent::AddressAdded(*ip));
            }
        }
        for ip in before.difference(&ips) {
            let Some(references) = self.references.get_mut(ip) else {
                continue;
            };
            *references -= 1;
            if *references == 0 {
                self.references.remove(ip);
                events.push_back(LinkEvent::AddressRemoved(*ip));
            }
        }
        if !ips.is_empty() {
            self.addresses.insert(address, ips);
        }
    }
}

fn key(message: &Message) -> Key {
    match message {
        Message::NewLink(interface) => Key::Link(interface.index),
        Message::DelLink(index) => Key::Link(*index),
        Message::NewAddress(address, _) | Message::DelAddress(address) => {
            Key::Address(address.clone())
        }
    }
}

/// The IP addresses under which an address makes this host receive packets: itself, the broadcast
/// address that is set, and that of its network, which the kernel adds to the local table whether one
/// is set or not (`fib_add_ifaddr`).
fn ips(address: &Address, broadcast: Option<IpAddr>) -> BTreeSet<IpAddr> {
    let of_network = match address.peer {
        IpAddr::V4(peer) if address.prefix < 31 => {
            let host_bits = u32::MAX
                .checked_shr(address.prefix.into())
                .unwrap_or_default();
            Some(IpAddr::V4(Ipv4Addr::from_bits(peer.to_bits() | host_bits)))
        }
        _ => None,
    };
    [Some(address.local), broadcast, of_network]
        .into_iter()
        .flatten()
        .filter(|ip| !ip.is_unspecified())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::LinkType;
    use super::*;

    fn link(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.into(),
            kind: LinkType::Ethernet,
            master: None,
            slave_kind: None,
            info_kind: None,
            lower: None,
            writes_tag: false,
        }
    }

    fn address(index: u32, local: &str, prefix: u8) -> Address {
        let local: IpAddr = local.parse().unwrap();
        Address {
            index,
            local,
            peer: local,
            prefix,
        }
    }

    fn new_address(index: u32, local: &str, prefix: u8) -> Message {
        Message::NewAddress(address(index, local, prefix), None)
    }

    fn added(ip: &str) -> LinkEvent {
        LinkEvent::AddressAdded(ip.parse().unwrap())
    }

    fn removed(ip: &str) -> LinkEvent {
        LinkEvent::AddressRemoved(ip.parse().unwrap())
    }

    fn events(act: impl FnOnce(&mut VecDeque<LinkEvent>)) -> Vec<LinkEvent> {
        let mut events = VecDeque::new();
        act(&mut events);
        events.into()
    }

    fn apply(table: &mut LinkTable, message: Message) -> Vec<LinkEvent> {
        events(|events| table.apply(message, events))
    }

    #[test]
    fn only_changes_are_told() {
        let mut table = LinkTable::default();
        let eth0 = link(2, "eth0");
        assert_eq!(
            apply(&mut table, Message::NewLink(eth0.clone())),
            [LinkEvent::Link(eth0.clone())]
        );
        assert_eq!(apply(&mut table, Message::NewLink(eth0)), []);
        let renamed = link(2, "wan");
        assert_eq!(
            apply(&mut table, Message::NewLink(renamed.clone())),
            [LinkEvent::Link(renamed)]
        );
        assert_eq!(
            apply(&mut table, Message::DelLink(2)),
            [LinkEvent::Gone { index: 2 }]
        );
        assert_eq!(apply(&mut table, Message::DelLink(2)), []);
        assert_eq!(
            apply(&mut table, Message::DelAddress(address(2, "10.0.0.1", 24))),
            [],
            "never known"
        );
    }

    #[test]
    fn an_address_goes_with_its_last_interface() {
        let mut table = LinkTable::default();
        let first = apply(&mut table, new_address(2, "10.0.0.1", 24));
        assert_eq!(first, [added("10.0.0.1"), added("10.0.0.255")]);
        assert_eq!(
            apply(&mut table, new_address(2, "10.0.0.1", 24)),
            [],
            "a repetition"
        );
        assert_eq!(apply(&mut table, new_address(3, "10.0.0.1", 24)), []);
        assert_eq!(
            apply(&mut table, new_address(3, "10.0.0.2", 24)),
            [added("10.0.0.2")]
        );
        assert_eq!(
            apply(&mut table, Message::DelAddress(address(2, "10.0.0.1", 24))),
            []
        );
        assert_eq!(
            apply(&mut table, Message::DelAddress(address(3, "10.0.0.1", 24))),
            [removed("10.0.0.1")]
        );
        assert_eq!(
            apply(&mut table, Message::DelLink(3)),
            [removed("10.0.0.2"), removed("10.0.0.255")],
            "the interface takes its addresses along"
        );
        assert_eq!(table.addresses().count(), 0);
    }

    #[test]
    fn broadcast_addresses_are_the_set_one_and_that_of_the_network() {
        let broadcast = Some("10.0.0.99".parse().unwrap());
        let mut table = LinkTable::default();
        assert_eq!(
            apply(
                &mut table,
                Message::NewAddress(address(2, "10.0.0.1", 24), broadcast)
            ),
            [added("10.0.0.1"), added("10.0.0.99"), added("10.0.0.255")]
        );
        assert_eq!(
            apply(&mut table, new_address(2, "10.0.0.1", 24)),
            [removed("10.0.0.99")],
            "the set one changed, the rest did not"
        );
        for (local, prefix) in [("10.1.0.1", 31), ("10.2.0.1", 32), ("fd00::1", 64)] {
            assert_eq!(
                apply(&mut table, new_address(2, local, prefix)),
                [added(local)]
            );
        }
        assert_eq!(
            apply(&mut table, new_address(2, "10.3.0.1", 0)),
            [added("10.3.0.1"), added("255.255.255.255")]
        );
        let odd = new_address(2, "10.4.0.1", 200);
        assert_eq!(
            apply(&mut table, odd),
            [added("10.4.0.1")],
            "no prefix of IPv4"
        );
    }

    #[test]
    fn a_dump_tells_the_differences() {
        let mut table = LinkTable::default();
        for (index, name) in [(1, "lo"), (2, "eth0"), (3, "eth1")] {
            apply(&mut table, Message::NewLink(link(index, name)));
            apply(
                &mut table,
                new_address(index, &format!("10.0.{index}.1"), 32),
            );
        }
        table.begin_dump();
        let dumped = events(|events| {
            table.apply_dumped(Message::NewLink(link(1, "lo")), events);
            table.apply_dumped(Message::NewLink(link(3, "wan")), events);
            table.apply_dumped(Message::NewLink(link(4, "eth2")), events);
            table.apply_dumped(new_address(1, "10.0.1.1", 32), events);
            table.apply_dumped(new_address(4, "10.0.3.1", 32), events);
        });
        assert_eq!(
            dumped,
            [
                LinkEvent::Link(link(3, "wan")),
                LinkEvent::Link(link(4, "eth2"))
            ]
        );
        assert_eq!(
            events(|events| table.end_dump(events)),
            [
                removed("10.0.2.1"),
                LinkEvent::Gone { index: 2 },
                LinkEvent::Synced
            ],
            "10.0.3.1 moved to another interface and stays"
        );
        let names: Vec<_> = table.interfaces().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["lo", "wan", "eth2"]);
    }

    #[test]
    fn a_notification_outranks_the_dump_that_it_overtakes() {
        let mut table = LinkTable::default();
        apply(&mut table, Message::NewLink(link(2, "eth0")));
        apply(&mut table, new_address(2, "10.0.0.1", 32));
        table.begin_dump();
        apply(&mut table, Message::DelAddress(address(2, "10.0.0.1", 32)));
        apply(&mut table, Message::NewLink(link(2, "wan")));
        apply(&mut table, Message::NewLink(link(3, "new")));
        let stale = events(|events| {
            table.apply_dumped(Message::NewLink(link(2, "eth0")), events);
            table.apply_dumped(new_address(2, "10.0.0.1", 32), events);
        });
        assert_eq!(stale, []);
        assert_eq!(events(|events| table.end_dump(events)), [LinkEvent::Synced]);
        let names: Vec<_> = table.interfaces().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["wan", "new"]);
        assert_eq!(
            apply(&mut table, Message::NewLink(link(2, "eth0"))),
            [LinkEvent::Link(link(2, "eth0"))],
            "after the dump, notifications are as ever"
        );
    }
}
