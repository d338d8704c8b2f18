//! Teredo attempts at work: their packets are read out of the ring buffer, and followed.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};

use crate::attempt::teredo::{Scan, TeredoTracker};
use crate::attempt::tracker::Table;
use crate::bpf::tables::{TableError, take};
use crate::teredo::Packet;

/// How many packets one reading takes: more than the ring holds, so that it ends also where they come faster than
/// they are read. The rest is for the next one.
const BATCH: usize = 4096;

/// The Teredo attempts that are followed.
pub(super) struct Teredo {
    ring: RingBuf<MapData>,
    tracker: TeredoTracker,
}

impl fmt::Debug for Teredo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teredo").finish_non_exhaustive()
    }
}

impl Teredo {
    /// Takes the ring buffer out of a loaded object.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, TableError> {
        Ok(Self {
            ring: take(ebpf, "TEREDO_RING")?,
            tracker: TeredoTracker::default(),
        })
    }

    /// Goes on where a daemon before was.
    pub(super) fn resume(&mut self, tracker: TeredoTracker) {
        self.tracker = tracker;
    }

    /// What is to be kept.
    pub(super) const fn tracker(&self) -> &TeredoTracker {
        &self.tracker
    }

    /// Reads what is there, up to [`BATCH`] packets, and says what ended until `now`, and whether there was anything.
    pub(super) fn read(
        &mut self,
        now: Duration,
        table: Table,
        is_alive: impl Fn(IpAddr) -> bool,
    ) -> (Scan, bool) {
        let mut any = false;
        for _ in 0..BATCH {
            let Some(record) = self.ring.next() else {
                break;
            };
            any = true;
            if let Some(packet) = Packet::from_bytes(&record) {
                self.tracker.packet(&packet);
            }
        }
        (self.tracker.scan(now, table, is_alive), any)
    }

    /// The servers that clients wait for, of whom nothing was seen.
    pub(super) fn waiting(&self) -> impl Iterator<Item = IpAddr> {
        self.tracker.waiting()
    }

    /// How many solicitations found no room to be followed.
    pub(super) const fn lost(&self) -> u64 {
        self.tracker.lost()
    }
}
