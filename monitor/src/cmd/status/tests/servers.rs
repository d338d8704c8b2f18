//! Real sockets on the loopback device.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use crate::status::PATH;

/// Answers one connection. Gives the URL, and what the client asked.
fn server(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                break;
            }
            request.push(byte[0]);
        }
        answer(&mut stream);
        String::from_utf8(request).unwrap()
    });
    (url, task)
}

/// Sends bytes; the client may hang up meanwhile.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

fn http(status: &str, kind: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn flags(url: &str) -> StatusFlags {
    StatusFlags {
        json: false,
        traffic: None,
        direction: None,
        url: Some(url.to_owned()),
        ca_file: None,
        user_file: None,
        timeout: 20,
    }
}

#[test]
fn a_daemon_is_asked_and_its_answer_shown() {
    let json = example().to_json().unwrap();
    let answer = http("200 OK", "application/json; charset=utf-8", &json);
    let (url, task) = server(move |stream| assert!(send(stream, &answer)));
    let report = status(&flags(&url), &Environment::default());
    assert_eq!((report.code, report.stderr.as_str()), (2, ""), "{report:?}");
    assert_eq!(report.stdout, block("text"));
    let request = task.join().unwrap();
    assert!(
        request.starts_with("GET /api/v1/status HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains(&format!("host: {}\r\n", &url["http://".len()..])));
}

#[test]
fn json_is_what_was_received() {
    let mut value = serde_json::to_value(example()).unwrap();
    value["news"] = "of a later version".into();
    let json = value.to_string();
    let (url, _task) = server(move |stream| {
        send(stream, &http("200 OK", "application/json", &json));
    });
    // From the environment, and the exit code is that of what is chosen.
    let flags = StatusFlags {
        json: true,
        direction: Some(Direction::Outbound),
        url: None,
        ..flags("")
    };
    let report = status(&flags, &[(URL_VARIABLE, &url)].into_iter().collect());
    assert_eq!((report.code, report.stderr.as_str()), (0, ""));
    let shown: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(shown, value);
    assert!(report.stdout.lines().count() > 50);
}

/// The sentence of a call that can't be answered.
fn sentence(flags: &StatusFlags) -> String {
    let report = status(flags, &Environment::default());
    assert_eq!((report.code, report.stderr.as_str()), (UNKNOWN, ""));
    let line = report.stdout.strip_prefix("PEERWATCH UNKNOWN - ").unwrap();
    let line = line.strip_suffix('\n').unwrap();
    assert!(!line.contains(['\n', '|']), "{line:?}");
    line.to_owned()
}

#[test]
fn what_is_no_daemon_is_explained() {
    let json = "application/json";
    let mut odd = serde_json::to_value(example()).unwrap();
    odd["states"] = 5.into();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            http("200 OK", "text/html", "<html>\u{1b}[2J|</html>"),
            "the answer of URL is no JSON (expected value at line 1 column 1); check --url",
        ),
        (
            http("200 OK", json, "{\"status\":\"success\"}"),
            "is JSON, but no status of peerwatch: it has no number in \"version\"",
        ),
        (
            http("200 OK", json, "{\"version\":2}"),
            "has version 2, and this peerwatch reads version 1; check --url",
        ),
        (
            http("200 OK", json, &odd.to_string()),
            "has version 1, but is no status of peerwatch (invalid type: integer `5`",
        ),
        (
            http("404 Not Found", "text/html", "<html>"),
            "URL answers 404: another server listens there, or an older peerwatch; check --url",
        ),
        (
            http(
                "500 Internal Server Error",
                "text/plain",
                "the maps\u{1b}| are gone\nx",
            ),
            "URL answers 500 Internal Server Error: the maps\\u{1b}/ are gone; look at",
        ),
        (
            http("401 Unauthorized", "text/html", "<html>"),
            "URL answers 401: it wants a user name and its password; give a file",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
            "URL broke off or speaks no HTTP (",
        ),
        (Vec::new(), "URL broke off or speaks no HTTP ("),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec(),
            "URL broke off or speaks no HTTP (",
        ),
    ];
    for (answer, wanted) in cases {
        let (url, task) = server(move |stream| {
            send(stream, &answer);
            // What the client sent after it must not turn the end into a reset.
            let closed = stream.shutdown(Shutdown::Write);
            drop(closed);
        });
        let said = sentence(&flags(&url));
        let wanted = wanted.replace("URL", &format!("{url}{PATH}"));
        assert!(said.contains(&wanted), "{said:?}, not {wanted:?}");
        assert!(said.contains(&url), "{said}");
        task.join().unwrap();
    }
}

#[test]
fn nobody_there_is_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(
        sentence(&flags(&url)),
        format!(
            "nobody listens on {url}{PATH}; is the daemon running (`systemctl status peerwatch`)? \
             Where it has another --listen, give that with --url"
        )
    );
    // RFC 6761: never a host.
    let said = sentence(&flags("http://peerwatch.invalid"));
    assert!(
        said.starts_with("http://peerwatch.invalid/api/v1/status: the name"),
        "{said}"
    );
}

#[test]
fn a_server_that_trickles_is_given_up_in_time() {
    let (gone, wait) = mpsc::channel();
    let (url, _task) = server(move |stream| {
        send(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while send(stream, b" ") {
            std::thread::sleep(Duration::from_millis(50));
        }
        gone.send(()).unwrap();
    });
    let start = Instant::now();
    let flags = StatusFlags {
        timeout: 1,
        ..flags(&url)
    };
    assert_eq!(
        sentence(&flags),
        format!(
            "{url}{PATH} gave no whole answer within 1 s; look at the daemon's log, or give it longer \
             with --timeout"
        )
    );
    assert!(start.elapsed() < Duration::from_secs(10));
    wait.recv_timeout(Duration::from_secs(20))
        .expect("the client hangs up");
}

#[test]
fn an_answer_without_end_is_given_up() {
    // Neither by its length nor by what comes.
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4194305\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ] {
        let (url, _task) = server(move |stream| {
            send(stream, head.as_bytes());
            while send(stream, &[b' '; 8192]) {}
        });
        assert_eq!(
            sentence(&flags(&url)),
            format!(
                "the answer of {url}{PATH} is larger than 4 MiB, so it is no peerwatch; check --url"
            )
        );
    }
}

#[test]
fn errors_keep_out_of_json() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let flags = StatusFlags {
        json: true,
        ..flags(&url)
    };
    let report = status(&flags, &Environment::default());
    assert_eq!((report.code, report.stdout.as_str()), (UNKNOWN, ""));
    assert!(report.stderr.starts_with("peerwatch: nobody listens on "));
}

#[test]
fn a_user_is_named_and_a_bad_file_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user");
    std::fs::write(&file, "Aladdin:open sesame\n").unwrap();
    let (url, task) = server(|stream| {
        send(stream, &http("401 Unauthorized", "text/plain", "no\n"));
    });
    let with = |url: &str| StatusFlags {
        user_file: Some(file.clone()),
        ..flags(url)
    };
    let said = sentence(&with(&url));
    assert!(
        said.contains("answers 401: the user name or the password is wrong"),
        "{said}"
    );
    let request = task.join().unwrap();
    // RFC 7617, section 2.
    let wanted = "authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
    assert!(request.contains(wanted), "{request}");

    std::fs::write(&file, "secret\n").unwrap();
    let said = sentence(&with(&url));
    assert!(
        said.contains("has no NAME:PASSWORD in its first line"),
        "{said}"
    );
    let flags = StatusFlags {
        ca_file: Some(file),
        ..flags("https://127.0.0.1:1")
    };
    let said = sentence(&flags);
    assert!(said.contains("has no certificate in PEM form"), "{said}");
}
