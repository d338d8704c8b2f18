//! The text format of Prometheus, as far as counters need it, and what changed between two scrapes.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// One series: metric name and labels, written with the labels in alphabetical order.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Series(String);

impl Series {
    /// The series of a metric with these labels, in any order.
    #[must_use]
    pub fn new(metric: &str, labels: &[(&str, &str)]) -> Self {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        Self(format!("{metric}{{{}}}", labels.join(",")))
    }

    /// Its metric's name.
    #[must_use]
    pub fn metric(&self) -> &str {
        self.0.split('{').next().unwrap_or_default()
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Values by series, of counters whose values are whole numbers.
pub type Counts = BTreeMap<Series, u64>;

/// Picks the series of the metrics in `names` (without prefix) out of a scrape.
///
/// # Errors
///
/// When a line is not of the text format, a series comes twice, or a value is no whole number.
pub fn parse(text: &str, names: &[&str]) -> Result<Counts> {
    parse_values(text, names)
}

/// The same for values that need not be whole numbers.
///
/// # Errors
///
/// When a line is not of the text format, a series comes twice, or a value is none of this type.
pub fn parse_values<T>(text: &str, names: &[&str]) -> Result<BTreeMap<Series, T>>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let mut counts = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, labels, value) = parse_line(line).with_context(|| format!("line {line:?}"))?;
        let wanted = name
            .strip_prefix("peerwatch_")
            .is_some_and(|name| names.contains(&name));
        if !wanted {
            continue;
        }
        let labels: Vec<(&str, &str)> = labels
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let series = Series::new(name, &labels);
        let value = value
            .parse()
            .with_context(|| format!("{series} is {value}"))?;
        if counts.insert(series, value).is_some() {
            bail!("series twice: {line}");
        }
    }
    Ok(counts)
}

type Line<'a> = (&'a str, Vec<(&'a str, String)>, &'a str);

fn parse_line(line: &str) -> Result<Line<'_>> {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').context("no value")?;
        return Ok((name, Vec::new(), value.trim()));
    };
    let mut labels = Vec::new();
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(value) = rest.strip_prefix('}') {
            return Ok((name, labels, value.trim()));
        }
        let (label, quoted) = rest.split_once("=\"").context("no label value")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        loop {
            match chars.next().context("label value does not end")? {
                (at, '"') => {
                    rest = &quoted[at + 1..];
                    break;
                }
                (_, '\\') => match chars.next().context("escape at the end")?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        }
        labels.push((label, value));
    }
}

/// How much each series rose; those that did not are left out.
///
/// # Errors
///
/// When a series fell or vanished: a counter must not.
pub fn rise(before: &Counts, after: &Counts) -> Result<Counts> {
    if let Some(gone) = before.keys().find(|series| !after.contains_key(*series)) {
        bail!("{gone} is gone");
    }
    let mut rises = Counts::new();
    for (series, now) in after {
        let was = before.get(series).copied().unwrap_or(0);
        match now.checked_sub(was) {
            Some(0) => {}
            Some(rise) => {
                rises.insert(series.clone(), rise);
            }
            None => bail!("{series} fell from {was} to {now}"),
        }
    }
    Ok(rises)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_in_one_order_and_unescaped() {
        let text = "# HELP x y\npeerwatch_a_total{z=\"1\",b=\"q\\\"r\"} 7\npeerwatch_b 1.5\n";
        let counts = parse(text, &["a_total"]).unwrap();
        let series = Series::new("peerwatch_a_total", &[("b", "q\"r"), ("z", "1")]);
        assert_eq!(counts, Counts::from([(series, 7)]));
    }

    #[test]
    fn a_series_that_falls_or_goes_is_an_error() {
        let series = |name: &str| Series::new(name, &[]);
        let before = Counts::from([(series("a"), 2)]);
        assert!(rise(&before, &Counts::from([(series("a"), 1)])).is_err());
        assert!(rise(&before, &Counts::new()).is_err());
        let after = Counts::from([(series("a"), 2), (series("b"), 3)]);
        assert_eq!(
            rise(&before, &after).unwrap(),
            Counts::from([(series("b"), 3)])
        );
    }
}
