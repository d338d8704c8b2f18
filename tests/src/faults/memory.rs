//! Everything at once in one daemon: what it keeps has a bound.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use monitor::limits;

use super::floods::{NAMES as PACKETS, data_packet, side_by_side};
use super::{Row, counters, listed, mib, peak_memory, risen, sum, teredo};
use crate::daemon::Daemon;
use crate::expect::Family;
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, mac};
use crate::packet::{Packet, Protocol, flags};
use crate::scrape::Counts;
use crate::send::{Blast, FrameSender};

pub(super) const ROWS: &[Row] = &[Row {
    name: "memory after all floods",
    injected: "SYNs to 65,536 hosts, half of them answered, solicitations, drops; scrapes beside",
    expected: "VmHWM and the maps' memlock within docs/limits.md; ended + lost = made",
    long: false,
    run: memory,
}];

/// SYNs: more than all tables together remember.
const SYNS: u32 = 160_000;
/// Clients of Teredo.
const CLIENTS: u16 = 50_000;
/// Attempts that the kernel follows, unless something else is said.
const MAX_ATTEMPTS: usize = 65_536;
/// States of the built-in traffics: three, outbound and forwarded.
const STATES: usize = 6;
/// What the maps may take, MiB for each processor and for all together: docs/limits.md.
const MAPS_FOR_ALL: u64 = 24;
const MAPS_FOR_EACH: u64 = 1;

const NAMES: [&str; 2] = ["attempts_total", "attempts_lost_total"];

/// A host beyond the server.
fn host(number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 200, high, low))
}

/// A SYN of the peer to such a host, and the host's answer.
fn pair(number: u32) -> (Packet, Packet) {
    let port = 1024 + u16::try_from(number % 60_000).unwrap_or(0);
    let client = (address(Family::V4, Net::Lan, PEER), port);
    let mut syn = Packet::new(Protocol::Tcp, client, (host(number), 7680));
    syn.sequence = (number + 1).wrapping_mul(0x9e37_79b1);
    let mut answer = Packet::new(Protocol::Tcp, (host(number), 7680), client);
    answer.tcp_flags = flags::SYN | flags::ACK;
    answer.acknowledgement = syn.sequence.wrapping_add(1);
    (syn, answer)
}

/// SYNs, every other one of them answered a moment later.
fn syns(lab: &Lab) -> Result<Blast> {
    const PART: u32 = 4000;
    let server = FrameSender::open(&lab.server, "eth0")?;
    let mut all = Blast::default();
    let mut took = Duration::ZERO;
    for start in (0..SYNS).step_by(PART as usize) {
        let pairs: Vec<_> = (start..start + PART).map(pair).collect();
        let syns: Vec<_> = pairs
            .iter()
            .map(|(syn, _)| lab.lan.frame(mac(Net::Lan, GATEWAY), &syn.ip()))
            .collect();
        let answers: Vec<_> = pairs
            .iter()
            .step_by(2)
            .map(|(_, answer)| server.frame(mac(Net::Wan, GATEWAY), &answer.ip()))
            .collect();
        let blast = lab.lan.blast(&syns, syns.len() as u64)?;
        took += blast.took;
        all = all.beside(blast);
        server.blast(&answers, answers.len() as u64)?;
    }
    Ok(Blast { took, ..all })
}

/// Scrapes until it is told to stop, and says how often.
fn scrapes(daemon: &Daemon, stop: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        for path in ["/metrics", "/api/v1/status"] {
            let (status, body) = daemon.get(path)?;
            ensure!(status == 200, "{path}: {status}: {body}");
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(count)
}

/// What the kernel charges for all maps that a process has open, KiB.
fn maps(daemon: &Daemon) -> Result<u64> {
    let folder = format!("/proc/{}/fdinfo", daemon.pid());
    let mut by_id = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(&folder).context(folder)? {
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let value = |key: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().parse().ok()
        };
        if let (Some(id), Some(bytes)) = (value("map_id:"), value("memlock:")) {
            by_id.insert(id, bytes);
        }
    }
    Ok(by_id.values().sum::<u64>().div_ceil(1024))
}

fn flood(lab: &Lab) -> Result<[Blast; 3]> {
    let syns = syns(lab)?;
    let frames = teredo::frames(lab, CLIENTS);
    let solicitations = lab.lan.blast(&frames, frames.len() as u64)?;
    let gateway = (Net::Lan, GATEWAY);
    let packets = [
        data_packet(Protocol::Udp, Family::V6, gateway, 443),
        data_packet(Protocol::Tcp, Family::V4, gateway, 443),
    ];
    Ok([syns, solicitations, side_by_side(lab, packets, 50_000)?])
}

fn memory() -> Result<String> {
    let mut lab = Lab::create()?;
    let via = address(Family::V4, Net::Wan, SERVER);
    lab.gw.ip(&format!("route add 10.200.0.0/16 via {via}"))?;
    lab.gw.nft(
        "table inet flood { chain here { type filter hook input priority 0; meta l4proto { tcp, udp } th dport 443 drop; }; \
         chain through { type filter hook forward priority 0; udp dport 3544 drop; }; }",
    )?;
    let start = peak_memory(&lab.daemon)?;
    let before = counters(&lab.daemon, &NAMES)?;
    let packets = counters(&lab.daemon, &PACKETS)?;
    let stop = AtomicBool::new(false);
    let tcp = |rises: &Counts| {
        sum(rises, &["attempts_total", "do_peer"]) + sum(rises, &["attempts_lost_total", "table"])
    };
    let ([syns, solicitations, drops], rises, scraped) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| scrapes(&lab.daemon, &stop));
        let result = flood(&lab).and_then(|blasts| {
            let rises = risen(
                &lab.daemon,
                &NAMES,
                &before,
                Duration::from_secs(45),
                |rises| {
                    tcp(rises) >= blasts[0].offered && teredo::accounted(rises) >= blasts[1].offered
                },
            )?;
            Ok((blasts, rises))
        });
        stop.store(true, Ordering::Relaxed);
        let scraped = beside.join();
        let scraped = scraped.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (blasts, rises) = result?;
        anyhow::Ok((blasts, rises, scraped))
    })?;
    let lost = sum(&rises, &["attempts_lost_total", "table"]);
    ensure!(
        tcp(&rises) == syns.offered && teredo::accounted(&rises) == solicitations.offered,
        "{syns:?} {solicitations:?}\n{}",
        listed(&rises)
    );
    let dropped = |rises: &Counts| sum(rises, &["peerwatch_packets_total", "https", "dropped"]);
    let rises = risen(&lab.daemon, &PACKETS, &packets, super::COUNTED, |rises| {
        dropped(rises) >= drops.offered
    })?;
    ensure!(
        dropped(&rises) == drops.offered,
        "{drops:?}\n{}",
        listed(&rises)
    );
    let peak = peak_memory(&lab.daemon)?;
    let most = limits::most(MAX_ATTEMPTS, STATES) as u64 / 1024;
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
    let maps = maps(&lab.daemon)?;
    let maps_most = (MAPS_FOR_ALL + MAPS_FOR_EACH * cpus as u64) * 1024;
    ensure!(
        peak <= most && maps <= maps_most,
        "peak {peak} KiB of {most}, maps {maps} KiB of {maps_most}"
    );
    lab.daemon.stop()?;
    Ok(format!(
        "{} SYNs at {:.0}/s, lost {lost}; {} solicitations at {:.0}/s; {} drops at {:.0}/s, all accounted for; \
         {scraped} scrapes; peak {} MiB (start {}) of {}, maps {} MiB of {}",
        syns.offered,
        syns.rate(),
        solicitations.offered,
        solicitations.rate(),
        drops.offered,
        drops.rate(),
        mib(peak),
        mib(start),
        mib(most),
        mib(maps),
        mib(maps_most),
    ))
}
