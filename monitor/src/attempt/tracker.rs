//! The attempts that the kernel programs follow, from one reading of their map to the next.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use monitor_common::Direction;
use monitor_common::attempt::{Attempt, AttemptKey, Maker};
use serde::{Deserialize, Serialize};

mod hosts;
mod record;
mod resume;

use crate::bpf::attempts::PerTraffic;
use crate::limits;

use super::judge::{Judgement, World, judge};
use super::{Finished, Outcome};
pub use hosts::Hosts;
use record::{again, count, finished, late, uncount, with_reason};

/// How long a finished attempt keeps its key after its last SYN: a client repeats one for over two
/// minutes.
const KEEP: Duration = Duration::from_secs(130);

/// How many unanswered attempts, hosts and finished keys are remembered at most; the oldest are forgotten.
const REMEMBERED: usize = 262_144;

/// How many answered attempts are kept beside the map until they are judged, 3 s later. One that finds no room
/// is judged as long as it is in the map.
const ANSWERED: usize = 229_376;

/// The most memory that is taken by what is known of attempts and hosts, bytes: between two readings there may
/// be as many more as the kernel's table has.
pub(crate) const fn room(max_attempts: usize) -> usize {
    // What may end in one reading: all that the map has, and all that is kept beside it.
    let ending = max_attempts + ANSWERED;
    limits::hash_table::<(AttemptKey, Done)>(REMEMBERED + ending)
        + limits::list::<AttemptKey>(REMEMBERED + ending)
        + limits::hash_table::<(AttemptKey, Vanished)>(max_attempts)
        // Those of this reading and those of the one before.
        + 2 * limits::hash_table::<(AttemptKey, Answered)>(ANSWERED)
        + limits::list::<Finished>(ending)
        + limits::list::<AttemptKey>(max_attempts)
        + hosts::room(max_attempts)
}

/// A finished attempt that may still be repeated.
#[derive(Debug, Deserialize, Serialize)]
struct Done {
    /// `first_ns` of its record: another one is a record that was made again.
    first_ns: u64,
    last: Duration,
    succeeded: bool,
    /// The last reading that met its record: as long as that is there, it must not be judged anew.
    #[serde(skip)]
    met: u32,
}

/// A record of which there is nothing to say, until it is deleted.
#[derive(Debug, Deserialize, Serialize)]
struct Vanished {
    first_ns: u64,
    syn_ns: u64,
}

/// An attempt whose answer passed.
#[derive(Debug, Deserialize, Serialize)]
struct Answered {
    /// `first_ns` of its record in the map: that of the attempt may be older.
    first_ns: u64,
    attempt: Attempt,
}

/// An answer that came after the attempt was judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Late {
    /// Index of the traffic.
    pub traffic: u8,
    /// Direction of the attempt.
    pub direction: Direction,
    /// When the answer passed, on the monotonic clock.
    pub at: Duration,
}

/// What came of one reading.
#[derive(Debug, Default)]
pub struct Scan {
    /// Attempts that ended.
    pub finished: Vec<Finished>,
    /// Answers to attempts that had ended.
    pub late: Vec<Late>,
    /// Records that are needed no more.
    pub forget: Vec<AttemptKey>,
}

/// What is known of the connection table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    /// Whether it refused a connection since the last reading.
    pub refused: bool,
    /// The addresses of `nft_do_chain`: a rule that drops does it there, where the kernel tells.
    pub chain: Option<(u64, u64)>,
}

impl Table {
    /// Whether a drop by the instruction at `location` that looks like a rule's is the full table's.
    #[must_use]
    pub fn is_full_at(&self, location: u64) -> bool {
        let by_a_chain = self
            .chain
            .is_some_and(|(start, end)| (start..end).contains(&location));
        self.refused && !by_a_chain
    }
}

/// Attempts and the hosts that they reach.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Tracker {
    done: HashMap<AttemptKey, Done>,
    /// The same, those first that ended first.
    #[serde(skip)]
    order: VecDeque<AttemptKey>,
    /// Answered attempts that are not judged yet: a flood may push them out of the map.
    answered: HashMap<AttemptKey, Answered>,
    /// Records that are to be deleted, and may be met until they are.
    vanished: HashMap<AttemptKey, Vanished>,
    /// What is known of the hosts that they reach, or do not.
    pub hosts: Hosts,
    /// Records that ended, or that were made again for an attempt that had; this and what follows by
    /// traffic.
    accounted: PerTraffic,
    live: PerTraffic,
    lost: PerTraffic,
    last_lost: PerTraffic,
    /// Lost from maps that are gone.
    lost_before: PerTraffic,
    /// Whether what was made before the first reading is accounted for: nobody knows what became of it.
    #[serde(skip)]
    has_begun: bool,
    /// The number of this reading; they may begin again.
    #[serde(skip)]
    readings: u32,
}

/// The address of a record.
#[must_use]
pub fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// One reading while it goes on.
struct Reading {
    now: Duration,
    table: Table,
    /// Asked once.
    many_fail: OnceCell<bool>,
    /// The answered attempts of the reading before that have not been met in this one.
    answered: HashMap<AttemptKey, Answered>,
    /// The vanished ones, likewise.
    vanished: HashMap<AttemptKey, Vanished>,
}

struct View<'a> {
    tracker: &'a Tracker,
    table: Table,
    now: Duration,
    /// Whether much fails, once it was asked for: it takes a look at all that went unanswered, so it is
    /// asked once in a reading and not for each of its attempts.
    many_fail: &'a OnceCell<bool>,
}

impl World for View<'_> {
    fn is_table_full(&self, location: u64) -> bool {
        self.table.is_full_at(location)
    }

    fn is_alive(&self, attempt: &Attempt) -> bool {
        self.tracker
            .hosts
            .is_alive(address(attempt.target), self.now)
            || *self
                .many_fail
                .get_or_init(|| self.tracker.hosts.many_fail(self.now))
    }
}

impl Tracker {
    /// Takes one reading of the map. `created` is how many records had been made when the reading began, by
    /// traffic.
    pub fn scan(
        &mut self,
        now: Duration,
        created: &PerTraffic,
        entries: impl Iterator<Item = (AttemptKey, Attempt)>,
        table: Table,
    ) -> Scan {
        let mut scan = Scan::default();
        self.live = PerTraffic::default();
        self.readings = self.readings.wrapping_add(1);
        self.hosts.begin();
        let mut reading = Reading {
            now,
            table,
            many_fail: OnceCell::new(),
            answered: std::mem::take(&mut self.answered),
            vanished: std::mem::take(&mut self.vanished),
        };
        let mut met = PerTraffic::default();
        for (key, attempt) in entries {
            count(&mut met, &attempt);
            self.look(key, attempt, &mut reading, &mut scan);
        }
        // What is not in the map any more.
        for (key, Answered { first_ns, attempt }) in std::mem::take(&mut reading.answered) {
            self.decide(key, first_ns, &attempt, &reading, &mut scan);
        }
        self.expire(now);
        if !std::mem::replace(&mut self.has_begun, true) {
            for ((accounted, created), met) in self.accounted.iter_mut().zip(created).zip(met) {
                *accounted = accounted.saturating_add(created.saturating_sub(met));
            }
        }
        for (at, created) in created.iter().enumerate() {
            let known = self.accounted[at].saturating_add(self.live[at]);
            let lost = created.saturating_sub(known);
            // A reading that runs beside the programs may miss one: only what two readings miss is lost.
            self.lost[at] = self.lost[at].max(lost.min(self.last_lost[at]));
            self.last_lost[at] = lost;
        }
        scan
    }

    /// Takes in one record.
    fn look(
        &mut self,
        key: AttemptKey,
        mut attempt: Attempt,
        reading: &mut Reading,
        scan: &mut Scan,
    ) {
        self.note_life(&attempt);
        let first_ns = attempt.first_ns;
        if let Some(done) = self.done.get_mut(&key) {
            if done.first_ns != first_ns {
                // It had been pushed out of the map, and its SYN came again.
                done.first_ns = first_ns;
                count(&mut self.accounted, &attempt);
            }
            done.last = Duration::from_nanos(attempt.syn_ns.max(attempt.repeated_ns));
            done.met = self.readings;
            if !done.succeeded && attempt.answered_ns != 0 {
                done.succeeded = true;
                if let Some(late) = late(&attempt) {
                    scan.late.push(late);
                }
            }
            if reading.now.saturating_sub(done.last) >= KEEP {
                scan.forget.push(key);
            }
            return;
        }
        if let Some(vanished) = reading.vanished.remove(&key) {
            if (vanished.first_ns, vanished.syn_ns) == (first_ns, attempt.syn_ns) {
                self.vanished.insert(key, vanished);
                scan.forget.push(key);
                return;
            }
            if vanished.first_ns == first_ns {
                // Its SYN came again before it was deleted: it is not over.
                uncount(&mut self.accounted, &attempt);
            }
        }
        if let Some(before) = reading.answered.remove(&key) {
            if before.first_ns != first_ns {
                // The same, before it was judged: its answer did not arrive.
                count(&mut self.accounted, &attempt);
            }
            attempt.first_ns = before.attempt.first_ns;
            if attempt.answered_ns == 0 {
                attempt = again(before.attempt, attempt.syn_ns);
            }
        }
        self.decide(key, first_ns, &attempt, reading, scan);
    }

    /// Judges an attempt that is not judged yet.
    fn decide(
        &mut self,
        key: AttemptKey,
        first_ns: u64,
        attempt: &Attempt,
        reading: &Reading,
        scan: &mut Scan,
    ) {
        let view = View {
            tracker: self,
            table: reading.table,
            now: reading.now,
            many_fail: &reading.many_fail,
        };
        match judge(attempt, reading.now, &view) {
            Judgement::Pending => {
                count(&mut self.live, attempt);
                if attempt.passed_ns != 0
                    && attempt.answered_ns == 0
                    && attempt.direction != Direction::Inbound.code()
                {
                    self.hosts.is_awaited(address(attempt.target));
                }
                if attempt.answered_ns != 0 && self.answered.len() < ANSWERED {
                    let attempt = *attempt;
                    self.answered.insert(key, Answered { first_ns, attempt });
                }
            }
            Judgement::Vanished => {
                count(&mut self.accounted, attempt);
                let syn_ns = attempt.syn_ns;
                self.vanished.insert(key, Vanished { first_ns, syn_ns });
                scan.forget.push(key);
            }
            Judgement::Ended {
                outcome,
                blocked_by,
                reason,
            } => {
                count(&mut self.accounted, attempt);
                let finished = finished(key, attempt, outcome, blocked_by, reading.now);
                self.end(key, first_ns, attempt, outcome, finished.as_ref());
                scan.finished
                    .extend(finished.map(|finished| (finished, reason)).map(with_reason));
            }
        }
    }

    /// How many attempts were pushed out of the map before they could be judged, by traffic.
    #[must_use]
    pub fn lost(&self) -> PerTraffic {
        let mut sums = self.lost;
        for (sum, before) in sums.iter_mut().zip(&self.lost_before) {
            *sum = sum.saturating_add(*before);
        }
        sums
    }

    /// How many are followed now.
    #[must_use]
    pub fn live(&self) -> u64 {
        total(&self.live)
    }

    /// Takes what a record says of its target's life.
    fn note_life(&mut self, attempt: &Attempt) {
        let by_target = |by: u8, ns: u64| if by == Maker::Target.code() { ns } else { 0 };
        let mut last = by_target(attempt.reset_by, attempt.reset_ns)
            .max(by_target(attempt.error_by, attempt.error_ns));
        if attempt.direction != Direction::Inbound.code() {
            last = last.max(attempt.answered_ns).max(attempt.reply_dropped_ns);
        }
        if last != 0 {
            self.hosts
                .is_seen(address(attempt.target), Duration::from_nanos(last));
        }
    }

    fn end(
        &mut self,
        key: AttemptKey,
        first_ns: u64,
        attempt: &Attempt,
        outcome: Outcome,
        finished: Option<&Finished>,
    ) {
        let done = Done {
            first_ns,
            last: Duration::from_nanos(attempt.syn_ns.max(attempt.repeated_ns)),
            succeeded: outcome == Outcome::Established || attempt.answered_ns != 0,
            met: self.readings,
        };
        self.done.insert(key, done);
        self.order.push_back(key);
        if outcome == Outcome::Unanswered
            && let Some(finished) = finished
        {
            let (client, target) = (finished.client.ip(), finished.target.ip());
            self.hosts.is_silent(finished.ended, client, target);
        }
    }

    fn expire(&mut self, now: Duration) {
        for _ in 0..self.order.len() {
            let Some(key) = self.order.front() else { break };
            let is_full = self.order.len() > REMEMBERED;
            match self.done.get(key) {
                // Judged anew, it would count twice.
                Some(done) if done.met == self.readings && is_full => self.order.rotate_left(1),
                Some(done) if done.met == self.readings => break,
                Some(done) if now.saturating_sub(done.last) < KEEP && !is_full => break,
                _ => {
                    self.done.remove(key);
                    self.order.pop_front();
                }
            }
        }
        self.hosts.expire(now);
    }
}

/// Of all traffics together. What was kept by a daemon before may be any number.
#[must_use]
pub fn total(counts: &PerTraffic) -> u64 {
    counts
        .iter()
        .fold(0, |sum, count| sum.saturating_add(*count))
}

#[cfg(test)]
mod tests;
