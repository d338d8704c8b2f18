use super::*;

struct Here {
    full: bool,
    alive: bool,
}

impl World for Here {
    fn is_table_full(&self, _: u64) -> bool {
        self.full
    }
    fn is_alive(&self, _: &Attempt) -> bool {
        self.alive
    }
}

const QUIET_WORLD: Here = Here {
    full: false,
    alive: false,
};

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Duration {
    Duration::from_millis(1_000_000 + ms)
}

fn ns(ms: u64) -> u64 {
    (1_000_000 + ms) * MS
}

fn passed(direction: Direction) -> Attempt {
    Attempt {
        first_ns: ns(0),
        syn_ns: ns(0),
        passed_ns: ns(0),
        direction: direction.code(),
        ..Attempt::default()
    }
}

fn dropped_for(class: Class) -> Attempt {
    Attempt {
        first_ns: ns(0),
        syn_ns: ns(0),
        dropped_ns: ns(0),
        direction: Direction::Forwarded.code(),
        class: class.code(),
        reason: 7,
        ..Attempt::default()
    }
}

fn is(judgement: Judgement, outcome: Outcome, blocked_by: BlockedBy) {
    match judgement {
        Judgement::Ended {
            outcome: o,
            blocked_by: b,
            ..
        } => assert_eq!((o, b), (outcome, blocked_by)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn established_when_nothing_is_repeated_for_three_seconds() {
    let mut attempt = passed(Direction::Forwarded);
    attempt.answered_ns = ns(10);
    attempt.repeated_ns = ns(10);
    assert_eq!(judge(&attempt, at(3_009), &QUIET_WORLD), Judgement::Pending);
    is(
        judge(&attempt, at(3_010), &QUIET_WORLD),
        Outcome::Established,
        BlockedBy::None,
    );
}

/// Plays SYNs, each of which is answered at once, and says when and how it ended; `last` is when the
/// initiator stops.
fn answers_lost(times: &[u64]) -> (u64, Judgement) {
    let mut attempt = passed(Direction::Forwarded);
    let mut next = times.iter().copied().peekable();
    for now in (0..200_000).step_by(100) {
        while next.peek().is_some_and(|time| *time <= now) {
            let time = next.next().unwrap();
            attempt.syn_ns = ns(time);
            attempt.passed_ns = ns(time);
            if attempt.answered_ns == 0 {
                attempt.answered_ns = ns(time);
            } else {
                attempt.gap_ns = ns(time) - attempt.repeated_ns;
                attempt.repeats += 1;
            }
            attempt.repeated_ns = ns(time);
        }
        match judge(&attempt, at(now), &QUIET_WORLD) {
            Judgement::Pending => {}
            ended => return (now, ended),
        }
    }
    panic!("never judged");
}

#[test]
fn an_answer_that_is_lost_beyond_us_is_no_success() {
    for waits in [
        &[
            0, 1_000, 2_000, 3_000, 4_000, 5_000, 7_000, 11_000, 19_000, 35_000,
        ][..],
        &[0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000],
    ] {
        let (when, judgement) = answers_lost(waits);
        is(judgement, Outcome::Unanswered, BlockedBy::Upstream);
        assert!((15_000..25_000).contains(&when), "{when}");
    }
}

#[test]
fn an_answer_that_is_lost_once_or_twice_is_a_success_in_the_end() {
    for waits in [
        &[0, 1_000][..],
        &[0, 1_000, 2_000],
        &[0, 1_000, 3_000],
        &[0, 1_000, 2_000, 3_000, 4_000],
    ] {
        let (_, judgement) = answers_lost(waits);
        is(judgement, Outcome::Established, BlockedBy::None);
    }
}

#[test]
fn who_drops_is_told_by_class() {
    for (class, outcome, blocked_by) in [
        (Class::Firewall, Outcome::Dropped, BlockedBy::LocalFirewall),
        (Class::Routing, Outcome::Dropped, BlockedBy::LocalStack),
        (Class::RpFilter, Outcome::Dropped, BlockedBy::LocalStack),
        (Class::Overload, Outcome::Dropped, BlockedBy::LocalOverload),
        (Class::Malformed, Outcome::Dropped, BlockedBy::LocalOverload),
        (Class::Neighbour, Outcome::Offline, BlockedBy::None),
        (Class::NoListener, Outcome::Refused, BlockedBy::LocalHost),
        (Class::Unspecified, Outcome::Dropped, BlockedBy::Unknown),
    ] {
        let attempt = dropped_for(class);
        assert_eq!(judge(&attempt, at(49), &QUIET_WORLD), Judgement::Pending);
        is(judge(&attempt, at(50), &QUIET_WORLD), outcome, blocked_by);
    }
    let full = Here {
        full: true,
        alive: false,
    };
    is(
        judge(&dropped_for(Class::Firewall), at(50), &full),
        Outcome::Dropped,
        BlockedBy::LocalConntrack,
    );
}

#[test]
fn a_rule_that_answers_rejects() {
    for by_reset in [true, false] {
        let mut attempt = dropped_for(Class::Firewall);
        if by_reset {
            attempt.reset_ns = ns(0) - 1;
            attempt.reset_by = Maker::Here.code();
        } else {
            attempt.error_ns = ns(0) - 1;
            attempt.error_by = Maker::Here.code();
        }
        is(
            judge(&attempt, at(50), &QUIET_WORLD),
            Outcome::Rejected,
            BlockedBy::LocalFirewall,
        );
    }
}

#[test]
fn what_answers_beyond_us_is_told_by_its_address() {
    use monitor_common::attempt::ERROR_OTHER;
    let mut reset = passed(Direction::Forwarded);
    reset.reset_ns = ns(5);
    reset.reset_by = Maker::Target.code();
    is(
        judge(&reset, at(60), &QUIET_WORLD),
        Outcome::Refused,
        BlockedBy::RemoteHost,
    );
    for (by, kind, outcome, blocked_by) in [
        (
            Maker::Target,
            ERROR_OTHER,
            Outcome::Rejected,
            BlockedBy::RemoteHost,
        ),
        (
            Maker::Between,
            ERROR_OTHER,
            Outcome::Rejected,
            BlockedBy::Middlebox,
        ),
        (
            Maker::Between,
            ERROR_HOST,
            Outcome::Offline,
            BlockedBy::None,
        ),
    ] {
        let mut attempt = passed(Direction::Forwarded);
        attempt.error_ns = ns(5);
        attempt.error_by = by.code();
        attempt.error_kind = kind;
        is(judge(&attempt, at(60), &QUIET_WORLD), outcome, blocked_by);
    }
}

#[test]
fn silence_is_judged_seven_seconds_after_the_last_syn() {
    let mut attempt = passed(Direction::Outbound);
    attempt.syn_ns = ns(4_000);
    assert_eq!(
        judge(&attempt, at(10_999), &QUIET_WORLD),
        Judgement::Pending
    );
    is(
        judge(&attempt, at(11_000), &QUIET_WORLD),
        Outcome::Unanswered,
        BlockedBy::Unknown,
    );
    let alive = Here {
        full: false,
        alive: true,
    };
    is(
        judge(&attempt, at(11_000), &alive),
        Outcome::Unanswered,
        BlockedBy::Upstream,
    );
    is(
        judge(&passed(Direction::Inbound), at(7_000), &alive),
        Outcome::Unanswered,
        BlockedBy::LocalOverload,
    );
}

#[test]
fn a_reply_that_is_dropped_here_is_told() {
    let mut attempt = passed(Direction::Forwarded);
    attempt.reply_dropped_ns = ns(10);
    attempt.reply_class = Class::Firewall.code();
    is(
        judge(&attempt, at(60), &QUIET_WORLD),
        Outcome::ReplyDropped,
        BlockedBy::LocalFirewall,
    );
    attempt.reply_class = Class::NoListener.code();
    assert_eq!(judge(&attempt, at(60), &QUIET_WORLD), Judgement::Pending);
}

#[test]
fn the_last_syn_decides_between_passed_and_dropped() {
    let mut attempt = dropped_for(Class::Firewall);
    attempt.passed_ns = ns(1_000);
    attempt.syn_ns = ns(1_000);
    assert_eq!(judge(&attempt, at(1_100), &QUIET_WORLD), Judgement::Pending);
    attempt.dropped_ns = ns(2_000);
    is(
        judge(&attempt, at(2_100), &QUIET_WORLD),
        Outcome::Dropped,
        BlockedBy::LocalFirewall,
    );
}

#[test]
fn what_came_in_and_vanished_is_no_attempt() {
    let attempt = Attempt {
        first_ns: ns(0),
        syn_ns: ns(0),
        ..Attempt::default()
    };
    assert_eq!(judge(&attempt, at(6_999), &QUIET_WORLD), Judgement::Pending);
    assert_eq!(
        judge(&attempt, at(7_000), &QUIET_WORLD),
        Judgement::Vanished
    );
}
