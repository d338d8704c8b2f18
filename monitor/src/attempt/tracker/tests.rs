use monitor_common::Family;

use super::*;
use crate::attempt::BlockedBy;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Duration {
    Duration::from_millis(1_000_000 + ms)
}

fn ns(ms: u64) -> u64 {
    (1_000_000 + ms) * MS
}

fn v4(last: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

fn key(sequence: u32) -> AttemptKey {
    AttemptKey {
        family: Family::Ipv4 as u32,
        sequence,
    }
}

/// A SYN that was forwarded at `ms`.
fn forwarded(ms: u64) -> Attempt {
    Attempt {
        first_ns: ns(ms),
        syn_ns: ns(ms),
        passed_ns: ns(ms),
        client: v4(1),
        target: v4(2),
        target_port: 7680_u16.to_be(),
        direction: Direction::Forwarded.code(),
        ..Attempt::default()
    }
}

fn established(ms: u64) -> Attempt {
    Attempt {
        answered_ns: ns(ms + 1),
        repeated_ns: ns(ms + 1),
        ..forwarded(ms)
    }
}

/// Of the traffic with index 0 so many, and none of the others.
fn of_first(count: u64) -> PerTraffic {
    let mut counts = PerTraffic::default();
    counts[0] = count;
    counts
}

fn scan(tracker: &mut Tracker, ms: u64, created: u64, entries: &[(AttemptKey, Attempt)]) -> Scan {
    let created = of_first(created);
    tracker.scan(at(ms), &created, entries.iter().copied(), Table::default())
}

#[test]
fn one_attempt_is_told_once_however_often_it_is_read() {
    let mut tracker = Tracker::default();
    let entries = [(key(1), established(0))];
    assert!(scan(&mut tracker, 1_000, 1, &entries).finished.is_empty());
    let finished = scan(&mut tracker, 4_000, 1, &entries).finished;
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].handshake, Some(Duration::from_millis(1)));
    assert_eq!(finished[0].target, "10.0.0.2:7680".parse().unwrap());
    for ms in (5_000..100_000).step_by(1_000) {
        assert!(scan(&mut tracker, ms, 1, &entries).finished.is_empty());
    }
    assert_eq!(tracker.lost(), of_first(0));
}

#[test]
fn a_syn_that_goes_on_for_long_is_one_attempt() {
    let mut tracker = Tracker::default();
    let mut attempt = forwarded(0);
    let mut finished = Vec::new();
    for ms in (0..300_000).step_by(500) {
        if [1_000, 3_000, 7_000, 15_000, 31_000, 63_000, 127_000].contains(&ms) {
            attempt.syn_ns = ns(ms);
            attempt.passed_ns = ns(ms);
        }
        let scan = scan(&mut tracker, ms, 1, &[(key(1), attempt)]);
        finished.extend(scan.finished);
        if ms < 257_000 {
            assert!(scan.forget.is_empty(), "{ms}");
        } else if !scan.forget.is_empty() {
            break;
        }
    }
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].outcome, Outcome::Unanswered);
}

#[test]
fn a_late_answer_is_told_and_adds_no_attempt() {
    let mut tracker = Tracker::default();
    let mut attempt = forwarded(0);
    assert_eq!(
        scan(&mut tracker, 8_000, 1, &[(key(1), attempt)])
            .finished
            .len(),
        1
    );
    attempt.answered_ns = ns(9_000);
    attempt.repeated_ns = ns(9_000);
    let entries = [(key(1), attempt)];
    let scan_1 = scan(&mut tracker, 10_000, 1, &entries);
    assert!(scan_1.finished.is_empty());
    assert_eq!(scan_1.late.len(), 1);
    assert_eq!(scan_1.late[0].at, at(9_000));
    assert!(scan(&mut tracker, 11_000, 1, &entries).late.is_empty());
}

#[test]
fn what_is_lost_of_one_traffic_says_nothing_of_another() {
    let mut tracker = Tracker::default();
    scan(&mut tracker, 0, 0, &[]);
    let quiet = Attempt {
        traffic: 1,
        ..forwarded(3_500)
    };
    let mut created = of_first(1_000);
    created[1] = 1;
    for ms in [4_000, 4_500] {
        let entries = [(key(1), quiet)].into_iter();
        tracker.scan(at(ms), &created, entries, Table::default());
    }
    assert_eq!(tracker.lost(), of_first(1_000));
}

#[test]
fn what_was_pushed_out_is_lost_and_what_comes_again_is_not_counted_twice() {
    let mut tracker = Tracker::default();
    scan(&mut tracker, 0, 0, &[]);
    // Ten were made, three are left, and one of them ended.
    let entries = [
        (key(1), established(0)),
        (key(2), forwarded(3_500)),
        (key(3), forwarded(3_500)),
    ];
    scan(&mut tracker, 4_000, 10, &entries);
    assert_eq!(tracker.lost()[0], 0, "one reading may miss some");
    scan(&mut tracker, 4_500, 10, &entries);
    assert_eq!((tracker.lost()[0], tracker.live()), (7, 2));
    // The ended one was pushed out, and its SYN made a new record.
    let again = [(key(1), forwarded(5_000)), entries[1], entries[2]];
    for ms in [5_500, 6_000] {
        assert!(scan(&mut tracker, ms, 11, &again).finished.is_empty());
    }
    assert_eq!(tracker.lost(), of_first(7));
}

#[test]
fn a_target_that_spoke_lately_is_alive() {
    let mut tracker = Tracker::default();
    let silent = |sequence, ms| (key(sequence), forwarded(ms));
    let first = scan(&mut tracker, 8_000, 1, &[silent(1, 0)]).finished;
    assert_eq!(first[0].blocked_by, BlockedBy::Unknown);
    let mut reset = forwarded(9_000);
    reset.reset_ns = ns(9_001);
    reset.reset_by = Maker::Target.code();
    scan(&mut tracker, 10_000, 2, &[(key(2), reset)]);
    let second = scan(&mut tracker, 18_000, 3, &[silent(3, 10_000)]).finished;
    assert_eq!(second[0].blocked_by, BlockedBy::Upstream);
    // 5 minutes after its last packet nothing is known any more.
    let third = scan(&mut tracker, 309_002, 4, &[silent(4, 302_000)]).finished;
    assert_eq!(third[0].blocked_by, BlockedBy::Unknown);
}

#[test]
fn three_clients_that_fail_towards_two_live_targets_prove_a_box_beyond() {
    let mut tracker = Tracker::default();
    for target in [2, 3] {
        tracker.hosts.is_seen(address(v4(target)), at(0));
    }
    let mut sequence = 0;
    let mut try_one = |tracker: &mut Tracker, client, target, ms| {
        sequence += 1;
        let mut attempt = forwarded(ms);
        attempt.client = v4(client);
        attempt.target = v4(target);
        let entry = [(key(sequence), attempt)];
        scan(tracker, ms + 8_000, u64::from(sequence), &entry).finished[0].blocked_by
    };
    assert_eq!(try_one(&mut tracker, 10, 99, 0), BlockedBy::Unknown);
    for (client, target) in [(10, 2), (11, 3), (12, 2)] {
        assert_eq!(
            try_one(&mut tracker, client, target, 1_000),
            BlockedBy::Upstream
        );
    }
    assert_eq!(try_one(&mut tracker, 10, 99, 2_000), BlockedBy::Upstream);
}

#[test]
fn what_came_in_and_vanished_is_forgotten() {
    let mut tracker = Tracker::default();
    let attempt = Attempt {
        passed_ns: 0,
        ..forwarded(0)
    };
    let scan_1 = scan(&mut tracker, 8_000, 1, &[(key(1), attempt)]);
    assert!(scan_1.finished.is_empty());
    assert_eq!(scan_1.forget, [key(1)]);
    scan(&mut tracker, 9_000, 1, &[]);
    assert_eq!(tracker.lost(), of_first(0));
}

/// Records are deleted once it is noted what became of them, which may take some readings.
#[test]
fn a_record_that_is_still_there_is_not_judged_again() {
    let mut tracker = Tracker::default();
    scan(&mut tracker, 0, 0, &[]);
    let silent = Attempt {
        passed_ns: 0,
        ..forwarded(0)
    };
    let entries = [(key(1), established(0)), (key(2), silent)];
    // A third one was made and is nowhere.
    assert_eq!(scan(&mut tracker, 8_000, 3, &entries).finished.len(), 1);
    for ms in [130_001, 130_500, 131_000, 140_000] {
        let again = scan(&mut tracker, ms, 3, &entries);
        assert!(again.finished.is_empty(), "{ms}");
        let mut forget = again.forget;
        forget.sort_unstable_by_key(|key| key.sequence);
        assert_eq!(forget, [key(1), key(2)], "{ms}");
    }
    assert_eq!(tracker.lost(), of_first(1), "the third");
    scan(&mut tracker, 141_000, 3, &[]);
    assert!(tracker.done.is_empty() && tracker.order.is_empty() && tracker.vanished.is_empty());
    let another = [(key(1), established(150_000))];
    assert_eq!(scan(&mut tracker, 160_000, 4, &another).finished.len(), 1);
}

#[test]
fn a_syn_that_comes_again_before_its_record_is_deleted_is_followed() {
    let mut tracker = Tracker::default();
    scan(&mut tracker, 0, 0, &[]);
    let silent = Attempt {
        passed_ns: 0,
        ..forwarded(0)
    };
    assert_eq!(
        scan(&mut tracker, 8_000, 1, &[(key(1), silent)]).forget,
        [key(1)]
    );
    let again = Attempt {
        syn_ns: ns(8_200),
        passed_ns: ns(8_200),
        answered_ns: ns(8_201),
        repeated_ns: ns(8_201),
        ..silent
    };
    assert!(
        scan(&mut tracker, 8_500, 1, &[(key(1), again)])
            .forget
            .is_empty()
    );
    assert_eq!(
        scan(&mut tracker, 12_000, 1, &[(key(1), again)])
            .finished
            .len(),
        1
    );
    assert_eq!(tracker.lost(), of_first(0));
    assert_eq!(tracker.accounted, of_first(1));
}

/// The counter of records goes on from the boot, where what was known of them is not.
#[test]
fn what_was_made_before_all_that_is_known_is_not_lost() {
    let mut tracker = Tracker::default();
    let entries = [(key(1), established(0))];
    for ms in [1_000, 1_500, 2_000] {
        scan(&mut tracker, ms, 500, &entries);
    }
    assert_eq!(tracker.lost(), of_first(0));
    scan(&mut tracker, 2_500, 502, &entries);
    scan(&mut tracker, 3_000, 502, &entries);
    assert_eq!(tracker.lost(), of_first(2));
}

#[test]
fn an_answered_attempt_that_a_flood_pushes_out_is_judged_all_the_same() {
    let mut tracker = Tracker::default();
    let (one, two) = ((key(1), established(0)), (key(2), established(0)));
    scan(&mut tracker, 500, 2, &[one, two]);
    // Of the second the SYN comes again: its answer did not arrive.
    let again = (key(2), forwarded(1_000));
    assert!(scan(&mut tracker, 1_500, 3, &[again]).finished.is_empty());
    let finished = scan(&mut tracker, 3_500, 3, &[again]).finished;
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].outcome, Outcome::Established);
    let finished = scan(&mut tracker, 5_000, 3, &[again]).finished;
    assert_eq!(finished.len(), 1, "3 s of silence behind the repetition");
    scan(&mut tracker, 6_000, 3, &[again]);
    assert_eq!((tracker.lost()[0], tracker.live()), (0, 0));
}

#[test]
fn what_is_kept_beside_the_map_has_a_bound() {
    let mut tracker = Tracker::default();
    let many = u32::try_from(ANSWERED).unwrap() + 10;
    let entries: Vec<_> = (0..many).map(|n| (key(n), established(0))).collect();
    let mut finished = scan(&mut tracker, 500, many.into(), &entries).finished;
    // A flood pushed them all out.
    for ms in [1_000, 1_500, 4_000] {
        finished.extend(scan(&mut tracker, ms, many.into(), &[]).finished);
    }
    assert_eq!(finished.len(), ANSWERED);
    assert_eq!(tracker.lost(), of_first(10));
}
