use super::*;

const fn at(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_moment_that_was_shown_stays_whatever_the_clock_says() {
    // As if the wall clock had been set, by hours, since it was shown.
    for wall in [at(0), at(1), at(4_000_000_000)] {
        let shown = Moment {
            monotonic: at(5),
            wall,
        };
        assert_eq!(Moment::of(Some(at(5)), Some(shown)), Some(shown));
        // Another one is of the clock as it is now.
        let next = Moment::of(Some(at(6)), Some(shown)).unwrap();
        assert!(next.wall.abs_diff(time::wall(at(6))) < at(1), "{next:?}");
        assert_eq!(Moment::of(None, Some(shown)), None);
    }
}

#[test]
fn what_is_shown_is_never_below_zero() {
    // A clock that stands before the time of the boot.
    assert!(seconds(None) >= 0.0);
    let first = Moment::of(Some(Duration::ZERO), None).unwrap();
    assert!(seconds(Some(first)) >= 0.0);
}
