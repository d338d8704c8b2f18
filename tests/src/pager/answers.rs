//! What a Prometheus answers to every expression that is shipped.

use anyhow::{Context as _, Result, ensure};

use super::expressions::{self, Asked};
use super::servers::Prometheus;

/// Whether each expression ever gave data.
#[derive(Debug, Default)]
pub(super) struct Answers {
    all: Vec<Asked>,
    answered: Vec<bool>,
}

impl Answers {
    /// Asks everything; an error ends it.
    pub(super) fn ask(&mut self, prometheus: &Prometheus<'_>) -> Result<()> {
        if self.all.is_empty() {
            self.all.extend(expressions::of_dashboards()?);
            self.all.extend(expressions::of_rules(prometheus)?);
            self.all.extend(expressions::of_documentation()?);
            self.answered.resize(self.all.len(), false);
        }
        for (expression, answered) in self.all.iter().zip(&mut self.answered) {
            let found = prometheus
                .query(&expression.text)
                .with_context(|| expression.place.clone())?;
            *answered |= !found.is_empty();
        }
        Ok(())
    }

    /// Every expression names labels that there are, and gave data at some time, but those about other
    /// trouble.
    pub(super) fn finish(&self, prometheus: &Prometheus<'_>) -> Result<()> {
        expressions::labels_exist(prometheus, &self.all)?;
        let all = || self.all.iter().zip(&self.answered);
        let empty: Vec<_> = all()
            .filter(|(asked, answered)| !**answered && !may_be_empty(asked))
            .map(|(asked, _)| format!("{}: {}", asked.place, asked.text))
            .collect();
        ensure!(empty.is_empty(), "no data for\n{}", empty.join("\n"));
        for place in ABOUT_OTHER_TROUBLE {
            ensure!(
                all().any(|(asked, answered)| asked.place == place && !answered),
                "{place} is not there, or gives data: it is in the list of those that do not"
            );
        }
        let of = |kind: &str| {
            all()
                .filter(|(asked, _)| asked.place.starts_with(kind))
                .count()
        };
        eprintln!(
            "pager: {} expressions asked three times: {} of dashboards, {} recording rules, {} alerts, {} of \
             docs/metrics.md; no data from {} that ask for other trouble, and 0 others",
            self.all.len(),
            of("host.json") + of("fleet.json"),
            of("recording "),
            of("alerting "),
            of("docs/"),
            all().filter(|(_, answered)| !**answered).count(),
        );
        Ok(())
    }
}

/// Expressions that give nothing where a rule of this host blocks and all else is well: they ask for other
/// trouble.
const ABOUT_OTHER_TROUBLE: [&str; 13] = [
    "fleet.json: Hosts that do not answer A",
    "fleet.json: Hooks that are missing A",
    "host.json: Late drops by class and reason A",
    "host.json: marks Starts of the daemon",
    "docs/metrics.md: peerwatch_late_drops_total",
    "docs/metrics.md: peerwatch_fragments_total",
    "docs/metrics.md: peerwatch_evaluation_timestamp_seconds",
    "docs/metrics.md: peerwatch_hook_attached",
    "docs/metrics.md: peerwatch_events_lost_total",
    "docs/metrics.md: peerwatch_map_full_total",
    "docs/metrics.md: peerwatch_kernel_info",
    "docs/metrics.md: peerwatch_selftest_success",
    "docs/metrics.md: peerwatch_config_last_reload_successful",
];

/// Alerts too: that they are evaluated without an error is asked elsewhere.
fn may_be_empty(asked: &Asked) -> bool {
    asked.place.starts_with("alerting ") || ABOUT_OTHER_TROUBLE.contains(&asked.place.as_str())
}
