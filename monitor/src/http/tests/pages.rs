//! What each page answers.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;

#[tokio::test]
async fn pages_answer_get_and_head() {
    let server = start(Limits::default());
    let metrics = server.site.metrics.lock().unwrap().clone().unwrap();
    for (path, wanted, kind) in [
        (
            "/metrics",
            metrics.as_str(),
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            "/metrics?a=b",
            metrics.as_str(),
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            "/api/v1/status",
            "{\"version\":1}\n",
            "application/json; charset=utf-8",
        ),
        ("/healthz", "ok\n", "text/plain; charset=utf-8"),
        ("/readyz", "ready\n", "text/plain; charset=utf-8"),
    ] {
        let (head, body) = server.ask("GET", path, "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        assert_eq!(String::from_utf8(body).unwrap(), wanted, "{path}");
        assert_eq!(header(&head, "content-type"), Some(kind));
        assert_eq!(header(&head, "cache-control"), Some("no-store"));
        assert_eq!(header(&head, "content-encoding"), None);
        assert_eq!(header(&head, "server"), None);
        let length = wanted.len().to_string();
        assert_eq!(header(&head, "content-length"), Some(length.as_str()));

        let (head, body) = server.ask("HEAD", path, "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        assert_eq!(header(&head, "content-length"), Some(length.as_str()));
        assert_eq!(header(&head, "content-type"), Some(kind));
        assert_eq!(body, b"", "HEAD {path}");
    }
}

#[tokio::test]
async fn metrics_are_compressed_when_asked() {
    let server = start(Limits::default());
    let wanted = server.site.metrics.lock().unwrap().clone().unwrap();
    let (head, body) = server
        .ask("GET", "/metrics", "Accept-Encoding: gzip\r\n")
        .await;
    assert_eq!(header(&head, "content-encoding"), Some("gzip"));
    assert_eq!(header(&head, "vary"), Some("Accept-Encoding"));
    assert_eq!(
        header(&head, "content-length"),
        Some(body.len().to_string().as_str())
    );
    assert!(body.len() < wanted.len() / 4);
    let mut text = String::new();
    GzDecoder::new(body.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, wanted);

    let (head, body) = server
        .ask("GET", "/metrics", "Accept-Encoding: gzip;q=0\r\n")
        .await;
    assert_eq!(header(&head, "content-encoding"), None);
    assert_eq!(String::from_utf8(body).unwrap(), wanted);
}

#[tokio::test]
async fn the_status_is_compressed_when_asked() {
    let server = start(Limits::default());
    let (head, body) = server
        .ask("GET", "/api/v1/status", "Accept-Encoding: gzip\r\n")
        .await;
    assert_eq!(header(&head, "content-encoding"), Some("gzip"));
    assert_eq!(header(&head, "vary"), Some("Accept-Encoding"));
    let mut text = String::new();
    GzDecoder::new(body.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "{\"version\":1}\n");
}

#[tokio::test]
async fn the_status_does_not_wait_for_a_slow_scrape() {
    let server = start(Limits::default());
    let release = hold_scrapes(&server.site).await;
    let mut scrape = server.connect().await;
    scrape
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    eventually("the scrape runs", || {
        server.site.running.load(Ordering::SeqCst) == 1
    })
    .await;
    let (head, body) = server.ask("GET", "/api/v1/status", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, b"{\"version\":1}\n");
    release();
    let (head, _) = split(&read_to_end(&mut scrape).await);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn wrong_paths_and_methods_are_explained() {
    let server = start(Limits::default());
    for path in [
        "/",
        "/foo",
        "/metrics/",
        "/Metrics",
        "//metrics",
        "/api/v1/status/",
    ] {
        for method in ["GET", "POST"] {
            let (head, body) = server.ask(method, path, "").await;
            assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
            let wanted = format!(
                "no such page: {path}; try /metrics, /api/v1/status, /healthz or /readyz\n"
            );
            assert_eq!(String::from_utf8(body).unwrap(), wanted);
        }
    }
    for path in ["/metrics", "/api/v1/status", "/healthz", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let (head, body) = server.ask(method, path, "Content-Length: 0\r\n").await;
            assert!(
                head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"),
                "{head}"
            );
            assert_eq!(header(&head, "allow"), Some("GET, HEAD"));
            let wanted = format!("{method} is not possible here: {path} answers GET and HEAD\n");
            assert_eq!(String::from_utf8(body).unwrap(), wanted);
        }
    }
    assert_eq!(server.site.scrapes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let server = start(Limits::default());
    *server.site.ready.lock().unwrap() = Err("egress on eth0 is not attached".to_owned());
    let (head, body) = server.ask("GET", "/readyz", "").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, b"egress on eth0 is not attached\n");

    *server.site.metrics.lock().unwrap() = Err("the maps are gone".to_owned());
    let (head, body) = server
        .ask("GET", "/metrics", "Accept-Encoding: gzip\r\n")
        .await;
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    assert_eq!(body, b"the maps are gone\n");

    *server.site.status.lock().unwrap() = Err("nothing is known yet".to_owned());
    let (head, body) = server.ask("GET", "/api/v1/status", "").await;
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    assert_eq!(body, b"nothing is known yet\n");

    *server.site.metrics.lock().unwrap() = Err("panic".to_owned());
    let (head, _) = server.ask("GET", "/metrics", "").await;
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");

    *server.site.metrics.lock().unwrap() = Ok("a 1\n".to_owned());
    let (head, body) = server.ask("GET", "/metrics", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "after a panic: {head}");
    assert_eq!(body, b"a 1\n");
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let server = start(Limits::default());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let read = timeout(DEADLINE, stream.read_buf(&mut answer))
                .await
                .unwrap()
                .unwrap();
            assert_ne!(read, 0, "closed after {answer:?}");
        }
    }
}
