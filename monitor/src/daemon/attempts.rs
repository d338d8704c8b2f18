//! Attempts at work: twice a second their map is read, and what ended is counted and told.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tracing::{debug, warn};

use super::lookout::Lookout;
use super::teredo::Teredo;
use crate::attempt::Finished;
use crate::attempt::tracker::{Late, Table, Tracker};
use crate::bpf::attempts::{AttemptMap, PerTraffic};
use crate::metrics::Source;

/// How often the map is read.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// What came of one reading.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Attempts that ended.
    pub(super) finished: Vec<Finished>,
    /// Answers to attempts that had ended.
    pub(super) late: Vec<Late>,
}

/// The attempts that are followed.
#[derive(Debug)]
pub(super) struct Attempts {
    map: AttemptMap,
    tracker: Tracker,
    /// The most records that the map has.
    capacity: u64,
    teredo: Teredo,
    lookout: Lookout,
    /// Whether the last reading failed: said once.
    failed: bool,
}

/// The time now on the clock of the kernel programs.
pub(super) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

impl Attempts {
    pub(super) fn new(map: AttemptMap, capacity: u32, teredo: Teredo, lookout: Lookout) -> Self {
        Self {
            map,
            capacity: capacity.into(),
            tracker: Tracker::default(),
            teredo,
            lookout,
            failed: false,
        }
    }

    /// Reads the map and takes what ended into the metrics.
    pub(super) fn read(&mut self, source: &Source, table: Table) -> News {
        match self.try_read(source, table) {
            Ok(news) => {
                self.failed = false;
                news
            }
            Err(error) => {
                if !self.failed {
                    warn!("attempts can't be followed at the moment: {error}");
                }
                self.failed = true;
                News::default()
            }
        }
    }

    fn try_read(&mut self, source: &Source, table: Table) -> Result<News, String> {
        // Read before the records: what is made in between is of the next reading.
        let counted = self.map.counted().map_err(|error| error.to_string())?;
        let now = monotonic();
        let entries = self.map.read().map_err(|error| error.to_string())?;
        let records = entries.len() as u64;
        let servers = self.teredo.waiting();
        self.lookout.tell(&mut self.tracker.hosts, servers, now);
        let mut scan = self
            .tracker
            .scan(now, &counted.created, entries.into_iter(), table);
        let tracker = &self.tracker;
        let teredo = self
            .teredo
            .read(now, table, |host| tracker.hosts.is_alive(host, now));
        let mut unproven = tracker.hosts.unproven(now);
        unproven.extend(self.teredo.waiting());
        self.lookout.set(&unproven);
        scan.finished.extend(teredo.finished);
        scan.late.extend(teredo.late);
        if !scan.forget.is_empty()
            && let Err(error) = self.map.forget(&scan.forget)
        {
            debug!("records of attempts could not be deleted: {error}");
        }
        source.with_attempts(|attempts| {
            for finished in &scan.finished {
                attempts.totals.add(finished);
            }
            attempts.counted = counted;
            attempts.lost = self.tracker.lost().iter().sum();
            attempts.records = records;
            attempts.capacity = self.capacity;
            attempts.teredo_lost = counted.teredo_lost + self.teredo.lost();
        });
        Ok(News {
            finished: scan.finished,
            late: scan.late,
        })
    }

    /// How many attempts were lost so far, by traffic.
    pub(super) const fn lost(&self) -> &PerTraffic {
        self.tracker.lost()
    }
}
