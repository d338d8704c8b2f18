//! Reading the counters out of the maps.

use std::collections::BTreeMap;

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::programs::ProgramFd;
use monitor_common::counter::{Count, SLOTS, Slot};
use monitor_common::drop::{DropKey, Group, MAX_DROP_KEYS};
use monitor_common::event::loss;
use monitor_common::interface::{InterfaceCount, MAX_INTERFACES, NO_INTERFACE, OTHER_INTERFACES};
use thiserror::Error;

use super::load::{RAW_TP, TP_BTF};
use super::tables::{TableError, take};

/// A counter map could not be read.
#[derive(Debug, Error)]
#[error("the map {map} could not be read: {source}")]
pub struct ReadError {
    /// The map.
    pub map: &'static str,
    /// What the kernel said.
    pub source: MapError,
}

/// The counter maps.
pub struct Counters {
    allowed: PerCpuArray<MapData, Count>,
    drops: PerCpuHashMap<MapData, DropKey, Count>,
    interfaces: PerCpuHashMap<MapData, u32, InterfaceCount>,
    fragments: PerCpuArray<MapData, u64>,
    losses: PerCpuArray<MapData, u64>,
    drop_program: Option<ProgramFd>,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

/// Everything that was counted, at one time, summed over all CPUs.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Packets that passed, less those that were dropped after they had been counted, plus those that
    /// were taken without passing. Slots with none are left out.
    pub allowed: BTreeMap<Slot, Count>,
    /// Freed packets, by key.
    pub drops: BTreeMap<DropKey, Count>,
    /// By interface index.
    pub interfaces: BTreeMap<u32, InterfaceCount>,
    /// Fragments without ports, by direction.
    pub fragments: [u64; 3],
    /// What could not be done, by [`loss`].
    pub losses: [u64; loss::LEN as usize],
    /// Freed packets that the drop program never saw; `None` where it is not loaded.
    pub missed: Option<u64>,
}

/// Fullness of one map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fill {
    /// Name in metrics.
    pub map: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// The most it holds.
    pub capacity: u64,
    /// How often it had no room.
    pub full: u64,
}

impl Snapshot {
    /// Fullness of the maps that can fill up.
    #[must_use]
    pub fn fills(&self) -> [Fill; 2] {
        [
            Fill {
                map: "drops",
                entries: self.drops.len() as u64,
                capacity: u64::from(MAX_DROP_KEYS),
                full: self.losses[loss::DROPS_FULL as usize],
            },
            Fill {
                map: "interfaces",
                entries: self.interfaces.len() as u64,
                capacity: u64::from(MAX_INTERFACES),
                full: self.losses[loss::INTERFACES_FULL as usize],
            },
        ]
    }
}

fn sum_counts(values: &PerCpuValues<Count>) -> Count {
    values.iter().fold(Count::default(), |sum, count| Count {
        packets: sum.packets + count.packets,
        bytes: sum.bytes + count.bytes,
    })
}

fn sum_interface(values: &PerCpuValues<InterfaceCount>) -> InterfaceCount {
    let mut sum = InterfaceCount::default();
    for count in values.iter() {
        for direction in 0..3 {
            sum.passed[direction] += count.passed[direction];
            sum.dropped[direction] += count.dropped[direction];
            sum.revoked[direction] += count.revoked[direction];
            sum.taken[direction] += count.taken[direction];
        }
    }
    sum
}

/// The drop program that is loaded.
fn drop_program(ebpf: &Ebpf) -> Option<ProgramFd> {
    let fd = |name: &&str| ebpf.program(name)?.fd().ok()?.try_clone().ok();
    [TP_BTF, RAW_TP].iter().find_map(fd)
}

impl Counters {
    /// Takes the counter maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// Where the object lacks one.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, TableError> {
        let mut interfaces: PerCpuHashMap<MapData, u32, InterfaceCount> =
            take(ebpf, "INTERFACE_COUNTS")?;
        // These two must have room whatever comes: where the map is full, the second takes it.
        for index in [NO_INTERFACE, OTHER_INTERFACES] {
            let written = |source| TableError::Write {
                map: "INTERFACE_COUNTS",
                source,
            };
            let cpus =
                aya::util::nr_cpus().map_err(|(_, error)| written(MapError::IoError(error)))?;
            let zeros = PerCpuValues::try_from(vec![InterfaceCount::default(); cpus])
                .map_err(|error| written(MapError::IoError(error)))?;
            interfaces.insert(index, zeros, 0).map_err(written)?;
        }
        Ok(Self {
            allowed: take(ebpf, "ALLOWED")?,
            drops: take(ebpf, "DROPS")?,
            interfaces,
            fragments: take(ebpf, "FRAGMENTS")?,
            losses: take(ebpf, "LOSSES")?,
            drop_program: drop_program(ebpf),
        })
    }

    /// The drop program was loaded late: from now on its missed calls are told.
    pub fn watch_drop_program(&mut self, ebpf: &Ebpf) {
        self.drop_program = drop_program(ebpf);
    }

    /// Reads everything. Drops are read before allowed packets: one that is counted as allowed and then
    /// dropped between the two reads shows as allowed a moment longer, and never as less than nothing.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses to read a map.
    pub fn read(&self) -> Result<Snapshot, ReadError> {
        let mut snapshot = Snapshot::default();
        for entry in &self.drops {
            let (key, values) = entry.map_err(failed("DROPS"))?;
            snapshot.drops.insert(key, sum_counts(&values));
        }
        let slots = 0..SLOTS;
        for (index, values) in slots.zip(self.allowed.iter()) {
            let count = sum_counts(&values.map_err(failed("ALLOWED"))?);
            if count.packets != 0
                && let Ok(slot) = u16::try_from(index)
            {
                snapshot.allowed.insert(Slot(slot), count);
            }
        }
        for (key, count) in &snapshot.drops {
            let allowed = snapshot.allowed.entry(Slot(key.slot)).or_default();
            match Group::from_code(key.group) {
                Some(Group::Subtract) => {
                    allowed.packets = allowed.packets.saturating_sub(count.packets);
                    allowed.bytes = allowed.bytes.saturating_sub(count.bytes);
                }
                Some(Group::Allowed) => {
                    allowed.packets += count.packets;
                    allowed.bytes += count.bytes;
                }
                _ => {}
            }
        }
        for entry in &self.interfaces {
            let (index, values) = entry.map_err(failed("INTERFACE_COUNTS"))?;
            snapshot.interfaces.insert(index, sum_interface(&values));
        }
        for (index, values) in self.fragments.iter().enumerate() {
            let values = values.map_err(failed("FRAGMENTS"))?;
            snapshot.fragments[index % 3] += values.iter().sum::<u64>();
        }
        for (sum, values) in snapshot.losses.iter_mut().zip(self.losses.iter()) {
            *sum = values.map_err(failed("LOSSES"))?.iter().sum();
        }
        snapshot.missed = self.drop_program.as_ref().map(recursion_misses);
        Ok(snapshot)
    }

    /// Reads only what could not be done, by [`loss`].
    ///
    /// # Errors
    ///
    /// Where the kernel refuses to read the map.
    pub fn read_losses(&self) -> Result<[u64; loss::LEN as usize], ReadError> {
        let mut losses = [0; loss::LEN as usize];
        for (sum, values) in losses.iter_mut().zip(self.losses.iter()) {
            *sum = values.map_err(failed("LOSSES"))?.iter().sum();
        }
        Ok(losses)
    }

    /// Takes an interface that is gone out of the map and returns what it had counted.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn retire_interface(&mut self, index: u32) -> Result<InterfaceCount, ReadError> {
        let count = match self.interfaces.get(&index, 0) {
            Ok(values) => sum_interface(&values),
            Err(MapError::KeyNotFound) => return Ok(InterfaceCount::default()),
            Err(error) => return Err(failed("INTERFACE_COUNTS")(error)),
        };
        self.interfaces
            .remove(&index)
            .map_err(failed("INTERFACE_COUNTS"))?;
        Ok(count)
    }
}

/// How often the kernel did not run a program because an interrupt came while it ran on the same CPU
/// (`bpf_prog_inc_misses_counter`). Before 5.12 it ran programs for such packets too, and showed no number:
/// 0. What got lost by that, the program itself counts.
fn recursion_misses(program: &ProgramFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse_misses(&text).unwrap_or(0)
}

pub(crate) fn parse_misses(fdinfo: &str) -> Option<u64> {
    let value = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))?;
    value.trim().parse().ok()
}

fn failed(map: &'static str) -> impl Fn(MapError) -> ReadError {
    move |source| ReadError { map, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_read_where_the_kernel_shows_them() {
        let text = "pos:\t0\nprog_type:\t26\nrecursion_misses:\t12\nverified_insns:\t9\n";
        assert_eq!(parse_misses(text), Some(12));
        assert_eq!(parse_misses("pos:\t0\nprog_type:\t26\n"), None);
    }
}
