//! What a daemon leaves to the next one: see [`crate::bpf::pins`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use aya::Ebpf;
use monitor_common::attempt::{
    Attempt, AttemptKey, EarlyAnswer, MAX_EARLY_ANSWERS, MAX_SILENT_HOSTS, count, hook,
};
use monitor_common::counter::{Count, SLOTS};
use monitor_common::drop::{DropKey, MAX_DROP_KEYS};
use monitor_common::event::{EVENT_RING_BYTES, loss};
use monitor_common::interface::{InterfaceCount, LOW_INTERFACES, MAX_INTERFACES};
use monitor_common::teredo::TEREDO_RING_BYTES;
use monitor_common::traffic::{MAX_TRAFFICS, PortTable};
use tracing::{info, warn};

use super::{RAW_TP, TP_BTF};
use crate::bpf::pins::{Generation, Pins, PinsError, put};
use crate::bpf::sys::object;

/// Key size, value size, entries.
type Shape = (usize, usize, u32);

/// The maps that programs of another build or with other settings take over: those that count, and those
/// that say what the counts are of. Tables are filled anew, and old programs keep theirs until they go.
const CARRIED: &[(&str, Shape)] = &[
    ("ALLOWED", (4, size_of::<Count>(), SLOTS)),
    (
        "DROPS",
        (size_of::<DropKey>(), size_of::<Count>(), MAX_DROP_KEYS),
    ),
    (
        "INTERFACE_COUNTS",
        (4, size_of::<InterfaceCount>(), MAX_INTERFACES),
    ),
    (
        "INTERFACE_COUNTS_LOW",
        (4, size_of::<InterfaceCount>(), LOW_INTERFACES),
    ),
    ("FRAGMENTS", (4, 8, 6)),
    ("LOSSES", (4, 8, loss::LEN)),
    (
        "ATTEMPT_ALIASES",
        (size_of::<AttemptKey>(), 4, MAX_EARLY_ANSWERS),
    ),
    (
        "EARLY_ANSWERS",
        (
            size_of::<AttemptKey>(),
            size_of::<EarlyAnswer>(),
            MAX_EARLY_ANSWERS,
        ),
    ),
    ("SILENT_HOSTS", (16, 8, MAX_SILENT_HOSTS)),
    ("ATTEMPT_COUNTS", (4, 8, count::LEN * hook::LEN)),
    ("ATTEMPTS_CREATED", (4, 8, MAX_TRAFFICS as u32 * hook::LEN)),
    ("EVENTS", (0, 0, EVENT_RING_BYTES)),
    ("TEREDO_RING", (0, 0, TEREDO_RING_BYTES)),
];

/// The map of attempts, whose size is a setting.
const ATTEMPTS: &str = "ATTEMPTS";

/// How what was there before is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Use {
    /// Nothing was there.
    Fresh,
    /// As it is.
    Adopt,
    /// Its counts.
    TakeOver,
}

/// The pins of this namespace, and the generation that this daemon works with.
#[derive(Debug)]
pub struct Kept {
    /// The pins.
    pub pins: Pins,
    mode: Use,
    before: Option<Generation>,
    now: Generation,
    /// The map of attempts of before, where it has another size.
    attempts: Option<OwnedFd>,
    /// What the cells ([`CELLS`]) hold that are taken as they are, until that is done.
    cells: Vec<(&'static Cell, Vec<u8>)>,
}

impl Kept {
    /// Looks for what was left. `None` without pins.
    pub(super) fn find(pins: Option<Pins>, digest: u64) -> Option<Self> {
        let pins = pins?;
        let before = pins.newest();
        // Programs that write to another map than the daemon reads are of no use.
        let cells = before
            .as_ref()
            .filter(|before| before.digest == digest && has_all_maps(&pins, before.number))
            .and_then(|before| read_cells(&pins, before.number).ok());
        let mode = match (&before, &cells) {
            (None, _) => Use::Fresh,
            (Some(_), Some(_)) => Use::Adopt,
            (Some(_), None) => Use::TakeOver,
        };
        let now = before
            .clone()
            .filter(|_| mode == Use::Adopt)
            .unwrap_or(Generation {
                number: 0,
                digest,
                traffics: Vec::new(),
            });
        match mode {
            Use::Fresh => {}
            Use::Adopt => info!(
                "what was attached before goes on ({})",
                pins.folder().display()
            ),
            Use::TakeOver => info!(
                "another build, other settings or pins that are gone: counts are taken over, programs are swapped ({})",
                pins.folder().display()
            ),
        }
        Some(Self {
            pins,
            mode,
            before,
            now,
            attempts: None,
            cells: cells.unwrap_or_default(),
        })
    }

    /// Where the maps that are taken over are pinned.
    pub(super) fn maps(&self, max_attempts: u32) -> BTreeMap<&'static str, PathBuf> {
        let Some(before) = &self.before else {
            return BTreeMap::new();
        };
        let attempts = (size_of::<AttemptKey>(), size_of::<Attempt>(), max_attempts);
        let carried = CARRIED.iter().copied().chain([(ATTEMPTS, attempts)]);
        let others = OTHERS.iter().map(|name| (*name, None));
        let cells = self.cells.iter().map(|(cell, _)| {
            let path = self.pins.map(before.number, cell.symbol);
            (cell.section, path)
        });
        carried
            .map(|(name, shape)| (name, Some(shape)))
            .chain(others.filter(|_| self.mode == Use::Adopt))
            .filter_map(|(name, shape)| {
                let path = self.carried_path(before.number, name);
                let found = object::get(&path).and_then(|map| object::map_info(&map));
                match (found, shape) {
                    (Ok(found), Some((key, value, entries)))
                        if (found.key_size as usize, found.value_size as usize) != (key, value)
                            || found.max_entries != entries =>
                    {
                        if name != ATTEMPTS {
                            warn!("the map {name} of before has another form: it begins anew");
                        }
                        None
                    }
                    (Ok(_), _) => Some((name, path)),
                    (Err(error), _) => {
                        warn!("the map {name} of before is not there ({error}): it begins anew");
                        None
                    }
                }
            })
            .chain(cells)
            .collect()
    }

    /// What the cells hold that are taken as they are, by symbol. The loader writes the data of each section, also into
    /// a map that there is already, and other programs read it.
    pub(super) fn cells(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let cells = self.cells.iter();
        cells.map(|(cell, value)| (cell.symbol, value.as_slice()))
    }

    /// Where a map of before is: one that its generation does not have, of a build without it, may be of a
    /// daemon that was killed while it took over, and then some programs count into it already.
    fn carried_path(&self, before: u32, name: &str) -> PathBuf {
        let path = self.pins.map(before, name);
        if object::get(&path).is_ok() {
            return path;
        }
        let others = self.pins.numbers().into_iter().rev();
        let mut others = others.map(|number| self.pins.map(number, name));
        others
            .find(|other| object::get(other).is_ok())
            .unwrap_or(path)
    }

    /// Begins a generation, unless that of before goes on.
    pub(super) fn begin(&mut self) -> Result<(), PinsError> {
        if self.mode != Use::Adopt {
            self.now.number = self.pins.begin()?;
        }
        Ok(())
    }

    /// The generation that was begun, as long as nothing is attached of it; `None` where that of before goes on.
    #[must_use]
    pub fn half(&self) -> Option<Half> {
        (self.mode != Use::Adopt).then(|| Half {
            pins: self.pins.clone(),
            number: self.now.number,
        })
    }

    /// Pins the maps of a generation that is new.
    pub(super) fn pin_maps(&mut self, ebpf: &Ebpf) -> Result<(), PinsError> {
        if self.mode == Use::Adopt {
            return Ok(());
        }
        for (name, map) in ebpf.maps() {
            // Names with a dot cannot be pinned (`bpf_lookup` in kernel/bpf/inode.c). Other data than that of the cells
            // is the programs' own: they hold it.
            let cell = CELLS.iter().find(|cell| cell.section == name);
            let name = match cell {
                Some(cell) => cell.symbol,
                None if name.starts_with('.') => continue,
                None => name,
            };
            let path = self.pins.map(self.now.number, name);
            map.pin(&path).map_err(|error| PinsError::Io {
                path,
                source: io::Error::other(error),
            })?;
        }
        if let Some(before) = &self.before {
            let path = self.pins.map(before.number, ATTEMPTS);
            let new = self.pins.map(self.now.number, ATTEMPTS);
            self.attempts = other_map(&path, &new);
        }
        Ok(())
    }

    /// The map of attempts of before, where another one has taken its place.
    pub(crate) fn attempts_before(&mut self) -> Option<OwnedFd> {
        self.attempts.take()
    }

    /// The tables of ports of programs before, whose place those of now take: of a daemon that was killed while
    /// it took over, too.
    pub(crate) fn ports_before(&self) -> Vec<OwnedFd> {
        let others = self.pins.numbers().into_iter();
        let others = others.filter(|number| *number != self.now.number);
        let table = |number| object::get(&self.pins.map(number, "PORT_TABLE")).ok();
        others.filter_map(table).collect()
    }

    /// A program before, where another one takes its place.
    #[must_use]
    pub fn program_before(&self, name: &str) -> Option<OwnedFd> {
        let before = self
            .before
            .as_ref()
            .filter(|_| self.mode == Use::TakeOver)?;
        object::get(&self.pins.program(before.number, name)).ok()
    }

    /// The drop program before, where another one takes its place.
    #[must_use]
    pub fn drop_program_before(&self) -> Option<OwnedFd> {
        let mut names = [TP_BTF, RAW_TP].iter();
        names.find_map(|name| self.program_before(name))
    }

    /// A program that was left, where all of it is taken as it is.
    pub(super) fn program(&self, name: &str) -> Option<OwnedFd> {
        if self.mode != Use::Adopt {
            return None;
        }
        object::get(&self.pins.program(self.now.number, name)).ok()
    }

    /// Pins a program that was loaded.
    pub(super) fn pin_program(&self, name: &str, program: &impl AsFd) -> Result<(), PinsError> {
        put(program, &self.pins.program(self.now.number, name))
    }

    /// Where a program is pinned.
    pub(crate) fn program_path(&self, name: &str) -> PathBuf {
        self.pins.program(self.now.number, name)
    }

    /// The traffics whose counters there are already: index and name.
    #[must_use]
    pub fn traffics_before(&self) -> &[(u8, String)] {
        self.before
            .as_ref()
            .map_or(&[], |before| before.traffics.as_slice())
    }

    /// Notes whose the counters of before are, before any is counted for a traffic that is new: killed from
    /// then on, a daemon leaves no counts that are nobody's.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn owners_are(&mut self, traffics: Vec<(u8, String)>) -> Result<(), PinsError> {
        match &mut self.before {
            Some(before) => {
                before.traffics = traffics;
                self.pins.rename(before)
            }
            None => Ok(()),
        }
    }

    /// Notes whose the counters are from now on. Before the first time, the generation does not count as
    /// one; with it, those of before go.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn commit(&mut self, traffics: Vec<(u8, String)>) -> Result<(), PinsError> {
        self.cells = Vec::new();
        self.now.traffics = traffics;
        if self.mode == Use::Adopt {
            self.pins.rename(&self.now)?;
        } else {
            self.pins.complete(&self.now)?;
            self.mode = Use::Adopt;
        }
        self.pins.keep_only(self.now.number)
    }
}

/// The maps that only programs of the same build and settings can go on with.
const OTHERS: &[&str] = &[
    "REASON_TABLE",
    "PLACE_TABLE",
    "INTERFACES",
    "LOCAL_ADDRESSES",
    "LAST",
    "SKB_COPY",
    "LOG_LIMIT",
    "CALLS",
    "NOTES",
    "FRESH",
    "TEREDO_PACKETS",
    "TC_NEXT",
    "CGROUP_NEXT",
    "DROP_NEXT",
    "AYA_LOGS",
];

/// Data of the programs that the daemon writes while they run: an array of one element, whose name is that of
/// a section and cannot be pinned.
#[derive(Debug)]
struct Cell {
    /// The section, and the map's name.
    section: &'static str,
    /// The symbol, and the pin's name.
    symbol: &'static str,
    /// Bytes.
    size: usize,
}

/// All of them; programs of the same build and settings go on with them.
static CELLS: [Cell; 4] = [
    cell(".bss.ports", "PORT_TABLE", size_of::<PortTable>()),
    cell(".bss.kinds", "INTERFACE_KINDS", 4),
    cell(".bss.teredo", "TEREDO_TRAFFIC", 4),
    cell(".bss.look_out", "LOOK_OUT", 4),
];

const fn cell(section: &'static str, symbol: &'static str, size: usize) -> Cell {
    Cell {
        section,
        symbol,
        size,
    }
}

/// What the cells of a generation hold.
fn read_cells(pins: &Pins, number: u32) -> io::Result<Vec<(&'static Cell, Vec<u8>)>> {
    let read = |cell: &'static Cell| {
        let map = object::get(&pins.map(number, cell.symbol))?;
        Ok((cell, object::read_cell(&map, cell.size)?))
    };
    CELLS.iter().map(read).collect()
}

/// Whether all maps of a generation are pinned.
fn has_all_maps(pins: &Pins, number: u32) -> bool {
    let carried = CARRIED.iter().map(|(name, _)| *name);
    let cells = CELLS.iter().map(|cell| cell.symbol);
    let others = OTHERS.iter().copied().chain([ATTEMPTS]);
    let mut names = carried.chain(others).chain(cells);
    names.all(|name| object::get(&pins.map(number, name)).is_ok())
}

/// A generation that was begun.
#[derive(Debug)]
pub struct Half {
    pins: Pins,
    number: u32,
}

impl Half {
    /// Removes it, since the daemon does not start.
    pub fn remove(&self) {
        if let Err(error) = self.pins.forget(self.number) {
            warn!("what was begun to be pinned stays: {error}");
        }
    }
}

/// The map at one path, where another one is at the other.
fn other_map(path: &std::path::Path, new: &std::path::Path) -> Option<OwnedFd> {
    let (old, new) = (object::get(path).ok()?, object::get(new).ok()?);
    let ids = (
        object::map_info(&old).ok()?.id,
        object::map_info(&new).ok()?.id,
    );
    (ids.0 != ids.1).then_some(old)
}

#[cfg(test)]
mod tests;
