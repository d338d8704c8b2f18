//! `peerwatch status`: asks a running daemon how its traffics do. For people, and as a check of
//! monitoring systems that take the first line and the exit code (Nagios, Icinga, Checkmk).

mod fetch;
mod json;
mod render;
#[cfg(test)]
mod tests;
mod text;
mod trust;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use monitor_common::Direction;

use crate::cli::{self, StatusFlags};
use crate::config::Environment;
use crate::status::Document;
use fetch::FetchError;
use text::clean;
use trust::{Trust, TrustError};
use verdict::Selection;

/// Where the daemon is asked when nothing else is said.
pub const DEFAULT_URL: &str = "http://127.0.0.1:9680";

/// The variable of the environment that says something else.
pub const URL_VARIABLE: &str = "PEERWATCH_URL";

/// That for the file with authorities.
const CA_FILE_VARIABLE: &str = "PEERWATCH_CA_FILE";

/// That for the file with user name and password.
const USER_FILE_VARIABLE: &str = "PEERWATCH_USER_FILE";

/// Exit code where the state is not known: the daemon can't be asked, or the call is wrong.
pub const UNKNOWN: u8 = 3;

/// What to write, and the exit code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// 0 ok or no demand, 1 degraded or failing, 2 blocked, 3 unknown.
    pub code: u8,
}

impl Report {
    fn unknown(sentence: &str) -> Self {
        Self {
            stdout: format!("PEERWATCH UNKNOWN - {}\n", clean(sentence)),
            stderr: String::new(),
            code: UNKNOWN,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("{URL_VARIABLE} in the environment is no UTF-8; write it like {DEFAULT_URL}")]
    Environment,
    #[error("no traffic is named {name:?} (there are: {there}); name one of these with --traffic")]
    NoTraffic { name: String, there: String },
    #[error(
        "no state is kept for {traffic}{}; add it to state_directions in the daemon's configuration",
        direction.as_str()
    )]
    NoState {
        /// With a space behind it, or empty.
        traffic: String,
        direction: Direction,
    },
}

/// Asks the daemon and says how it is. A flag beats the environment. What goes wrong is in the report too, with exit code 3.
#[must_use]
pub fn status(flags: &StatusFlags, environment: &Environment) -> Report {
    ask(flags, environment).unwrap_or_else(|error| {
        if flags.json {
            // Standard output is for JSON only.
            let stderr = format!("peerwatch: {}\n", clean(&error.to_string()));
            return Report {
                stdout: String::new(),
                stderr,
                code: UNKNOWN,
            };
        }
        Report::unknown(&error.to_string())
    })
}

fn ask(flags: &StatusFlags, environment: &Environment) -> Result<Report, StatusError> {
    let url = match (&flags.url, environment.get(URL_VARIABLE)) {
        (Some(url), _) => url.as_str(),
        (None, Some(value)) => value.to_str().ok_or(StatusError::Environment)?,
        (None, None) => DEFAULT_URL,
    };
    let url = fetch::Url::parse(url)?;
    let file = |flag: &Option<PathBuf>, variable| {
        flag.clone()
            .or_else(|| environment.get(variable).map(PathBuf::from))
    };
    let trust = Trust::read(
        url.tls,
        file(&flags.ca_file, CA_FILE_VARIABLE).as_deref(),
        file(&flags.user_file, USER_FILE_VARIABLE).as_deref(),
    )?;
    let body = fetch::get(&url, &trust, Duration::from_secs(flags.timeout))?;
    report(flags, &url, &body)
}

/// What an answer says.
fn report(flags: &StatusFlags, url: &fetch::Url, body: &[u8]) -> Result<Report, StatusError> {
    let document = Document::parse(body).map_err(|reason| FetchError::Answer {
        url: url.to_string(),
        reason,
    })?;
    let selection = Selection::new(&document, flags.traffic.as_deref(), flags.direction)?;
    let verdict = selection.verdict();
    let stdout = if flags.json {
        json::pretty(&String::from_utf8_lossy(body))
    } else {
        render::page(&selection, &verdict)
    };
    Ok(Report {
        stdout,
        stderr: String::new(),
        code: verdict.code,
    })
}

/// What `status` makes of a URL and of the bytes that a server sends there; never an error.
pub(crate) fn of_answer(flags: &StatusFlags, url: &str, answer: &[u8]) -> Report {
    let made = || -> Result<Report, StatusError> {
        let url = fetch::Url::parse(url)?;
        let body = fetch::get_from(&url, answer)?;
        report(flags, &url, &body)
    };
    made().unwrap_or_else(|error| Report::unknown(&error.to_string()))
}

/// What a URL is understood as.
pub(crate) fn canonical_url(text: &str) -> Result<String, String> {
    fetch::Url::parse(text)
        .map(|url| url.to_string())
        .map_err(|error| error.to_string())
}

/// What a call of `status` with bad arguments says: on standard output in one line, as monitoring systems
/// want it, and the whole on standard error. Help that was asked for is no error.
#[must_use]
pub fn bad_arguments(error: &clap::Error) -> Report {
    let whole = error.render().to_string();
    if !error.use_stderr() {
        return Report {
            stdout: whole,
            stderr: String::new(),
            code: 0,
        };
    }
    let first = whole.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let mut report = Report::unknown(&format!("{first}; see {} status --help", cli::NAME));
    report.stderr = whole;
    report
}
