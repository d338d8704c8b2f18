//! An hour of everything: what the daemon keeps stays flat, and all is counted.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::errors;
use super::{Row, counters, descriptors_open, listed, resident_memory, risen, sum};
use crate::attempts::act::{ANSWER, Act, ONCE, Seen, Target, Way};
use crate::attempts::lab::{Lab, Slot, WAN};
use crate::expect::Family;
use crate::lab::{Net, mac};
use crate::packet::{Packet, Protocol, flags};
use crate::scrape::{Counts, rise};
use crate::send::FrameSender;

pub(super) const ROWS: &[Row] = &[Row {
    name: "soak",
    injected: "data, drops, attempts of three kinds, floods of SYNs and errors, Teredo, interfaces, rules, reloads, scrapes",
    expected: "memory, descriptors and map entries flat over the second half; packets and attempts = sent",
    long: true,
    run: soak,
}];

/// How many minutes it takes: `PEERWATCH_SOAK_MINUTES`.
const MINUTES: u64 = 60;
/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(10);
/// From one flood to the next.
const FLOOD: Duration = Duration::from_secs(45);
/// Packets of one round, of each kind.
const BURST: u64 = 100;
/// SYNs of one flood: fewer than the table has room for, so that none may be lost.
const SYNS: u16 = 2000;

/// How much a value may rise, as the line through the samples of the second half has it: memory by so many
/// KiB, over that half; what is open and in maps by this.
const MEMORY: f64 = 4096.0;
const OPEN: f64 = 2.0;
/// Records of attempts stay 130 s after a flood, so their number goes up and down with floods.
const ENTRIES: f64 = 3000.0;

const NAMES: [&str; 4] = [
    "packets_total",
    "attempts_total",
    "attempts_lost_total",
    "events_lost_total",
];

/// What was sent so far.
#[derive(Debug, Default)]
struct Sent {
    allowed: AtomicU64,
    dropped: AtomicU64,
    attempts: AtomicU64,
    syns: AtomicU64,
    solicitations: AtomicU64,
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// One look at the daemon.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    resident: f64,
    open: f64,
    entries: f64,
}

/// One of its numbers.
type Pick = fn(&Sample) -> f64;

/// The slope of the line that fits best (least squares), a second.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().fold(0.0, |count, _| count + 1.0);
    let mean =
        |pick: fn(&(f64, f64)) -> f64| points.clone().map(|at| pick(&at)).sum::<f64>() / count;
    let (x, y) = (mean(|at| at.0), mean(|at| at.1));
    let above: f64 = points.clone().map(|at| (at.0 - x) * (at.1 - y)).sum();
    let below: f64 = points.map(|at| (at.0 - x).powi(2)).sum();
    if below == 0.0 { 0.0 } else { above / below }
}

fn minutes() -> Result<Duration> {
    const NAME: &str = "PEERWATCH_SOAK_MINUTES";
    let minutes = std::env::var(NAME).map_or(Ok(MINUTES), |text| {
        text.parse().with_context(|| format!("{NAME} = {text}"))
    })?;
    Ok(Duration::from_mins(minutes))
}

/// The traffics of the slots, and Teredo.
fn configuration() -> Result<String> {
    let mut text = "builtin_traffics = false\n".to_owned();
    for slot in (0..6).map(Slot::new) {
        let (name, port) = (slot.traffic, slot.port);
        writeln!(
            text,
            "[[traffic]]\nname = \"{name}\"\nports = [\"tcp/{port}\"]"
        )?;
    }
    text.push_str("[[traffic]]\nname = \"teredo\"\nports = [\"udp/3544\"]\n");
    Ok(text)
}

/// The soak at work.
struct Soak<'a> {
    lab: &'a Lab,
    acts: [Act<'a>; 3],
    sent: Sent,
    stop: AtomicBool,
    listener: TcpListener,
}

impl Soak<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Does something again and again, this far apart.
    fn each(&self, pause: Duration, mut work: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut number = 0;
        while self.goes_on() {
            let next = Instant::now() + pause;
            work(number)?;
            number += 1;
            while self.goes_on() && Instant::now() < next {
                std::thread::sleep(Duration::from_millis(20).min(pause));
            }
        }
        Ok(())
    }

    fn data(&self) -> Result<()> {
        let sender = FrameSender::open(&self.lab.client, "eth0")?;
        let frame = |slot: usize| {
            let from = (self.acts[0].spoofed(3), 30_000);
            let to = (self.acts[0].target, Slot::new(slot).port);
            let mut packet = Packet::new(Protocol::Tcp, from, to);
            packet.tcp_flags = flags::ACK;
            [sender.frame(mac(Net::Lan, 1), &packet.ip())]
        };
        let (allowed, dropped) = (frame(3), frame(4));
        self.each(Duration::from_millis(100), |_| {
            add(&self.sent.allowed, sender.blast(&allowed, BURST)?.offered);
            add(&self.sent.dropped, sender.blast(&dropped, BURST)?.offered);
            Ok(())
        })
    }

    fn attempts(&self) -> Result<()> {
        let [open, dropped, refused] = &self.acts;
        self.each(Duration::from_millis(500), |_| {
            open.connect_and_close(2, ANSWER, Seen::Open)?;
            refused.connect_and_close(2, ANSWER, Seen::Refused)?;
            dropped.connect_and_close(2, ONCE, Seen::Silence)?;
            add(&self.sent.attempts, 2);
            Ok(())
        })
    }

    /// Takes connections, and closes them.
    fn serve(&self) -> Result<()> {
        self.each(Duration::from_millis(100), |_| {
            while self.listener.accept().is_ok() {}
            Ok(())
        })
    }

    /// SYNs that nobody answers, errors around them, and solicitations that a rule drops.
    fn floods(&self) -> Result<()> {
        let client = FrameSender::open(&self.lab.client, "eth0")?;
        let router = FrameSender::open(&self.lab.router, "rt0")?;
        let frames = |round: u64| -> Vec<Vec<u8>> {
            let syns = (0..SYNS).map(|number| {
                let mut packet = errors::syn(number);
                packet.destination_port = Slot::new(5).port;
                let salt = u32::try_from(round % 0x1_0000).unwrap_or(0) << 16;
                packet.sequence = salt | u32::from(number);
                client.frame(mac(Net::Lan, 1), &packet.ip())
            });
            syns.collect()
        };
        let unknown: Vec<_> = (0..100)
            .map(|number| router.frame(mac(WAN, 1), &errors::error(&errors::syn(5000 + number))))
            .collect();
        self.each(FLOOD, |round| {
            let syns = frames(round + 1);
            add(
                &self.sent.syns,
                client.blast(&syns, u64::from(SYNS))?.offered,
            );
            router.blast(&unknown, 20_000)?;
            let solicitations =
                super::teredo::frames_from(&client, self.acts[0].target, round, 500);
            let blast = client.blast(&solicitations, solicitations.len() as u64)?;
            add(&self.sent.solicitations, blast.offered);
            Ok(())
        })
    }

    /// Interfaces, addresses, rules and reloads.
    fn changes(&self) -> Result<()> {
        let gw = &self.lab.gw;
        self.each(Duration::from_secs(1), |round| {
            let (name, net) = (format!("sk{}", round % 7), 100 + round % 100);
            gw.ip_batch(&format!(
                "link add {name} type veth peer name {name}p\nlink set {name} up\n\
                 address add 10.79.{net}.1/24 dev {name}\n"
            ))?;
            gw.nft(&format!(
                "table inet churn{round} {{ chain it {{ type filter hook forward priority 5; tcp dport 9 drop; }}; }}"
            ))?;
            if round % 20 == 0 {
                self.lab.daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
            }
            gw.ip(&format!("link del {name}"))?;
            gw.nft(&format!("delete table inet churn{round}"))
        })
    }

    fn sample(&self, start: Instant) -> Result<Sample> {
        let entries = counters(&self.lab.daemon, &["map_entries"])?;
        let resident = u32::try_from(resident_memory(&self.lab.daemon)?)?;
        let open = u32::try_from(descriptors_open(&self.lab.daemon)?)?;
        Ok(Sample {
            seconds: start.elapsed().as_secs_f64(),
            resident: resident.into(),
            open: open.into(),
            entries: u32::try_from(sum(&entries, &[]))?.into(),
        })
    }

    /// Samples until the time is over, or something ends before.
    fn samples(&self, length: Duration) -> Result<Vec<Sample>> {
        let start = Instant::now();
        let mut samples = Vec::new();
        while self.goes_on() && start.elapsed() < length {
            let next = Instant::now() + SAMPLE;
            let sample = self.sample(start)?;
            eprintln!("soak: {sample:?} {:?}", self.sent);
            samples.push(sample);
            while self.goes_on() && Instant::now() < next.min(start + length) {
                // As often as an impatient Prometheus.
                let (status, _) = self.lab.daemon.get("/api/v1/status")?;
                ensure!(status == 200, "/api/v1/status: {status}");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        Ok(samples)
    }

    /// Everything side by side; what ends first by an error ends all.
    fn run(&self, length: Duration) -> Result<Vec<Sample>> {
        let ending = |result: Result<()>| {
            self.stop.store(true, Ordering::Relaxed);
            result
        };
        std::thread::scope(|scope| {
            let works = [
                scope.spawn(move || ending(self.data().context("data"))),
                scope.spawn(move || ending(self.attempts().context("attempts"))),
                scope.spawn(move || ending(self.serve().context("server"))),
                scope.spawn(move || ending(self.floods().context("floods"))),
                scope.spawn(move || ending(self.changes().context("changes"))),
            ];
            let samples = self.samples(length);
            self.stop.store(true, Ordering::Relaxed);
            for work in works {
                work.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            samples
        })
    }
}

/// That what is kept is flat over the second half; says by how much it rose there.
fn flat(samples: &[Sample]) -> Result<String> {
    let half = &samples[samples.len() / 2..];
    let length = half.last().zip(half.first());
    let length = length.map_or(0.0, |(last, first)| last.seconds - first.seconds);
    let mut text = String::new();
    let values: [(_, Pick, _); 3] = [
        ("KiB resident", |sample| sample.resident, MEMORY),
        ("descriptors", |sample| sample.open, OPEN),
        ("map entries", |sample| sample.entries, ENTRIES),
    ];
    for (what, of, most) in values {
        let points = half.iter().map(|sample| (sample.seconds, of(sample)));
        let risen = slope(points) * length;
        let last = half.last().map_or(0.0, of);
        ensure!(
            risen <= most,
            "{what} rose by {risen:.0} in {length:.0} s, to {last}"
        );
        write!(text, "{what} {last} ({risen:+.1} in {length:.0} s); ")?;
    }
    Ok(text)
}

fn soak() -> Result<String> {
    let lab = Lab::create_with(&configuration()?)?;
    let slots: Vec<Slot> = (0..3).map(Slot::new).collect();
    let act = |slot| Act::new(&lab, slot, Way::Forwarded, Family::V4, Target::Server);
    let acts = [act(&slots[0])?, act(&slots[1])?, act(&slots[2])?];
    let listener = acts[0].listener(4096)?;
    listener.set_nonblocking(true)?;
    let rule = format!("{} drop", acts[1].syn());
    acts[1].rule(&lab.gw, "type filter hook forward priority 0", &rule)?;
    let dropped = format!("tcp dport {} drop; udp dport 3544 drop", Slot::new(4).port);
    lab.gw.nft(&format!(
        "table inet flood {{ chain it {{ type filter hook forward priority 0; {dropped}; }}; }}"
    ))?;
    lab.server.nft(&format!(
        "table inet flood {{ chain it {{ type filter hook input priority 0; tcp dport {} drop; }}; }}",
        Slot::new(5).port
    ))?;
    let before = counters(&lab.daemon, &NAMES)?;
    let soak = Soak {
        lab: &lab,
        acts,
        sent: Sent::default(),
        stop: AtomicBool::new(false),
        listener,
    };
    let samples = soak.run(minutes()?)?;
    let text = totals(&soak, &before)?;
    Ok(format!("{}{text}", flat(&samples)?))
}

/// That all that was sent is counted.
fn totals(soak: &Soak<'_>, before: &Counts) -> Result<String> {
    let sent = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let traffic = |slot| format!("traffic=\"{}\"", Slot::new(slot).traffic);
    let packets = |rises: &Counts, slot, verdict: &str| {
        sum(
            rises,
            &["packets_total", "request", verdict, &traffic(slot)],
        )
    };
    let attempts = |rises: &Counts, slot, outcome: &str| {
        sum(rises, &["attempts_total", outcome, &traffic(slot)])
    };
    let measured = |rises: &Counts| {
        [
            packets(rises, 3, "allowed"),
            packets(rises, 4, "dropped"),
            attempts(rises, 0, "established"),
            attempts(rises, 1, "local_firewall"),
            attempts(rises, 2, "refused"),
            attempts(rises, 5, "unanswered") + sum(rises, &["attempts_lost_total", "table"]),
            super::teredo::accounted(rises),
        ]
    };
    let wanted = [
        sent(&soak.sent.allowed),
        sent(&soak.sent.dropped),
        sent(&soak.sent.attempts),
        sent(&soak.sent.attempts),
        sent(&soak.sent.attempts),
        sent(&soak.sent.syns),
        sent(&soak.sent.solicitations),
    ];
    let daemon = &soak.lab.daemon;
    risen(daemon, &NAMES, before, Duration::from_secs(30), |rises| {
        measured(rises) == wanted
    })?;
    std::thread::sleep(Duration::from_secs(2));
    let rises = rise(before, &counters(daemon, &NAMES)?)?;
    ensure!(
        measured(&rises) == wanted,
        "{:?} instead of {wanted:?}\n{}",
        measured(&rises),
        listed(&rises)
    );
    Ok(format!("sent and counted: {wanted:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line() {
        let line = (0..10).map(|x| (f64::from(x), 3.0 + 2.0 * f64::from(x)));
        assert!((slope(line) - 2.0).abs() < 1e-9);
        assert!(slope([(1.0, 5.0)].into_iter()).abs() < 1e-9);
    }
}
