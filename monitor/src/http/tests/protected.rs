//! With TLS and users.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;
use crate::http::web::tests::{Folder, TLS, USERS};

/// A request over TLS by somebody who trusts the folder's certificate.
async fn ask(server: &Server, folder: &Folder, request: &str) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(folder.path("server.crt")).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = server.connect().await;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn get(path: &str, user: Option<&str>) -> String {
    let user = user.map_or(String::new(), |user| {
        format!("Authorization: Basic {}\r\n", STANDARD.encode(user))
    });
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{user}\r\n")
}

#[tokio::test]
async fn nothing_is_shown_without_the_right_password() {
    let folder = Folder::new(&format!(
        "{TLS}{USERS}http_server_config:\n  headers:\n    X-Frame-Options: deny\n"
    ));
    let server = start_with(Limits::default(), folder.open().unwrap());
    for path in [
        "/metrics",
        "/api/v1/status",
        "/healthz",
        "/readyz",
        "/",
        "/nonsense",
    ] {
        for user in [
            None,
            Some("ann:wrong"),
            Some("eve:secret"),
            Some("ann:"),
            Some("ann"),
        ] {
            let answer = ask(&server, &folder, &get(path, user)).await.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 401 "),
                "{path} {user:?}: {answer}"
            );
            assert!(answer.ends_with("\r\n\r\na user name and its password are needed\n"));
            let (head, _) = split(answer.as_bytes());
            assert_eq!(
                header(&head, "www-authenticate"),
                Some("Basic realm=\"peerwatch\", charset=\"UTF-8\"")
            );
            assert_eq!(header(&head, "x-frame-options"), Some("deny"));
        }
    }
    assert_eq!(server.site.scrapes.load(Ordering::SeqCst), 0);
    for path in ["/metrics", "/api/v1/status"] {
        let request = get(path, Some("ann:secret"));
        let answer = ask(&server, &folder, &request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(*server.site.peers.lock().unwrap(), Some(true));
}

#[tokio::test]
async fn a_plain_request_to_tls_and_a_slow_handshake_are_closed() {
    let folder = Folder::new(TLS);
    let limits = Limits {
        handshake: Duration::from_millis(200),
        request: Duration::from_hours(1),
        ..Limits::default()
    };
    let server = start_with(limits, folder.open().unwrap());
    let answer = server
        .send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // The beginning of a ClientHello, and no more.
    for begin in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let answer = server.send(begin).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    let answer = ask(&server, &folder, &get("/healthz", None)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn peers_are_for_this_host_or_for_those_who_may_ask() {
    let server = start(Limits::default());
    for (headers, wanted) in [
        ("Host: 127.0.0.1\r\n", true),
        ("Host: 127.0.0.1\r\nX-Forwarded-For: 10.0.0.1\r\n", false),
        ("Host: evil.example\r\n", false),
    ] {
        let request = format!("GET /api/v1/status HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        let answer = server.send(request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        assert_eq!(
            *server.site.peers.lock().unwrap(),
            Some(wanted),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_by_the_next_connection() {
    let folder = Folder::new(TLS);
    let server = start_with(Limits::default(), folder.open().unwrap());
    for _ in 0..3 {
        let answer = ask(&server, &folder, &get("/healthz", None)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        folder.renew();
    }
}

#[tokio::test]
async fn a_connection_from_before_tls_gets_nothing_more() {
    let folder = Folder::new("");
    let server = start_with(Limits::default(), folder.open().unwrap());
    let mut stream = server.connect().await;
    let request =
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\n\r\n";
    stream.write_all(request).await.unwrap();
    eventually("the first scrape", || {
        server.site.scrapes.load(Ordering::SeqCst) == 1
    })
    .await;
    folder.write("web.yml", &format!("{TLS}{USERS}"));
    stream.write_all(request).await.unwrap();
    // Also without being told to, the server closes.
    let answers = read_to_end(&mut stream).await;
    let answers = String::from_utf8(answers).unwrap();
    assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
    let second = answers.rfind("HTTP/1.1 ").unwrap();
    let (head, body) = split(&answers.as_bytes()[second..]);
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(header(&head, "connection"), Some("close"));
    assert!(body.starts_with(b"TLS or a certificate is asked for since"));
    assert_eq!(server.site.scrapes.load(Ordering::SeqCst), 1);
}
