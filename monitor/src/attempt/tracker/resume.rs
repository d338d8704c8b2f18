//! From one daemon to the next.

use std::time::Duration;

use monitor_common::attempt::AttemptKey;

use super::Tracker;
use crate::bpf::attempts::PerTraffic;

impl Tracker {
    /// Goes on where a daemon before was. Where its map is not there any more, the records of attempts
    /// that were not judged are not either: nobody knows how they ended. A SYN that comes again of one that
    /// was judged adds nothing.
    pub fn resume(&mut self, same_maps: bool) {
        let mut keys: Vec<(Duration, AttemptKey)> = Vec::with_capacity(self.done.len());
        keys.extend(self.done.iter().map(|(key, done)| (done.last, *key)));
        keys.sort_unstable_by_key(|(last, _)| *last);
        self.order = keys.into_iter().map(|(_, key)| key).collect();
        self.has_begun = same_maps;
        if !same_maps {
            for (lost_before, lost) in self.lost_before.iter_mut().zip(&mut self.lost) {
                *lost_before = lost_before.saturating_add(std::mem::take(lost));
            }
            self.accounted = PerTraffic::default();
            self.live = PerTraffic::default();
            self.last_lost = PerTraffic::default();
        }
    }
}
