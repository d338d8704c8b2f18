//! Attempts at work: twice a second their map is read, and what ended is counted and told.

use std::time::{Duration, Instant};

use monitor_common::attempt::AttemptKey;
use nix::time::{ClockId, clock_gettime};
use tracing::{debug, warn};

use super::calls::Calls;
use super::lookout::Lookout;
use super::teredo::Teredo;
use crate::attempt::Finished;
use crate::attempt::totals::Totals;
use crate::attempt::tracker::{Late, Table, Tracker, total};
use crate::bpf::attempts::{AttemptMap, Counted, PerTraffic};
use crate::metrics::Source;
use crate::saved;

/// How often the map is read.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// What came of one reading.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Attempts that ended.
    pub(super) finished: Vec<Finished>,
    /// Answers to attempts that had ended.
    pub(super) late: Vec<Late>,
    /// Whether anything happened at all.
    pub(super) any: bool,
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
    calls: Calls,
    totals: Totals,
    counted: Counted,
    records: u64,
    /// Records to be deleted, once it is noted what became of them.
    forget: Vec<AttemptKey>,
    /// Whether the last reading failed: said once.
    failed: bool,
}

/// The time now on the clock of the kernel programs.
pub(super) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

impl Attempts {
    pub(super) fn new(
        map: AttemptMap,
        capacity: u32,
        teredo: Teredo,
        lookout: Lookout,
        calls: Calls,
    ) -> Self {
        Self {
            map,
            capacity: capacity.into(),
            tracker: Tracker::default(),
            teredo,
            lookout,
            calls,
            totals: Totals::default(),
            counted: Counted::default(),
            records: 0,
            forget: Vec::new(),
            failed: false,
        }
    }

    /// All programs are in their places: see [`AttemptMap::take_rest`].
    pub(super) fn take_rest(&mut self) {
        if let Err(error) = self.map.take_rest() {
            warn!("attempts that were made while programs were swapped are lost: {error}");
        }
    }

    /// Whether a daemon before had the same maps.
    pub(super) const fn has_maps(&self, saved: &saved::Attempts) -> bool {
        self.maps() != 0 && self.maps() == saved.maps
    }

    /// Goes on where a daemon before was.
    pub(super) fn resume(&mut self, mut saved: saved::Attempts) {
        let same_maps = self.has_maps(&saved);
        saved.tracker.resume(same_maps);
        self.tracker = saved.tracker;
        self.teredo.resume(saved.teredo);
        self.totals = saved.totals;
    }

    /// What is to be kept.
    pub(super) fn save(&self) -> saved::AttemptsRef<'_> {
        saved::AttemptsRef {
            maps: self.maps(),
            tracker: &self.tracker,
            teredo: self.teredo.tracker(),
            totals: &self.totals,
        }
    }

    /// Which maps these are, of all that there are in one boot.
    const fn maps(&self) -> u32 {
        self.map.id()
    }

    /// Shows what is counted, and lets go of the records that are needed no more.
    pub(super) fn publish(&mut self, source: &Source) {
        if !self.forget.is_empty() {
            if let Err(error) = self.map.forget(&self.forget) {
                debug!("records of attempts could not be deleted: {error}");
            }
            self.forget.clear();
        }
        source.with_attempts(|attempts| {
            attempts.totals.clone_from(&self.totals);
            attempts.counted = self.counted;
            attempts.lost = total(&self.tracker.lost());
            attempts.records = self.records;
            attempts.capacity = self.capacity;
            attempts.teredo_lost = self.counted.teredo_lost.saturating_add(self.teredo.lost());
        });
    }

    /// Waits until the map is to be read before its time. Nothing is lost when the future is dropped.
    pub(super) async fn called(&mut self) {
        loop {
            self.calls.next().await;
            if self.is_filling() {
                return;
            }
            // Called by one CPU of many, or for what was read since.
            self.calls.answered(Instant::now());
        }
    }

    /// Whether an eighth of the map was made since it was read.
    fn is_filling(&self) -> bool {
        let made = |counted: &Counted| counted.created.iter().sum::<u64>();
        let now = self.map.counted();
        now.is_ok_and(|now| made(&now).saturating_sub(made(&self.counted)) >= self.capacity / 8)
    }

    /// Reads the map, and counts what ended. Nothing of it is shown yet.
    pub(super) fn read(&mut self, table: Table) -> News {
        match self.try_read(table) {
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

    /// All is done that a reading means, which began at this time.
    pub(super) fn answered(&mut self, start: Instant) {
        self.calls.answered(start);
    }

    fn try_read(&mut self, table: Table) -> Result<News, String> {
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
        let (teredo, teredo_came) = self
            .teredo
            .read(now, table, |host| tracker.hosts.is_alive(host, now));
        let mut unproven = tracker.hosts.unproven(now);
        unproven.extend(self.teredo.waiting());
        self.lookout.set(&unproven);
        scan.finished.extend(teredo.finished);
        scan.late.extend(teredo.late);
        for finished in &scan.finished {
            self.totals.add(finished);
        }
        let any = !scan.finished.is_empty()
            || !scan.late.is_empty()
            || !scan.forget.is_empty()
            || teredo_came
            || (counted, records) != (self.counted, self.records);
        // Each reading names all that are there.
        self.forget = scan.forget;
        self.counted = counted;
        self.records = records;
        Ok(News {
            finished: scan.finished,
            late: scan.late,
            any,
        })
    }

    /// How many attempts were lost so far, by traffic.
    pub(super) fn lost(&self) -> PerTraffic {
        self.tracker.lost()
    }
}
