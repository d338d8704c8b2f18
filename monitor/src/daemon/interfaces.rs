//! From what rtnetlink tells to tables and attachments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use monitor_common::drop::Place;
use monitor_common::interface::{BRIDGE_PORT, EXCLUDED, InterfaceInfo, MAX_TAGS};
use tracing::{debug, info, warn};

use crate::bpf::attach::{Hooks, Wanted};
use crate::bpf::tables::{TableError, Tables};
use crate::config::InterfaceFilter;
use crate::link::{Interface, LinkEvent, LinkType};
use crate::metrics::Source;
use crate::metrics::attempts::teredo_index;
use crate::traffic::Traffics;

/// The interfaces of the namespace and what follows from them.
#[derive(Debug)]
pub(super) struct Interfaces {
    filter: InterfaceFilter,
    tables: Tables,
    source: Arc<Source>,
    known: BTreeMap<u32, Interface>,
    addresses: BTreeSet<IpAddr>,
}

/// How an interface is watched: `None` where nothing is attached to it. Nothing is counted on the loopback
/// device.
///
/// A packet must be counted once. One that is routed out of a bond crosses the bond and one of its
/// ports: the bond counts. The device of a VRF is crossed on the way to one that belongs to it: that
/// one counts. Ports of a bridge count only what is bridged.
pub(crate) fn wanted(filter: &InterfaceFilter, interface: &Interface, tags: u32) -> Option<Wanted> {
    let slave_kind = interface.slave_kind.as_deref();
    let counted_above = matches!(slave_kind, Some("bond" | "team"));
    let counted_below = interface.info_kind.as_deref() == Some("vrf");
    if interface.kind == LinkType::Loopback {
        // Whatever the filter says: a rule may answer there for a connection that another one takes.
        return Some(Wanted {
            name: interface.name.clone(),
            loopback: true,
            ethernet: true,
            ingress: false,
        });
    }
    if counted_above || counted_below || !filter.wants(&interface.name) {
        return None;
    }
    Some(Wanted {
        name: interface.name.clone(),
        loopback: false,
        // Tags in the frame make its header longer.
        ethernet: interface.kind == LinkType::Ethernet && tags == 0,
        ingress: slave_kind != Some("bridge"),
    })
}

/// What the kernel programs are told of an interface.
fn info_of(filter: &InterfaceFilter, interface: &Interface, tags: u32) -> InterfaceInfo {
    let mut flags = 0;
    if interface.slave_kind.as_deref() == Some("bridge") {
        flags |= BRIDGE_PORT;
    }
    if interface.kind != LinkType::Loopback && !filter.wants(&interface.name) {
        flags |= EXCLUDED;
    }
    InterfaceInfo {
        flags,
        master: interface.master.unwrap_or(0),
        tags,
    }
}

/// How many tags are written into the frames of an interface: by itself, and by those that it lies on.
///
/// A header is built from the top down to the lowest device before the frame leaves by the first of them.
pub(crate) fn tags(known: &BTreeMap<u32, Interface>, interface: &Interface) -> u32 {
    if interface.info_kind.as_deref() != Some("vlan") {
        return 0;
    }
    let mut tags = u32::from(interface.writes_tag);
    let mut lower = interface.lower;
    // So many steps at most: what is known may be out of date, and then lead round in a circle.
    for _ in 1..MAX_TAGS {
        let Some(below) = lower.and_then(|index| known.get(&index)) else {
            break;
        };
        tags += u32::from(below.writes_tag);
        lower = below.lower;
    }
    tags
}

impl Interfaces {
    pub(super) fn new(filter: InterfaceFilter, tables: Tables, source: Arc<Source>) -> Self {
        Self {
            filter,
            tables,
            source,
            known: BTreeMap::new(),
            addresses: BTreeSet::new(),
        }
    }

    /// Takes a change into the tables.
    pub(super) fn learn(&mut self, event: &LinkEvent) {
        let result = match event {
            LinkEvent::Link(interface) => {
                let retags = self.retags(interface);
                self.known.insert(interface.index, interface.clone());
                let watched =
                    interface.kind != LinkType::Loopback && self.wanted(interface).is_some();
                let named = self
                    .source
                    .interface_is(interface.index, &interface.name, watched);
                if let Err(error) = named {
                    warn!("{} is counted in \"other\": {error}", interface.name);
                }
                let others = self.known.values().filter(|_| retags);
                let mut told = others.chain([interface]);
                told.try_for_each(|interface| {
                    let tags = tags(&self.known, interface);
                    let info = info_of(&self.filter, interface, tags);
                    self.tables.set_interface(interface.index, info)
                })
            }
            LinkEvent::Gone { index } => {
                self.known.remove(index);
                self.source.interface_gone(*index);
                self.tables.remove_interface(*index)
            }
            LinkEvent::AddressAdded(address) => {
                self.addresses.insert(*address);
                self.tables.add_address(*address)
            }
            LinkEvent::AddressRemoved(address) => {
                self.addresses.remove(address);
                self.tables.remove_address(*address)
            }
            LinkEvent::Synced => Ok(()),
        };
        if let Err(error) = result {
            warn!("{error}");
        }
    }

    /// Takes out of the tables what went while no daemon ran.
    pub(super) fn forget_others(&mut self) {
        let known = |index| self.known.contains_key(&index);
        if let Err(error) = self.tables.keep_only(known, &self.addresses) {
            warn!("{error}");
        }
        if let Err(error) = self.source.interfaces_are(known) {
            warn!("{error}");
        }
    }

    /// Attaches to everything that is known.
    pub(super) fn attach_all(&self, hooks: &mut Hooks) {
        for interface in self.known.values() {
            self.attach(hooks, interface);
        }
    }

    /// Takes off what a daemon before left where nothing is wanted.
    pub(super) fn clear_unwanted(&self, hooks: &Hooks) {
        let known = self.known.values();
        hooks.clear_unwanted(known.map(|interface| (interface.index, interface.name.as_str())));
    }

    /// Whether this change is also one for the VLANs that lie on the interface: their frames have its tag.
    fn retags(&self, interface: &Interface) -> bool {
        let known = self.known.get(&interface.index);
        known.is_some_and(|known| known.writes_tag) != interface.writes_tag
    }

    fn wanted(&self, interface: &Interface) -> Option<Wanted> {
        wanted(&self.filter, interface, tags(&self.known, interface))
    }

    fn attach(&self, hooks: &mut Hooks, interface: &Interface) {
        let Some(wanted) = self.wanted(interface) else {
            debug!("interface {} is not watched", interface.name);
            return hooks.detach_interface(interface.index);
        };
        match hooks.attach_interface(interface.index, wanted) {
            Ok(()) => debug!("interface {} is watched", interface.name),
            // Said once, when the programs were loaded.
            Err(error) if error.program => debug!("{error}"),
            // It may be gone already: then the next event says so.
            Err(error) => warn!("{error}"),
        }
    }

    /// Tries again what could not be attached.
    pub(super) fn retry(&self, hooks: &mut Hooks) {
        for index in hooks.incomplete() {
            let Some(interface) = self.known.get(&index) else {
                continue;
            };
            let Some(wanted) = self.wanted(interface) else {
                continue;
            };
            match hooks.attach_interface(index, wanted) {
                Ok(()) => info!("interface {} is watched now", interface.name),
                // Said as a warning when it happened first.
                Err(error) => debug!("{error}"),
            }
        }
    }

    /// Takes a change into tables and attachments.
    pub(super) fn follow(&mut self, hooks: &mut Hooks, event: LinkEvent) {
        let new = matches!(&event, LinkEvent::Link(interface) if !self.known.contains_key(&interface.index));
        let retags = matches!(&event, LinkEvent::Link(interface) if self.retags(interface));
        self.learn(&event);
        match event {
            LinkEvent::Link(interface) => {
                if new {
                    info!("interface {} appeared", interface.name);
                }
                if retags {
                    self.attach_all(hooks);
                } else {
                    self.attach(hooks, &interface);
                }
            }
            LinkEvent::Gone { index } => hooks.detach_interface(index),
            LinkEvent::AddressAdded(_) | LinkEvent::AddressRemoved(_) | LinkEvent::Synced => {}
        }
    }

    /// Sets the functions of the kernel that decide about drops without a telling reason; says how many
    /// found no room.
    pub(super) fn set_places(&mut self, places: &[Place]) -> Result<usize, TableError> {
        self.tables.set_places(places)
    }

    /// Sets which ports are watched.
    pub(super) fn set_ports(&mut self, traffics: &Traffics) -> Result<(), TableError> {
        self.tables.set_ports(&traffics.port_table())?;
        self.tables.set_teredo(teredo_index(traffics))
    }
}
