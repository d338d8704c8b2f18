//! Reading the counters out of the maps.

use std::collections::{BTreeMap, BTreeSet};

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use monitor_common::counter::{Count, SLOTS, Slot};
use monitor_common::drop::{DropKey, Group, MAX_DROP_KEYS};
use monitor_common::event::loss;
use monitor_common::interface::{
    InterfaceCount, LOW_INTERFACES, MAX_INTERFACES, NO_INTERFACE, OTHER_INTERFACES, RETIRED,
};
use thiserror::Error;

use super::tables::{TableError, take, unless_absent};

/// An element is made only where none is (`include/uapi/linux/bpf.h`).
const BPF_NOEXIST: u64 = 1;

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
    /// Those with an index below [`LOW_INTERFACES`].
    low: PerCpuArray<MapData, InterfaceCount>,
    fragments: PerCpuArray<MapData, u64>,
    losses: PerCpuArray<MapData, u64>,
    drop_program: Option<OwnedFd>,
    /// What was read last of its missed calls: a counter must not fall where its file can't be read, as
    /// without a descriptor that is free.
    missed: AtomicU64,
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
    /// How many entries the map of interfaces has, which can fill up.
    pub interface_entries: u64,
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
                entries: self.interface_entries,
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
        add_interface(&mut sum, count);
    }
    sum
}

/// Adds one count to another.
pub(crate) fn add_interface(sum: &mut InterfaceCount, count: &InterfaceCount) {
    for direction in 0..3 {
        for (sum, count) in [
            (&mut sum.passed, &count.passed),
            (&mut sum.dropped, &count.dropped),
            (&mut sum.revoked, &count.revoked),
            (&mut sum.taken, &count.taken),
        ] {
            // What was kept by a daemon before may be any number.
            sum[direction] = sum[direction].saturating_add(count[direction]);
        }
    }
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
        // These must have room whatever comes: where the map is full, the second takes it.
        for index in [NO_INTERFACE, OTHER_INTERFACES, RETIRED] {
            let written = |source| TableError::Write {
                map: "INTERFACE_COUNTS",
                source,
            };
            let cpus =
                aya::util::nr_cpus().map_err(|(_, error)| written(MapError::IoError(error)))?;
            let zeros = PerCpuValues::try_from(vec![InterfaceCount::default(); cpus])
                .map_err(|error| written(MapError::IoError(error)))?;
            // What a daemon before left there stays.
            match interfaces.insert(index, zeros, BPF_NOEXIST) {
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                result => result.map_err(written)?,
            }
        }
        Ok(Self {
            allowed: take(ebpf, "ALLOWED")?,
            drops: take(ebpf, "DROPS")?,
            interfaces,
            low: take(ebpf, "INTERFACE_COUNTS_LOW")?,
            fragments: take(ebpf, "FRAGMENTS")?,
            losses: take(ebpf, "LOSSES")?,
            drop_program: None,
            missed: AtomicU64::new(0),
        })
    }

    /// From now on the missed calls of this drop program are told.
    pub fn watch_drop_program(&mut self, program: Option<BorrowedFd<'_>>) {
        self.drop_program = program.and_then(|program| program.try_clone_to_owned().ok());
    }

    /// Adds the missed calls of a drop program whose place another one takes.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn take_missed(&mut self, program: &OwnedFd) -> Result<(), ReadError> {
        let losses = || failed("LOSSES");
        let mut before = self
            .losses
            .get(&loss::MISSED_BEFORE, 0)
            .map_err(losses())?
            .to_vec();
        if let Some(first) = before.first_mut() {
            *first += recursion_misses(program);
        }
        let values =
            PerCpuValues::try_from(before).map_err(|error| losses()(MapError::IoError(error)))?;
        self.losses
            .set(loss::MISSED_BEFORE, values, 0)
            .map_err(losses())
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
            snapshot.interface_entries += 1;
        }
        for (index, values) in (0..).zip(self.low.iter()) {
            let count = sum_interface(&values.map_err(failed(LOW))?);
            if count != InterfaceCount::default() {
                add_interface(snapshot.interfaces.entry(index).or_default(), &count);
            }
        }
        for (index, values) in self.fragments.iter().enumerate() {
            let values = values.map_err(failed("FRAGMENTS"))?;
            snapshot.fragments[index % 3] += values.iter().sum::<u64>();
        }
        for (sum, values) in snapshot.losses.iter_mut().zip(self.losses.iter()) {
            *sum = values.map_err(failed("LOSSES"))?.iter().sum();
        }
        let before = snapshot.losses[loss::MISSED_BEFORE as usize];
        snapshot.missed = self.drop_program.as_ref().map(|program| {
            let missed = before + recursion_misses(program);
            self.missed.fetch_max(missed, Ordering::Relaxed).max(missed)
        });
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

    /// What was counted on the interface with this index.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn interface(&self, index: u32) -> Result<InterfaceCount, ReadError> {
        let [hash, low] = self.of_interface(index)?;
        let mut sum = InterfaceCount::default();
        for values in [hash, low].into_iter().flatten() {
            add_interface(&mut sum, &sum_interface(&values));
        }
        Ok(sum)
    }

    /// What both maps have of an interface.
    fn of_interface(
        &self,
        index: u32,
    ) -> Result<[Option<PerCpuValues<InterfaceCount>>; 2], ReadError> {
        let hash = match self.interfaces.get(&index, 0) {
            Ok(values) => Some(values),
            Err(MapError::KeyNotFound) => None,
            Err(error) => return Err(failed("INTERFACE_COUNTS")(error)),
        };
        let low = match index {
            0..LOW_INTERFACES => Some(self.low.get(&index, 0).map_err(failed(LOW))?),
            _ => None,
        };
        Ok([hash, low])
    }

    /// Takes an interface that is gone out of the maps, and adds what it had counted to [`RETIRED`]. Killed
    /// in between, the daemon counts it twice, and never less than before.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn retire_interface(&mut self, index: u32) -> Result<(), ReadError> {
        let failed = |map| move |error| ReadError { map, source: error };
        let [hash, low] = self.of_interface(index)?;
        let low = low.filter(|values| sum_interface(values) != InterfaceCount::default());
        if hash.is_none() && low.is_none() {
            return Ok(());
        }
        let mut sum = match self.interfaces.get(&RETIRED, 0) {
            Ok(values) => values.to_vec(),
            Err(MapError::KeyNotFound) => Vec::new(),
            Err(error) => return Err(failed("INTERFACE_COUNTS")(error)),
        };
        for gone in hash.iter().chain(&low) {
            sum.resize(gone.len(), InterfaceCount::default());
            for (sum, count) in sum.iter_mut().zip(gone.iter()) {
                add_interface(sum, count);
            }
        }
        let per_cpu = |values: Vec<_>, map| {
            PerCpuValues::try_from(values).map_err(|error| failed(map)(MapError::IoError(error)))
        };
        let zeros = vec![InterfaceCount::default(); sum.len()];
        let sum = per_cpu(sum, "INTERFACE_COUNTS")?;
        self.interfaces
            .insert(RETIRED, sum, 0)
            .map_err(failed("INTERFACE_COUNTS"))?;
        if hash.is_some() {
            unless_absent(self.interfaces.remove(&index)).map_err(failed("INTERFACE_COUNTS"))?;
        }
        if low.is_some() {
            let zeros = per_cpu(zeros, LOW)?;
            self.low.set(index, zeros, 0).map_err(failed(LOW))?;
        }
        Ok(())
    }

    /// The interfaces that have counted, by index.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn interfaces(&self) -> Result<Vec<u32>, ReadError> {
        let keys: Result<BTreeSet<u32>, _> = self.interfaces.keys().collect();
        let mut indexes = keys.map_err(failed("INTERFACE_COUNTS"))?;
        for (index, values) in (0..).zip(self.low.iter()) {
            if sum_interface(&values.map_err(failed(LOW))?) != InterfaceCount::default() {
                indexes.insert(index);
            }
        }
        Ok(indexes.into_iter().collect())
    }
}

/// The map of interfaces with a low index.
const LOW: &str = "INTERFACE_COUNTS_LOW";

/// How often the kernel did not run a program because an interrupt came while it ran on the same CPU
/// (`bpf_prog_inc_misses_counter`). Before 5.12 it ran programs for such packets too, and showed no number:
/// 0. What got lost by that, the program itself counts.
fn recursion_misses(program: &OwnedFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse_misses(&text).unwrap_or(0)
}

pub(crate) fn parse_misses(fdinfo: &str) -> Option<u64> {
    value_of(fdinfo, "recursion_misses:")
}

/// A number of a program's `/proc/self/fdinfo`.
pub(super) fn value_of(fdinfo: &str, key: &str) -> Option<u64> {
    let value = fdinfo.lines().find_map(|line| line.strip_prefix(key))?;
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
