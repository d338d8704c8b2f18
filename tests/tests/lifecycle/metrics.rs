//! What a scrape is: well formed, complete from the first one on, and small.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use monitor_tests::expect::COMPARED;
use monitor_tests::http::request;
use monitor_tests::scrape::{Counts, Series, parse};

use crate::site::{HERE, Site, THERE, datagrams};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Feeds a program and returns how it ended and all that it wrote.
fn feed(program: &str, arguments: &[&str], input: &[u8]) -> Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.to_owned())?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    // Read while it is fed: it may write before it has read all.
    let output = std::thread::scope(|scope| {
        let feeder = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        let fed = feeder.join();
        (output, fed)
    });
    let (output, fed) = output;
    fed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let output = output?;
    Ok((
        output.status.success(),
        [output.stdout, output.stderr].concat(),
    ))
}

/// Series, with the HELP and TYPE lines left out.
fn series(body: &str) -> usize {
    body.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .count()
}

/// Every series of the contract that is there before any packet, with 0.
fn zeros(interfaces: &[&str]) -> Counts {
    let traffics = [
        ("do_peer", "tcp"),
        ("teredo", "udp"),
        ("https", "tcp"),
        ("https", "udp"),
    ];
    let mut zeros = Counts::new();
    for (traffic, protocol) in traffics {
        for family in ["ipv4", "ipv6"] {
            for direction in ["inbound", "outbound", "forwarded"] {
                for flow in ["request", "reply"] {
                    let labels = [
                        ("traffic", traffic),
                        ("protocol", protocol),
                        ("family", family),
                        ("direction", direction),
                        ("flow", flow),
                    ];
                    for verdict in ["allowed", "dropped"] {
                        let mut labels = labels.to_vec();
                        labels.push(("verdict", verdict));
                        zeros.insert(Series::new("peerwatch_packets_total", &labels), 0);
                        zeros.insert(Series::new("peerwatch_bytes_total", &labels), 0);
                    }
                    let mut labels = labels.to_vec();
                    labels.extend([("class", "firewall"), ("reason", "NETFILTER_DROP")]);
                    zeros.insert(Series::new("peerwatch_drops_total", &labels), 0);
                }
            }
        }
    }
    for direction in ["inbound", "outbound", "forwarded"] {
        let labels = [("direction", direction)];
        zeros.insert(Series::new("peerwatch_fragments_total", &labels), 0);
        for interface in interfaces.iter().copied().chain(["none", "other"]) {
            for verdict in ["allowed", "dropped"] {
                // A packet on no device was dropped.
                if (interface, verdict) == ("none", "allowed") {
                    continue;
                }
                let labels = [
                    ("interface", interface),
                    ("direction", direction),
                    ("verdict", verdict),
                ];
                zeros.insert(Series::new("peerwatch_interface_packets_total", &labels), 0);
            }
        }
    }
    zeros
}

#[test]
fn every_valid_combination_is_there_from_the_first_scrape() -> Result<()> {
    let site = Site::create()?;
    // The first request that is no question for readiness.
    let daemon = site.daemon(&[])?;
    let first = daemon.scrape()?;
    let expected = zeros(&["lan0"]);
    let missing: Vec<_> = expected
        .keys()
        .filter(|s| !first.contains_key(*s))
        .collect();
    let unexpected: Vec<_> = first
        .keys()
        .filter(|s| !expected.contains_key(*s))
        .collect();
    ensure!(
        first == expected,
        "missing: {missing:?}; not of the contract: {unexpected:?}; all: {first:?}"
    );
    let count = |metric: &str| {
        let metric = format!("peerwatch_{metric}");
        first
            .keys()
            .filter(|series| series.metric() == metric)
            .count()
    };
    let counted = COMPARED.map(count);
    // packets, bytes, drops, late drops, interfaces (lan0 and other 6 each, none 3), fragments.
    ensure!(counted == [96, 96, 48, 0, 15, 3], "{counted:?}");
    Ok(())
}

#[test]
fn ten_interfaces_make_fewer_than_a_thousand_series() -> Result<()> {
    let site = Site::create()?;
    for net in 2..=10 {
        site.link(&format!("lan{net}"), &format!("eth{net}"), net)?;
    }
    let daemon = site.daemon(&[])?;
    let (_, body) = daemon.get("/metrics")?;
    let count = series(&body);
    println!("{count} series with 10 interfaces");
    ensure!(body.contains("interface=\"lan10\""), "lan10 is missing");
    ensure!(count < 1000, "{count} series");
    Ok(())
}

/// The other end of the contract: 16 traffics, 64 interfaces.
#[test]
fn the_largest_set_stays_below_its_limit() -> Result<()> {
    let site = Site::create()?;
    let pairs: Vec<String> = (0..32)
        .map(|n| format!("link add a{n} type veth peer name b{n}\n"))
        .collect();
    site.host.ip_batch(&pairs.concat())?;
    let traffics: Vec<String> = (0..13)
        .map(|n| {
            format!(
                "[[traffic]]\nname = \"t{n}\"\nports = [\"tcp/10{n:02}1\", \"udp/10{n:02}1\"]\n"
            )
        })
        .collect();
    let path = site.file("peerwatch.toml", &traffics.concat())?;
    let daemon = site.daemon(&["--config", &path.to_string_lossy()])?;
    let (_, body) = daemon.get("/metrics")?;
    let count = series(&body);
    println!("{count} series with 16 traffics and 65 interfaces");
    let labels: BTreeSet<&str> = body
        .lines()
        .filter(|line| line.starts_with("peerwatch_interface_packets_total{"))
        .filter_map(|line| line.split("interface=\"").nth(1)?.split('"').next())
        .collect();
    // 64 with a name; `none` and `other` beside them.
    ensure!(labels.len() == 66, "{} names: {labels:?}", labels.len());
    ensure!(count < 6000, "{count} series");
    Ok(())
}

#[test]
fn promtool_finds_nothing_to_say() -> Result<()> {
    let site = Site::create()?;
    let daemon = site.daemon(&[])?;
    // Some of every kind: allowed, dropped, late.
    datagrams(&site.host, (THERE, 443), 3)?;
    site.drop_input("udp dport 3544")?;
    datagrams(&site.peer, (HERE, 3544), 3)?;
    datagrams(&site.peer, (HERE, 443), 3)?;
    daemon.settled()?;
    let (_, body) = daemon.get("/metrics")?;
    ensure!(body.contains("class=\"no_listener\""), "no such drop yet");
    let (good, said) = feed("promtool", &["check", "metrics"], body.as_bytes())?;
    let said = String::from_utf8_lossy(&said);
    ensure!(good && said.trim().is_empty(), "promtool: {said}");
    for process in ["process_cpu_seconds_total", "process_resident_memory_bytes"] {
        ensure!(body.contains(&format!("\n{process} ")), "no {process}");
    }
    Ok(())
}

#[test]
fn the_answers_are_what_a_scraper_expects() -> Result<()> {
    let site = Site::create()?;
    let daemon = site.daemon(&[])?;
    let plain = request(&site.host, 9680, "GET /metrics", "")?;
    ensure!(plain.status == 200, "{plain:?}");
    ensure!(
        plain.header("Content-Type") == Some(CONTENT_TYPE),
        "{plain:?}"
    );
    ensure!(plain.header("Content-Encoding").is_none(), "{plain:?}");
    ensure!(
        plain.text()?.contains("\npeerwatch_state{"),
        "the first scrape has no states"
    );

    let head = request(&site.host, 9680, "HEAD /metrics", "")?;
    ensure!(head.status == 200 && head.body.is_empty(), "{head:?}");
    ensure!(
        head.header("Content-Type") == Some(CONTENT_TYPE),
        "{head:?}"
    );
    let length: usize = head
        .header("Content-Length")
        .context("no length")?
        .parse()?;
    // The numbers of the process differ a little from scrape to scrape.
    ensure!(length.abs_diff(plain.body.len()) < 200, "{length}");

    let packed = request(
        &site.host,
        9680,
        "GET /metrics",
        "Accept-Encoding: gzip\r\n",
    )?;
    ensure!(
        packed.header("Content-Encoding") == Some("gzip"),
        "{:?}",
        packed.status
    );
    ensure!(
        packed.header("Content-Type") == Some(CONTENT_TYPE),
        "content type with gzip"
    );
    ensure!(packed.body.len() < plain.body.len() / 4, "not smaller");
    let (good, unpacked) = feed("gzip", &["-dc"], &packed.body)?;
    ensure!(good, "gzip: {}", String::from_utf8_lossy(&unpacked));
    let unpacked = parse(&String::from_utf8(unpacked)?, &COMPARED)?;
    ensure!(unpacked == daemon.scrape()?, "packed and plain differ");

    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = request(&site.host, 9680, &format!("GET {path}"), "")?;
        ensure!(
            answer.status == 200 && answer.text()? == body,
            "{path}: {answer:?}"
        );
    }
    Ok(())
}
