//! What is wrong with a dashboard: what Grafana would not load or show, and what people could not read.

use std::collections::BTreeSet;

use serde_json::Value;

use super::known::{GRAFANA, TARGET, labels};
use super::{Dashboard, Query, list, text};
use crate::promql::{Expression, Selector};

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// The schema of Grafana 12 and 13.
const SCHEMA: u64 = 42;

/// A description that says what to do has at least this many characters.
const DESCRIPTION: usize = 80;

/// Labels that choose: each has a variable of its name.
const CHOICES: [&str; 3] = ["instance", "job", "traffic"];

/// Everything that is wrong, one sentence each. `recorded` are the names that recording rules give.
#[must_use]
pub fn problems(dashboard: &Dashboard, recorded: &[String]) -> Vec<String> {
    let mut found = frame(dashboard);
    found.extend(grid(dashboard));
    for panel in dashboard.panels() {
        if panel["type"] != "row" {
            found.extend(words(panel));
        }
    }
    let queries = dashboard.queries();
    for query in &queries {
        let expression = match Expression::parse(&query.expr) {
            Ok(expression) => expression,
            Err(error) => {
                found.push(format!("{}: {error:#}", query.place));
                continue;
            }
        };
        found.extend(names(query, &expression, recorded));
        if !query.legend.is_empty() {
            found.extend(legend(query, &expression, recorded));
        }
        for variable in &expression.variables {
            if !is_declared(dashboard, variable) && !GRAFANA.contains(&variable.as_str()) {
                found.push(format!("{}: no variable ${variable}", query.place));
            }
        }
    }
    found
}

/// Metrics that it asks for and a Prometheus does not have that keeps only these of each host.
#[must_use]
pub fn lacks(dashboard: &Dashboard, kept: &[String]) -> Vec<String> {
    let of_prometheus = |metric: &str| metric == "up" || metric.starts_with("ALERTS");
    let mut found = Vec::new();
    for query in dashboard.queries() {
        // What can't be read was said by the other check.
        let expression = Expression::parse(&query.expr).unwrap_or_default();
        for Selector { metric, .. } in expression.selectors {
            // What is recorded has a colon, and comes from what is kept.
            if !metric.contains(':') && !of_prometheus(&metric) && !kept.contains(&metric) {
                found.push(format!("{}: {metric} is not kept", query.place));
            }
        }
    }
    found
}

fn is_declared(dashboard: &Dashboard, name: &str) -> bool {
    variable(dashboard, name).is_some()
}

fn variable<'a>(dashboard: &'a Dashboard, name: &str) -> Option<&'a Value> {
    list(&dashboard.json["templating"]["list"])
        .iter()
        .find(|variable| variable["name"] == name)
}

/// What holds the panels: name, schema, variables, links.
fn frame(dashboard: &Dashboard) -> Vec<String> {
    let mut found = Vec::new();
    let json = &dashboard.json;
    for field in ["uid", "title", "description", "refresh"] {
        if text(&json[field]).is_empty() {
            found.push(format!("the dashboard has no {field}"));
        }
    }
    if json["schemaVersion"] != SCHEMA {
        found.push(format!("the dashboard's schemaVersion is not {SCHEMA}"));
    }
    // A number is what one server gave it; another has that number already.
    if json.get("id").is_some_and(|id| !id.is_null()) {
        found.push("the dashboard has an id of a server".to_owned());
    }
    let tags = list(&json["tags"]);
    if !tags.iter().any(|tag| tag == "peerwatch") {
        found.push("the dashboard has no tag peerwatch".to_owned());
    }
    if variable(dashboard, "datasource").is_none_or(|it| it["type"] != "datasource") {
        found.push("no variable chooses the data source".to_owned());
    }
    for name in CHOICES {
        let Some(it) = variable(dashboard, name) else {
            found.push(format!("no variable {name}"));
            continue;
        };
        if it["multi"] != true || it["includeAll"] != true {
            found.push(format!("{name} does not choose several, or all"));
        }
        // All jobs are those with our metrics, since `up` is of every job. Of hosts there can be thousands.
        let all = if name == "job" { "" } else { ".+" };
        if text(&it["allValue"]) != all {
            found.push(format!("all of {name} is not {all:?}"));
        }
        if !is_source(&it["datasource"]) || text(&it["description"]).is_empty() {
            found.push(format!("{name} has no data source or description"));
        }
    }
    for marks in list(&json["annotations"]["list"]) {
        if !is_source(&marks["datasource"]) {
            found.push(format!("{} have no data source", marks["name"]));
        }
    }
    found
}

/// The data source that was chosen, and no server's own.
fn is_source(value: &Value) -> bool {
    value["type"] == "prometheus" && value["uid"] == "${datasource}"
}

/// Places of the panels, and their numbers.
fn grid(dashboard: &Dashboard) -> Vec<String> {
    let mut found = Vec::new();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard.panels() {
        let title = text(&panel["title"]);
        if !panel["id"].as_u64().is_some_and(|id| ids.insert(id)) {
            found.push(format!("{title}: no id of its own"));
        }
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64());
        let [Some(left), Some(top), Some(width), Some(height)] = place else {
            found.push(format!("{title}: no place"));
            continue;
        };
        if width == 0 || height == 0 || left + width > COLUMNS {
            found.push(format!("{title}: it is not within the grid"));
        }
        let rows = top..top + height;
        let mut place = (left..left + width).flat_map(|x| rows.clone().map(move |y| (x, y)));
        if !place.all(|cell| cells.insert(cell)) {
            found.push(format!("{title}: it lies over another one"));
        }
    }
    found
}

/// What people read of a panel.
fn words(panel: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let title = text(&panel["title"]);
    let mut say = |what: &str| found.push(format!("{title}: {what}"));
    if title.is_empty() {
        say("a panel without title");
    }
    let description = text(&panel["description"]);
    if description.chars().count() < DESCRIPTION || !description.ends_with('.') {
        say("no description that says what to do with it");
    }
    let defaults = &panel["fieldConfig"]["defaults"];
    if text(&defaults["unit"]).is_empty() {
        say("no unit");
    }
    if text(&defaults["noValue"]).is_empty() {
        say("no words for the case that there is no data");
    }
    if !is_source(&panel["datasource"]) {
        say("its data source is not the chosen one");
    }
    let targets = list(&panel["targets"]);
    if targets.is_empty() {
        say("no query");
    }
    let mut references = BTreeSet::new();
    for target in targets {
        if !references.insert(text(&target["refId"])) || text(&target["refId"]).is_empty() {
            say("two queries of one name, or one without");
        }
        let legend = text(&target["legendFormat"]);
        if legend.is_empty() || legend.contains("__auto") {
            say("a query without legend");
        }
        if !is_source(&target["datasource"]) {
            say("a query's data source is not the chosen one");
        }
    }
    found
}

/// Metrics and labels that there are, and choices that count.
fn names(query: &Query, expression: &Expression, recorded: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |what: String| found.push(format!("{}: {what}", query.place));
    if expression.selectors.is_empty() {
        say("no metric".to_owned());
    }
    for selector in &expression.selectors {
        let metric = &selector.metric;
        let Some(labels) = labels(metric, recorded) else {
            say(format!("no metric {metric}"));
            continue;
        };
        let has = |label: &str| labels.iter().any(|known| known == label);
        for matcher in &selector.matchers {
            if !has(&matcher.label) && !TARGET.contains(&matcher.label.as_str()) {
                say(format!("{metric} has no label {}", matcher.label));
            }
        }
        let is_recorded = metric.contains(':');
        let is_alert = metric.starts_with("ALERTS");
        for choice in CHOICES {
            // What is recorded is of all hosts, and an alert may be about none.
            let wanted = match choice {
                "traffic" => has(choice) && !is_alert,
                _ => !is_recorded && !is_alert,
            };
            if wanted && !selector.has(choice, "=~", &format!("${choice}")) {
                say(format!("{metric} does not heed ${choice}"));
            }
        }
    }
    for label in &expression.grouping {
        if !is_known(label, expression, recorded) {
            say(format!("no metric of it has the label {label}"));
        }
    }
    found
}

/// Whether any metric of the expression has this label.
fn is_known(label: &str, expression: &Expression, recorded: &[String]) -> bool {
    TARGET.contains(&label)
        || expression.selectors.iter().any(|selector| {
            labels(&selector.metric, recorded)
                .is_some_and(|labels| labels.iter().any(|known| known == label))
        })
}

/// Labels in a legend: those that the result has.
fn legend(query: &Query, expression: &Expression, recorded: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    // All series are made one.
    let whole = query.expr.strip_prefix("time() - ").unwrap_or(&query.expr);
    let is_one = ["sum(", "min(", "max("]
        .iter()
        .any(|all| whole.starts_with(all));
    for part in query.legend.split("{{").skip(1) {
        let label = part.split("}}").next().unwrap_or_default();
        // An aggregation leaves only what it groups by.
        let by = &expression.grouping;
        let is_left = !is_one && (by.is_empty() || by.iter().any(|by| by == label));
        if !is_left || !is_known(label, expression, recorded) {
            found.push(format!("{}: no label {label} for the legend", query.place));
        }
    }
    // The columns of a table are the labels themselves.
    if !query.legend.contains("{{") && !is_one && query.format != "table" {
        found.push(format!("{}: all series have one legend", query.place));
    }
    found
}
