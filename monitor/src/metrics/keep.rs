//! From one daemon to the next.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use monitor_common::Direction;
use monitor_common::interface::InterfaceCount;

use super::packets::Measured;
use super::states::{self, Shows};
use super::{InterfaceNames, Source, lock};
use crate::bpf::counters::Snapshot;
use crate::saved;
use crate::state::Evaluation;
use crate::traffic::{Traffics, builtin};

/// What is to be kept after what was kept has been shown once, with these states, and with each interface
/// seen again: what a [`Source`] does, without kernel programs.
pub(crate) fn replay(
    saved: saved::Shown,
    same_maps: bool,
    states: BTreeMap<(u8, Direction), Evaluation>,
    at: Duration,
) -> saved::Shown {
    let mut shows = Shows::default();
    shows.resume(saved.moments);
    shows.update(states, at);
    if let Ok(traffics) = Traffics::new(builtin()) {
        drop(states::families(&shows, &traffics));
    }
    let mut names = InterfaceNames::default();
    names.resume(saved.interfaces, same_maps);
    let mut snapshot = Snapshot::default();
    let known = names.save();
    for index in known.names.into_keys().chain(known.inherited.into_keys()) {
        let count = InterfaceCount {
            passed: [u64::MAX / 2; 3],
            ..InterfaceCount::default()
        };
        snapshot.interfaces.insert(index, count);
    }
    let everything = Measured {
        drop: true,
        deliver: true,
        egress: true,
    };
    drop(names.family(&snapshot, everything, |_| true));
    saved::Shown {
        moments: shows.save(),
        interfaces: names.save(),
        ..saved
    }
}

impl Source {
    /// What is to be kept for the next daemon.
    #[must_use]
    pub fn save(&self) -> saved::Shown {
        // One lock at a time: within one expression all of them would be held to its end, and a scrape takes
        // them in another order.
        let moments = lock(&self.states_shown).save();
        let changes = lock(&self.firewall).changes.clone();
        let floors = lock(&self.floors).clone();
        let interfaces = lock(&self.interfaces).save();
        let runs = lock(&self.runs).save();
        saved::Shown {
            moments,
            changes,
            lines_lost: self.lines_lost.load(Ordering::Relaxed),
            lines_unwritten: self.lines_unwritten(),
            attempts_suppressed: self.attempts_suppressed.load(Ordering::Relaxed),
            reattached: self.states.reattached(),
            floors,
            interfaces,
            runs,
        }
    }

    /// Goes on where a daemon before was; `same_maps` says whether its counters are.
    pub fn resume(&self, saved: saved::Shown, same_maps: bool) {
        lock(&self.states_shown).resume(saved.moments);
        lock(&self.firewall).changes = saved.changes;
        self.lines_lost.store(saved.lines_lost, Ordering::Relaxed);
        self.unwritten_before
            .store(saved.lines_unwritten, Ordering::Relaxed);
        self.attempts_suppressed
            .store(saved.attempts_suppressed, Ordering::Relaxed);
        self.states.resume_reattached(saved.reattached);
        lock(&self.interfaces).resume(saved.interfaces, same_maps);
        lock(&self.runs).resume(saved.runs);
        if same_maps {
            *lock(&self.floors) = saved.floors;
        }
    }

    /// Another drop program takes this one's place: what it never saw is not forgotten.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn take_missed(&self, program: &OwnedFd) -> Result<(), String> {
        lock(&self.counters)
            .take_missed(program)
            .map_err(|error| error.to_string())
    }

    /// Another program takes this one's place: what it cost is not forgotten.
    pub fn take_runs(&self, name: &str, program: &OwnedFd) {
        lock(&self.runs).take(name, program);
    }

    /// No other interfaces than these are there: what others counted goes to `other`.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn interfaces_are(&self, is_known: impl Fn(u32) -> bool) -> Result<(), String> {
        let mut names = lock(&self.interfaces);
        names.keep_only(&is_known);
        let counted = lock(&self.counters).interfaces();
        for index in counted.map_err(|error| error.to_string())? {
            if !is_known(index) {
                names.is_gone(index);
            }
        }
        Ok(())
    }
}
