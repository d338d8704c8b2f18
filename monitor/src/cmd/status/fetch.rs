//! The client: one GET, with a limit for its time and for its answer.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::DEFAULT_URL;
use super::trust::Trust;
use crate::status::{PATH, ParseError};

/// The most that is read of an answer, bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// How many characters of what a server says are given back.
const SAID_SHOWN: usize = 200;

/// Why there is no document. Each names the URL and the way out.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0:?} is no URL of a daemon; write it like {DEFAULT_URL}")]
    Url(String),
    #[error(
        "{0}: a user name, a password or a query is not supported here; give the daemon's plain address, \
         like {DEFAULT_URL}, with --url, and NAME:PASSWORD in a file with --user-file"
    )]
    Extra(String),
    #[error(
        "{url}: the name of the host can't be resolved ({reason}); give its address with --url"
    )]
    Resolve { url: String, reason: io::Error },
    #[error(
        "nobody listens on {0}; is the daemon running (`systemctl status peerwatch`)? Where it has \
         another --listen, give that with --url"
    )]
    Refused(String),
    #[error("{url} can't be reached ({reason}); check --url and the firewalls on the way")]
    Connect { url: String, reason: io::Error },
    #[error(
        "{url}: no TLS connection ({reason}); give the certificate of the daemon's authority with \
         --ca-file, and with --url the name that is in the daemon's certificate"
    )]
    Tls { url: String, reason: io::Error },
    #[error(
        "{0}: the password would go over the network in clear; ask by https, or on the host itself"
    )]
    Clear(String),
    #[error(
        "{0} answers 401: it wants a user name and its password; give a file with NAME:PASSWORD with \
         --user-file"
    )]
    Unauthorized(String),
    #[error(
        "{0} answers 401: the user name or the password is wrong; check the file of --user-file"
    )]
    WrongUser(String),
    #[error(
        "{url} gave no whole answer within {seconds} s; look at the daemon's log, or give it longer \
         with --timeout"
    )]
    Timeout { url: String, seconds: u64 },
    #[error("the answer of {0} is larger than 4 MiB, so it is no peerwatch; check --url")]
    TooLarge(String),
    #[error("{url} broke off or speaks no HTTP ({reason}); is that a peerwatch? Check --url")]
    Protocol { url: String, reason: String },
    #[error("{0} answers 404: another server listens there, or an older peerwatch; check --url")]
    NotFound(String),
    #[error("{url} answers {status}{said}; look at that server's log, or check --url")]
    Status {
        url: String,
        status: StatusCode,
        /// What the server says about it, behind a colon, or empty.
        said: String,
    },
    #[error("the answer of {url} {reason}; check --url, and that both are the same version")]
    Answer { url: String, reason: ParseError },
    #[error("the client can't be started: {0}; are the file descriptors used up?")]
    Runtime(io::Error),
}

/// Where the document is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Url {
    /// https.
    pub(super) tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// As it goes into the header `Host`.
    authority: String,
    path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl Url {
    /// Takes the address of a daemon, `http[s]://HOST[:PORT][/PREFIX]`, or that of the document itself.
    pub(super) fn parse(text: &str) -> Result<Self, FetchError> {
        let bad = || FetchError::Url(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        // Credentials would be shown in sentences, and never sent.
        if authority.as_str().contains('@') {
            let (_, host) = authority.as_str().rsplit_once('@').ok_or_else(bad)?;
            let scheme = if tls { "https" } else { "http" };
            return Err(FetchError::Extra(format!("{scheme}://{host}")));
        }
        if uri.query().is_some() {
            return Err(FetchError::Extra(text.to_owned()));
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        // A port that is no number must not become the default one.
        let port = match authority.as_str().strip_prefix(host).ok_or_else(bad)? {
            "" if tls => 443,
            "" => 80,
            rest => rest
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(bad)?,
        };
        let prefix = uri.path().trim_end_matches('/');
        let prefix = prefix.strip_suffix(PATH).unwrap_or(prefix);
        Ok(Self {
            tls,
            host: bare.unwrap_or(host).to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: format!("{prefix}{PATH}"),
        })
    }
}

/// Gets the document. `patience` is for all of it: name, connection, answer to its last byte.
pub(super) fn get(url: &Url, trust: &Trust, patience: Duration) -> Result<Vec<u8>, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(FetchError::Runtime)?;
    let answer = runtime.block_on(async { timeout(patience, ask(url, trust)).await });
    // A thread that still resolves a name must not hold the process.
    runtime.shutdown_background();
    answer.unwrap_or_else(|_| {
        Err(FetchError::Timeout {
            url: url.to_string(),
            seconds: patience.as_secs(),
        })
    })
}

/// As [`get`], of bytes that a server has sent already. Their time is not limited.
pub(super) fn get_from(url: &Url, answer: &[u8]) -> Result<Vec<u8>, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(FetchError::Runtime)?;
    // The request is not looked at, and always goes in.
    let stream = tokio::io::join(io::Cursor::new(answer.to_vec()), tokio::io::sink());
    runtime.block_on(exchange(url, None, stream))
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(url: &Url, trust: &Trust) -> Result<Box<dyn Stream>, FetchError> {
    let addresses: Vec<SocketAddr> = lookup_host((url.host.as_str(), url.port))
        .await
        .map_err(|reason| FetchError::Resolve {
            url: url.to_string(),
            reason,
        })?
        .collect();
    let unreachable = |reason: io::Error| match reason.kind() {
        io::ErrorKind::ConnectionRefused => FetchError::Refused(url.to_string()),
        _ => FetchError::Connect {
            url: url.to_string(),
            reason,
        },
    };
    let stream = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(unreachable)?;
    let Some(config) = &trust.tls else {
        let peer = stream.peer_addr().map_err(unreachable)?;
        if trust.authorization.is_some() && !peer.ip().to_canonical().is_loopback() {
            return Err(FetchError::Clear(url.to_string()));
        }
        return Ok(Box::new(stream));
    };
    let tls = |reason| FetchError::Tls {
        url: url.to_string(),
        reason,
    };
    let name = ServerName::try_from(url.host.clone()).map_err(|e| tls(io::Error::other(e)))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(name, stream).await.map_err(tls)?;
    Ok(Box::new(stream))
}

async fn ask(url: &Url, trust: &Trust) -> Result<Vec<u8>, FetchError> {
    let stream = connect(url, trust).await?;
    exchange(url, trust.authorization.as_ref(), stream).await
}

/// One request and its answer on an open connection.
async fn exchange<S>(
    url: &Url,
    authorization: Option<&HeaderValue>,
    stream: S,
) -> Result<Vec<u8>, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let protocol = |error: &dyn Error| FetchError::Protocol {
        url: url.to_string(),
        reason: error.to_string(),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| protocol(&error))?;
    // Its errors come out of the request too.
    tokio::spawn(connection);
    let mut request = Request::get(url.path.as_str())
        .header(HOST, url.authority.as_str())
        .header(USER_AGENT, concat!("peerwatch/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| protocol(&error))?;
    if let Some(value) = authorization {
        request.headers_mut().insert(AUTHORIZATION, value.clone());
    }
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| protocol(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge(url.to_string())
            } else {
                protocol(error.as_ref())
            }
        })?
        .to_bytes();
    match status {
        StatusCode::OK => Ok(body.to_vec()),
        StatusCode::UNAUTHORIZED if authorization.is_some() => {
            Err(FetchError::WrongUser(url.to_string()))
        }
        StatusCode::UNAUTHORIZED => Err(FetchError::Unauthorized(url.to_string())),
        StatusCode::NOT_FOUND => Err(FetchError::NotFound(url.to_string())),
        status => Err(FetchError::Status {
            url: url.to_string(),
            status,
            said: said(&body),
        }),
    }
}

/// The first line of an answer, behind a colon; nothing of a page for browsers.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() || line.starts_with('<') {
        return String::new();
    }
    let shown: String = line.chars().take(SAID_SHOWN).collect();
    format!(": {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_the_document() {
        for (text, wanted, host, port) in [
            (
                DEFAULT_URL,
                "http://127.0.0.1:9680/api/v1/status",
                "127.0.0.1",
                9680,
            ),
            ("http://gw/", "http://gw/api/v1/status", "gw", 80),
            (
                "http://[::1]:9/api/v1/status",
                "http://[::1]:9/api/v1/status",
                "::1",
                9,
            ),
            ("https://gw/pw/", "https://gw/pw/api/v1/status", "gw", 443),
            (
                "HTTP://gw:80/pw/",
                "http://gw:80/pw/api/v1/status",
                "gw",
                80,
            ),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.to_string(), wanted);
            assert_eq!((url.host.as_str(), url.port), (host, port), "{text}");
        }
    }

    #[test]
    fn bad_urls_are_explained() {
        for (text, wanted) in [
            (
                "",
                "\"\" is no URL of a daemon; write it like http://127.0.0.1:9680",
            ),
            ("127.0.0.1:9680", "is no URL of a daemon"),
            ("/api/v1/status", "is no URL of a daemon"),
            ("http://", "is no URL of a daemon"),
            ("http://gw:99999", "is no URL of a daemon"),
            ("http://gw:0", "is no URL of a daemon"),
            ("http://gw:", "is no URL of a daemon"),
            ("ftp://gw", "is no URL of a daemon"),
            ("http://a b", "is no URL of a daemon"),
            ("http://gw/?a=b", "a query is not supported"),
            ("http://me:secret@gw", "http://gw: a user name"),
        ] {
            let said = Url::parse(text).unwrap_err().to_string();
            assert!(said.contains(wanted), "{text}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
