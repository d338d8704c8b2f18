//! The hosts that the kernel programs look out for: somebody waits for their answer.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use monitor_common::attempt::MAX_SILENT_HOSTS;

use crate::attempt::tracker::address;

use super::tables::{TableError, address_key, take};

/// The table of these hosts.
pub struct SilentHosts {
    map: HashMap<MapData, [u8; 16], u64>,
    look_out: Array<MapData, u32>,
    present: HashSet<IpAddr>,
    /// Whether the programs were told to look out.
    looks_out: bool,
}

impl std::fmt::Debug for SilentHosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SilentHosts")
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}

impl SilentHosts {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// Where the object lacks one.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, TableError> {
        let map: HashMap<MapData, [u8; 16], u64> = take(ebpf, "SILENT_HOSTS")?;
        let switch: Array<MapData, u32> = take(ebpf, ".bss.look_out")?;
        // A daemon before may have left some.
        let present = map.keys().filter_map(Result::ok).map(address).collect();
        let looks_out = switch.get(&0, 0).is_ok_and(|value| value != 0);
        Ok(Self {
            map,
            look_out: switch,
            present,
            looks_out,
        })
    }

    /// Looks out for these hosts and no others; those beyond [`MAX_SILENT_HOSTS`] are left out.
    ///
    /// # Errors
    ///
    /// What the kernel said. The next call tries again.
    pub fn set(&mut self, hosts: &HashSet<IpAddr>) -> Result<(), MapError> {
        for host in self.present.difference(hosts).copied().collect::<Vec<_>>() {
            match self.map.remove(&address_key(host)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
            self.present.remove(&host);
        }
        let room = usize::try_from(MAX_SILENT_HOSTS).unwrap_or(usize::MAX);
        let mut result = Ok(());
        for host in hosts {
            if self.present.len() >= room || result.is_err() {
                break;
            }
            if !self.present.contains(host) {
                result = self.map.insert(address_key(*host), 0, 0);
                if result.is_ok() {
                    self.present.insert(*host);
                }
            }
        }
        let looks_out = !self.present.is_empty();
        if looks_out != self.looks_out {
            self.look_out.set(0, u32::from(looks_out), 0)?;
            self.looks_out = looks_out;
        }
        result
    }

    /// Those of whom a packet arrived, and when the last one did, on the monotonic clock.
    pub fn heard(&self) -> impl Iterator<Item = (IpAddr, Duration)> {
        self.present.iter().filter_map(|host| {
            let last = self.map.get(&address_key(*host), 0).ok()?;
            (last != 0).then(|| (*host, Duration::from_nanos(last)))
        })
    }
}
