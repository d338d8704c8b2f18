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
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::attempt::tracker::{self, Table};
use crate::cli::StatusFlags;
use crate::cmd::status::{self, Report};
use crate::config::{Config, ConfigError, Environment};
use crate::doctor::{self, Finding};
use crate::firewall::{self, Port, Survey, SurveyError};
use crate::http::{self, Site};
use crate::kallsyms::{Kallsyms, KallsymsError};
use crate::link::{self, Interface, LinkEvent, Xdp};
use crate::neighbour::{self, Neighbour};
use crate::netlink::recorded::{Recorded, Recorder};
use crate::ruleset::{self, Change};
use crate::saved::{Attempts, AttemptsRef, Saved, SavedRef, States, StatesRef};
use crate::state::{Coverage, Thresholds};
use crate::teredo::Packet;
use crate::{bpf, cgroup, conntrack, daemon, metrics, netlink, preflight};

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

/// What is found of the firewall where `nf_tables` answers with these datagrams.
///
/// # Errors
///
/// As [`firewall::survey`].
pub fn survey<'a>(
    datagrams: impl Iterator<Item = &'a [u8]>,
    ports: &[Port],
) -> Result<Survey, SurveyError> {
    firewall::replay(&mut Recorded::new(datagrams), [], ports)
}

/// What is found of a table `filter` of iptables-legacy: its `struct ipt_getinfo` and the entries.
///
/// # Errors
///
/// None.
pub fn survey_legacy(
    is_ipv6: bool,
    info: &[u8],
    entries: &[u8],
    ports: &[Port],
) -> Result<Survey, SurveyError> {
    let table = ruleset::RawTable {
        name: "filter".to_owned(),
        info: info.to_vec(),
        entries: Some(entries.to_vec()),
    };
    let nothing = &mut Recorded::new(std::iter::empty());
    firewall::replay(nothing, [(is_ipv6, table)], ports)
}

/// The interfaces, where rtnetlink answers with these datagrams.
///
/// # Errors
///
/// As [`link::list`].
pub fn interfaces<'a>(
    datagrams: impl Iterator<Item = &'a [u8]>,
) -> io::Result<Vec<(Interface, Option<Xdp>)>> {
    link::list_of(&mut Recorded::new(datagrams))
}

/// What the doctor says of filters in hardware at interfaces of these names, whose indexes are 1 and more, where rtnetlink
/// answers with these datagrams.
pub fn in_hardware<'a>(datagrams: impl Iterator<Item = &'a [u8]>, names: &[&str]) -> Vec<Finding> {
    doctor::in_hardware(&mut Recorded::new(datagrams), names)
}

/// What the kernel says in the network namespace of the calling thread to those who ask for rules, for interfaces, and for
/// filters at interfaces as [`in_hardware`] has them.
///
/// # Errors
///
/// Where it refuses.
pub fn heard(names: &[&str]) -> io::Result<[Vec<Vec<u8>>; 3]> {
    let mut rules = Recorder::new(firewall::kernel());
    firewall::replay(&mut rules, [], &[]).map_err(io::Error::other)?;
    let route = || Recorder::new(netlink::ask::kernel(NETLINK_ROUTE));
    let (mut links, mut filters) = (route(), route());
    link::list_of(&mut links)?;
    doctor::in_hardware(&mut filters, names);
    Ok([rules, links, filters].map(|recorder| recorder.heard))
}

/// The tables of iptables-legacy that are there: `struct ipt_getinfo` and the entries.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn legacy_tables(is_ipv6: bool) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let tables = ruleset::raw_tables(is_ipv6)?.into_iter();
    Ok(tables
        .filter_map(|table| Some((table.info, table.entries?)))
        .collect())
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
