//! What a state rests on: windows, samples, pairs and losses.

use super::*;

#[test]
fn evidence_names_the_pairs_that_fail_most() {
    let mut traffic = Traffic::new();
    for (client, count, how) in [
        (5, 2, FIREWALL),
        (4, 2, REFUSED),
        (3, 1, FIREWALL),
        (2, 7, FIREWALL),
        (1, 9, SUCCESS),
    ] {
        for _ in 0..count {
            traffic.tracker.add(Sample {
                client: address(client),
                target: address(100),
                ..sample(traffic.now, how)
            });
        }
    }
    traffic.attempt(FIREWALL);
    let evidence = &traffic.last.evidence;
    let top: Vec<_> = evidence
        .failing_pairs
        .iter()
        .map(|pair| (pair.client, pair.attempts.failed(), pair.outcome))
        .collect();
    assert_eq!(
        top,
        [
            (address(2), 7, Outcome::Dropped),
            (address(4), 2, Outcome::Refused),
            (address(5), 2, Outcome::Dropped)
        ]
    );
    let pairs = |success, policy, other| Counts {
        success,
        policy,
        other,
    };
    assert_eq!(evidence.peer_pairs, pairs(1, 4, 1));
    assert_eq!(evidence.attempts, pairs(9, 11, 2));
    assert_eq!(evidence.outcome(Outcome::Established), 9);
    assert_eq!(evidence.outcome(Outcome::Refused), 2);
    traffic.wait(901);
    let evidence = &traffic.last.evidence;
    assert_eq!(evidence.peer_pairs, Counts::default());
    assert_eq!(evidence.failing_pairs, []);
}

#[test]
fn a_flood_costs_a_bounded_memory_and_is_counted_all_the_same() {
    let mut window = Window::with_limit(100);
    for n in 0..1000_u64 {
        let how = if n < 400 { FIREWALL } else { SUCCESS };
        window.add(sample(s(n), how));
        window.slide(s(n), s(900));
    }
    assert_eq!(window.samples().count(), 100);
    let counts = window.summary(Duration::ZERO).counts();
    // Sums leave as a whole, when the last of their attempts is too old.
    assert!((300..=310).contains(&counts.policy), "{counts:?}");
    assert_eq!(counts.success, 600);
    assert_eq!(window.without_peers(), counts.total() - 100);
    assert_eq!(window.peer_pairs().policy, 0, "of the latest ones only");
    let counts = window.summary(s(950)).counts();
    assert_eq!(counts.success, 50);
    window.slide(s(5000), s(900));
    assert_eq!(window.summary(Duration::ZERO), Summary::default());
}

#[test]
fn losses_are_those_of_the_window() {
    let mut losses = Losses::default();
    let keep = s(900);
    assert_eq!(losses.within(s(0), keep), 0);
    for (now, counter, within) in [
        (1, 7, 0),
        (2, 7, 0),
        (3, 10, 3),
        (500, 12, 5),
        (903, 12, 5),
        (904, 12, 2),
        (1400, 12, 2),
        (1401, 12, 0),
        (1402, 1, 1),
    ] {
        losses.observe(s(now), counter, keep);
        assert_eq!(losses.within(s(now), keep), within, "at {now}");
    }
    losses.observe(s(1500), 4, keep);
    assert_eq!(losses.within(s(1500), s(60)), 3, "of a shorter window");
}

#[test]
fn an_attempt_tells_of_its_answer_or_of_its_last_packet() {
    let mut finished = Finished {
        traffic: 0,
        protocol: Protocol::Tcp,
        family: Family::Ipv4,
        direction: Direction::Outbound,
        outcome: Outcome::Established,
        blocked_by: BlockedBy::None,
        first: s(100),
        ended: s(120),
        handshake: Some(s(1)),
        client: (address(1), 50000).into(),
        target: (address(2), 7680).into(),
        reason: None,
    };
    assert_eq!(Sample::from(&finished).at, s(101));
    finished.handshake = None;
    assert_eq!(Sample::from(&finished).at, s(120));
    finished.outcome = Outcome::Unanswered;
    assert_eq!(Sample::from(&finished).at, s(113));
    finished.ended = s(90);
    assert_eq!(
        Sample::from(&finished).at,
        s(100),
        "no clock goes backwards"
    );
}
