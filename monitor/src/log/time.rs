//! From the kernel's clock to the wall clock, and to text.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time now, since the beginning of 1970 (UTC).
pub(crate) fn now() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

/// The wall clock's time of a time on the monotonic clock, the one of `bpf_ktime_get_ns`.
///
/// Both clocks are read each time: the wall clock is set now and then, and reading costs no system call.
pub(crate) fn wall(monotonic: Duration) -> Duration {
    at(monotonic, read(ClockId::CLOCK_MONOTONIC), now())
}

/// As [`wall`], with what the two clocks show at one moment.
fn at(monotonic: Duration, monotonic_now: Duration, wall_now: Duration) -> Duration {
    // Another CPU may have stamped it a little ahead of us.
    match monotonic_now.checked_sub(monotonic) {
        Some(ago) => wall_now.saturating_sub(ago),
        None => wall_now.saturating_add(monotonic.saturating_sub(monotonic_now)),
    }
}

/// Zero for a clock that cannot be read; every Linux kernel has these two.
fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// A time since the beginning of 1970 as RFC 3339 has it, in UTC, with milliseconds (rounded down).
pub(crate) fn rfc3339(time: Duration) -> String {
    let seconds = time.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = time.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day since the beginning of 1970, in the Gregorian calendar.
///
/// Years begin in March here, so that the leap day is the last one; 400 years, an era, have always 146,097
/// days. (Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.)
fn date(day: u64) -> (u64, u64, u64) {
    /// From 1 March of the year 0 to 1 January 1970.
    const EPOCH: u64 = 719_468;
    let day = day + EPOCH;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // 153 days in each five months from March on: 31, 30, 31, 30, 31.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        // Checked with `date --utc --date=@N`.
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_798_761_599_000, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ];
        for (millis, wanted) in cases {
            assert_eq!(rfc3339(Duration::from_millis(millis)), wanted);
        }
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut expected = (1970, 1, 1);
        for day in 0..200_000 {
            assert_eq!(date(day), expected, "day {day}");
            let (year, month, date) = expected;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, date == last) {
                (_, false) => (year, month, date + 1),
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
            };
        }
    }

    #[test]
    fn the_monotonic_clock_is_taken_to_the_wall_clock() {
        let s = Duration::from_secs;
        assert_eq!(at(s(90), s(100), s(5000)), s(4990));
        assert_eq!(at(s(101), s(100), s(5000)), s(5001));
        assert_eq!(
            at(s(0), s(100), s(50)),
            s(0),
            "a wall clock that was never set"
        );
        let error = wall(read(ClockId::CLOCK_MONOTONIC)).abs_diff(now());
        assert!(error < s(1), "{error:?}");
    }
}
