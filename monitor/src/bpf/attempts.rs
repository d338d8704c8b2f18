//! Reading the attempts out of the map in which the kernel programs follow them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray};
use monitor_common::attempt::{Attempt, AttemptKey, count, hook};
use monitor_common::traffic::MAX_TRAFFICS;

use super::counters::ReadError;
use super::sys;
use super::tables::{TableError, take};
use crate::limits;

/// How many entries are read at once.
const ROOM: usize = 4096;

/// The most memory that one reading takes, bytes: what the kernel writes, and the list of it.
pub(crate) const fn room(max_attempts: usize) -> usize {
    let most = if max_attempts > ROOM {
        max_attempts
    } else {
        ROOM
    };
    most.next_power_of_two() * size_of::<(AttemptKey, Attempt)>()
        + limits::list::<(AttemptKey, Attempt)>(most)
}

/// Numbers by index of the traffic.
pub type PerTraffic = [u64; MAX_TRAFFICS as usize];

/// What was counted of attempts since the maps were made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Records that were made, by index of the traffic.
    pub created: PerTraffic,
    /// SYNs of another connection with the number of one that is followed.
    pub collisions: u64,
    /// SYNs for which no record could be made.
    pub refused: u64,
    /// Teredo packets that found no room in the ring buffer.
    pub teredo_lost: u64,
}

/// The map of attempts.
pub struct AttemptMap {
    id: u32,
    map: MapData,
    counts: PerCpuArray<MapData, u64>,
    created: PerCpuArray<MapData, u64>,
    keys: Vec<AttemptKey>,
    values: Vec<Attempt>,
    before: Option<Before>,
}

/// A map whose entries are taken over, and those that were.
struct Before {
    map: OwnedFd,
    copied: HashMap<AttemptKey, Attempt>,
}

impl std::fmt::Debug for AttemptMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttemptMap").finish_non_exhaustive()
    }
}

impl AttemptMap {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// Where the object lacks one.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, TableError> {
        let id = match ebpf.map("ATTEMPTS_CREATED") {
            Some(Map::PerCpuArray(map)) => map.info().map(|info| info.id()),
            _ => return Err(TableError::NoMap("ATTEMPTS_CREATED")),
        };
        Ok(Self {
            // 0 is no map's.
            id: id.unwrap_or(0),
            map: match ebpf.take_map("ATTEMPTS") {
                Some(Map::LruHashMap(map)) => map,
                _ => return Err(TableError::NoMap("ATTEMPTS")),
            },
            counts: take(ebpf, "ATTEMPT_COUNTS")?,
            created: take(ebpf, "ATTEMPTS_CREATED")?,
            keys: Vec::new(),
            values: Vec::new(),
            before: None,
        })
    }

    /// The number of the map that counts records: in one boot, no other one gets it.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// What was counted so far.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn counted(&self) -> Result<Counted, ReadError> {
        let mut created = PerTraffic::default();
        for (traffic, created) in (0..).zip(&mut created) {
            *created = sum(&self.created, "ATTEMPTS_CREATED", traffic)?;
        }
        let read = |what| sum(&self.counts, "ATTEMPT_COUNTS", what);
        Ok(Counted {
            created,
            collisions: read(count::COLLISIONS)?,
            refused: read(count::REFUSED)?,
            teredo_lost: read(count::TEREDO_LOST)?,
        })
    }

    /// Everything that is in the map.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn read(&mut self) -> io::Result<Vec<(AttemptKey, Attempt)>> {
        let map = self.map.fd().as_fd().try_clone_to_owned()?;
        self.read_from(&map)
    }

    fn read_from(&mut self, map: &impl AsFd) -> io::Result<Vec<(AttemptKey, Attempt)>> {
        let none = AttemptKey {
            family: 0,
            sequence: 0,
        };
        let mut entries = Vec::new();
        let mut position = None;
        let mut room = self.keys.len().max(ROOM);
        loop {
            self.keys.resize(room, none);
            self.values.resize(room, Attempt::default());
            let read = sys::lookup_batch(
                map,
                position,
                self.keys.as_mut_ptr().cast(),
                self.values.as_mut_ptr().cast(),
                u32::try_from(room).map_err(io::Error::other)?,
            );
            let (count, next) = match read {
                Ok(read) => read,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                    room *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let read = self.keys.iter().zip(&self.values).take(count);
            entries.extend(read.map(|(key, value)| (*key, *value)));
            if next.is_none() {
                return Ok(entries);
            }
            position = next;
        }
    }

    /// Takes the entries of a map over that had another size: answers find them from then on, once programs
    /// that use this one are attached.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn take_over(&mut self, before: OwnedFd) -> io::Result<()> {
        let mut copied = HashMap::new();
        for (key, attempt) in self.read_from(&before.as_fd())? {
            sys::object::insert(&self.map.fd().as_fd(), &key, &attempt)?;
            copied.insert(key, attempt);
        }
        self.before = Some(Before {
            map: before,
            copied,
        });
        Ok(())
    }

    /// Takes over what the programs before made or changed since [`Self::take_over`], where those of now have
    /// not gone on with it. Call it once all of these are in their places.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn take_rest(&mut self) -> io::Result<()> {
        let Some(Before { map, copied }) = self.before.take() else {
            return Ok(());
        };
        let now: HashMap<_, _> = self.read()?.into_iter().collect();
        for (key, attempt) in self.read_from(&map.as_fd())? {
            let was = copied.get(&key);
            if was != Some(&attempt) && now.get(&key) == was {
                sys::object::insert(&self.map.fd().as_fd(), &key, &attempt)?;
            }
        }
        Ok(())
    }

    /// Takes entries out of the map.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn forget(&self, keys: &[AttemptKey]) -> io::Result<()> {
        sys::delete_batch(
            &self.map.fd().as_fd(),
            keys.as_ptr().cast(),
            size_of::<AttemptKey>(),
            keys.len(),
        )
    }
}

/// What all hooks on all CPUs counted: the counters of one thing stand side by side.
fn sum(counts: &PerCpuArray<MapData, u64>, map: &'static str, what: u32) -> Result<u64, ReadError> {
    let mut sum = 0;
    for hook in 0..hook::LEN {
        let values = counts.get(&(what * hook::LEN + hook), 0);
        let values = values.map_err(|source| ReadError { map, source })?;
        sum += values.iter().sum::<u64>();
    }
    Ok(sum)
}
