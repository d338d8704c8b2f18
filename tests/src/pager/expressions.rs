//! Every expression that is shipped: of dashboards, of rules and of the documentation.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::servers::Prometheus;
use crate::dashboards::{Dashboard, root};
use crate::promql;

/// What dashboards leave open, and what a user would have chosen.
const VARIABLES: [(&str, &str); 6] = [
    ("__rate_interval", "15s"),
    ("__interval", "5s"),
    ("__range", "5m"),
    ("job", ".+"),
    ("instance", ".+"),
    ("traffic", ".+"),
];

/// Labels that expressions make for themselves.
const MADE: [&str; 1] = ["host"];

/// An expression, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) place: String,
    pub(super) text: String,
}

/// Those of all dashboards.
pub(super) fn of_dashboards() -> Result<Vec<Asked>> {
    let mut all = Vec::new();
    for dashboard in Dashboard::read_all()? {
        for query in dashboard.queries() {
            // Some marks are Grafana's own.
            if !query.expr.is_empty() {
                all.push(Asked {
                    text: query.with(&VARIABLES),
                    place: query.place,
                });
            }
        }
    }
    ensure!(all.len() > 20, "only {} of dashboards", all.len());
    Ok(all)
}

/// The queries of docs/metrics.md.
pub(super) fn of_documentation() -> Result<Vec<Asked>> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md"))?;
    let mut all = Vec::new();
    for section in page.split("\n### `").skip(1) {
        let (name, rest) = section.split_once('`').context("a name")?;
        let (_, rest) = rest.split_once("```promql\n").context("a query")?;
        let (text, _) = rest.split_once("\n```").context("its end")?;
        all.push(Asked {
            place: format!("docs/metrics.md: {name}"),
            text: text.to_owned(),
        });
    }
    ensure!(all.len() > 20, "only {} of docs/metrics.md", all.len());
    Ok(all)
}

/// Those of the rules that a Prometheus has loaded; each must have been evaluated without an error.
pub(super) fn of_rules(prometheus: &Prometheus<'_>) -> Result<Vec<Asked>> {
    let data = prometheus.get("/api/v1/rules")?;
    let mut all = Vec::new();
    for group in data["groups"].as_array().context("groups of rules")? {
        for rule in group["rules"].as_array().context("rules")? {
            let name = rule["name"].as_str().context("a rule without a name")?;
            let kind = rule["type"].as_str().context("a rule without a type")?;
            ensure!(
                rule["health"] == "ok",
                "{kind} {name}: {}",
                rule["lastError"]
            );
            let text = rule["query"].as_str().context("a rule without a query")?;
            all.push(Asked {
                place: format!("{kind} {name}"),
                text: text.to_owned(),
            });
        }
    }
    ensure!(all.len() > 20, "only {} of rules", all.len());
    Ok(all)
}

/// Fails unless every label that the expressions name is one of a series of this Prometheus.
pub(super) fn labels_exist(prometheus: &Prometheus<'_>, all: &[Asked]) -> Result<()> {
    let known = prometheus.get("/api/v1/labels")?;
    let known: BTreeSet<&str> = known
        .as_array()
        .context("no labels")?
        .iter()
        .filter_map(Value::as_str)
        .chain(MADE)
        .collect();
    for asked in all {
        let expression =
            promql::Expression::parse(&asked.text).with_context(|| asked.place.clone())?;
        let matched = expression
            .selectors
            .iter()
            .flat_map(|selector| selector.matchers.iter().map(|matcher| &matcher.label));
        for label in matched.chain(&expression.grouping) {
            ensure!(
                known.contains(label.as_str()),
                "{}: no series has a label {label}: {}",
                asked.place,
                asked.text
            );
        }
    }
    Ok(())
}
