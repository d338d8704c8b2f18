mod hostile;

use std::net::{IpAddr, Ipv4Addr};

use monitor_common::attempt::{Attempt, AttemptKey};
use monitor_common::{Direction, Family, Protocol};

use super::*;
use crate::attempt::tracker::{Scan, Table};
use crate::attempt::{BlockedBy, Finished, Outcome};
use crate::bpf::attempts::PerTraffic;
use crate::state::{Coverage, Thresholds};

const fn at(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn finished(second: u64, outcome: Outcome, blocked_by: BlockedBy) -> Finished {
    let end = |last| (IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 7680).into();
    Finished {
        traffic: 0,
        protocol: Protocol::Tcp,
        family: Family::Ipv4,
        direction: Direction::Outbound,
        outcome,
        blocked_by,
        first: at(second),
        ended: at(second + 1),
        handshake: (outcome == Outcome::Established).then_some(Duration::from_millis(3)),
        client: end(1),
        target: end(2),
        reason: None,
    }
}

/// An attempt that was dropped here, by a rule.
fn dropped(second: u64) -> Attempt {
    let ns = second * 1_000_000_000;
    Attempt {
        first_ns: ns,
        syn_ns: ns,
        dropped_ns: ns + 1,
        direction: Direction::Outbound.code(),
        class: monitor_common::drop::Class::Firewall.code(),
        ..Attempt::default()
    }
}

/// Through bytes and back.
fn again(attempts: AttemptsRef<'_>, trackers: &Trackers, losses: &Losses, shown: Shown) -> Saved {
    let bytes = SavedRef {
        at: at(77),
        traffics: vec![(0, "do_peer".to_owned()), (3, "web".to_owned())],
        attempts,
        states: StatesRef { trackers, losses },
        shown,
    }
    .to_bytes()
    .unwrap();
    for length in 0..bytes.len() {
        assert!(Saved::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    assert!(Saved::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err());
    Saved::from_bytes(&bytes).unwrap()
}

fn scan(tracker: &mut Tracker, second: u64, created: u64, entries: &[(u32, Attempt)]) -> Scan {
    let mut all = PerTraffic::default();
    all[0] = created;
    let entries = entries.iter().map(|(sequence, attempt)| {
        let key = AttemptKey {
            family: 0,
            sequence: *sequence,
        };
        (key, *attempt)
    });
    tracker.scan(at(second), &all, entries, Table::default())
}

#[test]
fn an_attempt_that_was_judged_is_not_judged_again() {
    let mut tracker = Tracker::default();
    let records = [(1, dropped(10)), (2, dropped(11))];
    assert_eq!(scan(&mut tracker, 20, 2, &records).finished.len(), 2);
    let teredo = TeredoTracker::default();
    let mut totals = Totals::default();
    totals.add(&finished(10, Outcome::Established, BlockedBy::None));
    let attempts = AttemptsRef {
        maps: 9,
        tracker: &tracker,
        teredo: &teredo,
        totals: &totals,
    };
    let losses = std::array::from_fn(|_| state::Losses::default());
    let saved = again(attempts, &Trackers::new(), &losses, Shown::default());
    assert_eq!((saved.at, saved.attempts.maps), (at(77), 9));
    assert_eq!(saved.traffics[1], (3, "web".to_owned()));
    let handshakes = saved.attempts.totals.handshakes(0, Direction::Outbound);
    assert_eq!(handshakes, totals.handshakes(0, Direction::Outbound));

    let mut same = saved.attempts.tracker;
    same.resume(true);
    // The two of before are in the map still, and a third came while no daemon ran.
    let records = [records[0], records[1], (3, dropped(21))];
    assert_eq!(scan(&mut same, 30, 3, &records).finished.len(), 1);
    assert_eq!(scan(&mut same, 31, 3, &records).finished.len(), 0);
    assert_eq!(same.lost()[0], 0);
    // Their keys are forgotten at the same time as without the restart.
    let forgotten = scan(&mut same, 145, 3, &records).forget;
    assert_eq!(forgotten.len(), 2);

    // With other maps: a SYN that comes again adds nothing, and nothing counts as lost.
    let saved = again(
        AttemptsRef {
            maps: 9,
            tracker: &tracker,
            teredo: &teredo,
            totals: &totals,
        },
        &Trackers::new(),
        &losses,
        Shown::default(),
    );
    let mut other = saved.attempts.tracker;
    other.resume(false);
    assert_eq!(
        scan(&mut other, 40, 1, &[(1, dropped(39))]).finished.len(),
        0
    );
    assert_eq!(
        scan(&mut other, 41, 2, &[(1, dropped(39)), (4, dropped(40))])
            .finished
            .len(),
        1
    );
    assert_eq!(other.lost()[0], 0);
}

#[test]
fn a_block_and_its_evidence_go_on() {
    let thresholds = Thresholds::default();
    let mut tracker = state::Tracker::new(at(0));
    tracker.add(&finished(5, Outcome::Established, BlockedBy::None));
    for second in [10, 20, 30, 40] {
        tracker.add(&finished(
            second,
            Outcome::Dropped,
            BlockedBy::LocalFirewall,
        ));
    }
    let before = tracker.tick(Coverage::default(), &thresholds, at(42));
    assert_eq!(before.memory.state, state::State::Blocked);
    let trackers = Trackers::from([((0, Direction::Outbound), tracker)]);
    let losses = std::array::from_fn(|_| state::Losses::default());
    let moments = [None, Some(Moment::default()), None, None];
    let shown = Shown {
        moments: BTreeMap::from([((0, Direction::Outbound), moments)]),
        lines_lost: 4,
        reattached: BTreeMap::from([(Hook::Egress, 2)]),
        floors: BTreeMap::from([(7, (1, 60))]),
        interfaces: Interfaces {
            names: BTreeMap::from([(2, "eth0".to_owned())]),
            inherited: BTreeMap::new(),
            named: BTreeSet::from([2]),
            floors: BTreeMap::from([(("eth0".to_owned(), 0, 1), 5)]),
        },
        ..Shown::default()
    };
    let attempts = AttemptsRef {
        maps: 1,
        tracker: &Tracker::default(),
        teredo: &TeredoTracker::default(),
        totals: &Totals::default(),
    };
    let saved = again(attempts, &trackers, &losses, shown);
    let mut trackers = saved.states.trackers;
    let tracker = trackers.get_mut(&(0, Direction::Outbound)).unwrap();
    tracker.resume();
    let after = tracker.tick(Coverage::default(), &thresholds, at(42));
    assert_eq!(after, before);
    assert_eq!(saved.shown.moments[&(0, Direction::Outbound)], moments);
    assert_eq!(
        (saved.shown.lines_lost, saved.shown.floors[&7]),
        (4, (1, 60))
    );
    assert_eq!(saved.shown.interfaces.floors.len(), 1);
}
