//! Dashboards and runbooks that this project ships: complete, readable, and about what there is.
//! Whether their expressions give data is for the tests with a real Prometheus.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use monitor::attempt::{BlockedBy, Outcome};
use monitor::status::State;
use monitor_tests::dashboards::check::{self, problems};
use monitor_tests::dashboards::{Dashboard, files, known, name, root};
use serde_json::{Value, json};

const RUNBOOKS: &str = "https://github.com/peerwatch/peerwatch/blob/main/docs/runbooks/";

/// A runbook is for somebody who was just woken: two screens.
const LINES: usize = 120;

/// The headings that each runbook has, in this order.
const HEADINGS: [&str; 6] = [
    "What it means",
    "Look at first",
    "On this host",
    "On Windows",
    "Typical causes",
    "Is it fixed?",
];

fn dashboard(file: &str) -> Result<Dashboard> {
    let all = Dashboard::read_all()?;
    all.into_iter()
        .find(|dashboard| dashboard.file == file)
        .with_context(|| format!("no dashboard {file}"))
}

/// What stands behind `key` in the files of rules that are shipped.
fn in_rules(key: &str) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for path in files(&root().join("deploy/prometheus/rules"), "yml")? {
        for line in std::fs::read_to_string(&path)?.lines() {
            let line = line.trim_start().trim_start_matches("- ");
            if let Some(value) = line.strip_prefix(key) {
                values.push(value.trim().to_owned());
            }
        }
    }
    ensure!(!values.is_empty(), "no {key} in the rules");
    values.sort();
    values.dedup();
    Ok(values)
}

fn recorded() -> Result<Vec<String>> {
    in_rules("record:")
}

#[test]
fn dashboards_are_complete_and_readable() -> Result<()> {
    let recorded = recorded()?;
    for dashboard in Dashboard::read_all()? {
        let found = problems(&dashboard, &recorded);
        ensure!(found.is_empty(), "{}: {found:#?}", dashboard.file);
        let queries = dashboard.queries().len();
        println!("{}: {queries} expressions", dashboard.file);
    }
    Ok(())
}

/// One thing at a time that breaks a dashboard: where, which key, what stands there then as JSON, and what
/// has to be found.
const BREAKS: &[(&str, &str, &str, &str)] = &[
    ("", "uid", r#""""#, "no uid"),
    ("", "schemaVersion", "39", "schemaVersion"),
    ("", "id", "7", "id of a server"),
    ("", "tags", r#"["x"]"#, "no tag"),
    (SOURCE, "type", r#""query""#, "the data source"),
    (JOB, "multi", "false", "job does not"),
    (JOB, "allValue", r#"".+""#, "all of job"),
    (INSTANCE, "allValue", r#""""#, "all of instance"),
    (TRAFFIC, "name", r#""kind""#, "no variable traffic"),
    (TRAFFIC, "description", r#""""#, "traffic has no"),
    (MARKS, "target", r#"{"expr": "1"}"#, "no metric"),
    (MARKS, "datasource", "{}", "no data source"),
    (PANEL, "id", "1", "id of its own"),
    (PANEL, "gridPos", r#"{"x": 0, "y": 1}"#, "no place"),
    (PLACE, "x", "21", "within the grid"),
    (PLACE, "w", "5", "over another"),
    (PANEL, "title", r#""""#, "without title"),
    (PANEL, "description", r#""Short.""#, "no description"),
    (PANEL, "datasource", r#"{"uid": "abc"}"#, "the chosen one"),
    (PANEL, "targets", "[]", "no query"),
    (FIELD, "unit", r#""""#, "no unit"),
    (FIELD, "noValue", r#""""#, "no data"),
    (QUERY, "refId", r#""""#, "one without"),
    (QUERY, "legendFormat", r#""__auto""#, "without legend"),
    (
        QUERY,
        "legendFormat",
        r#""{{traffic}}""#,
        "no label traffic",
    ),
    (QUERY, "datasource", r#"{"uid": "abc"}"#, "the chosen one"),
];

/// The same for what is asked.
const EXPRESSIONS: &[(&str, &str)] = &[
    (r#"sum(up{job=~"$job"})"#, "heed $instance"),
    ("sum(peerwatch_nothing)", "no metric peerwatch_nothing"),
    (r#"sum(peerwatch_state{class="x"})"#, "no label class"),
    ("sum by (class) (peerwatch_state)", "the label class"),
    ("sum(peerwatch_state)", "heed $traffic"),
    ("sum(rate(up[$window]))", "no variable $window"),
    ("up", "one legend"),
    ("sum(up{)", "where a label should be"),
    ("site:nothing:sum", "no metric site:"),
];

const SOURCE: &str = "/templating/list/0";
const JOB: &str = "/templating/list/1";
const INSTANCE: &str = "/templating/list/2";
const TRAFFIC: &str = "/templating/list/3";
const MARKS: &str = "/annotations/list/0";
const PANEL: &str = "/panels/1";
const PLACE: &str = "/panels/1/gridPos";
const FIELD: &str = "/panels/1/fieldConfig/defaults";
const QUERY: &str = "/panels/1/targets/0";

#[test]
fn a_broken_dashboard_is_found() -> Result<()> {
    let recorded = recorded()?;
    let good = dashboard("host.json")?;
    let finds = |place: &str, key: &str, value: Value, wanted: &str| -> Result<()> {
        let mut broken = good.clone();
        let object = broken
            .json
            .pointer_mut(place)
            .and_then(Value::as_object_mut);
        let object = object.with_context(|| format!("no {place}"))?;
        object.insert(key.to_owned(), value.clone());
        let found = problems(&broken, &recorded);
        let is_found = found.iter().any(|problem| problem.contains(wanted));
        ensure!(
            is_found,
            "{place} {key} {value}: no {wanted:?} in {found:#?}"
        );
        Ok(())
    };
    for (place, key, value, wanted) in BREAKS {
        finds(place, key, serde_json::from_str(value)?, wanted)?;
    }
    for (expr, wanted) in EXPRESSIONS {
        finds(QUERY, "expr", json!(expr), wanted)?;
    }
    Ok(())
}

/// What the job of a fleet keeps of a host, and whom it leaves out of those who can block.
fn fleet_keeps() -> Result<(Vec<String>, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("deploy/prometheus/scrape/fleet.yml"))?;
    let patterns = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("regex: "));
    let patterns: Vec<_> = patterns.map(known::alternatives).collect::<Result<_>>()?;
    let [kept, left_out] = patterns.try_into().map_err(|all| anyhow!("{all:?}"))?;
    let blocker = |both: &String| Some(both.strip_prefix("peerwatch_blocked_by;")?.to_owned());
    let left_out = left_out.iter().map(blocker).collect::<Option<_>>();
    Ok((
        kept,
        left_out.context("the second one leaves out blockers")?,
    ))
}

#[test]
fn the_dashboard_of_a_fleet_needs_only_what_a_fleet_keeps() -> Result<()> {
    let (kept, left_out) = fleet_keeps()?;
    let mut fleet = dashboard("fleet.json")?;
    let found = check::lacks(&fleet, &kept);
    ensure!(found.is_empty(), "{found:#?}");
    let text = fleet.json.to_string();
    for blocker in BlockedBy::ALL.iter().map(|blocker| blocker.as_str()) {
        let part = format!("\"{blocker}\":{{\"");
        let is_kept = !left_out.iter().any(|name| name == blocker);
        ensure!(text.contains(&part) == is_kept, "{blocker} and its colour");
    }

    let expr = fleet.json.pointer_mut(&format!("{QUERY}/expr"));
    *expr.context("no expression")? = json!("sum(peerwatch_packets_total)");
    let found = check::lacks(&fleet, &kept);
    ensure!(found.len() == 1, "{found:#?}");
    Ok(())
}

/// A state that nobody thought of here would be drawn as nothing.
#[test]
fn dashboards_have_each_state_and_outcome() -> Result<()> {
    let host = dashboard("host.json")?;
    let states: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
    let mut timelines = 0;
    for panel in host.panels() {
        let expr = panel["targets"][0]["expr"].as_str().unwrap_or_default();
        if panel["type"] != "state-timeline" || !expr.contains("peerwatch_state{") {
            continue;
        }
        timelines += 1;
        let mappings = &panel["fieldConfig"]["defaults"]["mappings"][0]["options"];
        for state in &states {
            let code = expr
                .split_once(&format!("state=\"{state}\"}} * "))
                .and_then(|(_, rest)| rest.get(..1))
                .with_context(|| format!("no state {state} in {expr}"))?;
            for code in [code.to_owned(), format!("1{code}")] {
                ensure!(mappings.get(&code).is_some(), "{state}: no text for {code}");
            }
        }
        let codes = mappings.as_object().map_or(0, serde_json::Map::len);
        ensure!(codes == 2 * states.len(), "{codes} texts for {states:?}");
    }
    ensure!(timelines == 1, "{timelines} timelines of states");

    let text = host.json.to_string();
    for outcome in Outcome::ALL {
        let part = format!("outcome=\\\"{}\\\"", outcome.as_str());
        ensure!(text.contains(&part), "no {part} in the funnel");
    }
    Ok(())
}

/// Links between dashboards, and to runbooks and other pages, have something at their other end.
#[test]
fn links_of_dashboards_lead_somewhere() -> Result<()> {
    let all = Dashboard::read_all()?;
    let uids: BTreeSet<_> = all
        .iter()
        .filter_map(|it| it.json["uid"].as_str())
        .collect();
    ensure!(
        uids.len() == all.len(),
        "two dashboards have one uid: {uids:?}"
    );
    let pages = RUNBOOKS.trim_end_matches("docs/runbooks/");
    let mut count = 0;
    for dashboard in &all {
        let text = dashboard.json.to_string();
        for part in text.split("\"url\":\"").skip(1) {
            count += 1;
            let url = part.split('"').next().unwrap_or_default();
            if let Some(uid) = url.strip_prefix("/d/") {
                let uid = uid.split('?').next().unwrap_or_default();
                ensure!(uids.contains(uid), "{}: no dashboard {uid}", dashboard.file);
                continue;
            }
            let page = url
                .strip_prefix(pages)
                .with_context(|| format!("{url}: no page of this project"))?;
            // The name of an alert stands there when it is shown; runbooks have a test of their own.
            let is_there =
                root().join(page).is_file() || page == "docs/runbooks/${__value.text}.md";
            ensure!(is_there, "{}: no {page}", dashboard.file);
        }
    }
    ensure!(count > 4, "only {count} links");
    Ok(())
}

#[test]
fn each_alert_has_a_runbook_and_each_runbook_an_alert() -> Result<()> {
    let alerts = in_rules("alert:")?;
    let folder = root().join("docs/runbooks");
    let index = std::fs::read_to_string(folder.join("README.md"))?;
    let pages = files(&folder, "md")?.into_iter();
    let pages = pages.map(|path| name(&path));
    let pages: Vec<_> = pages.filter(|page| page != "README.md").collect();
    let wanted: Vec<_> = alerts.iter().map(|alert| format!("{alert}.md")).collect();
    ensure!(
        pages == wanted,
        "there are {pages:?}, and should be {wanted:?}"
    );
    for (alert, page) in alerts.iter().zip(&pages) {
        let entry = format!("[{alert}]({page})");
        ensure!(index.contains(&entry), "the index has no {entry}");
        runbook(&folder.join(page), alert).with_context(|| page.clone())?;
    }
    Ok(())
}

fn runbook(path: &Path, alert: &str) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().count();
    ensure!(lines <= LINES, "{lines} lines are too many at night");
    ensure!(
        text.starts_with(&format!("# {alert}\n")),
        "its title is another one"
    );
    let headings: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    ensure!(headings == HEADINGS, "its headings are {headings:?}");
    let first = text.split("```").nth(1).unwrap_or_default();
    let first = first.lines().nth(1).unwrap_or_default();
    // Where the daemon is gone there is nobody to ask.
    let wanted = if alert == "PeerwatchMonitorGone" {
        "systemctl status peerwatch"
    } else {
        "peerwatch status"
    };
    ensure!(
        first.starts_with(wanted),
        "it begins with {first:?}, not with {wanted:?}"
    );
    for link in text.split("](").skip(1) {
        let target = link.split([')', '#']).next().unwrap_or_default();
        let folder = path.parent().unwrap_or(path);
        let is_there = target.is_empty() || target.contains("://") || folder.join(target).exists();
        ensure!(is_there, "no {target}");
    }
    Ok(())
}
