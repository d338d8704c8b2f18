//! Text that is safe in a terminal and in the first line of a check, and times for people.

use std::time::Duration;

use crate::status::rfc3339;

/// A text from outside in one line: control characters are escaped, so that no server can steer the
/// terminal, and `|`, behind which monitoring systems expect performance data, becomes `/`.
pub(super) fn clean(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' => safe.push('/'),
            c if is_unsafe(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

/// Whether a terminal may do something else than to show it: control characters, and those that turn
/// the direction of writing.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A time or a span of a document; what makes no sense, like a negative one, is zero.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// A time in UTC, `02:14`; with the date where the day is not that of `now`. Unix seconds.
pub(super) fn minute(time: f64, now: f64) -> String {
    let (time, now) = (rfc3339(duration(time)), rfc3339(duration(now)));
    match (time.split_once('T'), now.split_once('T')) {
        (Some((day, clock)), Some((today, _))) => {
            let minute = clock.get(..5).unwrap_or(clock);
            if day == today {
                minute.to_owned()
            } else {
                format!("{day} {minute}")
            }
        }
        _ => time,
    }
}

/// A span in its largest whole unit: `4 s`, `3 min`, `2 h`, `5 d`.
pub(super) fn span(seconds: f64) -> String {
    let seconds = duration(seconds).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        let text = "a|b\u{1b}[2Jc\nd\u{9b}e\u{202e}f ü";
        assert_eq!(clean(text), "a/b\\u{1b}[2Jc\\nd\\u{9b}e\\u{202e}f ü");
    }

    #[test]
    fn times_have_a_date_when_it_is_another_day() {
        let now = 1_709_251_200.5;
        assert_eq!(minute(now + 8040.0, now), "02:14");
        assert_eq!(minute(now - 1.0, now), "2024-02-29 23:59");
        assert_eq!(minute(-5.0, now), "1970-01-01 00:00");
        assert_eq!(minute(f64::NAN, now), "1970-01-01 00:00");
    }

    #[test]
    fn spans_have_their_largest_unit() {
        for (seconds, wanted) in [
            (-1.0, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (7199.0, "1 h"),
            (86_400.0, "1 d"),
        ] {
            assert_eq!(span(seconds), wanted);
        }
    }
}
