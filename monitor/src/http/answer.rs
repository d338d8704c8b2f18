//! From a request to its answer.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    HeaderMap, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::Site;
use crate::status::PATH as STATUS;

/// Path of the metrics.
pub(super) const METRICS: &str = "/metrics";
const HEALTH: &str = "/healthz";
const READY: &str = "/readyz";

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus's text exposition format.
const EXPOSITION: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// How many characters of an unknown path are given back.
const PATH_SHOWN: usize = 200;

/// An answer, ready to be written.
pub(super) type Answer = Response<Full<Bytes>>;

/// What takes work, and a thread that may block.
#[derive(Clone, Copy)]
enum Page {
    Metrics,
    Status,
}

impl Page {
    /// What its texts call it.
    const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Status => "status",
        }
    }

    const fn kind(self) -> HeaderValue {
        match self {
            Self::Metrics => EXPOSITION,
            Self::Status => JSON,
        }
    }

    fn make(self, site: &dyn Site) -> Result<String, String> {
        match self {
            Self::Metrics => site.metrics(),
            Self::Status => site.status(),
        }
    }
}

/// Answers requests for one [`Site`].
pub(super) struct Answers {
    site: Arc<dyn Site>,
    /// One permit: scrapes run one after the other.
    scrape: Arc<Semaphore>,
    /// One permit, so that neither of the two pages waits for the other.
    status: Arc<Semaphore>,
    /// How long a request for these may take, the wait for others before it included.
    patience: Duration,
}

impl Answers {
    pub(super) fn new(site: Arc<dyn Site>, patience: Duration) -> Self {
        Self {
            site,
            scrape: Arc::new(Semaphore::new(1)),
            status: Arc::new(Semaphore::new(1)),
            patience,
        }
    }

    /// The answer to a request. Its body, if it has one, is never read.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        if ![METRICS, STATUS, HEALTH, READY].contains(&path) {
            let shown: String = path.chars().take(PATH_SHOWN).collect();
            let text =
                format!("no such page: {shown}; try {METRICS}, {STATUS}, {HEALTH} or {READY}\n");
            return plain(StatusCode::NOT_FOUND, text);
        }
        let method = request.method();
        // The server leaves the body of an answer to HEAD out and keeps its headers.
        if method != Method::GET && method != Method::HEAD {
            let text = format!("{method} is not possible here: {path} answers GET and HEAD\n");
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, text);
            let headers = answer.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let gzip = accepts_gzip(request.headers());
        match path {
            METRICS => self.page(Page::Metrics, &self.scrape, gzip).await,
            STATUS => self.page(Page::Status, &self.status, gzip).await,
            READY => match self.site.ready() {
                Ok(()) => plain(StatusCode::OK, "ready\n".to_owned()),
                Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
            },
            _ => plain(StatusCode::OK, "ok\n".to_owned()),
        }
    }

    async fn page(&self, page: Page, turn: &Arc<Semaphore>, gzip: bool) -> Answer {
        let deadline = Instant::now() + self.patience;
        let name = page.name();
        let too_slow = || {
            let text = format!("no {name} within {:?}; try again later\n", self.patience);
            plain(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let Ok(Ok(permit)) = timeout_at(deadline, Arc::clone(turn).acquire_owned()).await else {
            return too_slow();
        };
        let site = Arc::clone(&self.site);
        // The permit goes along: a client that hangs up leaves the work running, and the next one
        // must wait for it all the same.
        let work = tokio::task::spawn_blocking(move || {
            let text = page.make(site.as_ref())?;
            let body = if gzip {
                compress(&text)
                    .map_err(|error| format!("the {name} could not be compressed: {error}"))?
            } else {
                text.into_bytes()
            };
            drop(permit);
            Ok::<_, String>(body)
        });
        let body = match timeout_at(deadline, work).await {
            Ok(Ok(Ok(body))) => body,
            Ok(Ok(Err(reason))) => return plain(StatusCode::INTERNAL_SERVER_ERROR, reason + "\n"),
            Ok(Err(panic)) => {
                tracing::error!("the {name} could not be collected: {panic}");
                let text =
                    format!("the {name} could not be collected; the log of the daemon has more\n");
                return plain(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
            Err(_) => return too_slow(),
        };
        let mut answer = response(StatusCode::OK, page.kind(), body);
        let headers = answer.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

fn plain(status: StatusCode, text: String) -> Answer {
    response(status, PLAIN, text.into_bytes())
}

fn response(status: StatusCode, kind: HeaderValue, body: Vec<u8>) -> Answer {
    let length = HeaderValue::from(body.len());
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The 404 gives the path back: no browser shall take it for a page.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn compress(text: &str) -> io::Result<Vec<u8>> {
    // Level 1: the text repeats itself so much that more effort saves little.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

/// Whether the client takes gzip (RFC 9110 section 12.5.3). The most specific mention counts: `gzip` (or
/// its old name `x-gzip`) before `*`; a weight of 0, or one that is no number, is a no.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut named, mut any) = (None, None);
    for value in headers.get_all(ACCEPT_ENCODING) {
        for item in value.to_str().unwrap_or_default().split(',') {
            let mut parts = item.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
            match coding.as_str() {
                "gzip" | "x-gzip" => named = Some(weight > 0.0),
                "*" => any = Some(weight > 0.0),
                _ => {}
            }
        }
    }
    named.or(any).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_only_for_those_who_take_it() {
        let cases: [(&[&str], bool); 14] = [
            (&[], false),
            (&[""], false),
            (&["identity"], false),
            (&["gzip"], true),
            (&["x-GZIP"], true),
            (&["deflate, gzip;q=0.5"], true),
            (&["br", "gzip"], true),
            (&["gzip;q=0"], false),
            (&["gzip ; q=0.000, identity"], false),
            (&["gzip;q=nonsense"], false),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["gzip;q=0, *"], false),
            (&["*;q=0, gzip"], true),
        ];
        for (values, wanted) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(accepts_gzip(&headers), wanted, "{values:?}");
        }
    }
}
