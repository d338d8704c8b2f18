//! Doors for tests that feed any bytes to the parsers that are private: not a part of the library's interface.
//!
//! Each takes what comes from outside and gives what the daemon would make of it. The tests are in
//! `tests/src/fuzz`; what is public already (`Btf::parse`, `Document::parse`, records) they call directly.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use monitor_common::attempt::{Attempt, AttemptKey};

use crate::attempt::tracker::{self, Table};
use crate::cli::StatusFlags;
use crate::cmd::status::{self, Report};
use crate::config::{Config, ConfigError, Environment};
use crate::http::{self, Site};
use crate::kallsyms::{Kallsyms, KallsymsError};
use crate::link::{self, Interface, LinkEvent};
use crate::neighbour::{self, Neighbour};
use crate::ruleset::{self, Change};
use crate::saved::{Attempts, AttemptsRef, Saved, SavedRef, States, StatesRef};
use crate::state::{Coverage, Thresholds};
use crate::teredo::Packet;
use crate::{bpf, cgroup, conntrack, daemon, metrics, preflight};

/// `/proc/kallsyms`.
///
/// # Errors
///
/// As [`Kallsyms::read`].
pub fn kallsyms(list: &[u8]) -> Result<Kallsyms, KallsymsError> {
    Kallsyms::from_bytes(list)
}

/// Messages of rtnetlink about links and addresses: those of a dump, then notifications. Gives the changes
/// that are told, and the interfaces and addresses that are known then.
pub fn links<'a>(
    dump: impl Iterator<Item = &'a [u8]>,
    notifications: impl Iterator<Item = &'a [u8]>,
) -> (Vec<LinkEvent>, Vec<Interface>, Vec<IpAddr>) {
    link::replay(dump, notifications)
}

/// A datagram of the neighbour table's dump. The flag is true at its end.
///
/// # Errors
///
/// What the datagram says that went wrong.
pub fn neighbours(datagram: &[u8]) -> io::Result<(bool, Vec<Neighbour>)> {
    let mut neighbours = Vec::new();
    let done = neighbour::take(datagram, &mut neighbours)?;
    Ok((done, neighbours))
}

/// Datagrams of `nf_tables`, behind the transaction of a number.
pub fn nftables<'a>(before: u32, datagrams: impl Iterator<Item = &'a [u8]>) -> Vec<Change> {
    ruleset::replay(before, datagrams)
}

/// A table of iptables-legacy: `struct ipt_getinfo` and the entries. `None` where it is as new.
#[must_use]
pub fn iptables_legacy(is_ipv6: bool, info: &[u8], entries: &[u8]) -> Option<u64> {
    ruleset::fingerprint(is_ipv6, info, entries)
}

/// `/proc/net/stat/nf_conntrack`: drops and early drops.
#[must_use]
pub fn conntrack(text: &str) -> Option<(u64, u64)> {
    conntrack::statistics(text)
}

/// The mounts of cgroup2 in a `mountinfo`, and their options.
#[must_use]
pub fn cgroup_mounts(table: &[u8]) -> Vec<(PathBuf, Vec<CString>)> {
    let mounts = cgroup::mounts(table).into_iter();
    mounts.map(|mount| (mount.point, mount.options)).collect()
}

/// `/proc/modules`: names and addresses of those that are live.
#[must_use]
pub fn modules(text: &str) -> Vec<(String, String)> {
    daemon::places::parse(text)
}

/// `recursion_misses` out of a program's `/proc/self/fdinfo`.
#[must_use]
pub fn recursion_misses(text: &str) -> Option<u64> {
    bpf::counters::parse_misses(text)
}

/// The effective capabilities out of `/proc/self/status`; 0 where it says none.
#[must_use]
pub fn effective_capabilities(text: &str) -> u64 {
    preflight::effective(text)
}

/// The configuration file, with an environment.
///
/// # Errors
///
/// As [`Config::new`].
pub fn config(environment: Environment, text: &str) -> Result<Config, ConfigError> {
    Config::from_text(environment, text.to_owned())
}

/// The text of a file of `--web-config`: whether it has TLS, headers and users.
///
/// # Errors
///
/// The line, from 1, the key, and what is wrong.
pub fn web_config(text: &str) -> Result<[bool; 3], (usize, String, String)> {
    http::understand(text)
}

/// What a daemon does with what was kept, and what it keeps then: it reads its map once, with these records, hears
/// these packets, and computes its states.
///
/// # Errors
///
/// As [`SavedRef::to_bytes`].
pub fn go_on(
    mut saved: Saved,
    same_maps: bool,
    now: Duration,
    records: &[(AttemptKey, Attempt)],
    packets: &[Packet],
) -> postcard::Result<Vec<u8>> {
    let Attempts {
        maps,
        mut tracker,
        mut teredo,
        mut totals,
    } = saved.attempts;
    let created = [u64::MAX / 2; _];
    tracker.resume(same_maps);
    for packet in packets {
        teredo.packet(packet);
    }
    let mut scan = tracker.scan(now, &created, records.iter().copied(), Table::default());
    let of_teredo = teredo.scan(now, Table::default(), |host| {
        tracker.hosts.is_alive(host, now)
    });
    scan.finished.extend(of_teredo.finished);
    scan.late.extend(of_teredo.late);
    for finished in &scan.finished {
        totals.add(finished);
    }
    let lost = tracker.lost();
    let sums = [tracker::total(&lost), tracker.live(), teredo.lost()];
    let hosts = tracker.hosts.unproven(now).len() + teredo.waiting().count();
    let thresholds = Thresholds::default();
    let States {
        mut trackers,
        mut losses,
    } = saved.states;
    for (losses, lost) in losses.iter_mut().zip(&lost) {
        losses.observe(now, *lost, thresholds.window);
    }
    let mut evaluations = BTreeMap::new();
    for ((traffic, direction), tracker) in &mut trackers {
        tracker.resume();
        for finished in &scan.finished {
            tracker.add(finished);
        }
        for late in &scan.late {
            tracker.late_success(late.at);
        }
        let losses = losses.get(usize::from(*traffic));
        let coverage = Coverage {
            hook_missing: false,
            lost: losses.map_or(0, |losses| losses.within(now, thresholds.window)),
        };
        let evaluation = tracker.tick(coverage, &thresholds, now);
        evaluations.insert((*traffic, *direction), evaluation);
        let handshakes = totals.handshakes(*traffic, *direction);
        tracing::trace!("{:?}", handshakes.cumulative().last());
    }
    saved.shown.changes.record(Change {
        at: now,
        monotonic: now,
        kind: ruleset::Kind::Rules,
        by: None,
        backend: ruleset::Backend::Nftables,
        tables: Vec::new(),
    });
    tracing::trace!("{sums:?} of {hosts} hosts");
    let shown = metrics::replay(saved.shown, same_maps, evaluations, now);
    let saved = SavedRef {
        at: now,
        traffics: saved.traffics,
        attempts: AttemptsRef {
            maps,
            tracker: &tracker,
            teredo: &teredo,
            totals: &totals,
        },
        states: StatesRef {
            trackers: &trackers,
            losses: &losses,
        },
        shown,
    };
    saved.to_bytes()
}

/// What `peerwatch status` prints when a server at a URL sends these bytes.
#[must_use]
pub fn status(flags: &StatusFlags, url: &str, answer: &[u8]) -> Report {
    status::of_answer(flags, url, answer)
}

/// Where `peerwatch status --url` asks.
///
/// # Errors
///
/// The sentence for a bad URL.
pub fn status_url(text: &str) -> Result<String, String> {
    status::canonical_url(text)
}

/// What the server of a site sends, `most` bytes at most at a time, to a client that sends these.
pub async fn http(request: Vec<u8>, site: Arc<dyn Site>, most: usize) -> Vec<u8> {
    http::replay(request, site, most).await
}
