//! The page for people: first line, table, and what there is to know of each trouble.

use super::text::{clean, minute, span};
use super::verdict::{Selection, Verdict};
use crate::status::{Pair, RulesetChange, TrafficState, commands};

/// How many pairs are shown of each trouble.
const PAIRS: usize = 3;

/// Everything, the first line as monitoring systems want it. Nothing behind it has a `|`, which would
/// begin performance data there too.
pub(super) fn page(selection: &Selection<'_>, verdict: &Verdict) -> String {
    let mut out = format!("PEERWATCH {} - {}", verdict.word, verdict.headline);
    if !verdict.performance.is_empty() {
        out += " | ";
        out += &verdict.performance;
    }
    out.push('\n');
    let document = selection.document;
    if !selection.states.is_empty() {
        out.push('\n');
        table(&mut out, selection);
    }
    for state in selection.troubles() {
        trouble(&mut out, selection, state);
    }
    let mut unseen: Vec<&str> = document
        .coverage
        .missing
        .iter()
        .map(String::as_str)
        .collect();
    let stale = selection.stale();
    unseen.extend(stale.as_deref());
    if !unseen.is_empty() {
        out += "\nNot everything is seen:\n";
        for sentence in unseen {
            push(&mut out, 2, sentence);
        }
    }
    out.push('\n');
    let daemon = &document.daemon;
    let host = &document.host;
    push(
        &mut out,
        0,
        &format!(
            "peerwatch {} (up {}), Linux {}, network namespace {}, {}",
            daemon.version,
            span(whole(daemon.uptime_seconds)),
            host.kernel_release,
            host.network_namespace,
            document.time
        ),
    );
    out
}

fn whole(seconds: u64) -> f64 {
    std::time::Duration::from_secs(seconds).as_secs_f64()
}

/// A line of text from outside.
fn push(out: &mut String, indent: usize, text: &str) {
    out.extend(std::iter::repeat_n(' ', indent));
    out.push_str(&clean(text));
    out.push('\n');
}

fn table(out: &mut String, selection: &Selection<'_>) {
    const HEAD: [&str; 11] = [
        "traffic",
        "direction",
        "state",
        "expect",
        "since (UTC)",
        "last success (UTC)",
        "blocked by",
        "attempts",
        "ok",
        "policy",
        "other",
    ];
    /// From here on, columns are numbers.
    const NUMBERS: usize = 7;
    let now = selection.document.timestamp;
    let time = |time: Option<f64>| time.map_or("-".to_owned(), |time| minute(time, now));
    let mut rows = vec![HEAD.map(str::to_owned)];
    for state in &selection.states {
        let attempts = &state.attempts;
        rows.push([
            clean(&state.traffic),
            state.direction.as_str().to_owned(),
            state.state.as_str().to_owned(),
            state.expect.as_str().to_owned(),
            time(state.blocked_since.or(state.since)),
            time(state.last_success),
            state.blocked_by.as_str().to_owned(),
            attempts.total.to_string(),
            attempts.success.to_string(),
            attempts.policy.to_string(),
            attempts.other.to_string(),
        ]);
    }
    let mut widths = [0_usize; HEAD.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if column < NUMBERS {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
}

/// What is known of a state that is not as it should be.
fn trouble(out: &mut String, selection: &Selection<'_>, state: &TrafficState) {
    let document = selection.document;
    out.push('\n');
    let age = match state.evidence_age_seconds {
        Some(age) => format!("last attempt {} ago", span(age)),
        None => "no attempt was seen".to_owned(),
    };
    push(out, 0, &format!("{}, {age}", selection.describe(state)));
    if let Some(change) = &document.ruleset_change {
        push(out, 2, &ruleset(change, state, document.timestamp));
    }
    if !document.peers_shown {
        let hidden =
            "who fails towards whom is shown on the host itself, or to users of its --web-config";
        push(out, 2, hidden);
    }
    let pairs = state.top_failing.as_deref().unwrap_or_default();
    let mut shown = Vec::new();
    for pair in pairs.iter().take(PAIRS) {
        let port = pair.port.map_or(String::new(), |port| format!(" {port}"));
        let by = pair.blocked_by.as_str();
        let (count, outcome) = (pair.count, pair.outcome.as_str());
        let (client, target) = (pair.client, pair.target);
        let line = format!("{client} > {target}{port}: {count} failed, last {outcome}, by {by}");
        push(out, 2, &line);
        for command in look_further(pair, state) {
            // The same for several pairs where it has no address in it.
            if !shown.contains(&command) {
                push(out, 4, &command);
                shown.push(command);
            }
        }
    }
}

/// Made here and not taken from the document: a line that is pasted into a root shell must not be the
/// text of whatever server answered.
fn look_further(pair: &Pair, state: &TrafficState) -> Vec<String> {
    commands(
        pair.client,
        pair.target,
        pair.port,
        state.direction,
        pair.outcome,
        pair.blocked_by,
    )
}

/// The last change of the ruleset, and how it lies to the block.
fn ruleset(change: &RulesetChange, state: &TrafficState, now: f64) -> String {
    let kind = &change.kind;
    let by = match (&change.process, change.pid) {
        (Some(process), Some(pid)) => format!(" by {process} (pid {pid})"),
        (Some(process), None) => format!(" by {process}"),
        (None, Some(pid)) => format!(" by pid {pid}"),
        (None, None) => String::new(),
    };
    let at = minute(change.time, now);
    let last = format!("{kind}{by} at {at} UTC");
    let since = state.blocked_since.unwrap_or_default();
    match state.ruleset_change_before_block {
        // Times are to the millisecond.
        Some(before) if (since - change.time - before).abs() < 0.01 => {
            format!(
                "the firewall's ruleset changed {} before that: {last}",
                span(before)
            )
        }
        Some(before) => format!(
            "the firewall's ruleset changed {} before that; its last change: {last}",
            span(before)
        ),
        None => format!("the last change of the firewall's ruleset: {last}"),
    }
}
