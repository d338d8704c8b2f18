//! `interface_packets_total`: which interface gets series of its own, and what becomes of the counts
//! of one that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use monitor_common::interface::{InterfaceCount, NO_INTERFACE, OTHER_INTERFACES, RETIRED};
use monitor_common::{Direction, Verdict};

use super::family::Family;
use super::names::INTERFACE_PACKETS;
use super::packets::Measured;
use crate::bpf::counters::{Counters, ReadError, Snapshot, add_interface};
use crate::saved;

/// How many interfaces get series of their own.
const MAX_NAMED: usize = 64;

/// How long the counts of an interface that is gone stay in the map: a packet that was in flight may
/// still be freed.
const LINGER: Duration = Duration::from_secs(30);

/// The interfaces, by index.
#[derive(Debug, Default)]
pub struct InterfaceNames {
    names: BTreeMap<u32, String>,
    /// Those with series of their own. One that came when there were too many, or unwatched, stays in
    /// `other` for good: moving it would make `other` go back.
    named: BTreeSet<u32>,
    gone: Vec<(u32, Instant)>,
    /// What the map says of an index that an interface before had, from when another one got it: that is in
    /// `other`.
    inherited: BTreeMap<u32, InterfaceCount>,
    /// What was exported last: see `floors` of the source.
    floors: BTreeMap<(String, u8, u8), u64>,
}

fn subtract(from: &mut InterfaceCount, count: &InterfaceCount) {
    for at in 0..3 {
        from.passed[at] = from.passed[at].saturating_sub(count.passed[at]);
        from.dropped[at] = from.dropped[at].saturating_sub(count.dropped[at]);
        from.revoked[at] = from.revoked[at].saturating_sub(count.revoked[at]);
        from.taken[at] = from.taken[at].saturating_sub(count.taken[at]);
    }
}

impl InterfaceNames {
    /// What is to be kept.
    pub(super) fn save(&self) -> saved::Interfaces {
        saved::Interfaces {
            names: self.names.clone(),
            inherited: self.inherited.clone(),
            named: self.named.clone(),
            floors: self.floors.clone(),
        }
    }

    /// Goes on where a daemon before was; `floors` where the maps are the same. Which interfaces are there
    /// still is told next.
    pub(super) fn resume(&mut self, saved: saved::Interfaces, same_maps: bool) {
        self.names = saved.names;
        self.named = saved.named;
        if same_maps {
            self.floors = saved.floors;
            self.inherited = saved.inherited;
        }
    }

    /// `count` says what the map has of an index.
    pub(super) fn set(
        &mut self,
        index: u32,
        name: &str,
        watched: bool,
        count: impl FnOnce(u32) -> Result<InterfaceCount, ReadError>,
    ) -> Result<(), ReadError> {
        let mut result = Ok(());
        if !self.names.contains_key(&index) && self.gone.iter().any(|(gone, _)| *gone == index) {
            // The kernel gives an index out again where it is asked to.
            match count(index) {
                Ok(count) => {
                    self.inherited.insert(index, count);
                    self.gone.retain(|(gone, _)| *gone != index);
                }
                // Then all that it counts stays in `other`.
                Err(error) => result = Err(error),
            }
        }
        let watched = watched && result.is_ok();
        match self.names.insert(index, name.to_owned()) {
            Some(old) if old != name => self.floors.retain(|(floor, _, _), _| *floor != old),
            Some(_) => {}
            None => {
                if watched && self.named.len() < MAX_NAMED {
                    self.named.insert(index);
                }
            }
        }
        result
    }

    pub(super) fn remove(&mut self, index: u32) {
        if let Some(name) = self.names.remove(&index) {
            self.floors.retain(|(floor, _, _), _| *floor != name);
            self.named.remove(&index);
            self.is_gone(index);
        }
    }

    /// The others are gone.
    pub(super) fn keep_only(&mut self, is_known: impl Fn(u32) -> bool) {
        let gone: Vec<u32> = self
            .names
            .keys()
            .copied()
            .filter(|index| !is_known(*index))
            .collect();
        for index in gone {
            self.remove(index);
        }
    }

    /// An interface is gone that may never have been known by its name.
    pub(super) fn is_gone(&mut self, index: u32) {
        let is_waiting = self.gone.iter().any(|(gone, _)| *gone == index);
        if !is_waiting && ![NO_INTERFACE, OTHER_INTERFACES, RETIRED].contains(&index) {
            self.gone.push((index, Instant::now()));
        }
    }

    pub(super) fn name(&self, index: u32) -> Option<String> {
        self.names.get(&index).cloned()
    }

    pub(super) fn retire(&mut self, counters: &mut Counters) -> Result<(), ReadError> {
        while let Some(&(index, since)) = self.gone.first() {
            if since.elapsed() < LINGER {
                break;
            }
            self.gone.remove(0);
            // Made again a moment ago, it counts already: its slot must not be written from here.
            let is_there = nix::net::if_::if_indextoname(index).is_ok();
            if !is_there && !self.names.contains_key(&index) {
                counters.retire_interface(index)?;
                self.inherited.remove(&index);
            }
        }
        Ok(())
    }

    /// `leaves` says of an interface with series of its own whether what leaves there is measured.
    pub(super) fn family(
        &mut self,
        snapshot: &Snapshot,
        measured: Measured,
        leaves: impl Fn(&str) -> bool,
    ) -> Family {
        let mut rows: BTreeMap<&str, InterfaceCount> = BTreeMap::new();
        rows.insert("none", InterfaceCount::default());
        rows.insert("other", InterfaceCount::default());
        for index in &self.named {
            if let Some(name) = self.names.get(index) {
                rows.insert(name, InterfaceCount::default());
            }
        }
        for (&index, count) in &snapshot.interfaces {
            let name = match index {
                NO_INTERFACE => "none",
                OTHER_INTERFACES | RETIRED => "other",
                index if self.named.contains(&index) => {
                    self.names.get(&index).map_or("other", String::as_str)
                }
                _ => "other",
            };
            let mut count = *count;
            if name != "other"
                && let Some(inherited) = self.inherited.get(&index)
            {
                subtract(&mut count, inherited);
                add_interface(rows.entry("other").or_default(), inherited);
            }
            add_interface(rows.entry(name).or_default(), &count);
        }
        let mut family = Family::new(INTERFACE_PACKETS);
        for (name, count) in rows {
            let measured = Measured {
                egress: measured.egress && (name == "other" || leaves(name)),
                ..measured
            };
            for &direction in Direction::ALL {
                let at = direction as usize;
                // A packet on no device was dropped: nothing leaves or comes in there.
                let verdicts = [
                    (
                        Verdict::Allowed,
                        measured.allowed(direction) && name != "none",
                        count.passed[at]
                            .saturating_add(count.taken[at])
                            .saturating_sub(count.revoked[at]),
                    ),
                    (Verdict::Dropped, measured.drop, count.dropped[at]),
                ];
                for (verdict, shown, value) in verdicts {
                    if !shown {
                        continue;
                    }
                    let floor = self
                        .floors
                        .entry((name.to_owned(), direction.code(), verdict.code()))
                        .or_default();
                    *floor = (*floor).max(value);
                    family.add(
                        &[
                            ("interface", name),
                            ("direction", direction.as_str()),
                            ("verdict", verdict.as_str()),
                        ],
                        *floor,
                    );
                }
            }
        }
        family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Measured = Measured {
        drop: true,
        deliver: true,
        egress: true,
    };

    fn counted(passed: u64) -> InterfaceCount {
        InterfaceCount {
            passed: [0, passed, 0],
            ..InterfaceCount::default()
        }
    }

    /// What is shown as allowed and outbound of `eth1` and of all others, where the map says this of index 7.
    fn shown(names: &mut InterfaceNames, passed: u64) -> (Option<u64>, u64) {
        let mut snapshot = Snapshot::default();
        snapshot.interfaces.insert(7, counted(passed));
        let family = names
            .family(&snapshot, EVERYTHING, |_| true)
            .into_proto(None);
        let of = |name: &str| {
            let series = family.get_metric().iter().find(|metric| {
                let labels = metric
                    .get_label()
                    .iter()
                    .map(prometheus::proto::LabelPair::value);
                labels.eq([name, "outbound", "allowed"])
            });
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small whole numbers"
            )]
            series.map(|metric| metric.get_counter().get_value() as u64)
        };
        (of("eth1"), of("other").unwrap())
    }

    #[test]
    fn what_an_index_counted_before_stays_in_other() {
        let mut names = InterfaceNames::default();
        let fresh = |_| -> Result<InterfaceCount, ReadError> { panic!("nobody had it before") };
        names.set(7, "eth1", true, fresh).unwrap();
        assert_eq!(shown(&mut names, 5), (Some(5), 0));
        names.remove(7);
        // One more was in flight.
        assert_eq!(shown(&mut names, 6), (None, 6));
        names.set(7, "eth1", true, |_| Ok(counted(6))).unwrap();
        assert_eq!(shown(&mut names, 10), (Some(4), 6));
        names.remove(7);
        assert_eq!(shown(&mut names, 11), (None, 11));
        names.set(7, "eth1", true, |_| Ok(counted(11))).unwrap();
        assert_eq!(shown(&mut names, 11), (Some(0), 11));
    }

    #[test]
    fn one_whose_past_is_not_known_counts_in_other() {
        let mut names = InterfaceNames::default();
        names.set(7, "eth1", true, |_| Ok(counted(0))).unwrap();
        names.remove(7);
        let refused = |_| {
            Err(ReadError {
                map: "INTERFACE_COUNTS",
                source: aya::maps::MapError::KeyNotFound,
            })
        };
        assert!(names.set(7, "eth1", true, refused).is_err());
        assert_eq!(shown(&mut names, 9), (None, 9));
    }
}
