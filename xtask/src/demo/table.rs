//! From scrapes to the table: per traffic and direction what was allowed and dropped, and why.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};

/// The lines of the table and what it needs to know of the scrape before.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<Key, Row>,
    /// The state of each, and who blocks.
    states: BTreeMap<Key, (String, String)>,
    at: Option<Duration>,
}

/// Traffic and direction.
type Key = (String, String);

#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    allowed: u64,
    dropped: u64,
    /// Packets a second since the scrape before.
    allowed_rate: f64,
    dropped_rate: f64,
    /// Dropped so far, by class and reason.
    reasons: BTreeMap<(String, String), u64>,
    /// Class and reason that rose last.
    last: Option<(String, String)>,
}

impl Table {
    /// Takes a scrape in, made at `now` since the beginning.
    ///
    /// # Errors
    ///
    /// When it is not what the daemon exports.
    pub(super) fn update(&mut self, scrape: &str, now: Duration) -> Result<()> {
        let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
        let mut states: BTreeMap<Key, (String, String)> = BTreeMap::new();
        for line in scrape.lines() {
            let Some(series) = Series::parse(line) else {
                continue;
            };
            let value = || -> Result<u64> { series.value.parse().context(line.to_owned()) };
            let label = |name| series.label(name).context(line.to_owned());
            match series.metric {
                "peerwatch_packets_total" => {
                    let row = rows
                        .entry((label("traffic")?, label("direction")?))
                        .or_default();
                    match label("verdict")?.as_str() {
                        "allowed" => row.allowed += value()?,
                        _ => row.dropped += value()?,
                    }
                }
                "peerwatch_drops_total" => {
                    let row = rows
                        .entry((label("traffic")?, label("direction")?))
                        .or_default();
                    *row.reasons
                        .entry((label("class")?, label("reason")?))
                        .or_default() += value()?;
                }
                "peerwatch_state" if series.value == "1" => {
                    let key = (label("traffic")?, label("direction")?);
                    states.entry(key).or_default().0 = label("state")?;
                }
                "peerwatch_blocked_by" if series.value == "1" => {
                    let key = (label("traffic")?, label("direction")?);
                    states.entry(key).or_default().1 = label("blocked_by")?;
                }
                _ => {}
            }
        }
        self.states = states;
        let seconds = self.at.map(|at| now.saturating_sub(at).as_secs_f64());
        for (key, row) in &mut rows {
            let was = self.rows.get(key).cloned().unwrap_or_default();
            if let Some(seconds) = seconds.filter(|seconds| *seconds > 0.0) {
                row.allowed_rate = rate(was.allowed, row.allowed, seconds);
                row.dropped_rate = rate(was.dropped, row.dropped, seconds);
            }
            let rose = row
                .reasons
                .iter()
                .find(|(reason, count)| **count > was.reasons.get(reason).copied().unwrap_or(0));
            row.last = rose.map(|(reason, _)| reason.clone()).or(was.last);
        }
        self.rows = rows;
        self.at = Some(now);
        Ok(())
    }

    /// One line: the states that are trouble.
    pub(super) fn states(&self) -> String {
        let trouble = self.states.iter().filter_map(|(key, (state, by))| {
            let (traffic, direction) = key;
            match state.as_str() {
                "ok" | "no_demand" => None,
                "blocked" => Some(format!("{traffic} {direction} is blocked by {by}")),
                _ => Some(format!("{traffic} {direction} is {state}")),
            }
        });
        let trouble: Vec<_> = trouble.collect();
        if trouble.is_empty() {
            "nothing is blocked".to_owned()
        } else {
            trouble.join(", ")
        }
    }

    /// Its lines; `colour`: what is being dropped in red.
    pub(super) fn lines(&self, now: Duration, colour: bool) -> Vec<String> {
        let title = format!("{} s", now.as_secs());
        let mut lines = vec![format!(
            "{title:<9} {:<9} {:>8} {:>8} {:>9} {:>9}  last drop",
            "direction", "allowed", "dropped", "allowed/s", "dropped/s"
        )];
        for ((traffic, direction), row) in &self.rows {
            let last = row.last.as_ref();
            let last = last.map_or_else(String::new, |(class, reason)| format!("{class} {reason}"));
            let line = format!(
                "{traffic:<9} {direction:<9} {:>8} {:>8} {:>9.1} {:>9.1}  {last}",
                row.allowed, row.dropped, row.allowed_rate, row.dropped_rate
            );
            let line = line.trim_end().to_owned();
            lines.push(if colour && row.dropped_rate > 0.0 {
                format!("\x1b[31m{line}\x1b[0m")
            } else {
                line
            });
        }
        lines
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate that people read; exact up to 2^53 packets"
)]
fn rate(was: u64, now: u64, seconds: f64) -> f64 {
    now.saturating_sub(was) as f64 / seconds
}

/// One line of a scrape that has labels.
#[derive(Debug)]
struct Series<'a> {
    metric: &'a str,
    labels: &'a str,
    value: &'a str,
}

impl<'a> Series<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (metric, rest) = line.split_once('{')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        Some(Self {
            metric,
            labels,
            value,
        })
    }

    /// The value of a label. Those that are asked for here are words without quotes.
    fn label(&self, name: &str) -> Option<String> {
        self.labels.split(',').find_map(|label| {
            let value = label.trim().strip_prefix(name)?.strip_prefix("=\"")?;
            value.strip_suffix('"').map(str::to_owned)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(allowed: u64, dropped: u64, neighbour: u64) -> String {
        format!(
            "# HELP peerwatch_packets_total Packets.\n\
             peerwatch_packets_total{{traffic=\"do_peer\",family=\"ipv4\",direction=\"forwarded\",verdict=\"allowed\"}} {allowed}\n\
             peerwatch_packets_total{{traffic=\"do_peer\",family=\"ipv6\",direction=\"forwarded\",verdict=\"allowed\"}} 1\n\
             peerwatch_packets_total{{traffic=\"do_peer\",family=\"ipv4\",direction=\"forwarded\",verdict=\"dropped\"}} {dropped}\n\
             peerwatch_drops_total{{traffic=\"do_peer\",direction=\"forwarded\",class=\"firewall\",reason=\"NETFILTER_DROP\"}} {dropped}\n\
             peerwatch_drops_total{{traffic=\"do_peer\",direction=\"forwarded\",class=\"neighbour\",reason=\"NEIGH_FAILED\"}} {neighbour}\n\
             peerwatch_map_entries{{map=\"DROPS\"}} 4\nprocess_threads 3\n"
        )
    }

    #[test]
    fn families_add_up_and_rates_are_of_the_last_interval() {
        let mut table = Table::default();
        table
            .update(&scrape(10, 0, 0), Duration::from_secs(1))
            .unwrap();
        table
            .update(&scrape(30, 5, 0), Duration::from_secs(3))
            .unwrap();
        assert_eq!(
            table.lines(Duration::from_secs(3), false)[1],
            "do_peer   forwarded       31        5      10.0       2.5  firewall NETFILTER_DROP"
        );
    }

    #[test]
    fn the_last_drop_is_the_one_that_rose_and_it_stays() {
        let mut table = Table::default();
        for (second, neighbour) in [(1, 0), (2, 1), (3, 1)] {
            let scrape = scrape(0, 7, neighbour);
            table.update(&scrape, Duration::from_secs(second)).unwrap();
        }
        let lines = table.lines(Duration::from_secs(3), true);
        assert!(lines[1].ends_with("  neighbour NEIGH_FAILED"), "{lines:?}");
    }

    #[test]
    fn a_row_that_loses_packets_is_red() {
        let mut table = Table::default();
        table.update(&scrape(0, 0, 0), Duration::ZERO).unwrap();
        table
            .update(&scrape(0, 1, 0), Duration::from_secs(1))
            .unwrap();
        assert!(table.lines(Duration::ZERO, true)[1].starts_with("\x1b[31mdo_peer"));
    }

    #[test]
    fn states_that_are_trouble_are_said() {
        let text = |state: &str, by: &str| {
            let key = "traffic=\"do_peer\",direction=\"forwarded\"";
            format!(
                "peerwatch_state{{{key},state=\"{state}\"}} 1\n\
                 peerwatch_state{{{key},state=\"unknown\"}} 0\n\
                 peerwatch_blocked_by{{{key},blocked_by=\"{by}\"}} 1\n\
                 peerwatch_blocked_by{{{key},blocked_by=\"upstream\"}} 0\n"
            )
        };
        let said = |text: &str| {
            let mut table = Table::default();
            table.update(text, Duration::ZERO).unwrap();
            table.states()
        };
        assert_eq!(said(&text("ok", "none")), "nothing is blocked");
        assert_eq!(
            said(&text("blocked", "local_firewall")),
            "do_peer forwarded is blocked by local_firewall"
        );
        assert_eq!(
            said(&text("failing", "none")),
            "do_peer forwarded is failing"
        );
    }

    #[test]
    fn a_value_that_is_no_count_is_an_error() {
        let text = scrape(1, 1, 1).replace("} 1\n", "} x\n");
        assert!(Table::default().update(&text, Duration::ZERO).is_err());
    }
}
