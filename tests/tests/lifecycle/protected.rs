//! TLS and passwords of the real binary.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use monitor_tests::http::{encode, request};
use monitor_tests::process::{Process as Server, find};
use monitor_tests::wait::{DEADLINE, until};
use monitor_tests::web::{AUTHORIZATION, Scraper, USER, Web, connect};

use crate::site::{HERE, Process, START, Site, THERE, command};

const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HERE), 9680);

/// A daemon with TLS and a user that others can reach, and its files.
fn start(site: &Site) -> Result<(Process, Web)> {
    let web = Web::create(site.temp.path())?;
    let file = web.file().display().to_string();
    let words = [
        "run",
        "--config",
        "/dev/null",
        "--listen",
        "[::]:9680",
        "--web.config.file",
        &file,
    ];
    let mut process = Process::start(command(&site.host, &words)?, site, "daemon")?;
    let tls = web.client()?;
    process.wait_for("a scrape", || {
        let mut scraper = Scraper::new(THERE, TO, Some(tls.clone()));
        site.peer.run(|| Ok(scraper.scrape().is_ok()))
    })?;
    Ok((process, web))
}

#[test]
fn who_has_no_password_gets_nothing() -> Result<()> {
    let site = Site::create()?;
    let (process, web) = start(&site)?;
    let said = process.stderr()?;
    ensure!(
        said.contains("metrics on https://[::]:9680/metrics (with a password)"),
        "{said}"
    );
    ensure!(!said.contains("everybody who can reach"), "{said}");
    let tls = web.client()?;
    site.peer.run(|| {
        let mut client = Scraper::new(THERE, TO, Some(tls));
        for headers in [
            "",
            // prom:wrong, eve:secret, prom without a colon
            "Authorization: Basic cHJvbTp3cm9uZw==\r\n",
            "Authorization: Basic ZXZlOnNlY3JldA==\r\n",
            "Authorization: Basic cHJvbQ==\r\n",
        ] {
            for path in ["/metrics", "/api/v1/status", "/healthz", "/readyz"] {
                let (status, text) = client.get(path, headers)?;
                ensure!(status == 401, "{path} with {headers:?}: {text}");
                ensure!(!text.contains("peerwatch_"), "{text}");
            }
        }
        let (status, text) = client.get("/api/v1/status", AUTHORIZATION)?;
        ensure!(
            status == 200 && text.contains("\"peers_shown\":true"),
            "{text}"
        );
        ensure!(text.contains("\"top_failing\""), "{text}");
        // In clear there is nothing at all.
        let plain = Scraper::new(THERE, TO, None).get("/metrics", AUTHORIZATION);
        ensure!(plain.is_err(), "{plain:?}");
        Ok(())
    })
}

/// A `ClientHello` of TLS 1.1 (RFC 4346, section 7.4.1.2), which no library of ours would send.
#[test]
fn tls_1_1_is_refused() -> Result<()> {
    let site = Site::create()?;
    let (_process, _web) = start(&site)?;
    let hello = |version: u8| -> Vec<u8> {
        let mut body = vec![3, version];
        body.extend([0x5a; 32]);
        // No session; TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA and two of TLS 1.2; no compression.
        body.extend([0, 0, 6, 0xc0, 0x09, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
        // supported_groups: secp256r1; signature_algorithms: ecdsa_secp256r1_sha256 (RFC 8446, section 4.2).
        let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
        body.extend([0, 16]);
        body.extend(extensions);
        let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
        let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        record.extend(body);
        record
    };
    let answer = |version: u8| {
        site.peer.run(|| {
            let mut stream = connect(THERE, TO)?;
            stream.write_all(&hello(version))?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        })
    };
    // An alert, fatal, protocol_version (RFC 8446, section 6).
    let refused = answer(2).context("TLS 1.1")?;
    ensure!(refused[0] == 21 && refused[5..] == [2, 70], "{refused:?}");
    // The same with the version of TLS 1.2 goes on: a ServerHello.
    let taken = answer(3).context("TLS 1.2")?;
    ensure!(taken[0] == 22 && taken[5] == 2, "{taken:?}");
    Ok(())
}

/// Certificates come and go under a scraper that connects anew each time, and one that stays.
#[test]
fn a_new_certificate_costs_no_scrape() -> Result<()> {
    const ROTATIONS: usize = 5;
    let site = Site::create()?;
    let (process, web) = start(&site)?;
    let tls = web.client()?;
    let over = AtomicBool::new(false);
    let scrapes = AtomicUsize::new(0);
    let mut kept = Scraper::new(THERE, TO, Some(tls.clone()));
    std::thread::scope(|scope| -> Result<()> {
        let scraping = scope.spawn(|| {
            site.peer.run(|| {
                while !over.load(Ordering::SeqCst) {
                    let mut new = Scraper::new(THERE, TO, Some(tls.clone()));
                    new.scrape().context("a new connection")?;
                    kept.scrape().context("the one that stays")?;
                    scrapes.fetch_add(2, Ordering::SeqCst);
                }
                Ok(())
            })
        });
        let shown = || -> Result<Vec<u8>> {
            let mut new = Scraper::new(THERE, TO, Some(tls.clone()));
            site.peer.run(|| new.scrape())?;
            new.certificate().context("no certificate")
        };
        let rotated = (|| {
            let mut last = shown()?;
            for _ in 0..ROTATIONS {
                let before = scrapes.load(Ordering::SeqCst);
                until("some scrapes", START, || {
                    ensure!(!scraping.is_finished(), "the scraper gave up");
                    Ok((scrapes.load(Ordering::SeqCst) >= before + 6).then_some(()))
                })?;
                web.renew()?;
                last = until("the new certificate is shown", DEADLINE, || {
                    Ok(Some(shown()?).filter(|now| *now != last))
                })?;
            }
            // A bad one: the last one stays, and it is said once.
            std::fs::write(site.temp.path().join("current/server.crt"), "nonsense")?;
            for _ in 0..3 {
                ensure!(shown()? == last, "another certificate");
            }
            Ok(())
        })();
        over.store(true, Ordering::SeqCst);
        let joined = scraping.join();
        // A scrape that failed is what this is about.
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        rotated
    })?;
    let said = process.stderr()?;
    let complaints = said.matches("TLS and users stay as they were").count();
    ensure!(complaints == 1, "{complaints} complaints: {said}");
    println!(
        "{ROTATIONS} new certificates and a bad one: {} scrapes, none failed",
        scrapes.load(Ordering::SeqCst)
    );
    Ok(())
}

/// The command asks such a daemon too.
#[test]
fn the_status_is_asked_by_https() -> Result<()> {
    let site = Site::create()?;
    let (_process, web) = start(&site)?;
    let user = site
        .file("user", &format!("{USER}\n"))?
        .display()
        .to_string();
    let wrong = site.file("wrong", "prom:wrong\n")?.display().to_string();
    let authority = web.authority().display().to_string();
    let url = format!("https://{TO}");
    for (words, code, sentence) in [
        (
            &["--ca-file", &authority, "--user-file", &user][..],
            0,
            "PEERWATCH OK - ",
        ),
        (
            &["--ca-file", &authority],
            3,
            "answers 401: it wants a user name and its password",
        ),
        (
            &["--ca-file", &authority, "--user-file", &wrong],
            3,
            "answers 401: the user name or the password is wrong",
        ),
        // The authorities of this host, if it has any, do not know ours.
        (&["--user-file", &user], 3, "--ca-file"),
    ] {
        let mut all = vec!["status", "--url", &url];
        all.extend(words);
        let asked = command(&site.peer, &all)?;
        let outcome = Process::start(asked, &site, "status")?.outcome()?;
        ensure!(outcome.code == Some(code), "{words:?}: {outcome:?}");
        ensure!(outcome.stdout.contains(sentence), "{words:?}: {outcome:?}");
    }
    Ok(())
}

/// Prometheus itself scrapes it, with the job of docs/http.md.
#[test]
fn prometheus_scrapes_it_by_tls_and_password() -> Result<()> {
    const PORT: u16 = 9090;
    let site = Site::create()?;
    let (_process, web) = start(&site)?;
    let (_, password) = USER.split_once(':').context("no password")?;
    let password = site.file("password", password)?;
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: peerwatch\n    scheme: https\n    \
         tls_config: {{ca_file: {}}}\n    basic_auth: {{username: prom, password_file: {}}}\n    \
         static_configs: [{{targets: [\"{TO}\"]}}]\n",
        web.authority().display(),
        password.display()
    );
    let file = site.file("prometheus.yml", &text)?;
    let mut prometheus = site.peer.command(find("prometheus")?)?;
    prometheus
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            site.temp.path().join("tsdb").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
    let prometheus = Server::start("prometheus", prometheus, site.temp.path())?;
    // Twice, so by the connection that it keeps too.
    let query =
        encode("count_over_time(up{job=\"peerwatch\"}[1m]) > 1 and min_over_time(up[1m]) == 1");
    until("Prometheus has scraped it", START, || {
        let line = format!("GET /api/v1/query?query={query}");
        let Ok(answer) = request(&site.peer, PORT, &line, "") else {
            return Ok(None);
        };
        Ok(answer.text()?.contains("\"instance\":").then_some(()))
    })
    .with_context(|| prometheus.said())?;
    prometheus.stop()
}

/// Addresses of peers are for this host alone where no password is asked for.
#[test]
fn strangers_see_no_addresses() -> Result<()> {
    let site = Site::create()?;
    let words = ["run", "--config", "/dev/null", "--listen", "[::]:9680"];
    let mut process = Process::start(command(&site.host, &words)?, &site, "daemon")?;
    process.wait_for("an answer", || {
        let mut client = Scraper::new(THERE, TO, None);
        site.peer.run(|| Ok(client.scrape().is_ok()))
    })?;
    let said = process.stderr()?;
    ensure!(
        said.contains("everybody who can reach [::]:9680 can read"),
        "{said}"
    );
    let here = SocketAddr::new([127, 0, 0, 1].into(), 9680);
    let status = |from, to| Scraper::new(from, to, None).get("/api/v1/status", "");
    let (_, there) = site.peer.run(|| status(THERE, TO))?;
    ensure!(there.contains("\"peers_shown\":false"), "{there}");
    ensure!(!there.contains("top_failing"), "{there}");
    // Its own address is not loopback.
    let (_, own) = site.host.run(|| status(HERE, TO))?;
    ensure!(own.contains("\"peers_shown\":false"), "{own}");
    let (_, loopback) = site.host.run(|| status([127, 0, 0, 1].into(), here))?;
    ensure!(loopback.contains("\"peers_shown\":true"), "{loopback}");
    ensure!(loopback.contains("\"top_failing\":["), "{loopback}");
    Ok(())
}
