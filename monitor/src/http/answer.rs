//! From a request to its answer.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::Site;
use super::access::{Access, Caller, access};
use super::page::{Missing, Page, Variant};
use super::web::Web;
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

/// Answers requests for one [`Site`].
pub(super) struct Answers {
    site: Arc<dyn Site>,
    web: Arc<Web>,
    metrics: Page,
    status: Page,
    /// How long an answer may take in all: the check of its password, and the wait for others before that and
    /// before its page.
    patience: Duration,
}

impl Answers {
    pub(super) fn new(site: Arc<dyn Site>, web: Arc<Web>, patience: Duration) -> Self {
        Self {
            site,
            web,
            metrics: Page::new("metrics"),
            status: Page::new("status"),
            patience,
        }
    }

    pub(super) fn web(&self) -> &Web {
        &self.web
    }

    /// The answer to a request, and whether it is one for somebody who may ask. Its body, if it has one, is
    /// never read.
    pub(super) async fn answer<B>(&self, request: &Request<B>, caller: &Caller) -> (Answer, bool) {
        let deadline = Instant::now() + self.patience;
        let settings = self.web.current();
        let standing = settings.demand.judge(&caller.shown);
        let (users, gate) = (&settings.users, &self.web.gate);
        let access = access(request, caller.address, standing, users, gate, deadline).await;
        let (mut answer, known) = match access {
            Access::Allowed { peers } => (self.allowed(request, peers, deadline).await, true),
            Access::Refused => (refused(), false),
            Access::Outdated => (outdated(), false),
            Access::Busy => (busy(), false),
        };
        if standing.over {
            // The server closes by this, too.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        for (name, value) in &settings.headers {
            answer.headers_mut().insert(name, value.clone());
        }
        (answer, known)
    }

    async fn allowed<B>(&self, request: &Request<B>, peers: bool, deadline: Instant) -> Answer {
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
            METRICS => {
                let site = Arc::clone(&self.site);
                let make = move || site.metrics();
                let answer = self
                    .metrics
                    .get(Variant { gzip, peers: true }, deadline, make);
                self.page(answer.await, &self.metrics, EXPOSITION, gzip)
            }
            STATUS => {
                let site = Arc::clone(&self.site);
                let make = move || site.status(peers);
                let answer = self.status.get(Variant { gzip, peers }, deadline, make);
                self.page(answer.await, &self.status, JSON, gzip)
            }
            READY => match self.site.ready() {
                Ok(()) => plain(StatusCode::OK, "ready\n".to_owned()),
                Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
            },
            _ => plain(StatusCode::OK, "ok\n".to_owned()),
        }
    }

    /// The answer with a page, or with why there is none.
    fn page(
        &self,
        made: Result<Bytes, Missing>,
        page: &Page,
        kind: HeaderValue,
        gzip: bool,
    ) -> Answer {
        let body = match made {
            Ok(body) => body,
            Err(Missing::Reason(reason)) => {
                return plain(StatusCode::INTERNAL_SERVER_ERROR, reason + "\n");
            }
            Err(Missing::TooSlow) => {
                let (name, patience) = (page.name(), self.patience);
                let text = format!("no {name} within {patience:?}; try again later\n");
                return plain(StatusCode::SERVICE_UNAVAILABLE, text);
            }
        };
        let mut answer = response(StatusCode::OK, kind, body);
        let headers = answer.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

fn refused() -> Answer {
    let text = "a user name and its password are needed\n".to_owned();
    let mut answer = plain(StatusCode::UNAUTHORIZED, text);
    let challenge = HeaderValue::from_static("Basic realm=\"peerwatch\", charset=\"UTF-8\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    answer
}

/// For a connection that would not be accepted now.
fn outdated() -> Answer {
    let text = "TLS or a certificate is asked for since this connection was made; connect again\n";
    plain(StatusCode::FORBIDDEN, text.to_owned())
}

fn busy() -> Answer {
    let text = "too many passwords are being checked; try again later\n".to_owned();
    let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    let seconds = HeaderValue::from_static("1");
    answer.headers_mut().insert(RETRY_AFTER, seconds);
    answer
}

fn plain(status: StatusCode, text: String) -> Answer {
    response(status, PLAIN, Bytes::from(text))
}

fn response(status: StatusCode, kind: HeaderValue, body: Bytes) -> Answer {
    let length = HeaderValue::from(body.len());
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The 404 gives the path back: no browser shall take it for a page.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
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
