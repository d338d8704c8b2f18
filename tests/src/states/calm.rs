//! What is no alarm, and what a daemon says before anything has happened.

use anyhow::{Context as _, Result, ensure};

use super::command::{ends_with, first_line};
use super::scene;
use super::shown::{SOON, decided, document, exactly, in_document, shown, three_in_vain, wait_for};
use crate::attempts::act::Way;
use crate::expect::Family;
use crate::http::request;
use crate::scrape::{Counts, Series};
use crate::wait::DEADLINE;

/// The states that a daemon without configuration keeps.
const TRAFFICS: [&str; 3] = ["do_peer", "teredo", "https"];
const DIRECTIONS: [&str; 2] = ["outbound", "forwarded"];

/// Traffic that is meant to be closed: what is seen is shown, and nobody is called.
pub(super) fn closed() -> Result<()> {
    let configuration = "[[traffic]]\nname = \"do_peer\"\nexpect = \"closed\"\n";
    scene(configuration, Way::Forwarded, Family::V4, |act| {
        let lab = act.lab;
        let before = lab.counts()?;
        let forward = "type filter hook forward priority 0";
        act.rule(&lab.gw, forward, &format!("{} drop", act.syn()))?;
        three_in_vain(act)?;
        let blocked = wait_for(act, "blocked", SOON)?;
        ensure!(blocked.blocked_by == "local_firewall", "{blocked:?}");
        exactly(act, &before, &act.only("dropped", "local_firewall", 3))?;
        let document = document(lab)?;
        let state = in_document(&document, "do_peer", "forwarded")?;
        ensure!(
            state["expect"] == "closed" && state["state"] == "blocked",
            "{state}"
        );
        for arguments in [&[][..], &["--traffic", "do_peer"], &["--json"]] {
            let (page, _) = ends_with(lab, arguments, 0)?;
            ensure!(page.contains("blocked"), "{page}");
        }
        let line = first_line(lab, &[], 0)?;
        ensure!(
            line.starts_with("PEERWATCH OK - 4 without demand, 2 expected closed |"),
            "{line}"
        );
        Ok(())
    })
}

/// Nobody tries anything.
pub(super) fn no_demand() -> Result<()> {
    scene("", Way::Forwarded, Family::V4, |act| {
        let lab = act.lab;
        wait_for(act, "no_demand", DEADLINE)?;
        for traffic in TRAFFICS {
            for direction in DIRECTIONS {
                let calm = shown(lab, traffic, direction)?;
                let never = [calm.blocked_since, calm.last_success, calm.last_attempt];
                ensure!(
                    calm.state == "no_demand"
                        && calm.blocked_by == "none"
                        && never.iter().all(|time| time.to_bits() == 0)
                        && calm.since > 0.0,
                    "{traffic} {direction}: {calm:?}"
                );
            }
        }
        let line = first_line(lab, &[], 0)?;
        ensure!(
            line.starts_with("PEERWATCH OK - 6 without demand |"),
            "{line}"
        );
        let (page, _) = ends_with(lab, &[], 0)?;
        ensure!(page.matches(" no_demand ").count() == 6, "{page}");
        // Nobody is there.
        let (page, _) = ends_with(lab, &["--url", "http://127.0.0.1:1"], 3)?;
        ensure!(page.starts_with("PEERWATCH UNKNOWN - "), "{page}");
        Ok(())
    })
}

/// Requests for the document that are wrong, or odd: an answer to each, and the daemon goes on.
pub(super) fn http() -> Result<()> {
    scene("", Way::Forwarded, Family::V4, |act| {
        let lab = act.lab;
        let path = "/api/v1/status";
        for (line, headers, status) in [
            (format!("HEAD {path}"), "", 200),
            // A query chooses nothing: the document is always whole.
            (format!("GET {path}?traffic=nonsense&%ff&&=[]{{}}"), "", 200),
            (format!("POST {path}"), "Content-Length: 0\r\n", 405),
            (format!("PUT {path}"), "Content-Length: 2\r\n", 405),
            (format!("DELETE {path}"), "", 405),
            (format!("BREW {path}"), "", 405),
            (format!("GET {path}/"), "", 404),
            (format!("GET {path}/%00"), "", 404),
            ("GET /api/v2/status".to_owned(), "", 404),
            (format!("GET {path} and more"), "", 400),
        ] {
            let answer = request(&lab.gw, 9680, &line, headers).context(line.clone())?;
            ensure!(answer.status == status, "{line}: {answer:?}");
            let allowed = answer.header("Allow") == Some("GET, HEAD");
            ensure!(allowed == (status == 405), "{line}: {answer:?}");
        }
        let all = decided(lab)?;
        let states = all["states"].as_array().context("no states")?;
        ensure!(all["version"] == 1 && states.len() == 6, "{all}");
        Ok(())
    })
}

/// Every series that can count is there at 0 from the first scrape, and no other: docs/metrics.md.
pub(super) fn first_scrape() -> Result<()> {
    scene("", Way::Forwarded, Family::V4, |act| {
        let counts = act.lab.daemon.scrape_of(&["attempts_total"])?;
        let expected = at_first();
        // TCP in both families, Teredo in IPv4: 15 inbound, 18 in each of the other directions.
        ensure!(expected.len() == (2 * 2 + 1) * (15 + 2 * 18));
        for series in expected.keys() {
            ensure!(counts.contains_key(series), "no {series}");
        }
        for (series, count) in &counts {
            ensure!(expected.contains_key(series), "{series} can't count");
            ensure!(*count == 0, "{series} is {count}");
        }
        // And later, with the states that rest on it.
        decided(act.lab)?;
        let later = act.lab.daemon.scrape_of(&["attempts_total"])?;
        ensure!(later == counts, "{later:?}");
        Ok(())
    })
}

/// The series as docs/metrics.md has their outcomes.
fn at_first() -> Counts {
    const HERE: [&str; 5] = [
        "local_firewall",
        "local_stack",
        "local_overload",
        "local_conntrack",
        // Where the kernel does not say why.
        "unknown",
    ];
    let inbound: [(&str, &[&str]); 6] = [
        ("established", &["none"]),
        ("refused", &["local_host"]),
        ("rejected", &["local_firewall"]),
        ("dropped", &HERE),
        ("reply_dropped", &HERE),
        ("unanswered", &["local_overload", "upstream"]),
    ];
    let beyond: [(&str, &[&str]); 7] = [
        ("established", &["none"]),
        ("refused", &["remote_host"]),
        ("rejected", &["local_firewall", "remote_host", "middlebox"]),
        ("offline", &["none"]),
        ("dropped", &HERE),
        ("reply_dropped", &HERE),
        ("unanswered", &["upstream", "unknown"]),
    ];
    let mut all = Counts::new();
    for traffic in TRAFFICS {
        let families: &[&str] = match traffic {
            "teredo" => &["ipv4"],
            _ => &["ipv4", "ipv6"],
        };
        for (direction, outcomes) in [
            ("inbound", &inbound[..]),
            ("outbound", &beyond),
            ("forwarded", &beyond),
        ] {
            for (outcome, blockers) in outcomes {
                for blocked_by in *blockers {
                    for family in families {
                        let labels = [
                            ("traffic", traffic),
                            ("family", family),
                            ("direction", direction),
                            ("outcome", outcome),
                            ("blocked_by", blocked_by),
                        ];
                        all.insert(Series::new("peerwatch_attempts_total", &labels), 0);
                    }
                }
            }
        }
    }
    all
}
