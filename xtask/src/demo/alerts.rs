//! From the list of alerts that Prometheus has to what the demo says of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The alert that the demo waits for.
pub(super) const BLOCKED: &str = "PeerwatchTrafficBlocked";
/// How urgent it is, where enough peers are concerned.
const URGENT: &str = "critical";

/// Labels that are not said: they are the same for all here.
const NOT_SAID: [&str; 4] = ["alertname", "severity", "instance", "job"];

/// How many lines of alerts fit on a small screen.
const SHOWN: usize = 8;

/// What an alert is about.
type Labels = BTreeMap<String, String>;

/// How far an alert has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Its condition holds, not long enough yet.
    Pending,
    /// Somebody would be told.
    Firing,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
        }
    }
}

/// The alerts that there are now.
#[derive(Debug, Default)]
pub(super) struct Alerts(BTreeMap<Labels, Stage>);

impl Alerts {
    /// Takes in what Prometheus lists, and says what has changed.
    ///
    /// # Errors
    ///
    /// When it is not what Prometheus lists.
    pub(super) fn update(&mut self, listed: &[Value]) -> Result<Vec<String>> {
        let mut now = BTreeMap::new();
        for alert in listed {
            let (labels, stage) = read(alert).with_context(|| alert.to_string())?;
            now.insert(labels, stage);
        }
        let mut news = Vec::new();
        for (labels, stage) in &now {
            if self.0.get(labels) != Some(stage) {
                news.push(format!("{} is {}", name(labels), stage.as_str()));
            }
        }
        for (labels, stage) in &self.0 {
            if !now.contains_key(labels) {
                let end = match stage {
                    Stage::Pending => "is pending no more",
                    Stage::Firing => "is resolved",
                };
                news.push(format!("{} {end}", name(labels)));
            }
        }
        self.0 = now;
        Ok(news)
    }

    /// How far the alert has come that wakes somebody because this traffic is blocked.
    pub(super) fn blocked(&self, traffic: &str) -> Option<Stage> {
        let is = |labels: &Labels, name: &str, value: &str| {
            labels.get(name).is_some_and(|label| label == value)
        };
        let found = self.0.iter().find(|(labels, _)| {
            is(labels, "alertname", BLOCKED)
                && is(labels, "severity", URGENT)
                && is(labels, "traffic", traffic)
        });
        found.map(|(_, stage)| *stage)
    }

    /// A line for each; `colour`: those that fire in red.
    pub(super) fn lines(&self, colour: bool) -> Vec<String> {
        let line = |(labels, stage): (&Labels, &Stage)| {
            let line = format!("{:<9} {}", stage.as_str(), name(labels));
            if colour && *stage == Stage::Firing {
                format!("\x1b[31m{line}\x1b[0m")
            } else {
                line
            }
        };
        let mut lines: Vec<_> = self.0.iter().take(SHOWN).map(line).collect();
        match self.0.len() {
            0 => lines.push("no alerts".to_owned()),
            all if all > SHOWN => lines.push(format!("and {} more alerts", all - SHOWN)),
            _ => {}
        }
        lines
    }
}

fn read(alert: &Value) -> Option<(Labels, Stage)> {
    let labels = alert["labels"].as_object()?.iter();
    let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let stage = match alert["state"].as_str()? {
        "pending" => Stage::Pending,
        "firing" => Stage::Firing,
        _ => return None,
    };
    Some((labels.collect::<Option<_>>()?, stage))
}

/// `PeerwatchTrafficBlocked (critical, blocked_by=local_firewall direction=forwarded traffic=do_peer)`
fn name(labels: &Labels) -> String {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    let said: Vec<_> = labels
        .iter()
        .filter(|(name, _)| !NOT_SAID.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let (alert, severity) = (label("alertname"), label("severity"));
    if said.is_empty() {
        format!("{alert} ({severity})")
    } else {
        format!("{alert} ({severity}, {})", said.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn alert(severity: &str, state: &str) -> Value {
        json!({"labels": {"alertname": BLOCKED, "severity": severity, "traffic": "do_peer",
            "instance": "127.0.0.1:9680", "job": "peerwatch"}, "state": state, "annotations": {}})
    }

    #[test]
    fn each_change_is_news_once() {
        let mut alerts = Alerts::default();
        let mut news = |listed: &[Value]| alerts.update(listed).unwrap();
        let name = "PeerwatchTrafficBlocked (critical, traffic=do_peer)";
        assert_eq!(news(&[]), [""; 0]);
        let pending = [alert("critical", "pending")];
        assert_eq!(news(&pending), [format!("{name} is pending")]);
        assert_eq!(news(&pending), [""; 0]);
        let firing = [alert("critical", "firing")];
        assert_eq!(news(&firing), [format!("{name} is firing")]);
        assert_eq!(news(&[]), [format!("{name} is resolved")]);
        news(&pending);
        assert_eq!(news(&[]), [format!("{name} is pending no more")]);
    }

    #[test]
    fn the_urgent_one_of_the_traffic_counts() {
        let mut alerts = Alerts::default();
        alerts.update(&[alert("warning", "firing")]).unwrap();
        assert_eq!(alerts.blocked("do_peer"), None);
        alerts.update(&[alert("critical", "pending")]).unwrap();
        assert_eq!(alerts.blocked("do_peer"), Some(Stage::Pending));
        assert_eq!(alerts.blocked("teredo"), None);
    }

    #[test]
    fn what_fires_is_red() {
        let mut alerts = Alerts::default();
        assert_eq!(alerts.lines(true), ["no alerts"]);
        alerts.update(&[alert("critical", "firing")]).unwrap();
        assert!(alerts.lines(true)[0].starts_with("\x1b[31mfiring    Peerwatch"));
        assert!(alerts.lines(false)[0].starts_with("firing    Peerwatch"));
        let many: Vec<_> = (0..10).map(|at| alert(&at.to_string(), "firing")).collect();
        alerts.update(&many).unwrap();
        assert_eq!(alerts.lines(false).len(), SHOWN + 1);
        assert_eq!(alerts.lines(false)[SHOWN], "and 2 more alerts");
    }

    #[test]
    fn another_answer_is_an_error() {
        let unknown = alert("critical", "asleep");
        assert!(Alerts::default().update(&[unknown]).is_err());
        assert!(
            Alerts::default()
                .update(&[json!({"state": "firing"})])
                .is_err()
        );
    }
}
