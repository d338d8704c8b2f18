//! What the daemon tells the kernel programs: ports, reasons, places, interfaces, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use monitor_common::drop::{MAX_PLACES, Place, ReasonInfo};
use monitor_common::interface::InterfaceInfo;
use monitor_common::traffic::PortTable;
use thiserror::Error;

/// A table could not be written.
#[derive(Debug, Error)]
pub enum TableError {
    /// The object has no such map: daemon and programs are of different builds.
    #[error("the kernel programs have no map {0}")]
    NoMap(&'static str),
    /// The kernel refused.
    #[error("the map {map} could not be written: {source}")]
    Write {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
}

/// Takes a map out of the object.
pub(crate) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, TableError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(TableError::NoMap(name))?;
    T::try_from(map).map_err(|source| TableError::Write { map: name, source })
}

fn written(map: &'static str, result: Result<(), MapError>) -> Result<(), TableError> {
    result.map_err(|source| TableError::Write { map, source })
}

/// The tables, writable while the programs run.
pub struct Tables {
    ports: Array<MapData, PortTable>,
    teredo: Array<MapData, u32>,
    reasons: Array<MapData, ReasonInfo>,
    places: Array<MapData, Place>,
    used_places: usize,
    interfaces: HashMap<MapData, u32, InterfaceInfo>,
    kinds: Array<MapData, u32>,
    /// The interfaces of some kind, and of which ([`InterfaceInfo::kinds`]).
    special: BTreeMap<u32, u32>,
    /// Whether all interfaces are known: before that, those that a daemon before knew of count, too.
    is_settled: bool,
    addresses: HashMap<MapData, [u8; 16], u8>,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl Tables {
    /// Takes the tables out of a loaded object.
    ///
    /// # Errors
    ///
    /// Where the object lacks one.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, TableError> {
        Ok(Self {
            ports: take(ebpf, ".bss.ports")?,
            teredo: take(ebpf, ".bss.teredo")?,
            reasons: take(ebpf, "REASON_TABLE")?,
            places: take(ebpf, "PLACE_TABLE")?,
            used_places: 0,
            interfaces: take(ebpf, "INTERFACES")?,
            kinds: take(ebpf, ".bss.kinds")?,
            special: BTreeMap::new(),
            is_settled: false,
            addresses: take(ebpf, "LOCAL_ADDRESSES")?,
        })
    }

    /// Sets which ports belong to which traffic, all at once.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn set_ports(&mut self, table: &PortTable) -> Result<(), TableError> {
        written("PORT_TABLE", self.ports.set(0, table, 0))
    }

    /// Sets which traffic is Teredo's.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn set_teredo(&mut self, index: Option<u8>) -> Result<(), TableError> {
        let value = index.map_or(0, |index| u32::from(index) + 1);
        written("TEREDO_TRAFFIC", self.teredo.set(0, value, 0))
    }

    /// Sets group and class of every reason, by index.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn set_reasons(&mut self, infos: &[ReasonInfo]) -> Result<(), TableError> {
        for (index, info) in (0..).zip(infos) {
            written("REASON_TABLE", self.reasons.set(index, info, 0))?;
        }
        Ok(())
    }

    /// Sets the places. Rows beyond [`MAX_PLACES`] are left out, and their number is returned.
    ///
    /// The programs may be searching meanwhile: a table that grows is written from its end, one that
    /// shrinks from its start, so that a row is there twice for a moment rather than not at all.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn set_places(&mut self, places: &[Place]) -> Result<usize, TableError> {
        let mut rows = places.to_vec();
        let left_out = rows.len().saturating_sub(MAX_PLACES as usize);
        let unused = Place {
            start: u64::MAX,
            end: u64::MAX,
            ..Place::default()
        };
        rows.resize(MAX_PLACES as usize, unused);
        rows.sort_by_key(|row| row.start);
        let used = places.len().min(MAX_PLACES as usize);
        let grows = used >= self.used_places;
        self.used_places = used;
        let mut rows: Vec<(u32, Place)> = (0..).zip(rows).collect();
        if grows {
            rows.reverse();
        }
        for (index, row) in rows {
            written("PLACE_TABLE", self.places.set(index, row, 0))?;
        }
        Ok(left_out)
    }

    /// Says what an interface is.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, as when the map is full.
    pub fn set_interface(&mut self, index: u32, info: InterfaceInfo) -> Result<(), TableError> {
        written("INTERFACES", self.interfaces.insert(index, info, 0))?;
        match info.kinds() {
            0 => self.special.remove(&index),
            kinds => self.special.insert(index, kinds),
        };
        self.set_kinds()
    }

    /// Tells the programs what kinds there are, once the interfaces are in their table.
    fn set_kinds(&mut self) -> Result<(), TableError> {
        let before = self.kinds.get(&0, 0);
        let before = before.map_err(|source| TableError::Write {
            map: "INTERFACE_KINDS",
            source,
        })?;
        let mut kinds = if self.is_settled { 0 } else { before };
        for one in self.special.values() {
            kinds |= one;
        }
        if kinds == before {
            return Ok(());
        }
        written("INTERFACE_KINDS", self.kinds.set(0, kinds, 0))
    }

    /// Forgets an interface; one that is not known is no error.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn remove_interface(&mut self, index: u32) -> Result<(), TableError> {
        absent_is_fine("INTERFACES", self.interfaces.remove(&index))?;
        self.special.remove(&index);
        self.set_kinds()
    }

    /// Forgets the interfaces that are not known, and all addresses but these.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn keep_only(
        &mut self,
        is_known: impl Fn(u32) -> bool,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), TableError> {
        let read = |map| move |source| TableError::Write { map, source };
        let keys: Result<Vec<u32>, _> = self.interfaces.keys().collect();
        for index in keys.map_err(read("INTERFACES"))? {
            if !is_known(index) {
                self.remove_interface(index)?;
            }
        }
        self.is_settled = true;
        self.set_kinds()?;
        let wanted: BTreeSet<[u8; 16]> = addresses.iter().copied().map(address_key).collect();
        let keys: Result<Vec<[u8; 16]>, _> = self.addresses.keys().collect();
        for key in keys.map_err(read("LOCAL_ADDRESSES"))? {
            if !wanted.contains(&key) {
                absent_is_fine("LOCAL_ADDRESSES", self.addresses.remove(&key))?;
            }
        }
        Ok(())
    }

    /// Adds an address of this host.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, as when the map is full.
    pub fn add_address(&mut self, address: IpAddr) -> Result<(), TableError> {
        written(
            "LOCAL_ADDRESSES",
            self.addresses.insert(address_key(address), 1, 0),
        )
    }

    /// Takes an address away; one that is not known is no error.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn remove_address(&mut self, address: IpAddr) -> Result<(), TableError> {
        absent_is_fine(
            "LOCAL_ADDRESSES",
            self.addresses.remove(&address_key(address)),
        )
    }
}

fn absent_is_fine(map: &'static str, result: Result<(), MapError>) -> Result<(), TableError> {
    written(map, unless_absent(result))
}

/// That a key was not there to be deleted is no error.
pub(super) fn unless_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// An address as the map of local addresses has it: IPv4 ones are IPv4-mapped.
pub(super) fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
