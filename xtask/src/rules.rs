//! The rules for Prometheus, out of one source with a time scale.
//!
//! In `deploy/prometheus/source/*.yml` each time is marked: `${10m}` is a duration of Prometheus, `${10m:s}` the
//! same as a number of seconds, and `${runbooks}` where the runbooks are. Scaled down, rules that take a quarter
//! of an hour to fire do so within seconds, and a test can wait for them. A time that is not marked is an
//! error: it would stay as it is, and the scaled rules would be others.
//!
//! The tests include this module by path.

use std::{fs, path::Path, str::FromStr};

use anyhow::{Context as _, Result, bail, ensure};

/// Where the runbooks of the shipped rules are.
pub(crate) const RUNBOOKS: &str = "https://github.com/peerwatch/peerwatch/blob/main/docs/runbooks";

/// Keys that take a duration and nothing else.
const KEYS: [&str; 3] = ["for", "keep_firing_for", "interval"];

/// Seconds of each unit, the longest first.
const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];

/// By how much every time is multiplied: a fraction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Scale {
    numerator: u64,
    denominator: u64,
}

impl Scale {
    /// That of the shipped rules.
    pub(crate) const ONE: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// Seconds, scaled: rounded up, so at least one.
    fn apply(self, seconds: u64) -> Option<u64> {
        let scaled = seconds.checked_mul(self.numerator)?;
        Some(scaled.div_ceil(self.denominator).max(1))
    }
}

impl FromStr for Scale {
    type Err = anyhow::Error;

    /// Reads `1/15`, `2` or `0.1`.
    fn from_str(text: &str) -> Result<Self> {
        let expected = || format!("{text:?} is no scale: 1/15, 2 or 0.1 are");
        let number = |digits: &str| {
            let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            all_digits.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let (numerator, denominator) = if let Some((above, below)) = text.split_once('/') {
            (number(above), number(below))
        } else if let Some((whole, digits)) = text.split_once('.') {
            let places = u32::try_from(digits.len()).ok();
            let parts = number(whole).zip(number(digits));
            let all = parts.and_then(|_| number(&format!("{whole}{digits}")));
            (all, places.and_then(|places| 10_u64.checked_pow(places)))
        } else {
            (number(text), Some(1))
        };
        let scale = Self {
            numerator: numerator.with_context(expected)?,
            denominator: denominator.with_context(expected)?,
        };
        ensure!(scale.numerator > 0 && scale.denominator > 0, expected());
        Ok(scale)
    }
}

/// A file of rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rules {
    /// Its name, without the folder.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) text: String,
}

/// Renders every `.yml` of a folder, in the order of their names.
///
/// # Errors
///
/// When the folder or a file cannot be read, when there is none, or as [`render`].
pub(crate) fn render_all(folder: &Path, scale: Scale, runbooks: &str) -> Result<Vec<Rules>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        let source =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let head = format!("# Made of source/{name} by `cargo xtask rules`: change it there.\n#\n");
        let text = render(&path.display().to_string(), &source, scale, runbooks)?;
        all.push(Rules {
            name: name.into_owned(),
            text: head + &text,
        });
    }
    ensure!(!all.is_empty(), "no rules in {}", folder.display());
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Renders one file; `file` is its name for errors.
///
/// # Errors
///
/// With file and line: a mark that is not understood, or a time that is not marked.
pub(crate) fn render(file: &str, source: &str, scale: Scale, runbooks: &str) -> Result<String> {
    let mut text = String::with_capacity(source.len());
    for (number, line) in source.lines().enumerate() {
        let place = || format!("{file}:{}", number + 1);
        if let Some(time) = unmarked(line) {
            bail!("{}: the time {time:?} is not marked as ${{…}}", place());
        }
        render_line(line, scale, runbooks, &mut text).with_context(place)?;
        text.push('\n');
    }
    Ok(text)
}

/// Replaces the marks of one line.
fn render_line(line: &str, scale: Scale, runbooks: &str, text: &mut String) -> Result<()> {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((mark, behind)) = after.split_once('}') else {
            bail!("a mark is not closed: ${{{after}");
        };
        text.push_str(before);
        if mark == "runbooks" {
            text.push_str(runbooks);
        } else {
            let (time, in_seconds) = match mark.strip_suffix(":s") {
                Some(time) => (time, true),
                None => (mark, false),
            };
            let seconds = seconds(time)
                .with_context(|| format!("${{{mark}}} is no time: ${{10m}} or ${{10m:s}} are"))?;
            let scaled = scale
                .apply(seconds)
                .with_context(|| format!("${{{mark}}} becomes too long"))?;
            if in_seconds {
                text.push_str(&scaled.to_string());
            } else {
                text.push_str(&duration(scaled));
            }
        }
        rest = behind;
    }
    text.push_str(rest);
    Ok(())
}

/// Reads a duration of one or more units, the longest first: `90s`, `1h30m`.
fn seconds(time: &str) -> Option<u64> {
    let mut sum: u64 = 0;
    let mut rest = time;
    for (seconds, unit) in UNITS {
        let Some((number, behind)) = rest.split_once(unit) else {
            continue;
        };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| is_number)?;
        sum = sum.checked_add(number.checked_mul(seconds)?)?;
        rest = behind;
    }
    (rest.is_empty() && sum > 0).then_some(sum)
}

/// Writes a duration as Prometheus reads it.
fn duration(mut seconds: u64) -> String {
    let mut parts = Vec::new();
    for (length, unit) in UNITS {
        if seconds >= length {
            parts.push(format!("{}{unit}", seconds / length));
            seconds %= length;
        }
    }
    parts.concat()
}

/// A time in a line that is not marked: the value of a key, a range selector, or an offset.
fn unmarked(line: &str) -> Option<&str> {
    let code = line.trim_start();
    if code.starts_with('#') {
        return None;
    }
    let code = code.strip_prefix("- ").unwrap_or(code);
    for key in KEYS {
        if let Some(value) = code.strip_prefix(key).and_then(|c| c.strip_prefix(':')) {
            return Some(value.trim()).filter(|value| !value.starts_with("${"));
        }
    }
    let ranges = code.split('[').skip(1);
    let offsets = code.split("offset ").skip(1);
    ranges.chain(offsets).find_map(|behind| {
        let end = behind.find(|c: char| !c.is_ascii_alphanumeric());
        let word = &behind[..end.unwrap_or(behind.len())];
        let is_time = word.starts_with(|c: char| c.is_ascii_digit())
            && word.ends_with(|c: char| c.is_ascii_alphabetic());
        is_time.then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, scale: &str) -> Result<String> {
        render("a.yml", source, scale.parse()?, "https://example.org")
    }

    fn error(source: &str) -> String {
        format!("{:#}", rendered(source, "1").unwrap_err())
    }

    #[test]
    fn marks_become_durations_and_seconds() {
        let source = "for: ${10m}\nx[${90s}] > ${1d:s}\nrunbook_url: ${runbooks}/A.md\n";
        assert_eq!(
            rendered(source, "1").unwrap(),
            "for: 10m\nx[1m30s] > 86400\nrunbook_url: https://example.org/A.md\n"
        );
        assert_eq!(
            rendered(source, "1/15").unwrap(),
            "for: 40s\nx[6s] > 5760\nrunbook_url: https://example.org/A.md\n"
        );
    }

    #[test]
    fn what_is_no_mark_stays_as_it_is() {
        let source = "a: '{{ $labels.x }} {{ $value }} $1 [0-9]+ [^:] {x=~\"[a-z]+\"}'\n";
        assert_eq!(rendered(source, "1/2").unwrap(), source);
    }

    #[test]
    fn scaled_times_are_rounded_up_and_never_0() {
        let times = "${1s} ${15s} ${16s} ${75s:s} ${1h}\n";
        assert_eq!(rendered(times, "1/15").unwrap(), "1s 1s 2s 5 4m\n");
        assert_eq!(rendered(times, "0.001").unwrap(), "1s 1s 1s 1 4s\n");
        assert_eq!(rendered(times, "2").unwrap(), "2s 30s 32s 150 2h\n");
        assert_eq!(rendered(times, "1.5").unwrap(), "2s 23s 24s 113 1h30m\n");
    }

    #[test]
    fn a_scale_is_a_fraction_above_0() {
        for text in ["", "0", "0/1", "1/0", "-1", "1/2/3", "1.", ".5", "a", "1 "] {
            assert!(text.parse::<Scale>().is_err(), "{text:?}");
        }
        assert_eq!("1".parse::<Scale>().unwrap(), Scale::ONE);
    }

    #[test]
    fn an_error_names_file_and_line() {
        assert_eq!(
            error("a: 1\nfor: ${10x}\n"),
            "a.yml:2: ${10x} is no time: ${10m} or ${10m:s} are"
        );
        for mark in [
            "${}", "${0m}", "${1m1h}", "${10}", "${-1m}", "${m}", "${1m:x}",
        ] {
            assert!(
                error(&format!("a: {mark}")).contains("is no time"),
                "{mark}"
            );
        }
        assert!(error("for: ${10m").starts_with("a.yml:1: a mark is not closed"));
        let forever = format!("for: ${{{}d}}", u64::MAX / 86_400);
        assert!(format!("{:#}", rendered(&forever, "2").unwrap_err()).contains("too long"));
    }

    #[test]
    fn a_time_that_is_not_marked_is_an_error() {
        for line in [
            "  for: 5m",
            "- interval: 15s",
            "keep_firing_for: 1m # why",
            "expr: rate(x[5m])",
            "rate(x[1h30m:])",
            "x offset 1d",
            "x[${5m}] offset 5m",
            "x[2w]",
        ] {
            let said = error(&format!("\n{line}\n"));
            assert!(said.starts_with("a.yml:2: the time"), "{line}: {said}");
        }
        assert!(rendered("# for: 5m, as in x[5m]\n", "1").is_ok());
        assert!(rendered("y offset ${5m}\n", "1").is_ok());
    }

    #[test]
    fn a_folder_without_rules_is_an_error() {
        let folder = std::env::temp_dir().join(format!("peerwatch-rules-{}", std::process::id()));
        assert!(render_all(&folder, Scale::ONE, RUNBOOKS).is_err());
        fs::create_dir_all(&folder).unwrap();
        let none = render_all(&folder, Scale::ONE, RUNBOOKS);
        fs::write(folder.join("b.yml"), "for: ${1m}\n").unwrap();
        fs::write(folder.join("a.yml"), "a: 1\n").unwrap();
        fs::write(folder.join("c.txt"), "${}\n").unwrap();
        let two = render_all(&folder, Scale::ONE, RUNBOOKS).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(none.unwrap_err().to_string().starts_with("no rules"));
        let names: Vec<_> = two.iter().map(|rules| rules.name.as_str()).collect();
        assert_eq!(names, ["a.yml", "b.yml"]);
        assert!(two[1].text.starts_with("# Made of source/b.yml"));
        assert!(two[1].text.ends_with("\nfor: 1m\n"));
    }
}
