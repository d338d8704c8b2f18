//! What the daemon shows of a state, and attempts that make one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::attempts::act::{Act, ONCE, Seen};
use crate::attempts::lab::Lab;
use crate::expect::Expected;
use crate::scrape::{Counts, Series, parse_values, rise};
use crate::wait::{DEADLINE, until};

/// How soon a state has to show after the attempt that decides it.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// Between two scrapes of a wait.
const PAUSE: Duration = Duration::from_millis(200);

/// Three attempts with this in between are spread as far as a block needs it, and a little more.
const BETWEEN: Duration = Duration::from_millis(5100);

/// How far a time that is shown may be from what the test knows, seconds.
const NEAR: f64 = 1.0;

/// The gauges of a state.
const GAUGES: [&str; 6] = [
    "state",
    "blocked_by",
    "state_since_timestamp_seconds",
    "blocked_since_timestamp_seconds",
    "last_success_timestamp_seconds",
    "last_attempt_timestamp_seconds",
];

/// A state as the metrics have it. Times are Unix seconds, 0 for never.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) state: String,
    pub(super) blocked_by: String,
    pub(super) since: f64,
    pub(super) blocked_since: f64,
    pub(super) last_success: f64,
    pub(super) last_attempt: f64,
}

/// Now, Unix seconds.
pub(super) fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Fails unless a time is what the test knows, by at most a second.
pub(super) fn is_near(what: &str, shown: f64, known: f64) -> Result<()> {
    ensure!(
        (shown - known).abs() <= NEAR,
        "{what} is {shown:.3}, {:.3} s from {known:.3}",
        shown - known
    );
    Ok(())
}

/// One scrape of some metrics.
pub(super) fn gauges(lab: &Lab, names: &[&str]) -> Result<BTreeMap<Series, f64>> {
    let (status, body) = lab.daemon.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}: {body}");
    parse_values(&body, names)
}

/// The state of a traffic in a direction, now.
pub(super) fn shown(lab: &Lab, traffic: &str, direction: &str) -> Result<Shown> {
    let all = gauges(lab, &GAUGES)?;
    let labels = [("traffic", traffic), ("direction", direction)];
    let time = |name: &str| {
        let series = Series::new(&format!("peerwatch_{name}_timestamp_seconds"), &labels);
        let value = all.get(&series).copied();
        value.with_context(|| format!("no {series}"))
    };
    Ok(Shown {
        state: the_one(&all, "state", &labels)?,
        blocked_by: the_one(&all, "blocked_by", &labels)?,
        since: time("state_since")?,
        blocked_since: time("blocked_since")?,
        last_success: time("last_success")?,
        last_attempt: time("last_attempt")?,
    })
}

/// The value of the label that is called like its metric, in the only series that is 1; the others are 0.
fn the_one(
    all: &BTreeMap<Series, f64>,
    name: &str,
    [traffic, direction]: &[(&str, &str); 2],
) -> Result<String> {
    let values: &[&str] = match name {
        "state" => &[
            "ok",
            "degraded",
            "failing",
            "blocked",
            "no_demand",
            "unknown",
        ],
        _ => &[
            "none",
            "local_firewall",
            "local_stack",
            "local_overload",
            "local_conntrack",
            "local_host",
            "remote_host",
            "middlebox",
            "upstream",
            "unknown",
        ],
    };
    let mut found = None;
    for value in values {
        let series = Series::new(
            &format!("peerwatch_{name}"),
            &[*traffic, *direction, (name, value)],
        );
        let is = *all.get(&series).with_context(|| format!("no {series}"))?;
        // Exactly 0 or 1.
        if is.to_bits() == 1.0_f64.to_bits() {
            ensure!(found.is_none(), "{name} is {found:?} and {value}");
            found = Some((*value).to_owned());
        } else {
            ensure!(is.to_bits() == 0, "{series} is {is}");
        }
    }
    found.with_context(|| format!("no {name} of {traffic:?} {direction:?} is 1"))
}

/// Waits until the scene's traffic is in a state.
pub(super) fn wait_for(act: &Act<'_>, state: &str, within: Duration) -> Result<Shown> {
    // Before, there are no series of states.
    decided(act.lab)?;
    let mut last = None;
    let result = until(&format!("the state {state}"), within, || {
        let shown = shown(act.lab, &act.slot.traffic, act.way.direction())?;
        if shown.state == state {
            return Ok(Some(shown));
        }
        last = Some(shown);
        std::thread::sleep(PAUSE);
        Ok(None)
    });
    result.with_context(|| format!("last seen: {last:?}"))
}

/// When attempts were made, Unix seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries {
    /// Before the first.
    pub(super) first: f64,
    /// Before the last.
    pub(super) last: f64,
}

/// Three attempts of one SYN each that no answer comes to, spread as far as a block needs it.
pub(super) fn three_in_vain(act: &Act<'_>) -> Result<Tries> {
    let first = now()?;
    let start = Instant::now();
    act.connect(1, ONCE, Seen::Silence)?;
    for number in 1..3 {
        // The spread itself: attempts that come all at once prove nothing.
        let next = start + BETWEEN * number;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        if number == 2 {
            break;
        }
        act.connect(1, ONCE, Seen::Silence)?;
    }
    let last = now()?;
    act.connect(1, ONCE, Seen::Silence)?;
    Ok(Tries { first, last })
}

/// Fails unless exactly these attempts were counted since `before`.
pub(super) fn exactly(act: &Act<'_>, before: &Counts, expected: &Expected) -> Result<()> {
    let rises = rise(before, &act.lab.counts()?)?;
    match expected.difference(&rises) {
        None => Ok(()),
        Some(difference) => bail!("counters differ:\n{difference}"),
    }
}

/// The document of `/api/v1/status`.
pub(super) fn document(lab: &Lab) -> Result<Value> {
    let (status, body) = lab.daemon.get("/api/v1/status")?;
    ensure!(status == 200, "/api/v1/status: {status}: {body}");
    Ok(serde_json::from_str(&body)?)
}

/// The document, once states were decided for the first time.
pub(super) fn decided(lab: &Lab) -> Result<Value> {
    until("states are decided", DEADLINE, || {
        let document = document(lab)?;
        Ok(document["evaluated"].is_number().then_some(document))
    })
}

/// The state of a traffic in a direction in a document.
pub(super) fn in_document<'a>(
    document: &'a Value,
    traffic: &str,
    direction: &str,
) -> Result<&'a Value> {
    let states = document["states"].as_array().context("no states")?;
    states
        .iter()
        .find(|state| state["traffic"] == traffic && state["direction"] == direction)
        .with_context(|| format!("no {traffic} {direction} in {document}"))
}
