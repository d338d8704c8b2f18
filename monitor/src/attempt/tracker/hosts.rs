//! The hosts that attempts reach, or do not: who is alive, and who is silent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use monitor_common::attempt::MAX_SILENT_HOSTS;
use serde::{Deserialize, Serialize};

use super::REMEMBERED;
use crate::limits;

/// How many unanswered attempts are looked at for silent hosts, twice a second.
const LOOKED_AT: usize = 4 * MAX_SILENT_HOSTS as usize;

/// How long a packet from a host proves that it is alive.
const ALIVE: Duration = Duration::from_mins(5);

/// How long it is not looked out for another one: an attempt ends while the proof still holds.
const FRESH: Duration = Duration::from_mins(4);

/// How many clients must fail towards how many live targets, so that other targets count as alive too.
const CLIENTS: usize = 3;
const TARGETS: usize = 2;

/// See [`super::room`].
pub(super) const fn room(max_attempts: usize) -> usize {
    limits::hash_table::<(IpAddr, Duration)>(REMEMBERED)
        + limits::hash_table::<IpAddr>(max_attempts)
        + limits::list::<(Duration, IpAddr, IpAddr)>(REMEMBERED + max_attempts)
}

/// What is known of hosts elsewhere.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Hosts {
    alive: HashMap<IpAddr, Duration>,
    /// Those whom somebody waits for, as of the last reading.
    waiting: HashSet<IpAddr>,
    /// Unanswered attempts: when, client, target.
    unanswered: VecDeque<(Duration, IpAddr, IpAddr)>,
}

impl Hosts {
    /// A packet of a host was seen. A new one finds no room where 262,144 are known.
    pub fn is_seen(&mut self, host: IpAddr, at: Duration) {
        if self.alive.len() >= REMEMBERED && !self.alive.contains_key(&host) {
            return;
        }
        let last = self.alive.entry(host).or_default();
        *last = (*last).max(at);
    }

    /// A host did not answer when the kernel asked for its address, and so it was gone at that time: what
    /// was seen before proves nothing any more.
    pub fn is_gone(&mut self, host: IpAddr, at: Duration) {
        if self.alive.get(&host).is_some_and(|last| *last <= at) {
            self.alive.remove(&host);
        }
    }

    /// Whether anybody waits for a host.
    #[must_use]
    pub fn any_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a packet of a host was seen within the last 5 minutes.
    #[must_use]
    pub fn is_alive(&self, host: IpAddr, now: Duration) -> bool {
        self.alive
            .get(&host)
            .is_some_and(|last| now.saturating_sub(*last) < ALIVE)
    }

    /// The hosts that do not answer, or did not lately, and of whom no packet was seen lately either: those
    /// that are waited for first, then the latest, as many as the kernel programs look out for.
    #[must_use]
    pub fn unproven(&self, now: Duration) -> HashSet<IpAddr> {
        let unanswered = self.unanswered.iter().rev().take(LOOKED_AT);
        let unanswered = unanswered.map(|(_, _, target)| target);
        let mut unproven = HashSet::new();
        for host in self.waiting.iter().chain(unanswered) {
            let last = self.alive.get(host);
            if last.is_none_or(|last| now.saturating_sub(*last) >= FRESH) {
                unproven.insert(*host);
            }
            if unproven.len() >= MAX_SILENT_HOSTS as usize {
                break;
            }
        }
        unproven
    }

    /// Whether so much fails that something beyond this host is the cause.
    pub(super) fn many_fail(&self, now: Duration) -> bool {
        let mut clients = HashSet::new();
        let mut targets = HashSet::new();
        for (_, client, target) in &self.unanswered {
            if self.is_alive(*target, now) {
                clients.insert(client);
                targets.insert(target);
                if clients.len() >= CLIENTS && targets.len() >= TARGETS {
                    return true;
                }
            }
        }
        false
    }

    /// A new reading begins: nobody is waited for yet.
    pub(super) fn begin(&mut self) {
        self.waiting.clear();
    }

    /// Somebody waits for a host.
    pub(super) fn is_awaited(&mut self, host: IpAddr) {
        self.waiting.insert(host);
    }

    /// A client's attempt went unanswered.
    pub(super) fn is_silent(&mut self, at: Duration, client: IpAddr, target: IpAddr) {
        self.unanswered.push_back((at, client, target));
    }

    /// Forgets what is old.
    pub(super) fn expire(&mut self, now: Duration) {
        let old = |at: Duration| now.saturating_sub(at) >= ALIVE;
        while self.unanswered.front().is_some_and(|(at, _, _)| old(*at))
            || self.unanswered.len() > REMEMBERED
        {
            self.unanswered.pop_front();
        }
        self.alive.retain(|_, at| !old(*at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn host(last: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, last))
    }

    const fn at(secs: u64) -> Duration {
        Duration::from_secs(1000 + secs)
    }

    #[test]
    fn silent_hosts_are_looked_out_for_until_they_are_heard() {
        let mut hosts = Hosts::default();
        assert!(hosts.unproven(at(0)).is_empty());
        hosts.is_awaited(host(1));
        hosts.is_silent(at(0), host(9), host(2));
        assert_eq!(hosts.unproven(at(1)), HashSet::from([host(1), host(2)]));
        hosts.is_seen(host(2), at(1));
        assert_eq!(hosts.unproven(at(2)), HashSet::from([host(1)]));
        assert!(hosts.is_alive(host(2), at(2)) && !hosts.is_alive(host(1), at(2)));
        // The proof is renewed before it ends.
        assert!(hosts.unproven(at(250)).contains(&host(2)) && hosts.is_alive(host(2), at(250)));
        hosts.begin();
        assert_eq!(hosts.unproven(at(2)), HashSet::new());
        // Asked in vain before it was seen: it came back since. Asked in vain afterwards: it is off.
        hosts.is_gone(host(2), at(0));
        assert!(hosts.is_alive(host(2), at(2)));
        hosts.is_gone(host(2), at(100));
        assert!(!hosts.is_alive(host(2), at(101)) && hosts.unproven(at(101)).contains(&host(2)));
        hosts.is_seen(host(2), at(99));
        hosts.expire(at(400));
        assert!(hosts.unproven(at(400)).is_empty() && !hosts.is_alive(host(2), at(400)));
    }
}
