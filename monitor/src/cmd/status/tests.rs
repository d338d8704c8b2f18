//! The command against documents, and against servers that answer all kinds of things.

mod servers;

use clap::Parser as _;

use super::*;
use crate::attempt::BlockedBy;
use crate::cli::Cli;
use crate::status::tests::{NOW, block, blocked, example, quiet};
use crate::status::{Coverage, Expect, State, TrafficState};

/// A document with these states and nothing missing.
fn with(states: Vec<TrafficState>) -> Document {
    Document {
        states,
        coverage: Coverage::new(Vec::new(), 0, Vec::new()),
        ..example()
    }
}

fn in_state(state: State) -> TrafficState {
    TrafficState {
        state,
        ..quiet("https", Direction::Forwarded)
    }
}

/// Exit code and page.
fn page(document: &Document) -> (u8, String) {
    let selection = Selection::new(document, None, None).unwrap();
    let verdict = selection.verdict();
    (verdict.code, render::page(&selection, &verdict))
}

/// Exit code and first line.
fn first(document: &Document) -> (u8, String) {
    let (code, page) = page(document);
    (code, page.lines().next().unwrap().to_owned())
}

#[test]
fn the_page_is_that_of_the_documentation() {
    let (code, text) = page(&example());
    assert_eq!(text, block("text"));
    assert_eq!(code, 2);
}

#[test]
fn the_first_line_is_that_of_the_design() {
    let (_, line) = first(&with(vec![blocked()]));
    assert_eq!(
        line,
        "PEERWATCH CRITICAL - do_peer forwarded blocked by local_firewall since 02:14 UTC (18 of 20) | \
         'do_peer_forwarded_attempts'=20;;;0; 'do_peer_forwarded_failed'=18;;;0;"
    );
}

#[test]
fn the_worst_state_decides() {
    use State::{Blocked, Degraded, Failing, NoDemand, Ok, Unknown};
    for (states, code, word) in [
        (vec![], 0, "OK"),
        (vec![Ok], 0, "OK"),
        (vec![NoDemand], 0, "OK"),
        (vec![Ok, NoDemand], 0, "OK"),
        (vec![Ok, Unknown], 3, "UNKNOWN"),
        (vec![Degraded, Unknown], 1, "WARNING"),
        (vec![Unknown, Failing], 1, "WARNING"),
        (vec![Degraded, Ok], 1, "WARNING"),
        (vec![Failing, Blocked, Unknown], 2, "CRITICAL"),
    ] {
        let document = with(states.iter().copied().map(in_state).collect());
        let (got, line) = first(&document);
        assert_eq!(got, code, "{states:?}");
        assert!(line.starts_with(&format!("PEERWATCH {word} - ")), "{line}");
    }
    let many = [Degraded, Unknown, Failing, Blocked, Unknown];
    let (_, line) = first(&with(many.map(in_state).into()));
    let order: Vec<&str> = line.split("; ").collect();
    assert!(order[0].contains("https forwarded blocked since"), "{line}");
    assert!(order[1].contains("failing"), "{line}");
    assert!(order[2].contains("degraded"), "{line}");
    assert!(order[3].starts_with("2 more | "), "{line}");
}

#[test]
fn what_is_meant_to_be_closed_is_shown_and_never_alerted() {
    let closed = TrafficState {
        expect: Expect::Closed,
        ..blocked()
    };
    let (code, text) = page(&with(vec![closed, in_state(State::Ok)]));
    assert_eq!(code, 0);
    assert!(text.starts_with("PEERWATCH OK - 1 ok, 1 expected closed | "));
    assert!(
        text.contains("do_peer  forwarded  blocked  closed  02:14"),
        "{text}"
    );
    assert!(!text.contains("10.7.1.2"), "{text}");
}

#[test]
fn where_addresses_are_left_out_it_says_so() {
    let (code, text) = page(&example().without_peers());
    assert_eq!(code, 2);
    assert!(!text.contains("10.7.1.2"), "{text}");
    assert!(
        text.contains("\n  who fails towards whom is shown on the host itself"),
        "{text}"
    );
}

#[test]
fn without_states_what_is_missing_makes_it_unknown() {
    let blind = Coverage::new(Vec::new(), 0, vec!["no hook at all".to_owned()]);
    let mut document = with(Vec::new());
    document.coverage = blind;
    let (code, line) = first(&document);
    assert_eq!(code, UNKNOWN);
    assert_eq!(
        line,
        "PEERWATCH UNKNOWN - no traffic has a state; no hook at all"
    );
    document.states = vec![in_state(State::Ok)];
    let (code, line) = first(&document);
    assert_eq!(code, 0, "the state says what it rests on");
    assert!(line.contains(" - 1 ok; no hook at all | "), "{line}");
}

#[test]
fn old_states_are_unknown_and_an_old_block_stays_one() {
    let mut document = with(vec![in_state(State::Ok)]);
    document.evaluated = Some(NOW - 7300.0);
    let (code, line) = first(&document);
    assert_eq!(code, UNKNOWN);
    assert!(line.contains("the states are 2 h old"), "{line}");
    document.evaluated = None;
    assert!(first(&document).1.contains("no state was decided yet"));
    document.states = vec![blocked()];
    assert_eq!(first(&document).0, 2);
}

#[test]
fn nobody_and_never_leave_words_out() {
    let failing = TrafficState {
        blocked_by: BlockedBy::None,
        since: None,
        ..in_state(State::Failing)
    };
    let (_, text) = page(&with(vec![failing]));
    assert!(
        text.contains(" - https forwarded failing (0 of 0) | "),
        "{text}"
    );
    assert!(text.contains("https forwarded failing (0 of 0), no attempt was seen\n"));
}

#[test]
fn pairs_can_be_left_out() {
    let (code, text) = page(&with(vec![blocked()]).without_peers());
    assert_eq!(code, 2);
    assert!(!text.contains("10.7."), "{text}");
}

#[test]
fn text_from_outside_is_harmless() {
    let mut odd = blocked();
    odd.traffic = "a|b'=\u{1b}[2J\n".to_owned();
    let commands = &mut odd.top_failing.as_mut().unwrap()[0].commands;
    *commands = vec!["rm -rf /".to_owned()];
    let mut document = with(vec![odd]);
    document.coverage = Coverage::new(Vec::new(), 0, vec!["\u{9b}31m| x".to_owned()]);
    document.host.kernel_release = "6\r7".to_owned();
    let (_, text) = page(&document);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    assert_eq!(text.matches('|').count(), 1, "{text}");
    assert!(
        text.contains("'a_b____2J__forwarded_attempts'=20;"),
        "{text}"
    );
    assert!(!text.contains("rm -rf"), "commands are made here: {text}");
}

#[test]
fn a_part_can_be_chosen() {
    let document = with(vec![blocked(), in_state(State::Ok)]);
    let code = |traffic, direction| {
        Selection::new(&document, traffic, direction).map(|selection| selection.verdict().code)
    };
    assert_eq!(code(Some("do_peer"), None).unwrap(), 2);
    assert_eq!(code(Some("https"), Some(Direction::Forwarded)).unwrap(), 0);
    assert_eq!(code(None, Some(Direction::Forwarded)).unwrap(), 2);
    assert_eq!(
        code(Some("dns"), None).unwrap_err().to_string(),
        "no traffic is named \"dns\" (there are: do_peer, https); name one of these with --traffic"
    );
    assert_eq!(
        code(Some("https"), Some(Direction::Inbound))
            .unwrap_err()
            .to_string(),
        "no state is kept for https inbound; add it to state_directions in the daemon's configuration"
    );
}

#[test]
fn bad_arguments_are_unknown_and_help_is_not() {
    let parse = |words: &[&str]| {
        let error = Cli::try_parse_from(["peerwatch", "status"].iter().chain(words)).unwrap_err();
        bad_arguments(&error)
    };
    let report = parse(&["--nonsense"]);
    assert_eq!(report.code, UNKNOWN);
    assert_eq!(
        report.stdout,
        "PEERWATCH UNKNOWN - unexpected argument '--nonsense' found; see peerwatch status --help\n"
    );
    assert!(
        report.stderr.contains("Usage: peerwatch status"),
        "{report:?}"
    );
    let help = parse(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("--traffic"), "{help:?}");
}
