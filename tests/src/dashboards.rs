//! The dashboards of Grafana that this project ships, as Grafana reads them.

pub mod check;
pub mod known;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The root of this project's files.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// One file.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// The file's name, `host.json`.
    pub file: String,
    /// What is in it.
    pub json: Value,
}

/// A question to Prometheus: of a panel, or of marks over all panels.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where it stands, for people: file, panel and query.
    pub place: String,
    /// The expression, with variables in it.
    pub expr: String,
    /// Whether it is asked for one moment, not for a range of time.
    pub instant: bool,
    /// `time_series`, `table` or `heatmap`; empty for marks.
    pub format: String,
    /// What a series is called, with `{{label}}` in it; empty for marks.
    pub legend: String,
}

impl Query {
    /// The expression with values for its variables: `("job", ".+")` for `$job`.
    #[must_use]
    pub fn with(&self, variables: &[(&str, &str)]) -> String {
        let mut variables = variables.to_vec();
        // `$__range_s` before `$__range`.
        variables.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let mut expr = self.expr.clone();
        for (name, value) in variables {
            expr = expr.replace(&format!("${name}"), value);
        }
        expr
    }
}

impl Dashboard {
    /// Reads all of them.
    ///
    /// # Errors
    ///
    /// When there is none, or one is no JSON.
    pub fn read_all() -> Result<Vec<Self>> {
        let folder = root().join("deploy/grafana/dashboards");
        let mut all = Vec::new();
        for path in files(&folder, "json")? {
            let text = std::fs::read_to_string(&path)?;
            let json = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            let file = name(&path);
            all.push(Self { file, json });
        }
        ensure!(!all.is_empty(), "no dashboard in {}", folder.display());
        Ok(all)
    }

    /// Its panels, rows too, and those within rows.
    #[must_use]
    pub fn panels(&self) -> Vec<&Value> {
        let mut panels = Vec::new();
        for panel in list(&self.json["panels"]) {
            panels.push(panel);
            panels.extend(list(&panel["panels"]));
        }
        panels
    }

    /// Everything that it asks Prometheus.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in list(&panel["targets"]) {
                let place = format!(
                    "{}: {} {}",
                    self.file,
                    text(&panel["title"]),
                    text(&target["refId"])
                );
                queries.push(Query {
                    place,
                    expr: text(&target["expr"]).to_owned(),
                    instant: target["instant"] == true,
                    format: text(&target["format"]).to_owned(),
                    legend: text(&target["legendFormat"]).to_owned(),
                });
            }
        }
        for marks in list(&self.json["annotations"]["list"]) {
            queries.push(Query {
                place: format!("{}: marks {}", self.file, text(&marks["name"])),
                expr: text(&marks["target"]["expr"]).to_owned(),
                instant: false,
                format: String::new(),
                legend: String::new(),
            });
        }
        queries
    }
}

/// The items of a list; none where it is no list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text; empty where it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The files of a folder whose names end like this, in the order of their names.
///
/// # Errors
///
/// When there is no such folder.
pub fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == ending)
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The name of a file.
#[must_use]
pub fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
