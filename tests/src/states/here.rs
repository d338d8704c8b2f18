//! Blocks that a rule of this host makes: how they begin, last, and end.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::command::{ends_with, first_line};
use super::scene;
use super::shown::{
    SOON, Shown, Tries, document, exactly, gauges, in_document, is_near, now, shown, three_in_vain,
    wait_for,
};
use crate::attempts::act::{ANSWER, Act, Seen, Way};
use crate::attempts::lab::Lab;
use crate::expect::Family;
use crate::scrape::Series;
use crate::wait::{DEADLINE, until};

const FORWARD: &str = "type filter hook forward priority 0";
const OUTPUT: &str = "type filter hook output priority 0";

/// How long no policy failure may follow a success for a block to end, seconds.
const RECOVERY: f64 = 15.0;

/// Longer than everything that could end a block by mistake: the recovery, and an attempt's patience.
const LONG: f64 = 25.0;

/// A traffic works; a rule blocks it, and goes again.
pub(super) fn rule(family: Family) -> Result<()> {
    scene("", Way::Forwarded, family, |act| {
        let (lab, before) = (act.lab, act.lab.counts()?);
        act.listen()?;
        let success = now()?;
        act.connect(1, ANSWER, Seen::Open)?;
        let works = wait_for(act, "ok", SOON)?;
        is_near("last success", works.last_success, success)?;

        let count = rule_changes(lab)?;
        let changed = now()?;
        let table = act.table(&lab.gw, FORWARD, &format!("{} drop", act.syn()))?;
        noticed(lab, count + 1.0, changed)?;
        let tries = three_in_vain(act)?;
        let blocked = wait_for(act, "blocked", SOON)?;
        ensure!(blocked.blocked_by == "local_firewall", "{blocked:?}");
        is_near("blocked since", blocked.blocked_since, tries.first)?;
        is_near("last success", blocked.last_success, success)?;
        is_near("last attempt", blocked.last_attempt, tries.last)?;
        // The state is as old as the attempt that proved it.
        ensure!(
            tries.last <= blocked.since && blocked.since <= now()?,
            "{blocked:?}, {tries:?}"
        );
        let mut expected = act.only("established", "none", 1);
        act.expect(&mut expected, "dropped", "local_firewall", 3);
        exactly(act, &before, &expected)?;
        log_of_block(lab, &blocked)?;
        asked_while_blocked(act, &blocked)?;
        document_of_block(act, &blocked, &tries)?;

        let changed = now()?;
        lab.gw.nft(&format!("delete table {table}"))?;
        noticed(lab, count + 2.0, changed)?;
        let success = now()?;
        act.connect(1, ANSWER, Seen::Open)?;
        let works = wait_for(act, "ok", SOON)?;
        is_near("last success", works.last_success, success)?;
        // The answer passed before the client said that it is connected.
        let after = works.since - works.last_success;
        ensure!(after >= RECOVERY, "{works:?} after {after} s");
        // What the success has ended counts no more.
        ensure!(
            works.blocked_since.to_bits() == 0 && works.blocked_by == "none",
            "{works:?}"
        );
        let line = state_line(lab, "forwarded", "ok")?;
        ensure!(line.contains(" ok (was blocked)"), "{line}");
        let line = first_line(lab, &[], 0)?;
        ensure!(
            line.starts_with("PEERWATCH OK - 1 ok, 5 without demand |"),
            "{line}"
        );
        act.expect(&mut expected, "established", "none", 1);
        exactly(act, &before, &expected)
    })
}

/// Nobody tries any more after a block: it stands.
pub(super) fn silence() -> Result<()> {
    scene("", Way::Outbound, Family::V4, |act| {
        let lab = act.lab;
        act.rule(&lab.gw, OUTPUT, &format!("{} drop", act.syn()))?;
        let tries = three_in_vain(act)?;
        let blocked = wait_for(act, "blocked", SOON)?;
        is_near("blocked since", blocked.blocked_since, tries.first)?;
        let end = now()? + LONG;
        until("silence", Duration::from_mins(1), || {
            let still = shown(lab, "do_peer", "outbound")?;
            ensure!(still == blocked, "{still:?}, not {blocked:?}");
            std::thread::sleep(Duration::from_millis(500));
            Ok((now()? >= end).then_some(()))
        })?;
        let line = first_line(lab, &["--direction", "outbound"], 2)?;
        ensure!(
            line.starts_with("PEERWATCH CRITICAL - do_peer outbound blocked by local_firewall"),
            "{line}"
        );
        let forwarded = shown(lab, "do_peer", "forwarded")?;
        ensure!(forwarded.state == "no_demand", "{forwarded:?}");
        first_line(lab, &["--direction", "forwarded"], 0)?;
        Ok(())
    })
}

const CHANGES: &str = "ruleset_changes_total";
const LAST_CHANGE: &str = "ruleset_last_change_timestamp_seconds";

/// How often rules changed.
fn rule_changes(lab: &Lab) -> Result<f64> {
    let series = Series::new("peerwatch_ruleset_changes_total", &[("kind", "rules")]);
    let all = gauges(lab, &[CHANGES])?;
    all.get(&series)
        .copied()
        .with_context(|| format!("no {series}"))
}

/// Waits until so many changes of the rules are counted, of which the last was at a time.
fn noticed(lab: &Lab, changes: f64, at: f64) -> Result<()> {
    until("the change of the rules is noticed", DEADLINE, || {
        Ok((rule_changes(lab)? >= changes).then_some(()))
    })?;
    let counted = rule_changes(lab)?;
    ensure!(
        counted.to_bits() == changes.to_bits(),
        "{counted} changes of the rules, not {changes}"
    );
    let series = Series::new("peerwatch_ruleset_last_change_timestamp_seconds", &[]);
    let all = gauges(lab, &[LAST_CHANGE])?;
    let last = *all.get(&series).with_context(|| format!("no {series}"))?;
    is_near("the last change of the rules", last, at)
}

/// The last line of the log about a state that became this one.
fn state_line(lab: &Lab, direction: &str, state: &str) -> Result<String> {
    let what = format!(" state do_peer {direction} {state} (was ");
    until("the log's line", DEADLINE, || {
        let log = lab.daemon.log();
        let found = log.lines().rfind(|line| line.contains(&what));
        Ok(found.map(str::to_owned))
    })
}

/// The line of the log has the evidence, and the change of the rules.
fn log_of_block(lab: &Lab, blocked: &Shown) -> Result<()> {
    let line = state_line(lab, "forwarded", "blocked")?;
    // Both clocks are asked anew for it.
    let since = [-0.01, 0.01].map(|off| {
        let text = monitor::status::rfc3339(Duration::from_secs_f64(blocked.blocked_since + off));
        format!(" blocked (was ok) by local_firewall since {}", &text[..19])
    });
    ensure!(since.iter().any(|text| line.contains(text)), "{line}");
    for part in [
        ": 3 of 4 failed (1 established, 3 dropped); ",
        "; rules changed ",
        ", within a minute before the block",
    ] {
        ensure!(line.contains(part), "no {part:?} in {line}");
    }
    Ok(())
}

/// `peerwatch status`, whole, in part, and as JSON.
fn asked_while_blocked(act: &Act<'_>, blocked: &Shown) -> Result<()> {
    let lab = act.lab;
    let since = monitor::status::rfc3339(Duration::from_secs_f64(blocked.blocked_since));
    let start = "PEERWATCH CRITICAL - do_peer forwarded blocked by local_firewall since ";
    let (page, _) = ends_with(lab, &[], 2)?;
    let line = page.lines().next().unwrap_or_default();
    ensure!(line.starts_with(start), "{line}");
    let rest = format!("{} UTC (3 of 4) |", &since[11..16]);
    ensure!(line.contains(&rest), "no {rest:?} in {line}");
    let (client, target) = (client(act), act.target);
    let pair = format!("{client} > {target} tcp/7680: 3 failed, last dropped, by local_firewall");
    for part in [pair.as_str(), "the firewall's ruleset changed ", "by nft"] {
        ensure!(page.contains(part), "no {part:?} in {page}");
    }

    for (arguments, code) in [
        (&["--traffic", "do_peer"][..], 2),
        (&["--traffic", "do_peer", "--direction", "forwarded"], 2),
        (&["--direction", "forwarded"], 2),
        (&["--direction", "outbound"], 0),
        (&["--traffic", "https"], 0),
        (&["--traffic", "teredo", "--direction", "forwarded"], 0),
    ] {
        first_line(lab, arguments, code)?;
    }
    let line = first_line(lab, &["--traffic", "nonsense"], 3)?;
    ensure!(
        line.starts_with("PEERWATCH UNKNOWN - ") && line.contains("do_peer, https, teredo"),
        "{line}"
    );
    let line = first_line(lab, &["--direction", "inbound"], 3)?;
    ensure!(line.contains("state_directions"), "{line}");
    let (line, _) = ends_with(lab, &["--direction", "sideways"], 3)?;
    ensure!(line.starts_with("PEERWATCH UNKNOWN - "), "{line}");

    for (arguments, code) in [(&["--json"][..], 2), (&["--json", "--traffic", "https"], 0)] {
        let (text, errors) = ends_with(lab, arguments, code)?;
        ensure!(errors.is_empty(), "{errors}");
        let json: Value = serde_json::from_str(&text)?;
        // The whole of it, whatever the exit code is about.
        let state = in_document(&json, "do_peer", "forwarded")?;
        ensure!(state["state"] == "blocked", "{state}");
    }
    Ok(())
}

/// The client as the gateway sees it.
fn client(act: &Act<'_>) -> std::net::IpAddr {
    crate::lab::address(act.family, crate::lab::Net::Lan, crate::lab::PEER)
}

/// `/api/v1/status` says the same as the metrics.
fn document_of_block(act: &Act<'_>, blocked: &Shown, tries: &Tries) -> Result<()> {
    let document = document(act.lab)?;
    let state = in_document(&document, "do_peer", "forwarded")?;
    let number = |value: &Value| {
        value
            .as_f64()
            .with_context(|| format!("{value} in {state}"))
    };
    is_near(
        "blocked since",
        number(&state["blocked_since"])?,
        tries.first,
    )?;
    is_near("since", number(&state["since"])?, blocked.since)?;
    let before = number(&state["ruleset_change_before_block"])?;
    ensure!((0.0..=5.0).contains(&before), "{state}");
    ensure!(
        state["state"] == "blocked"
            && state["blocked_by"] == "local_firewall"
            && state["expect"] == "open"
            && state["attempts"]["total"] == 4
            && state["attempts"]["success"] == 1
            && state["attempts"]["policy"] == 3,
        "{state}"
    );
    let top = &state["top_failing"][0];
    ensure!(
        top["client"] == client(act).to_string()
            && top["target"] == act.target.to_string()
            && top["port"] == "tcp/7680"
            && top["count"] == 3,
        "{top}"
    );
    let change = &document["ruleset_change"];
    ensure!(
        change["kind"] == "rules" && change["process"] == "nft",
        "{change}"
    );
    ensure!(document["coverage"]["complete"] == true, "{document}");
    Ok(())
}
