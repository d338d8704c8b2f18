//! What a client cannot do to the others.

use super::*;

/// A limit that must not be what makes a test pass.
const LONG: Duration = Duration::from_hours(1);

#[tokio::test]
async fn garbage_harms_nobody() {
    let server = start(Limits::default());
    let every_byte: Vec<u8> = (0..=255).collect();
    let cases: [&[u8]; 9] = [
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe\0 HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client hello\r\n\r\n",
        &every_byte,
    ];
    for case in cases {
        let answer = server.send(case).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{case:?}: {}",
            String::from_utf8_lossy(&answer)
        );
        let (head, body) = server.ask("GET", "/healthz", "").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "after {case:?}: {head}");
        assert_eq!(body, b"ok\n");
    }
}

#[tokio::test]
async fn headers_have_a_limit() {
    let server = start(Limits::default());
    let (head, _) = server
        .ask("GET", "/healthz", &format!("A: {}\r\n", "a".repeat(12_000)))
        .await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (head, _) = server
        .ask("GET", "/healthz", &format!("A: {}\r\n", "a".repeat(20_000)))
        .await;
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
    let long = format!("/{}", "a".repeat(5000));
    let (head, body) = server.ask("GET", &long, "").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(body.len() < 300, "the whole path came back");
}

#[tokio::test]
async fn idle_connections_leave_room_for_a_scraper() {
    let limits = Limits {
        connections: 4,
        request: LONG,
        idle: LONG,
        ..Limits::default()
    };
    let server = start(limits);
    let mut scraper = server.connect().await;
    let mut idle = Vec::new();
    for i in 0..10 {
        let mut half_open = server.connect().await;
        half_open
            .write_all(b"GET /metrics HTTP/1.1\r\nHos")
            .await
            .unwrap();
        idle.push(half_open);
        // The scraper does something now and then: it keeps its connection.
        scraper
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let read = timeout(DEADLINE, scraper.read_buf(&mut answer))
                .await
                .unwrap()
                .unwrap();
            assert_ne!(read, 0, "the scraper lost its connection after {i} others");
        }
        let (head, _) = server.ask("GET", "/metrics", "").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    assert_eq!(
        read_to_end(&mut idle[0]).await,
        b"",
        "the first one was closed"
    );
}

#[tokio::test]
async fn silent_clients_are_closed_in_time() {
    let limits = Limits {
        request: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = start(limits);
    let begin = Instant::now();
    assert_eq!(server.send(b"").await, b"");
    assert_eq!(server.send(b"GET /metr").await, b"");
    let answer = server
        .send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert!(answer.ends_with(b"ok\n"));
    assert!(begin.elapsed() >= 3 * Duration::from_millis(200));
}

#[tokio::test]
async fn a_slow_scrape_does_not_pile_up() {
    let limits = Limits {
        answer: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = start(limits);
    let release = hold_scrapes(&server.site).await;
    let (a, b, c, d) = tokio::join!(
        server.ask("GET", "/metrics", ""),
        server.ask("GET", "/metrics", ""),
        server.ask("GET", "/metrics", ""),
        server.ask("GET", "/healthz", ""),
    );
    for (head, body) in [a, b, c] {
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(body, b"no metrics within 300ms; try again later\n");
    }
    assert!(d.0.starts_with("HTTP/1.1 200 "), "health waits for nobody");
    release();
    eventually("the slow scrape ends", || {
        server.site.running.load(Ordering::SeqCst) == 0
    })
    .await;
    assert_eq!(server.site.scrapes.load(Ordering::SeqCst), 1);
    let (head, _) = server.ask("GET", "/metrics", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(server.site.most_running.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn shutdown_closes_at_once_what_is_idle() {
    let limits = Limits {
        grace: LONG,
        ..Limits::default()
    };
    let server = start(limits);
    let mut silent = server.connect().await;
    let mut half_open = server.connect().await;
    half_open
        .write_all(b"GET /metrics HTTP/1.1\r\nHost")
        .await
        .unwrap();
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 8];
    timeout(DEADLINE, idle.read_exact(&mut first))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&first, b"HTTP/1.1");

    server.stop.send(()).unwrap();
    timeout(DEADLINE, server.task)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    assert_eq!(read_to_end(&mut silent).await, b"");
    assert_eq!(read_to_end(&mut half_open).await, b"");
    assert!(read_to_end(&mut idle).await.ends_with(b"ok\n"));
    TcpStream::connect(server.address)
        .await
        .expect_err("nobody listens any more");
    bind(server.address).expect("the port can be taken at once");
}

#[tokio::test]
async fn shutdown_waits_for_answers_but_not_for_long() {
    let limits = Limits {
        answer: LONG,
        grace: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = start(limits);
    let release = hold_scrapes(&server.site).await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let site = Arc::clone(&server.site);
    eventually("the scrape begins", || {
        site.running.load(Ordering::SeqCst) == 1
    })
    .await;
    let begin = Instant::now();
    server.stop.send(()).unwrap();
    timeout(DEADLINE, server.task)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    assert!(
        begin.elapsed() >= Duration::from_millis(300),
        "no time to answer"
    );
    assert_eq!(read_to_end(&mut slow).await, b"");
    release();

    let server = start(Limits {
        grace: LONG,
        ..limits
    });
    let release = hold_scrapes(&server.site).await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let site = Arc::clone(&server.site);
    eventually("the scrape begins", || {
        site.running.load(Ordering::SeqCst) == 1
    })
    .await;
    server.stop.send(()).unwrap();
    release();
    timeout(DEADLINE, server.task)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    assert!(
        read_to_end(&mut slow).await.starts_with(b"HTTP/1.1 200 "),
        "cut in the middle"
    );
}

#[tokio::test]
async fn a_next_request_has_no_more_time_than_the_first() {
    let limits = Limits {
        request: Duration::from_millis(200),
        idle: LONG,
        ..Limits::default()
    };
    let server = start(limits);
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    // It is kept, until a request begins and does not go on.
    stream.write_all(b"GET /h").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
}

#[tokio::test]
async fn who_does_not_take_its_answer_is_closed() {
    let limits = Limits {
        send: Duration::from_millis(200),
        request: LONG,
        idle: LONG,
        ..Limits::default()
    };
    let server = start(limits);
    // More than the buffers of both ends hold.
    *server.site.metrics.lock().unwrap() = Ok("a".repeat(32 * 1024 * 1024));
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = read_to_end(&mut stream).await;
    assert!(
        answer.len() < 32 * 1024 * 1024,
        "it waited for us for ever: {} bytes",
        answer.len()
    );
}
