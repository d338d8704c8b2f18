//! Every expression that is shipped: of dashboards, of rules and of the documentation.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::servers::Prometheus;

/// What dashboards leave open, and what a user would have chosen.
const VARIABLES: [(&str, &str); 6] = [
    ("$__rate_interval", "15s"),
    ("$__interval", "5s"),
    ("$__range", "5m"),
    ("$job", ".+"),
    ("$instance", ".+"),
    ("$traffic", ".+"),
];

/// Labels that Prometheus's own expressions make.
const MADE: [&str; 2] = ["host", "site"];

/// An expression, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub(super) place: String,
    pub(super) text: String,
}

/// Those of all dashboards.
///
/// # Errors
///
/// When there is none, or one is no JSON.
pub(super) fn of_dashboards() -> Result<Vec<Expression>> {
    let folder = root().join("deploy/grafana/dashboards");
    let mut all = Vec::new();
    let files = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    for file in files {
        let path = file?.path();
        let text = std::fs::read_to_string(&path)?;
        let document: Value =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        collect(&document, &name, &mut all);
    }
    ensure!(!all.is_empty(), "no expression in {}", folder.display());
    Ok(all)
}

/// Takes each `expr`; the place grows by titles and names.
fn collect(value: &Value, place: &str, all: &mut Vec<Expression>) {
    match value {
        Value::Object(members) => {
            let title = ["title", "name"].iter().find_map(|key| members.get(*key)?.as_str());
            let place = title.map_or_else(|| place.to_owned(), |title| format!("{place}: {title}"));
            for (key, member) in members {
                match member {
                    Value::String(text) if key == "expr" => all.push(Expression {
                        place: place.clone(),
                        text: filled(text),
                    }),
                    _ => collect(member, &place, all),
                }
            }
        }
        Value::Array(members) => members.iter().for_each(|member| collect(member, place, all)),
        _ => {}
    }
}

/// With every variable filled in, in any of the ways to write it.
fn filled(text: &str) -> String {
    let mut text = text.to_owned();
    for (variable, value) in VARIABLES {
        let name = &variable[1..];
        for format in [":regex", ":pipe", ""] {
            text = text.replace(&format!("${{{name}{format}}}"), value);
        }
        text = text.replace(variable, value);
    }
    text
}

/// The queries of docs/metrics.md.
pub(super) fn of_documentation() -> Result<Vec<Expression>> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md"))?;
    let mut all = Vec::new();
    for section in page.split("\n### `").skip(1) {
        let (name, rest) = section.split_once('`').context("a name")?;
        let (_, rest) = rest.split_once("```promql\n").context("a query")?;
        let (text, _) = rest.split_once("\n```").context("its end")?;
        all.push(Expression {
            place: format!("docs/metrics.md: {name}"),
            text: text.to_owned(),
        });
    }
    Ok(all)
}

/// Those of the rules that a Prometheus has loaded; each must have been evaluated without an error.
pub(super) fn of_rules(prometheus: &Prometheus<'_>) -> Result<Vec<Expression>> {
    let data = prometheus.get("/api/v1/rules")?;
    let mut all = Vec::new();
    for group in data["groups"].as_array().context("groups of rules")? {
        for rule in group["rules"].as_array().context("rules")? {
            let name = rule["name"].as_str().context("a rule without a name")?;
            let kind = rule["type"].as_str().context("a rule without a type")?;
            ensure!(rule["health"] == "ok", "{kind} {name}: {}", rule["lastError"]);
            all.push(Expression {
                place: format!("{kind} {name}"),
                text: rule["query"].as_str().context("a rule without a query")?.to_owned(),
            });
        }
    }
    Ok(all)
}

/// The labels that an expression names: in matchers, and in lists behind `by`, `on` and the like.
pub(super) fn labels(expression: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let text = without_strings(expression);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = |list: &str| -> Vec<String> {
        let parts = list.split(',').map(|part| part.trim());
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    for part in text.split('{').skip(1) {
        let inner = part.split('}').next().unwrap_or_default();
        for matcher in inner.split(',') {
            let name = matcher.trim().split(|c| !is_name(c)).next().unwrap_or_default();
            if !name.is_empty() {
                labels.insert(name.to_owned());
            }
        }
    }
    for word in ["by", "without", "on", "ignoring", "group_left", "group_right"] {
        for (at, _) in text.match_indices(word) {
            let before = text[..at].chars().next_back();
            let rest = text[at + word.len()..].trim_start();
            if before.is_some_and(is_name) || !rest.starts_with('(') {
                continue;
            }
            labels.extend(names(rest[1..].split(')').next().unwrap_or_default()));
        }
    }
    labels
}

/// With what is in quotes taken out.
fn without_strings(expression: &str) -> String {
    let mut text = String::new();
    let mut quote = None;
    let mut escaped = false;
    for c in expression.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None => text.push(c),
        }
    }
    text
}

/// Fails unless every label that the expressions name is one of a series of this Prometheus.
pub(super) fn labels_exist(prometheus: &Prometheus<'_>, all: &[Expression]) -> Result<()> {
    let known = prometheus.get("/api/v1/labels")?;
    let known: BTreeSet<&str> = known
        .as_array()
        .context("no labels")?
        .iter()
        .filter_map(Value::as_str)
        .chain(MADE)
        .collect();
    for expression in all {
        for label in labels(&expression.text) {
            ensure!(
                known.contains(label.as_str()),
                "{}: no series has a label {label}: {}",
                expression.place,
                expression.text
            );
        }
    }
    Ok(())
}

fn root() -> &'static Path {
    // Of the checkout: this package lies directly in it.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_an_expression_are_found() {
        let text = "sum by (a, b) (rate(m{c=\"x{y=1}\", d!~'by (z)'}[5m])) / on (e) group_left () n";
        let found: Vec<_> = labels(text).into_iter().collect();
        assert_eq!(found, ["a", "b", "c", "d", "e"]);
        assert!(labels("rate(standby_total[5m])").is_empty());
    }

    #[test]
    fn variables_are_filled_in() {
        let text = "rate(m{instance=~\"$instance\", job=~\"${job:regex}\"}[$__rate_interval])";
        assert_eq!(filled(text), "rate(m{instance=~\".+\", job=~\".+\"}[15s])");
    }
}
