//! What somebody else may have written: any bytes, any numbers.

use super::*;

/// Where the fuzz target has its seed.
const SEED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/fuzz/corpus/state_file/full"
);

/// One change.
fn changes() -> ruleset::Changes {
    let mut changes = ruleset::Changes::default();
    changes.record(ruleset::Change {
        at: at(1),
        monotonic: at(2),
        kind: ruleset::Kind::Rules,
        by: Some(ruleset::Process {
            pid: 1,
            name: "nft".to_owned(),
        }),
        backend: ruleset::Backend::Nftables,
        tables: vec![ruleset::Table {
            family: ruleset::TableFamily::Inet,
            name: "t".to_owned(),
        }],
    });
    changes
}

/// The bytes of something of everything, with numbers and times that take a byte each where they can.
fn full() -> Vec<u8> {
    let pending = Attempt {
        passed_ns: 19_500_000_000,
        dropped_ns: 0,
        answered_ns: 19_600_000_000,
        repeated_ns: 19_600_000_000,
        repeats: 1,
        ..dropped(19)
    };
    let unanswered = Attempt {
        passed_ns: 10_000_000_000,
        dropped_ns: 0,
        ..dropped(10)
    };
    let mut tracker = Tracker::default();
    scan(
        &mut tracker,
        20,
        5,
        &[(0, dropped(10)), (1, pending), (2, unanswered)],
    );
    let solicitation = crate::teredo::Packet {
        time: at(19),
        traffic: 1,
        direction: Direction::Outbound,
        dropped: None,
        source: "10.0.0.2:50000".parse().unwrap(),
        destination: "192.0.2.1:3544".parse().unwrap(),
        message: crate::teredo::Message::Solicitation {
            nonce: Some([1; 8]),
            cone: false,
        },
    };
    let mut teredo = TeredoTracker::default();
    teredo.packet(&solicitation);
    teredo.packet(&crate::teredo::Packet {
        direction: Direction::Inbound,
        message: crate::teredo::Message::Other,
        source: "192.0.2.9:3544".parse().unwrap(),
        ..solicitation
    });
    let mut totals = Totals::default();
    let mut state = state::Tracker::new(at(0));
    for (second, outcome, by) in [
        (10, Outcome::Established, BlockedBy::None),
        (11, Outcome::Dropped, BlockedBy::LocalFirewall),
        (12, Outcome::Unanswered, BlockedBy::Upstream),
    ] {
        totals.add(&finished(second, outcome, by));
        state.add(&finished(second, outcome, by));
    }
    state.late_success(at(13));
    let evaluation = state.tick(Coverage::default(), &Thresholds::default(), at(20));
    let mut losses: Losses = std::array::from_fn(|_| state::Losses::default());
    for (second, lost) in [(18, 0), (19, 3)] {
        losses[0].observe(at(second), lost, at(60));
    }
    let key = (0, Direction::Outbound);
    let shown = crate::metrics::replay(
        Shown {
            changes: changes(),
            lines_lost: 1,
            reattached: BTreeMap::from([(Hook::Egress, 2)]),
            floors: BTreeMap::from([(7, (1, 60))]),
            interfaces: Interfaces {
                names: BTreeMap::from([(2, "eth0".to_owned())]),
                inherited: BTreeMap::from([(2, InterfaceCount::default())]),
                named: BTreeSet::from([2]),
                floors: BTreeMap::new(),
            },
            ..Shown::default()
        },
        true,
        BTreeMap::from([(key, evaluation)]),
        at(20),
    );
    SavedRef {
        at: at(20),
        traffics: vec![(0, "do_peer".to_owned()), (3, "web".to_owned())],
        attempts: AttemptsRef {
            maps: 9,
            tracker: &tracker,
            teredo: &teredo,
            totals: &totals,
        },
        states: StatesRef {
            trackers: &Trackers::from([(key, state)]),
            losses: &losses,
        },
        shown,
    }
    .to_bytes()
    .unwrap()
}

/// Goes on with bytes, if they are some, and gives whether they are.
fn goes_on(bytes: &[u8]) -> bool {
    // The one that waited for silence behind its answer, whose SYN comes again.
    let key = AttemptKey {
        family: 0,
        sequence: 1,
    };
    let records = [(key, dropped(30))];
    let mut any = false;
    for same_maps in [true, false] {
        if let Ok(saved) = Saved::from_bytes(bytes) {
            let bytes = crate::fuzz::go_on(saved, same_maps, at(40), &records, &[]).unwrap();
            assert!(Saved::from_bytes(&bytes).is_ok());
            any = true;
        }
    }
    any
}

#[test]
fn no_number_that_was_kept_makes_a_sum_overflow() {
    let bytes = full();
    assert!(goes_on(&bytes));
    // The greatest numbers of 64, 32 and 16 bits as postcard has them, and the greatest of seconds.
    let greatest: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 3],
        &[0],
    ];
    let mut taken = 0;
    let mut begin = 0;
    while let Some(length) = bytes[begin..].iter().position(|byte| *byte < 0x80) {
        let end = begin + length + 1;
        for number in greatest {
            let bytes = [&bytes[..begin], number, &bytes[end..]].concat();
            taken += usize::from(goes_on(&bytes));
        }
        begin = end;
    }
    // Most places are numbers.
    assert!(taken > 300, "{taken}");
}

#[test]
fn a_window_that_was_kept_is_no_larger_than_a_new_one() {
    let mut window = state::Window::with_limit(usize::MAX);
    for second in 0..20_000 {
        window.add(&finished(second, Outcome::Established, BlockedBy::None));
    }
    let bytes = postcard::to_stdvec(&(window, state::Memory::new(at(0)))).unwrap();
    let mut tracker: state::Tracker = postcard::from_bytes(&bytes).unwrap();
    tracker.resume();
    let all = Thresholds {
        window: Duration::from_hours(24),
        ..Thresholds::default()
    };
    let evidence = tracker.tick(Coverage::default(), &all, at(20_000)).evidence;
    assert_eq!(evidence.attempts.success, 20_000);
    assert_eq!(evidence.without_peers, 20_000 - state::MAX_SAMPLES as u64);
}

#[test]
fn a_length_that_is_a_lie_takes_no_room() {
    // Times of nothing, then so many traffics as nobody has: it is refused when they do not come.
    let lie = [
        0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
    ];
    assert!(Saved::from_bytes(&lie).is_err());
}

#[test]
fn counters_of_traffics_that_cannot_be_are_refused() {
    let bytes = full();
    let traffics = [2, 0, 7];
    let at = bytes.windows(3).position(|part| part == traffics).unwrap();
    for (index, good) in [
        (MAX_TRAFFICS - 1, true),
        (MAX_TRAFFICS, false),
        (255, false),
    ] {
        let mut bytes = bytes.clone();
        bytes[at + 1] = index;
        assert_eq!(Saved::from_bytes(&bytes).is_ok(), good, "{index}");
    }
}

#[test]
fn the_seed_of_the_fuzz_target_is_of_this_version() {
    assert!(
        goes_on(&std::fs::read(SEED).unwrap()),
        "write it anew: cargo test -p peerwatch --lib the_seed -- --ignored"
    );
}

#[test]
#[ignore = "it writes a file of the repository"]
fn the_seed_of_the_fuzz_target_is_written() {
    std::fs::write(SEED, full()).unwrap();
}
