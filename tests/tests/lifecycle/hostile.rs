//! A well-behaved scraper is served within a second, whatever strangers do to the server meanwhile. Each
//! test prints the times that it measured.

mod scene;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use monitor_tests::wait::until;
use monitor_tests::web::Scraper;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use scene::{APART, PAUSE, ROUNDS, SERVED, Scene, TO, open, pause};
use socket2::{Domain, Socket, Type};

use crate::site::{START, THERE};

/// Many clients that send a byte each second of what would be a good beginning.
fn slow(protected: bool, bytes: &'static [u8]) -> Result<()> {
    const CLIENTS: u64 = 300;
    let name = if protected {
        "a byte a second in the handshake"
    } else {
        "a byte a second"
    };
    Scene::create(protected)?.under(
        name,
        1,
        |attack| {
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                clients.push((open()?, 0));
                attack.did();
            }
            while attack.goes_on() {
                for (stream, at) in &mut clients {
                    let sent = stream.write(&bytes[*at % bytes.len()..][..1]).is_ok();
                    *at += 1;
                    if !sent {
                        // Who is closed comes back.
                        (*stream, *at) = (open()?, 0);
                        attack.did();
                    }
                }
                pause(attack, Duration::from_secs(1));
            }
            Ok(())
        },
        |attack| attack.has_done(CLIENTS),
    )
}

#[test]
fn hostile_slow_requests() -> Result<()> {
    slow(
        false,
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    )
}

#[test]
fn hostile_slow_handshakes() -> Result<()> {
    // The head of a record and of a ClientHello, and part of what is announced.
    slow(
        true,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    )
}

/// Ten thousand connections that say nothing, one after the other as fast as it goes.
fn many(protected: bool) -> Result<()> {
    const CLIENTS: u64 = 10_000;
    // Two at a time would have more files open than one process may have.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = if protected {
        "10000 connections, TLS"
    } else {
        "10000 connections"
    };
    Scene::create(protected)?.under(
        name,
        1,
        |attack| {
            let mut all = Vec::new();
            while attack.goes_on() && !attack.has_done(CLIENTS) {
                all.push(open()?);
                attack.did();
            }
            while attack.goes_on() {
                pause(attack, Duration::from_secs(1));
            }
            Ok(())
        },
        |attack| attack.has_done(CLIENTS),
    )
}

#[test]
fn hostile_ten_thousand_connections() -> Result<()> {
    many(false)
}

#[test]
fn hostile_ten_thousand_connections_to_tls() -> Result<()> {
    many(true)
}

/// Connections that come and come, some thousand a second, so that there are always strangers who are newer
/// than the scraper.
#[test]
fn hostile_connections_without_end() -> Result<()> {
    Scene::create(true)?.under(
        "connections without end",
        2,
        |attack| {
            let mut last = std::collections::VecDeque::new();
            while attack.goes_on() {
                last.push_back(open()?);
                attack.did();
                if last.len() > 200 {
                    last.pop_front();
                }
                // As fast as it goes is faster than a busy machine takes them: then the kernel's queue is full,
                // and who comes waits for its next try, whoever it is.
                if attack.done.load(Ordering::SeqCst).is_multiple_of(16) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Ok(())
        },
        |attack| attack.has_done(1000),
    )
}

/// Who has asked once and stays, until all places are taken.
#[test]
fn hostile_strangers_who_ask_and_stay() -> Result<()> {
    const CLIENTS: u64 = 300;
    Scene::create(false)?.under(
        "strangers who ask once and stay",
        1,
        |attack| {
            let mut all = Vec::new();
            for _ in 0..CLIENTS {
                let mut stream = open()?;
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")?;
                let mut answer = [0; 12];
                stream.read_exact(&mut answer)?;
                ensure!(answer == *b"HTTP/1.1 200", "{answer:?}");
                all.push(stream);
                attack.did();
            }
            while attack.goes_on() {
                pause(attack, Duration::from_secs(1));
            }
            Ok(())
        },
        |attack| attack.has_done(CLIENTS),
    )
}

/// Requests in one piece, more than are ever read the answers of.
#[test]
fn hostile_pipelines() -> Result<()> {
    const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    Scene::create(false)?.under(
        "pipelined requests",
        8,
        |attack| {
            let many = REQUEST.repeat(200);
            while attack.goes_on() {
                let mut streams = Vec::new();
                for _ in 0..16 {
                    let mut stream = open()?;
                    stream.set_nonblocking(true)?;
                    // As much as it takes. The answers of every other one are read.
                    if stream.write(&many).is_ok() {
                        attack.did();
                    }
                    streams.push(stream);
                }
                let begin = Instant::now();
                let mut buffer = vec![0; 64 * 1024];
                while attack.goes_on() && begin.elapsed() < Duration::from_millis(500) {
                    for stream in streams.iter_mut().step_by(2) {
                        while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {}
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        },
        |attack| attack.has_done(128),
    )
}

/// Passwords are guessed as fast as they are answered, by so many at once, each from the address that it has.
fn guesses(
    what: &str,
    scene: Scene,
    threads: u8,
    address: impl Fn(u8) -> Ipv4Addr + Sync,
) -> Result<()> {
    let tls = scene.tls.clone();
    let next = AtomicU8::new(0);
    scene.under(
        what,
        threads.into(),
        |attack| {
            let from = address(next.fetch_add(1, Ordering::SeqCst));
            let mut guesser = Scraper::new(from, TO, tls.clone());
            while attack.goes_on() {
                // prom:wrong
                let (status, text) =
                    guesser.get("/metrics", "Authorization: Basic cHJvbTp3cm9uZw==\r\n")?;
                ensure!(status == 401 || status == 503, "{text}");
                attack.did();
            }
            Ok(())
        },
        |attack| attack.has_done(100),
    )
}

#[test]
fn hostile_wrong_passwords() -> Result<()> {
    guesses("wrong passwords", Scene::create(true)?, 16, |_| THERE)
}

/// The scraper's password has to be checked, too, since it has never been there; and the strangers are on this
/// host, each with another address of it.
#[test]
fn hostile_wrong_passwords_from_the_start() -> Result<()> {
    let mut scene = Scene::fresh(true)?;
    scene.inside = true;
    guesses("wrong passwords from the start", scene, 48, |number| {
        Ipv4Addr::new(127, 0, 1, number)
    })
}

/// Nothing of the strangers' address passes in either direction any more.
const SILENCE: &str = "table inet silence { \
    chain input { type filter hook input priority 0; ip daddr 10.77.1.2 drop; }; \
    chain output { type filter hook output priority 0; ip saddr 10.77.1.2 drop; }; }";

/// Clients that vanish without a word, as one that is switched off; and handshakes of TCP that do not end.
#[test]
fn hostile_half_open_connections() -> Result<()> {
    const CLIENTS: usize = 1000;
    let mut scene = Scene::create(true)?;
    scene.site.host.sysctl("net.ipv4.tcp_synack_retries", "5")?;
    let peer = &scene.site.peer;
    let open = peer.run(|| (0..CLIENTS).map(|_| open()).collect::<Result<Vec<_>>>())?;
    peer.nft(SILENCE)?;
    drop(open);
    peer.nft("delete chain inet silence output")?;
    // Answers to these never arrive.
    let begun = peer.run(|| (0..CLIENTS).map(|_| begin()).collect::<Result<Vec<_>>>())?;
    let half = || -> Result<usize> {
        let text = scene.site.host.sh("ss -Htn state syn-recv")?;
        Ok(text.lines().count())
    };
    let most = until("half-open connections", START, || {
        Ok(Some(half()?).filter(|count| *count > 100))
    })?;
    let mut worst = [Duration::ZERO; 2];
    for _ in 0..ROUNDS {
        let times = scene.site.peer.run(|| {
            let mut new = Scraper::new(APART, TO, scene.tls.clone());
            let kept = scene.kept.scrape().context("the connection that is kept")?;
            Ok([kept, new.scrape().context("a new one")?])
        })?;
        worst = [worst[0].max(times[0]), worst[1].max(times[1])];
        std::thread::sleep(PAUSE);
    }
    drop(begun);
    let [kept, apart] = worst;
    println!(
        "half-open: {CLIENTS} clients vanished, {most} handshakes open; worst of {ROUNDS} scrapes: kept connection {kept:.0?}, \
         new one {apart:.0?}; limit {SERVED:?}"
    );
    ensure!(kept < SERVED && apart < SERVED, "{worst:?}");
    Ok(())
}

/// Begins a connection and does not wait for it.
fn begin() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::from((THERE, 0)).into())?;
    match socket.connect(&TO.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        other => {
            other?;
            anyhow::bail!("it is connected")
        }
    }
}

/// Bytes that are no HTTP and no TLS.
fn garbage(protected: bool) -> Result<()> {
    let name = if protected {
        "garbage to TLS"
    } else {
        "garbage"
    };
    Scene::create(protected)?.under(
        name,
        4,
        |attack| {
            // xorshift64: it needs no more than not to be the same each time.
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            while attack.goes_on() {
                let mut bytes = Vec::new();
                for _ in 0..256 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    bytes.extend(state.to_le_bytes());
                }
                // Some look like TLS, or like HTTP, at first.
                match state % 4 {
                    0 => bytes[..5].copy_from_slice(b"\x16\x03\x01\x07\x00"),
                    1 => bytes[..4].copy_from_slice(b"GET "),
                    _ => {}
                }
                let mut stream = open()?;
                // It may wait for more, which does not come.
                stream.set_read_timeout(Some(PAUSE))?;
                // It may be closed before all is sent.
                if stream.write_all(&bytes).is_ok() {
                    let mut answer = [0; 64];
                    drop(stream.read(&mut answer));
                }
                attack.did();
            }
            Ok(())
        },
        |attack| attack.has_done(100),
    )
}

#[test]
fn hostile_garbage() -> Result<()> {
    garbage(false)
}

#[test]
fn hostile_garbage_to_tls() -> Result<()> {
    garbage(true)
}
