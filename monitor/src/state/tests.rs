mod evidence;
mod properties;

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::attempt::Finished;
use monitor_common::{Direction, Family, Protocol};

const FIREWALL: (Outcome, BlockedBy) = (Outcome::Dropped, BlockedBy::LocalFirewall);
const REFUSED: (Outcome, BlockedBy) = (Outcome::Refused, BlockedBy::RemoteHost);
const OFFLINE: (Outcome, BlockedBy) = (Outcome::Offline, BlockedBy::None);
const SUCCESS: (Outcome, BlockedBy) = (Outcome::Established, BlockedBy::None);
const UPSTREAM: (Outcome, BlockedBy) = (Outcome::Unanswered, BlockedBy::Upstream);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

/// An attempt that was judged at once.
fn sample(at: Duration, (outcome, blocked_by): (Outcome, BlockedBy)) -> Sample {
    Sample {
        first: at,
        at,
        ended: at,
        outcome,
        blocked_by,
        client: address(1),
        target: address(2),
    }
}

/// A traffic with a clock that the test moves.
struct Traffic {
    tracker: Tracker,
    now: Duration,
    coverage: Coverage,
    thresholds: Thresholds,
    last: Evaluation,
}

impl Traffic {
    fn new() -> Self {
        let now = s(1000);
        let mut tracker = Tracker::new(now);
        let (coverage, thresholds) = (Coverage::default(), Thresholds::default());
        let last = tracker.tick(coverage, &thresholds, now);
        Self {
            tracker,
            now,
            coverage,
            thresholds,
            last,
        }
    }

    fn tick(&mut self) -> State {
        self.last = self.tracker.tick(self.coverage, &self.thresholds, self.now);
        self.last.memory.state
    }

    /// Lets time pass, second by second.
    fn wait(&mut self, seconds: u64) -> State {
        for _ in 0..seconds {
            self.now += s(1);
            self.tick();
        }
        self.last.memory.state
    }

    /// An attempt that ends now.
    fn attempt(&mut self, how: (Outcome, BlockedBy)) -> State {
        self.tracker.add(sample(self.now, how));
        self.tick()
    }

    /// Several, one each 5 seconds.
    fn attempts(&mut self, how: (Outcome, BlockedBy), count: usize) -> State {
        for _ in 0..count {
            self.attempt(how);
            self.wait(5);
        }
        self.last.memory.state
    }

    /// Waits until it is in this state; says how many seconds that took.
    fn until(&mut self, state: State) -> u64 {
        for waited in 0..100_000 {
            if self.last.memory.state == state {
                return waited;
            }
            self.wait(1);
        }
        panic!("never {}: {:?}", state.as_str(), self.last);
    }

    fn blocked() -> Self {
        let mut traffic = Self::new();
        assert_eq!(traffic.attempts(FIREWALL, 3), State::Blocked);
        traffic
    }
}

#[test]
fn no_attempts_are_no_demand() {
    let mut traffic = Traffic::new();
    assert_eq!(traffic.wait(3600), State::NoDemand);
    assert_eq!(traffic.last.memory.since, s(1000));
    assert_eq!(traffic.last.memory.last_attempt, None);
    assert_eq!(traffic.last.memory.blocked_by, BlockedBy::None);
}

#[test]
fn blocked_within_20_s_of_the_third_policy_failure_and_since_the_first() {
    let mut traffic = Traffic::new();
    traffic.attempt(SUCCESS);
    traffic.wait(100);
    let first = traffic.now;
    traffic.attempt(FIREWALL);
    traffic.wait(6);
    traffic.attempt(FIREWALL);
    assert_eq!(traffic.wait(6), State::Ok, "two are too few");
    traffic.attempt(FIREWALL);
    assert!(traffic.until(State::Blocked) <= 20);
    let memory = &traffic.last.memory;
    assert_eq!(memory.blocked_since(), Some(first));
    assert_eq!(memory.last_success, Some(s(1000)));
    assert_eq!(memory.last_attempt, Some(first + s(12)));
    assert_eq!(memory.blocked_by, BlockedBy::LocalFirewall);
    assert_eq!(traffic.last.evidence.attempts.policy, 3);
}

#[test]
fn policy_failures_at_once_are_no_block_until_they_are_spread() {
    let mut traffic = Traffic::new();
    for _ in 0..19 {
        assert_eq!(traffic.attempt(FIREWALL), State::NoDemand);
    }
    assert_eq!(
        traffic.attempt(FIREWALL),
        State::Degraded,
        "of 20, all failed"
    );
    assert_eq!(traffic.wait(10), State::Degraded);
    assert_eq!(traffic.attempt(FIREWALL), State::Blocked);
}

#[test]
fn blocked_when_half_of_the_attempts_meet_a_policy_and_not_when_fewer() {
    let mut traffic = Traffic::new();
    traffic.attempts(SUCCESS, 4);
    traffic.attempts(FIREWALL, 3);
    assert_eq!(traffic.last.memory.state, State::Ok, "3 of 7");
    assert_eq!(traffic.attempts(FIREWALL, 1), State::Blocked, "4 of 8");
}

#[test]
fn back_to_ok_within_20_s_of_success_whatever_failed_before() {
    let mut traffic = Traffic::blocked();
    traffic.attempts(FIREWALL, 40);
    traffic.attempt(SUCCESS);
    assert_eq!(traffic.last.memory.state, State::Blocked, "not at once");
    assert!(traffic.until(State::Ok) <= 20);
    assert_eq!(traffic.last.memory.blocked_since(), None);
    assert_eq!(traffic.last.memory.blocked_by, BlockedBy::None);
    assert_eq!(traffic.last.evidence.attempts.policy, 43, "still shown");
    assert_eq!(traffic.wait(600), State::Ok, "and it stays so");
}

#[test]
fn a_policy_failure_after_the_success_goes_on_with_the_block() {
    let mut traffic = Traffic::blocked();
    let since = traffic.last.memory.blocked_since();
    for _ in 0..20 {
        traffic.attempt(SUCCESS);
        traffic.wait(10);
        assert_eq!(traffic.attempt(FIREWALL), State::Blocked);
        traffic.wait(3);
    }
    assert_eq!(traffic.last.memory.blocked_since(), since, "the same block");
    traffic.attempt(SUCCESS);
    assert!(traffic.until(State::Ok) <= 20);
}

#[test]
fn an_attempt_given_up_before_the_success_and_judged_after_it_is_no_failure_since() {
    let mut traffic = Traffic::blocked();
    let given_up = traffic.now;
    traffic.wait(2);
    traffic.attempt(SUCCESS);
    traffic.wait(5);
    traffic.tracker.add(&Finished {
        traffic: 0,
        protocol: Protocol::Tcp,
        family: Family::Ipv4,
        direction: Direction::Forwarded,
        outcome: UPSTREAM.0,
        blocked_by: UPSTREAM.1,
        first: given_up.saturating_sub(s(3)),
        ended: given_up + UNANSWERED_AFTER,
        handshake: None,
        client: (address(1), 50000).into(),
        target: (address(2), 7680).into(),
        reason: None,
    });
    assert!(traffic.until(State::Ok) <= 15);
}

#[test]
fn a_new_block_needs_new_failures() {
    let mut traffic = Traffic::blocked();
    traffic.attempt(SUCCESS);
    traffic.until(State::Ok);
    let again = traffic.now;
    assert_eq!(traffic.attempts(FIREWALL, 2), State::Ok);
    assert_eq!(traffic.attempts(FIREWALL, 1), State::Blocked);
    assert_eq!(traffic.last.memory.blocked_since(), Some(again));
}

#[test]
fn a_late_success_ends_a_block_and_adds_no_attempt() {
    let mut traffic = Traffic::blocked();
    traffic.wait(60);
    let now = traffic.now;
    traffic.tracker.late_success(now);
    assert!(traffic.until(State::Ok) <= 20);
    assert_eq!(traffic.last.memory.last_success, Some(now));
    assert_eq!(traffic.last.evidence.attempts.total(), 3);
}

#[test]
fn a_block_outlasts_silence_until_hold() {
    let mut traffic = Traffic::blocked();
    let since = traffic.last.memory.blocked_since();
    let day = 24 * 3600;
    assert_eq!(traffic.wait(day - 10), State::Blocked);
    let memory = &traffic.last.memory;
    assert_eq!(memory.blocked_since(), since);
    assert_eq!(memory.blocked_by, BlockedBy::LocalFirewall, "by whom stays");
    assert_eq!(traffic.last.evidence.attempts.total(), 0);
    assert_eq!(traffic.wait(10), State::NoDemand);
    assert_eq!(traffic.last.memory.blocked_since(), None);
    let again = traffic.now;
    traffic.attempts(FIREWALL, 3);
    assert_eq!(
        traffic.last.memory.blocked_since(),
        Some(again),
        "a new block"
    );
}

#[test]
fn any_attempt_keeps_a_silent_block_for_another_hold() {
    let mut traffic = Traffic::blocked();
    traffic.thresholds.hold = s(1000);
    for _ in 0..5 {
        assert_eq!(traffic.wait(900), State::Blocked);
        traffic.attempt(OFFLINE);
    }
    assert_eq!(traffic.wait(999), State::Blocked);
    assert_eq!(traffic.wait(1), State::NoDemand);
}

#[test]
fn failing_when_none_succeeds_and_no_policy_explains_it() {
    let mut traffic = Traffic::new();
    assert_eq!(traffic.attempts(REFUSED, 2), State::NoDemand);
    assert_eq!(traffic.attempts(OFFLINE, 1), State::Failing);
    assert_eq!(traffic.last.memory.blocked_by, BlockedBy::RemoteHost);
    assert_eq!(traffic.last.evidence.attempts.other, 3);
    assert_eq!(traffic.attempts(FIREWALL, 2), State::Failing, "2 of 5");
    assert_eq!(traffic.attempts(FIREWALL, 1), State::Blocked, "3 of 6");
    assert_eq!(
        traffic.last.memory.blocked_by,
        BlockedBy::LocalFirewall,
        "a block's is a policy"
    );
}

#[test]
fn degraded_from_20_attempts_and_5_percent_on() {
    let mut traffic = Traffic::new();
    traffic.attempts(SUCCESS, 18);
    assert_eq!(traffic.attempts(REFUSED, 1), State::Ok, "19 are too few");
    assert_eq!(traffic.attempts(SUCCESS, 1), State::Degraded, "1 of 20");
    assert_eq!(traffic.attempts(SUCCESS, 1), State::Ok, "1 of 21");
    assert_eq!(traffic.attempts(REFUSED, 1), State::Degraded, "2 of 22");
}

#[test]
fn too_few_attempts_to_judge_leave_the_state_as_it_was() {
    for how in [FIREWALL, REFUSED, OFFLINE, UPSTREAM] {
        let mut traffic = Traffic::new();
        assert_eq!(traffic.attempts(how, 2), State::NoDemand);
    }
    let mut traffic = Traffic::new();
    traffic.attempt(SUCCESS);
    traffic.wait(880);
    traffic.attempts(OFFLINE, 2);
    assert_eq!(
        traffic.wait(100),
        State::Ok,
        "the success is out of the window"
    );
    assert_eq!(traffic.last.evidence.attempts.total(), 2);
    assert_eq!(traffic.wait(900), State::NoDemand);
}

#[test]
fn unknown_while_a_hook_is_missing_and_a_block_is_there_again_after_it() {
    let mut traffic = Traffic::blocked();
    let since = traffic.last.memory.blocked_since();
    traffic.coverage.hook_missing = true;
    assert_eq!(traffic.wait(1), State::Unknown);
    assert_eq!(
        traffic.last.memory.blocked_since(),
        None,
        "it can't be seen"
    );
    // Longer than `hold`: nobody knows whether there were attempts.
    traffic.thresholds.hold = s(1800);
    assert_eq!(traffic.wait(3600), State::Unknown);
    traffic.coverage.hook_missing = false;
    assert_eq!(traffic.wait(1), State::Blocked);
    assert_eq!(traffic.last.memory.blocked_since(), since);
}

#[test]
fn a_missing_hook_begins_no_block() {
    let mut traffic = Traffic::new();
    traffic.coverage.hook_missing = true;
    assert_eq!(traffic.attempts(FIREWALL, 10), State::Unknown);
}

#[test]
fn lost_attempts_hide_every_state_but_a_proven_block() {
    let mut traffic = Traffic::new();
    traffic.attempts(SUCCESS, 95);
    traffic.coverage.lost = 5;
    assert_eq!(traffic.wait(1), State::Ok, "5 of 100");
    traffic.coverage.lost = 6;
    assert_eq!(traffic.wait(1), State::Unknown, "6 of 101");

    let mut traffic = Traffic::new();
    traffic.coverage.lost = 5;
    assert_eq!(
        traffic.attempts(FIREWALL, 4),
        State::Unknown,
        "4 of 9, perhaps"
    );
    assert_eq!(
        traffic.attempts(FIREWALL, 1),
        State::Blocked,
        "5 of 10 at least"
    );
    traffic.coverage.lost = 1000;
    assert_eq!(traffic.wait(1), State::Blocked, "no loss ends it");
}

#[test]
fn blocked_since_is_not_a_refusal_before_the_block() {
    let mut traffic = Traffic::new();
    traffic.attempts(REFUSED, 1);
    let unanswered = traffic.now;
    traffic.attempts((Outcome::Unanswered, BlockedBy::Unknown), 1);
    traffic.wait(1000);
    traffic.attempts(FIREWALL, 3);
    assert_eq!(traffic.last.memory.blocked_since(), Some(unanswered));
}

#[test]
fn a_block_that_began_before_the_last_success_has_its_first_policy_failure() {
    let mut traffic = Traffic::new();
    let first = traffic.now;
    traffic.attempts(FIREWALL, 2);
    traffic.attempts(SUCCESS, 1);
    // Begun before the success, known after it: no failure begun since.
    traffic.tracker.add(Sample {
        first: first + s(10),
        ..sample(traffic.now, FIREWALL)
    });
    assert_eq!(traffic.wait(1), State::Blocked);
    assert_eq!(traffic.last.memory.blocked_since(), Some(first));
}
