//! What holds for every input.

use proptest::prelude::*;

use super::*;

/// One step of a traffic's life.
#[derive(Clone, Copy, Debug)]
enum Step {
    Attempt(Sample),
    LateSuccess(Duration),
    Tick(Duration, Coverage),
}

fn how() -> impl Strategy<Value = (Outcome, BlockedBy)> {
    prop_oneof![
        3 => Just(SUCCESS),
        3 => Just(FIREWALL),
        4 => (
            prop::sample::select(Outcome::ALL),
            prop::sample::select(BlockedBy::ALL)
        ),
    ]
}

/// Any attempt, also one whose times make no sense.
fn attempts(until: u64) -> impl Strategy<Value = Sample> {
    (0..until, 0..until, 0..until, how(), 0..4_u8, 0..4_u8).prop_map(
        |(first, at, ended, (outcome, blocked_by), client, target)| Sample {
            first: s(first),
            at: s(at),
            ended: s(ended),
            outcome,
            blocked_by,
            client: address(client),
            target: address(target),
        },
    )
}

fn coverage() -> impl Strategy<Value = Coverage> {
    prop_oneof![
        3 => Just(Coverage::default()),
        1 => (any::<bool>(), prop_oneof![0..30_u64, any::<u64>()])
            .prop_map(|(hook_missing, lost)| Coverage { hook_missing, lost }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => attempts(2000).prop_map(Step::Attempt),
        1 => (0..2000_u64).prop_map(|at| Step::LateSuccess(s(at))),
        3 => (0..2000_u64, coverage()).prop_map(|(now, coverage)| Step::Tick(s(now), coverage)),
    ];
    prop::collection::vec(step, 0..60)
}

fn thresholds() -> impl Strategy<Value = Thresholds> {
    let number = || 0..40_u32;
    let time = || (0..2000_u64).prop_map(s);
    let any = (
        (time(), time(), time(), time()),
        (number(), 1..40_u32, 1..40_u32),
        (1..=101_u32, 1..=101_u32, 0..=101_u32),
    )
        .prop_map(|(times, numbers, percents)| Thresholds {
            window: times.0,
            hold: times.1,
            recovery: times.2,
            blocked_spread: times.3,
            blocked_failures: numbers.0,
            failing_attempts: numbers.1,
            degraded_attempts: numbers.2,
            blocked_percent: percents.0,
            degraded_percent: percents.1,
            lost_percent: percents.2,
        });
    prop_oneof![Just(Thresholds::default()), any]
}

/// What a window with these attempts says, after such a past.
fn judged(
    previous: &Memory,
    samples: &[Sample],
    coverage: Coverage,
    thresholds: &Thresholds,
    now: Duration,
) -> Evaluation {
    let mut window = Window::default();
    for sample in samples {
        window.add(*sample);
    }
    evaluate(previous, &window, coverage, thresholds, now)
}

/// A traffic's life up to its end: everything that was said.
fn life(steps: &[Step], thresholds: &Thresholds, limit: usize) -> (Window, Vec<Evaluation>) {
    let mut window = Window::with_limit(limit);
    let mut memory = Memory::new(Duration::ZERO);
    let mut said = Vec::new();
    for step in steps {
        match *step {
            Step::Attempt(sample) => window.add(sample),
            Step::LateSuccess(at) => memory.late_success(at),
            Step::Tick(now, coverage) => {
                window.slide(now, thresholds.window);
                let evaluation = evaluate(&memory, &window, coverage, thresholds, now);
                memory = evaluation.memory.clone();
                said.push(evaluation);
            }
        }
    }
    (window, said)
}

/// A memory that a life left behind, its block seen or not.
fn past() -> impl Strategy<Value = Memory> {
    steps().prop_map(|steps| {
        life(&steps, &Thresholds::default(), MAX_SAMPLES)
            .1
            .pop()
            .map_or(Memory::new(Duration::ZERO), |last| last.memory)
    })
}

/// Attempts as the window of the second 900 has them.
fn present(most: usize) -> impl Strategy<Value = Vec<Sample>> {
    let attempt = (0..900_u64, how(), 0..3_u8).prop_map(|(at, how, client)| Sample {
        client: address(client),
        ..sample(s(at), how)
    });
    prop::collection::vec(attempt, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_input_panics_and_each_answer_is_whole(
        steps in steps(), thresholds in thresholds(), limit in 0..20_usize,
    ) {
        for Evaluation { memory, evidence } in life(&steps, &thresholds, limit).1 {
            prop_assert_eq!(memory.blocked_since().is_some(), memory.state == State::Blocked);
            prop_assert_eq!(evidence.outcomes.iter().sum::<u64>(), evidence.attempts.total());
            prop_assert!(evidence.failing_pairs.len() <= 3);
        }
    }

    #[test]
    fn equal_input_gives_equal_output(
        steps in steps(), thresholds in thresholds(), limit in 1..20_usize,
    ) {
        prop_assert_eq!(life(&steps, &thresholds, limit).1, life(&steps, &thresholds, limit).1);
    }

    #[test]
    fn no_demand_never_becomes_blocked(
        ticks in prop::collection::vec((0..200_000_u64, coverage()), 0..30),
        thresholds in thresholds(),
    ) {
        let steps: Vec<_> = ticks.into_iter().map(|(now, c)| Step::Tick(s(now), c)).collect();
        for evaluation in life(&steps, &thresholds, 10).1 {
            let state = evaluation.memory.state;
            prop_assert!(matches!(state, State::NoDemand | State::Unknown), "{:?}", state);
        }
    }

    #[test]
    fn a_single_failure_never_blocks(
        failure in attempts(2000), successes in present(5), thresholds in thresholds(),
        ticks in prop::collection::vec((0..5000_u64, coverage()), 1..30),
    ) {
        let mut steps = vec![Step::Attempt(failure)];
        let works = successes.into_iter().filter(|s| s.result() == AttemptResult::Success);
        steps.extend(works.map(Step::Attempt));
        steps.extend(ticks.into_iter().map(|(now, c)| Step::Tick(s(now), c)));
        for evaluation in life(&steps, &thresholds, 10).1 {
            prop_assert_ne!(evaluation.memory.state, State::Blocked);
        }
    }

    /// The same attempts, one of them better: here every pair of states can be compared.
    #[test]
    fn a_success_in_place_of_a_failure_never_makes_a_state_worse(
        samples in present(40), which in any::<prop::sample::Index>(), past in past(),
        coverage in coverage(), thresholds in thresholds(),
    ) {
        prop_assume!(!samples.is_empty());
        let mut better = samples.clone();
        let one = which.index(samples.len());
        better[one].outcome = Outcome::Established;
        better[one].blocked_by = BlockedBy::None;
        let [before, after] = [samples, better].map(|samples| {
            judged(&past, &samples, coverage, &thresholds, s(900)).memory.state
        });
        prop_assert!(after.severity() <= before.severity(), "{before:?} to {after:?}");
    }

    /// One attempt more can be the one that makes enough of them to judge: the twentieth shows that one
    /// of twenty failed, and it can make the share of lost ones small enough for an answer. So to
    /// `degraded` it may come, from a state that said less, not from one that said better; to no worse
    /// one.
    #[test]
    fn a_success_more_never_makes_a_state_worse(
        samples in present(40), at in 0..900_u64, past in past(),
        coverage in coverage(), thresholds in thresholds(),
    ) {
        let before = judged(&past, &samples, coverage, &thresholds, s(900)).memory;
        let counted = samples.iter().filter(|s| s.at >= before.counts_from).count() as u64;
        let mut more = samples;
        more.push(sample(s(at), SUCCESS));
        let after = judged(&past, &more, coverage, &thresholds, s(900)).memory.state;
        let judged_now = before.state == State::Unknown
            || counted < u64::from(thresholds.degraded_attempts);
        prop_assert!(
            after.severity() <= before.state.severity()
                || (after == State::Degraded && judged_now),
            "{:?} to {after:?} with {counted} attempts", before.state
        );
    }

    #[test]
    fn silence_never_ends_a_block_before_hold(
        more in prop::collection::vec(how(), 0..5),
        hold in 900..200_000_u64,
        mut waits in prop::collection::vec(0..200_000_u64, 1..20),
    ) {
        let thresholds = Thresholds { hold: s(hold), ..Thresholds::default() };
        let mut samples: Vec<_> = more.into_iter().zip(0..).map(|(how, n)| sample(s(n), how)).collect();
        let failures = [100, 102, 104, 106, 110].map(|at| sample(s(at), FIREWALL));
        samples.extend(failures);
        let mut window = Window::default();
        for sample in samples {
            window.add(sample);
        }
        let mut said = evaluate(
            &Memory::new(s(0)), &window, Coverage::default(), &thresholds, s(110),
        );
        prop_assert_eq!(said.memory.state, State::Blocked);
        let since = said.memory.blocked_since();
        waits.sort_unstable();
        for wait in waits {
            let now = s(110 + wait);
            window.slide(now, thresholds.window);
            said = evaluate(&said.memory, &window, Coverage::default(), &thresholds, now);
            if wait < hold {
                prop_assert_eq!(said.memory.blocked_since(), since);
            } else {
                prop_assert_eq!(said.memory.state, State::NoDemand);
            }
        }
    }
}
