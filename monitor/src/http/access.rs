//! Who asks, and what they may see.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, FORWARDED, HOST, HeaderMap, HeaderName, VIA};
use hyper::{Request, Uri};
use tokio::time::{Instant, timeout_at};

use super::group::Group;
use super::web::{Gate, Shown, Standing, Users, Verdict};

/// What proxies say about whom they ask for.
const PROXIED: [HeaderName; 4] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) address: IpAddr,
    pub(super) shown: Shown,
}

/// What a request may see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    /// All, or all but addresses of peers.
    Allowed { peers: bool },
    /// Nothing: there is no password, or a wrong one.
    Refused,
    /// Nothing: the connection was made when less was asked for.
    Outdated,
    /// Nothing now: too many passwords are being checked.
    Busy,
}

/// Decides what a request of a connection that is worth so much may see. Its password is checked until `deadline`.
pub(super) async fn access<B>(
    request: &Request<B>,
    address: IpAddr,
    standing: Standing,
    users: &Arc<Users>,
    gate: &Arc<Gate>,
    deadline: Instant,
) -> Access {
    if !standing.allowed {
        return Access::Outdated;
    }
    if users.is_empty() {
        let peers = standing.certificate || is_here(request, address);
        return Access::Allowed { peers };
    }
    let Some((name, password)) = credentials(request.headers()) else {
        return Access::Refused;
    };
    let check = users.check(gate, Group::of(address), &name, &password);
    match timeout_at(deadline, check).await {
        Ok(Verdict::Right) => Access::Allowed { peers: true },
        Ok(Verdict::Wrong) => Access::Refused,
        Ok(Verdict::Busy) | Err(_) => Access::Busy,
    }
}

/// User name and password (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// Whether somebody on this host asks for themselves: from a loopback address, not for another as a proxy
/// does, and not for a page in a browser, which can make a name of its own lead here. A proxy that says nothing
/// of whom it asks for, and gives `Host` the address that it connects to, looks like them: docs/http.md says so.
fn is_here<B>(request: &Request<B>, address: IpAddr) -> bool {
    let headers = request.headers();
    address.to_canonical().is_loopback()
        && !PROXIED.iter().any(|name| headers.contains_key(name))
        && headers.get(HOST).is_none_or(|host| {
            let uri: Option<Uri> = host.to_str().ok().and_then(|host| host.parse().ok());
            uri.as_ref().and_then(Uri::host).is_some_and(is_plain)
        })
}

/// Whether the name of a host is a loopback address or `localhost`. Whoever asks from such an address got here by
/// one, unless a proxy passes on what its own client wrote.
fn is_plain(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address: Result<IpAddr, _> = bare.unwrap_or(host).parse();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/api/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn only_who_asks_here_for_themselves_is_here() {
        let plain = [("host", "127.0.0.1:9680")];
        for (address, headers, wanted) in [
            ("127.0.0.1", &plain[..], true),
            ("127.8.0.1", &plain, true),
            ("::1", &[("host", "[::1]:9680")], true),
            ("::ffff:127.0.0.1", &[("host", "localhost")], true),
            ("127.0.0.1", &[("host", "[::ffff:127.0.0.1]:9680")], true),
            ("127.0.0.1", &[], true),
            ("127.0.0.1", &[("host", "10.0.0.1:9680")], false),
            ("127.0.0.1", &[("host", "[2001:db8::1]:9680")], false),
            ("127.0.0.1", &[("host", "0.0.0.0:9680")], false),
            ("10.0.0.1", &plain, false),
            ("::ffff:10.0.0.1", &plain, false),
            ("fe80::1", &plain, false),
            ("127.0.0.1", &[("host", "evil.example:9680")], false),
            ("127.0.0.1", &[("host", "127.0.0.1.evil.example")], false),
            ("127.0.0.1", &[("host", "")], false),
            ("127.0.0.1", &[("x-forwarded-for", "10.0.0.1")], false),
            ("127.0.0.1", &[("forwarded", "for=10.0.0.1")], false),
            ("127.0.0.1", &[("via", "1.1 proxy")], false),
        ] {
            let here = is_here(&request(headers), address.parse().unwrap());
            assert_eq!(here, wanted, "{address} {headers:?}");
        }
    }

    #[test]
    fn credentials_are_read_as_the_standard_has_them() {
        let of = |value: &str| credentials(request(&[("authorization", value)]).headers());
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        // RFC 7617, sections 2 and 2.1.
        assert_eq!(
            of("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            pair("Aladdin", "open sesame")
        );
        assert_eq!(of("basic dGVzdDoxMjPCow=="), pair("test", "123£"));
        assert_eq!(of("Basic YTpiOmM="), pair("a", "b:c"));
        for bad in [
            "Basic",
            "Basic ",
            "Basic !",
            "Bearer YTpi",
            "Basic YQ==",
            "Basic /w==",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
