use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::attempt::BlockedBy;
use crate::teredo::Dropped;

const CLIENT: &str = "10.0.0.2:50000";
const SERVER: &str = "192.0.2.1:3544";

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn nonce(number: u8) -> Nonce {
    [number; 8]
}

fn packet(at: u64, from: &str, to: &str, message: Message) -> Packet {
    Packet {
        time: ms(at),
        traffic: 1,
        direction: Direction::Forwarded,
        dropped: None,
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        message,
    }
}

fn ask(at: u64, number: u8) -> Packet {
    let nonce = Some(nonce(number));
    packet(
        at,
        CLIENT,
        SERVER,
        Message::Solicitation { nonce, cone: false },
    )
}

fn answer(at: u64, number: u8) -> Packet {
    let nonce = Some(nonce(number));
    packet(
        at,
        SERVER,
        CLIENT,
        Message::Advertisement { nonce, cone: false },
    )
}

fn drop_of(class: Class, packet: Packet) -> Packet {
    let dropped = Some(Dropped {
        class,
        reason: 12,
        location: 0x1000,
    });
    Packet { dropped, ..packet }
}

/// Plays packets at their times, with a look every half second as the daemon has it.
fn play(packets: &[Packet], until: u64) -> (Vec<Finished>, Vec<Late>, TeredoTracker) {
    let mut tracker = TeredoTracker::default();
    let mut packets = packets.iter().peekable();
    let (mut finished, mut late) = (Vec::new(), Vec::new());
    for now in (0..=until).step_by(500).map(ms) {
        while let Some(packet) = packets.next_if(|packet| packet.time <= now) {
            tracker.packet(packet);
        }
        let scan = tracker.scan(now, Table::default(), |_| false);
        finished.extend(scan.finished);
        late.extend(scan.late);
    }
    assert!(packets.peek().is_none());
    (finished, late, tracker)
}

fn outcomes(packets: &[Packet]) -> Vec<(Outcome, BlockedBy)> {
    let (finished, _, tracker) = play(packets, 400_000);
    assert!(tracker.rounds.is_empty() && tracker.nonces.is_empty() && tracker.alive.is_empty());
    finished
        .iter()
        .map(|finished| (finished.outcome, finished.blocked_by))
        .collect()
}

#[test]
fn an_answered_solicitation_is_established() {
    let (finished, _, _) = play(&[ask(1000, 1), answer(1030, 1)], 20_000);
    let [one] = &finished[..] else {
        panic!("{finished:?}");
    };
    assert_eq!(
        (one.outcome, one.blocked_by),
        (Outcome::Established, BlockedBy::None)
    );
    assert_eq!(one.handshake, Some(ms(30)));
    assert_eq!(
        (one.protocol, one.direction),
        (Protocol::Udp, Direction::Forwarded)
    );
    assert_eq!(one.client, CLIENT.parse::<SocketAddr>().unwrap());
    assert_eq!(one.target, SERVER.parse::<SocketAddr>().unwrap());
}

#[test]
fn the_time_counts_from_the_first_try() {
    let (finished, _, _) = play(&[ask(0, 1), ask(4000, 2), answer(4020, 2)], 20_000);
    assert_eq!(finished[0].handshake, Some(ms(4020)));
}

#[test]
fn a_translated_solicitation_is_matched_by_its_nonce() {
    let outside = packet(
        0,
        "198.51.100.1:1031",
        SERVER,
        Message::Solicitation {
            nonce: Some(nonce(1)),
            cone: false,
        },
    );
    let (finished, _, _) = play(&[outside, answer(20, 1)], 1000);
    assert_eq!(finished[0].outcome, Outcome::Established);
    assert_eq!(
        finished[0].client,
        CLIENT.parse::<SocketAddr>().unwrap(),
        "behind it"
    );
}

#[test]
fn without_a_nonce_the_ends_match() {
    let solicitation = Message::Solicitation {
        nonce: None,
        cone: false,
    };
    let advertisement = Message::Advertisement {
        nonce: None,
        cone: false,
    };
    let packets = [
        packet(0, CLIENT, SERVER, solicitation),
        packet(20, SERVER, CLIENT, advertisement),
    ];
    assert_eq!(
        outcomes(&packets),
        [(Outcome::Established, BlockedBy::None)]
    );
    let other = [
        packets[0],
        packet(20, SERVER, "10.0.0.3:50000", advertisement),
    ];
    assert_eq!(outcomes(&other), []);
}

#[test]
fn three_misses_are_one_unanswered_attempt() {
    let tries = [ask(0, 1), ask(4000, 2), ask(8000, 3)];
    let unknown = [(Outcome::Unanswered, BlockedBy::Unknown)];
    assert_eq!(outcomes(&tries), unknown);
    // A client may be slow, and may go on.
    assert_eq!(
        outcomes(&[ask(0, 1), ask(4400, 1), ask(8900, 1), ask(13_100, 1)]),
        unknown
    );
    assert_eq!(outcomes(&tries[..2]), [], "two say nothing");
    let (finished, _, _) = play(&tries, 11_900);
    assert_eq!(finished, []);
}

#[test]
fn a_server_that_is_alive_makes_it_upstream() {
    let tries = [ask(60_000, 1), ask(64_000, 2), ask(68_000, 3)];
    let upstream = [(Outcome::Unanswered, BlockedBy::Upstream)];
    let bubble = packet(10, SERVER, "10.0.0.9:40000", Message::Other);
    assert_eq!(outcomes(&[&[bubble], &tries[..]].concat()), upstream);
    let elsewhere = packet(10, "192.0.2.7:3544", CLIENT, Message::Other);
    let unknown = [(Outcome::Unanswered, BlockedBy::Unknown)];
    assert_eq!(outcomes(&[&[elsewhere], &tries[..]].concat()), unknown);
    let made_here = Packet {
        direction: Direction::Outbound,
        ..bubble
    };
    assert_eq!(outcomes(&[&[made_here], &tries[..]].concat()), unknown);
    // What is known of it from elsewhere counts too.
    let mut tracker = TeredoTracker::default();
    for packet in &tries {
        tracker.packet(packet);
    }
    let server: IpAddr = [192, 0, 2, 1].into();
    let scan = tracker.scan(ms(72_000), Table::default(), |host| host == server);
    assert_eq!(scan.finished[0].blocked_by, BlockedBy::Upstream);
}

#[test]
fn the_first_drop_decides_and_the_round_is_one() {
    let tries = [0, 4000, 8000].map(|at| drop_of(Class::Firewall, ask(at, 1)));
    let dropped = (Outcome::Dropped, BlockedBy::LocalFirewall);
    assert_eq!(outcomes(&tries), [dropped]);
    let (finished, _, _) = play(&tries[..1], 500);
    assert_eq!(finished[0].reason, Some(12));
    // The next round is another attempt.
    let later = [20_000, 24_000].map(|at| drop_of(Class::RpFilter, ask(at, 1)));
    let both = [dropped, (Outcome::Dropped, BlockedBy::LocalStack)];
    assert_eq!(outcomes(&[&tries[..], &later].concat()), both);
    // It passed this daemon's hook, and a rule behind that dropped it.
    assert_eq!(
        outcomes(&[ask(0, 1), drop_of(Class::Firewall, ask(1, 1))]),
        [dropped]
    );
}

#[test]
fn other_drops_have_their_own_outcome() {
    let outcome = |class| outcomes(&[drop_of(class, ask(0, 1))])[0];
    let here = |class| {
        let inbound = Packet {
            direction: Direction::Inbound,
            ..drop_of(class, ask(0, 1))
        };
        outcomes(&[inbound])[0]
    };
    assert_eq!(
        here(Class::NoListener),
        (Outcome::Refused, BlockedBy::LocalHost)
    );
    // What no kernel does.
    for made_up in [outcome(Class::NoListener), here(Class::Neighbour)] {
        assert_eq!(made_up, (Outcome::Dropped, BlockedBy::Unknown));
    }
    assert_eq!(
        outcome(Class::Neighbour),
        (Outcome::Offline, BlockedBy::None)
    );
    assert_eq!(
        outcome(Class::Overload),
        (Outcome::Dropped, BlockedBy::LocalOverload)
    );
    let mut tracker = TeredoTracker::default();
    tracker.packet(&drop_of(Class::Firewall, ask(0, 1)));
    let table = Table {
        refused: true,
        chain: None,
    };
    let scan = tracker.scan(ms(100), table, |_| false);
    assert_eq!(scan.finished[0].blocked_by, BlockedBy::LocalConntrack);
}

#[test]
fn an_answer_that_is_dropped_is_reply_dropped() {
    // Before its address is translated back, so it seems to be for this host.
    let reply = drop_of(Class::Firewall, answer(20, 1));
    let reply = Packet {
        direction: Direction::Inbound,
        destination: "198.51.100.1:1031".parse().unwrap(),
        ..reply
    };
    let expected = [(Outcome::ReplyDropped, BlockedBy::LocalFirewall)];
    assert_eq!(outcomes(&[ask(0, 1), reply, ask(4000, 2)]), expected);
    let nobody = drop_of(Class::NoListener, answer(20, 1));
    assert_eq!(outcomes(&[ask(0, 1), nobody]), []);
}

#[test]
fn tests_for_a_cone_are_left_out() {
    let cone = |at| {
        let message = Message::Solicitation {
            nonce: Some(nonce(9)),
            cone: true,
        };
        packet(at, CLIENT, SERVER, message)
    };
    assert_eq!(outcomes(&[cone(0), cone(4000), cone(8000)]), []);
}

#[test]
fn an_answer_in_the_wrong_direction_or_to_another_is_none() {
    let back = Packet {
        direction: Direction::Outbound,
        ..answer(20, 1)
    };
    assert_eq!(outcomes(&[ask(0, 1), back]), []);
    assert_eq!(outcomes(&[ask(0, 1), answer(20, 2)]), []);
    assert_eq!(outcomes(&[ask(0, 1), answer(4500, 1)]), [], "given up");
}

#[test]
fn a_late_answer_is_no_attempt() {
    let tries = [ask(0, 1), ask(4000, 2), ask(8000, 3), answer(12_800, 3)];
    let (finished, late, _) = play(&tries, 30_000);
    assert_eq!(finished.len(), 1);
    let expected = Late {
        traffic: 1,
        direction: Direction::Forwarded,
        at: ms(12_800),
    };
    assert_eq!(late, [expected]);
    let (finished, late, _) = play(&[ask(0, 1), answer(20, 1), answer(900, 1)], 30_000);
    assert_eq!((finished.len(), late.len()), (1, 0), "established before");
}

#[test]
fn clients_with_one_nonce_are_told_apart() {
    let other = "10.0.0.3:50000";
    let message = Message::Solicitation {
        nonce: Some(nonce(1)),
        cone: false,
    };
    let reply = Message::Advertisement {
        nonce: Some(nonce(1)),
        cone: false,
    };
    let second = packet(14_000, other, SERVER, message);
    let packets = [
        ask(0, 1),
        answer(10, 1),
        second,
        packet(14_010, SERVER, other, reply),
    ];
    assert_eq!(outcomes(&packets).len(), 2);
}

#[test]
fn a_flood_of_clients_is_bounded_and_counted() {
    let mut tracker = TeredoTracker::default();
    for number in 0..70_000_u32 {
        let client = SocketAddrV4::new(Ipv4Addr::from(number), 9);
        let message = Message::Solicitation {
            nonce: Some(u64::from(number + 1).to_be_bytes()),
            cone: false,
        };
        let base = ask(0, 1);
        tracker.packet(&Packet {
            source: client,
            message,
            ..base
        });
        tracker.packet(&Packet {
            source: client,
            message: Message::Other,
            ..base
        });
    }
    assert_eq!(tracker.rounds.len(), MAX_ROUNDS);
    assert_eq!(tracker.nonces.len(), MAX_ROUNDS);
    assert_eq!(tracker.alive.len(), MAX_SERVERS);
    assert_eq!(tracker.lost(), 70_000 - MAX_ROUNDS as u64);
}

proptest! {
    /// Whatever comes, nothing stays, and each round ends once at most.
    #[test]
    fn nothing_stays(steps in prop::collection::vec((0_u64..5000, 0_u8..4, 0_u8..3, any::<bool>(), any::<bool>()), 0..60)) {
        let mut at = 0;
        let packets: Vec<Packet> = steps.into_iter().map(|(wait, number, host, asks, drops)| {
            at += wait;
            let mut packet = if asks { ask(at, number) } else { answer(at, number) };
            let address = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, host), 50_000);
            if asks { packet.source = address } else { packet.destination = address }
            if drops { drop_of(Class::Firewall, packet) } else { packet }
        }).collect();
        let asked = packets.iter().filter(|packet| matches!(packet.message, Message::Solicitation { .. })).count();
        let (finished, _, tracker) = play(&packets, at + 400_000);
        prop_assert!(finished.len() <= asked);
        prop_assert!(tracker.rounds.is_empty() && tracker.nonces.is_empty() && tracker.alive.is_empty());
    }
}
