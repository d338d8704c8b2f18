//! Attempts to reach a Teredo server, with packets made here: each trial has a lab of its own, and expects
//! exactly what it says of the series of `teredo`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::expect::Family;
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address};
use crate::netns::NetNs;
use crate::scrape::{Counts, Series, parse, rise};
use crate::wait::until;

/// Teredo's port.
const PORT: u16 = 3544;
/// From one try of a client to the next (RFC 4380 section 5.2.1).
const BETWEEN: Duration = Duration::from_secs(4);
/// From the last try to the end of an attempt, with time to spare.
pub(super) const END: Duration = Duration::from_secs(8);
/// How long nothing more may come of it: three readings of the daemon.
pub(super) const REST: Duration = Duration::from_millis(1500);

/// Hooks of the gateway's firewall.
pub(super) const FORWARD: &str = "type filter hook forward priority 0";
const OUTPUT: &str = "type filter hook output priority 0";
const PREROUTING: &str = "type filter hook prerouting priority -300";

/// One trial.
pub type Trial = fn() -> Result<()>;

/// Every trial, with its name.
#[must_use]
pub fn trials() -> Vec<(&'static str, Trial)> {
    vec![
        ("teredo/established/forwarded", || {
            established(Way::Forwarded)
        }),
        ("teredo/established/masquerade", || {
            established(Way::Masquerade)
        }),
        ("teredo/established/outbound", || established(Way::Outbound)),
        ("teredo/dropped/forwarded", || dropped(Way::Forwarded)),
        ("teredo/dropped/outbound", || dropped(Way::Outbound)),
        ("teredo/reply_dropped/forwarded", || {
            reply_dropped(Way::Forwarded)
        }),
        ("teredo/reply_dropped/masquerade", || {
            reply_dropped(Way::Masquerade)
        }),
        ("teredo/refused/inbound", refused_inbound),
        ("teredo/unanswered/unknown", || unanswered(false)),
        ("teredo/unanswered/upstream", || unanswered(true)),
        ("teredo/cone_tests_are_left_out", cone_tests),
        ("teredo/other_bytes_are_no_attempt", other_bytes),
    ]
}

/// How solicitations go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Forwarded,
    Masquerade,
    Outbound,
}

impl Way {
    const fn direction(self) -> &'static str {
        match self {
            Self::Forwarded | Self::Masquerade => "forwarded",
            Self::Outbound => "outbound",
        }
    }
}

/// What tells a solicitation from another.
type Nonce = [u8; 8];

/// An IPv6 packet of `ICMPv6`, from and to addresses as bytes.
fn icmp(source: [u8; 16], destination: [u8; 16], message: &[u8]) -> Vec<u8> {
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let header = [0x60, 0, 0, 0, 0, length, 58, 255];
    [&header[..], &source, &destination, message].concat()
}

/// The link-local address of a client, whose highest flag says "cone".
const fn client_address(cone: bool) -> [u8; 16] {
    let flags = if cone { 0x80 } else { 0 };
    [
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, flags, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    ]
}

/// A solicitation as clients send it: 61 bytes.
#[must_use]
pub fn solicitation(nonce: Nonce, cone: bool) -> Vec<u8> {
    let all_routers = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let packet = icmp(
        client_address(cone),
        all_routers,
        &[133, 0, 0, 0, 0, 0, 0, 0],
    );
    [&[0, 1, 0, 0][..], &nonce, &[0], &packet].concat()
}

/// An advertisement that answers a solicitation: 109 bytes.
fn advertisement(nonce: &[u8]) -> Vec<u8> {
    let mut message = [0; 48];
    message[0] = 134;
    let server = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x80, 0, 1, 2, 3, 4, 5, 6];
    let packet = icmp(server, client_address(false), &message);
    let origin = [0, 0, 0x12, 0x34, 0xf5, 0xff, 0xff, 0xfd];
    [&[0, 1, 0, 0][..], nonce, &[0], &origin, &packet].concat()
}

fn bound(netns: &NetNs, local: SocketAddr) -> Result<UdpSocket> {
    let socket = netns.run(|| Ok(UdpSocket::bind(local)?))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

fn end(net: Net, host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(Family::V4, net, host), port)
}

/// Answers every solicitation, while `work` runs.
fn with_server<T>(lab: &Lab, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let socket = bound(&lab.server, end(Net::Wan, SERVER, PORT))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 256];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes)
                    && let Some(nonce) = bytes[..length].get(4..12)
                    && socket.send_to(&advertisement(nonce), from).is_err()
                {
                    return;
                }
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// A lab whose peer and server hear, and the client's socket.
fn lab(way: Way) -> Result<(Lab, UdpSocket)> {
    let lab = Lab::create()?;
    lab.open(&lab.peer, "eth0")?;
    lab.open(&lab.server, "eth0")?;
    if way == Way::Masquerade {
        lab.gw.nft(
            "table ip nat { chain it { type nat hook postrouting priority 100; \
             oifname \"wan0\" masquerade random; }; }",
        )?;
    }
    let client = match way {
        Way::Outbound => bound(&lab.gw, end(Net::Wan, GATEWAY, 0))?,
        _ => bound(&lab.peer, end(Net::Lan, PEER, 0))?,
    };
    Ok((lab, client))
}

/// A rule of the gateway.
fn rule(lab: &Lab, hook: &str, what: &str) -> Result<()> {
    lab.gw
        .nft(&format!("table ip f {{ chain it {{ {hook}; {what}; }}; }}"))
}

fn counts(lab: &Lab) -> Result<Counts> {
    let (status, body) = lab.daemon.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}: {body}");
    parse(&body, &["attempts_total", "attempts_lost_total"])
}

/// A series of `attempts_total`.
fn series(direction: &str, outcome: &str, blocked_by: &str) -> Series {
    Series::new(
        "peerwatch_attempts_total",
        &[
            ("traffic", "teredo"),
            ("family", "ipv4"),
            ("direction", direction),
            ("outcome", outcome),
            ("blocked_by", blocked_by),
        ],
    )
}

/// Waits until the attempts since `before` are these, and looks again after `rest`.
fn expect(lab: &Lab, before: &Counts, expected: &[Series], rest: Duration) -> Result<()> {
    let expected: Counts = expected.iter().map(|one| (one.clone(), 1)).collect();
    let risen = || rise(before, &counts(lab)?);
    until(&format!("{expected:?}"), END, || {
        Ok((risen()? == expected).then_some(()))
    })?;
    std::thread::sleep(rest);
    let then = risen()?;
    ensure!(then == expected, "{then:?}, not {expected:?}");
    Ok(())
}

/// Up to three tries with nonces of their own; whether one was answered.
fn solicit(client: &UdpSocket, server: SocketAddr, cone: bool) -> Result<bool> {
    let mut bytes = [0; 256];
    // Clients don't share nonces: they are random.
    let [high, low] = client.local_addr()?.port().to_be_bytes();
    for number in 1..=3 {
        let next = Instant::now() + BETWEEN;
        // A rule of the output hook says so to the sender.
        if client
            .send_to(
                &solicitation([number, high, low, 7, 7, 7, 7, 7], cone),
                server,
            )
            .is_ok()
            && client.recv_from(&mut bytes).is_ok()
        {
            return Ok(true);
        }
        if number < 3 {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    Ok(false)
}

const fn server() -> SocketAddr {
    SocketAddr::new(address(Family::V4, Net::Wan, SERVER), PORT)
}

fn established(way: Way) -> Result<()> {
    let (lab, client) = lab(way)?;
    let before = counts(&lab)?;
    let answered = with_server(&lab, || solicit(&client, server(), false))?;
    ensure!(answered, "no advertisement came back");
    let expected = series(way.direction(), "established", "none");
    expect(&lab, &before, &[expected], REST)
}

fn dropped(way: Way) -> Result<()> {
    let (lab, client) = lab(way)?;
    let hook = if way == Way::Outbound {
        OUTPUT
    } else {
        FORWARD
    };
    rule(&lab, hook, "udp dport 3544 drop")?;
    let before = counts(&lab)?;
    ensure!(!solicit(&client, server(), false)?, "answered");
    let expected = series(way.direction(), "dropped", "local_firewall");
    expect(&lab, &before, &[expected], REST)
}

fn reply_dropped(way: Way) -> Result<()> {
    let (lab, client) = lab(way)?;
    rule(&lab, PREROUTING, "udp sport 3544 drop")?;
    let before = counts(&lab)?;
    let answered = with_server(&lab, || solicit(&client, server(), false))?;
    ensure!(!answered, "answered");
    let expected = series(way.direction(), "reply_dropped", "local_firewall");
    expect(&lab, &before, &[expected], REST)
}

fn refused_inbound() -> Result<()> {
    let (lab, client) = lab(Way::Forwarded)?;
    let before = counts(&lab)?;
    let gateway = end(Net::Lan, GATEWAY, PORT);
    client.send_to(&solicitation([1; 8], false), gateway)?;
    let expected = series("inbound", "refused", "local_host");
    expect(&lab, &before, &[expected], REST)
}

/// The server's own firewall drops; `heard` says whether it was heard before.
fn unanswered(heard: bool) -> Result<()> {
    let (lab, client) = lab(Way::Forwarded)?;
    let before = counts(&lab)?;
    let mut expected = Vec::new();
    if heard {
        let other = bound(&lab.peer, end(Net::Lan, PEER, 0))?;
        let answered = with_server(&lab, || solicit(&other, server(), false))?;
        ensure!(answered, "no advertisement came back");
        expected.push(series("forwarded", "established", "none"));
    }
    lab.close(&lab.server, "eth0")?;
    ensure!(!solicit(&client, server(), false)?, "answered");
    let by = if heard { "upstream" } else { "unknown" };
    expected.push(series("forwarded", "unanswered", by));
    expect(&lab, &before, &expected, REST)
}

fn cone_tests() -> Result<()> {
    let (lab, client) = lab(Way::Forwarded)?;
    let before = counts(&lab)?;
    ensure!(!solicit(&client, server(), true)?, "answered");
    expect(&lab, &before, &[], END)
}

fn other_bytes() -> Result<()> {
    let (lab, client) = lab(Way::Forwarded)?;
    rule(&lab, FORWARD, "udp dport 3544 drop")?;
    let before = counts(&lab)?;
    for length in 0..=220 {
        client.send_to(&vec![0x60; length], server())?;
    }
    let start = solicitation([1; 8], false);
    for length in 0..start.len() - 8 {
        client.send_to(&start[..length], server())?;
    }
    expect(&lab, &before, &[], REST)
}
