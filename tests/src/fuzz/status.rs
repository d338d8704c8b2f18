//! What `peerwatch status` gets from a server, which may be any server.

use monitor::cli::StatusFlags;
use monitor::cmd::status::Report;
use monitor::fuzz;
use monitor::status::Document;

/// Where the server is said to be.
const URL: &str = "http://127.0.0.1:9680";

/// That a report is one that monitoring systems and terminals can take.
fn assert_fit(report: &Report, is_json: bool) {
    let Report {
        stdout,
        stderr,
        code,
    } = report;
    assert!(*code <= 3 && stderr.is_empty(), "{report:?}");
    for c in stdout.chars().filter(|c| *c != '\n') {
        assert!(
            !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c),
            "{c:?}"
        );
    }
    if is_json && *code < 3 {
        assert!(serde_json::from_str::<serde_json::Value>(stdout).is_ok());
    }
    if !is_json {
        let (first, rest) = stdout.split_once('\n').expect("a line");
        let word = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::from(*code)];
        assert!(
            first.starts_with(&format!("PEERWATCH {word} - ")),
            "{first}"
        );
        // Behind it there is performance data.
        assert!(
            first.matches('|').count() <= 1 && !rest.contains('|'),
            "{stdout}"
        );
    }
}

fn flags(json: bool) -> StatusFlags {
    StatusFlags {
        ca_file: None,
        user_file: None,
        json,
        traffic: None,
        direction: None,
        url: None,
        timeout: 5,
    }
}

/// The body of an answer.
///
/// # Panics
///
/// Where a document that is shown again is another one, or a report does not fit a terminal.
pub fn status_document(data: &[u8]) {
    if let Ok(document) = Document::parse(data) {
        let shown = document.to_json().expect("a document can be shown");
        let again = Document::parse(shown.as_bytes()).expect("what is shown can be read");
        assert_eq!(again.to_json().as_deref(), Ok(shown.as_str()));
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", data.len());
    let answer = [head.as_bytes(), data].concat();
    for json in [false, true] {
        assert_fit(&fuzz::status(&flags(json), URL, &answer), json);
    }
}

/// All that a server sends.
///
/// # Panics
///
/// Where a report does not fit a terminal.
pub fn status_answer(data: &[u8]) {
    assert_fit(&fuzz::status(&flags(false), URL, data), false);
}
