//! End to end: CPU time that a small packet takes on its whole way through a host, with and without the daemon.
//!
//! A client sends frames over a veth pair, inside of which everything happens on the sender's CPU and in the
//! sender's time, up to the gateway's socket, its rule or the device behind it. Ways to watch take turns within
//! each round, so that what else the machine does is in all of them.

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use monitor_tests::daemon::Daemon;
use monitor_tests::netns::{NetNs, TempDir, run, unique_prefix};
use monitor_tests::packet::{Packet, Protocol};
use monitor_tests::send::FrameSender;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

use crate::floor::{Minimal, Nothing};
use crate::spread::Spread;
use crate::stream;

/// Packets in one turn.
const PACKETS: u32 = 20_000;

/// How many are sent before a socket is read: fewer than it holds.
const BATCH: u64 = 64;

/// A watched port, and one that nobody watches.
const PORTS: [(&str, u16); 2] = [("watched", 443), ("not watched", 9999)];

/// What becomes of the packets: the name, and where they go.
const WAYS: [(&str, [u8; 4]); 3] = [
    ("forwarded", [10, 9, 2, 9]),
    ("delivered", [10, 9, 1, 1]),
    ("dropped", [10, 9, 1, 3]),
];

/// A connection, as fast as one CPU can do both ends of it: time for each KiB.
const STREAM: &str = "TCP stream";

const CLIENT: [u8; 4] = [10, 9, 1, 2];

/// Who looks at them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Watcher {
    /// Nobody.
    Nobody,
    /// Nobody once more: what differs is noise.
    NobodyAgain,
    /// The daemon, without any settings.
    Daemon,
    /// Programs that do nothing, at the hooks of the daemon.
    Nothing,
    /// A counter of drops on the watched port, made by hand.
    Minimal,
    /// Twenty counters of nftables, among them those of the watched ports.
    Counters,
}

const WATCHERS: [Watcher; 6] = [
    Watcher::Nobody,
    Watcher::NobodyAgain,
    Watcher::Daemon,
    Watcher::Nothing,
    Watcher::Minimal,
    Watcher::Counters,
];

/// One way of a packet: nanoseconds without anybody, and the others in relation to that.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    way: &'static str,
    port: &'static str,
    /// Nanoseconds a packet.
    nobody: Spread,
    /// The same once more, as a ratio to the turn of the same round.
    noise: Spread,
    /// Ratio.
    daemon: Spread,
    /// Ratio: what any programs at these hooks cost; `None` where they could not be attached (TCX, Linux 6.6).
    nothing: Option<Spread>,
    /// Ratio: what counting drops costs at least; `None` where the kernel refuses it.
    minimal: Option<Spread>,
    /// Ratio.
    counters: Spread,
    /// What the ratio of the daemon should be at most.
    target: Option<f64>,
}

/// What a ratio should be at most on a watched port; of the stream's time, for 99 % of its throughput.
const TARGETS: [(&str, f64); 4] = [
    ("forwarded", 1.02),
    ("delivered", 1.02),
    ("dropped", 1.06),
    (STREAM, 1.0 / 0.99),
];

/// The rows as a table for people.
pub(crate) fn show(rows: &[Row]) -> Result<String> {
    if rows.is_empty() {
        return Ok(String::new());
    }
    let mut text = String::from(
        "\nCPU time of a small packet on its whole way, and of a KiB of a TCP stream: nanoseconds, and ratios to them in the same round.\n\
         \"no-ops\": programs that do nothing, at the same hooks. \"minimal\": a counter of drops alone, made by hand.\n\n",
    );
    writeln!(
        text,
        "{:<10} {:<12} {:>8}  {:<21} {:<21} {:>6}  {:<21} {:<21} {:<21}",
        "way",
        "port",
        "nobody",
        "nobody again",
        "peerwatch",
        "target",
        "no-ops",
        "minimal",
        "20 nft counters"
    )?;
    for row in rows {
        let target = row.target.map_or_else(String::new, |t| format!("{t:.2}"));
        writeln!(
            text,
            "{:<10} {:<12} {:>8.0}  {:<21} {:<21} {target:>6}  {:<21} {:<21} {:<21}",
            row.way,
            row.port,
            row.nobody.median,
            row.noise.ratio(),
            row.daemon.ratio(),
            row.nothing
                .map_or_else(String::new, |nothing| nothing.ratio()),
            row.minimal
                .map_or_else(String::new, |minimal| minimal.ratio()),
            row.counters.ratio()
        )?;
    }
    Ok(text)
}

/// Client and gateway, and behind it one who takes everything.
struct Lab {
    client: NetNs,
    _sink: NetNs,
    gateway: NetNs,
    folder: TempDir,
    sender: FrameSender,
    /// Of the gateway's device.
    mac: [u8; 6],
    sockets: Vec<UdpSocket>,
}

impl Lab {
    fn create() -> Result<Self> {
        let prefix = unique_prefix();
        let client = NetNs::create(&format!("{prefix}client"))?;
        let gateway = NetNs::create(&format!("{prefix}gw"))?;
        client.ip(&format!(
            "link add c0 type veth peer name g0 netns {}",
            gateway.name()
        ))?;
        client.ip("link set c0 up")?;
        client.ip("address add 10.9.1.2/24 dev c0")?;
        let sink = NetNs::create(&format!("{prefix}sink"))?;
        gateway.ip_batch(&format!(
            "link set g0 up\naddress add 10.9.1.1/24 dev g0\naddress add 10.9.1.3/24 dev g0\n\
             link add d0 type veth peer name s0 netns {}\nlink set d0 up\n\
             address add 10.9.2.1/24 dev d0\n\
             neighbour add 10.9.2.9 lladdr 02:00:00:00:00:09 dev d0 nud permanent\n",
            sink.name()
        ))?;
        // A filter takes all that comes (`TC_ACT_STOLEN`): that is no drop, and nothing else costs less.
        sink.ip("link set s0 up")?;
        sink.sh("tc qdisc add dev s0 clsact")?;
        run(sink
            .command("tc")?
            .args("filter add dev s0 ingress bpf da bytecode".split(' '))
            .arg("1,6 0 0 4"))?;
        gateway.sysctl("net.ipv4.ip_forward", "1")?;
        gateway.nft(
            "table inet drops { chain input { type filter hook input priority 0; \
             ip daddr 10.9.1.3 udp dport { 443, 9999 } drop; }; }",
        )?;
        let sockets = PORTS
            .iter()
            .map(|(_, port)| {
                let socket = gateway.run(|| Ok(UdpSocket::bind(("10.9.1.1", *port))?))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            sender: FrameSender::open(&client, "c0")?,
            mac: gateway.mac("g0")?,
            folder: TempDir::create(&prefix)?,
            client,
            _sink: sink,
            gateway,
            sockets,
        })
    }

    /// Nanoseconds of CPU time a packet.
    fn turn(&self, way: usize, port: usize) -> Result<f64> {
        let (name, target) = WAYS[way];
        let (from, to) = ((CLIENT.into(), 40_000), (target.into(), PORTS[port].1));
        let packet = Packet::new(Protocol::Udp, from, to);
        let frame = [self.sender.frame(self.mac, &packet.ip())];
        let is_read = name == "delivered";
        let mut read = 0;
        let before = cpu_time()?;
        let mut left = u64::from(PACKETS);
        while left > 0 {
            let batch = if is_read { left.min(BATCH) } else { left };
            let sent = self.sender.blast(&frame, batch)?;
            ensure!(sent.refused == 0, "{} frames found no room", sent.refused);
            left -= batch;
            let mut buffer = [0; 64];
            while is_read && self.sockets[port].recv(&mut buffer).is_ok() {
                read += 1;
            }
        }
        let took = cpu_time()?.saturating_sub(before);
        ensure!(
            !is_read || read == PACKETS,
            "{read} of {PACKETS} packets were delivered"
        );
        Ok(took.as_secs_f64() * 1e9 / f64::from(PACKETS))
    }

    /// All ways, with somebody who watches; `None` where the kernel does not let them.
    fn watched(&self, watcher: Watcher) -> Result<Option<Vec<f64>>> {
        let (mut daemon, mut nothing, mut minimal) = (None, None, None);
        match watcher {
            Watcher::Nobody | Watcher::NobodyAgain => {}
            Watcher::Nothing => {
                let interfaces = [self.gateway.ifindex("g0")?, self.gateway.ifindex("d0")?];
                nothing = self.gateway.run(|| Ok(Nothing::attach(&interfaces).ok()))?;
                if nothing.is_none() {
                    return Ok(None);
                }
            }
            Watcher::Minimal => {
                minimal = self.gateway.run(|| Ok(Minimal::attach(443).ok()))?;
                if minimal.is_none() {
                    return Ok(None);
                }
            }
            Watcher::Daemon => daemon = Some(Daemon::start(&self.gateway, self.folder.path())?),
            Watcher::Counters => self.gateway.nft(&counters())?,
        }
        let mut times = Vec::new();
        for way in 0..WAYS.len() {
            for port in 0..PORTS.len() {
                // What comes first, fills caches.
                self.turn(way, port)?;
                times.push(self.turn(way, port)?);
            }
        }
        for (_, port) in PORTS {
            times.push(stream::turn(&self.client, &self.gateway, port)?);
        }
        if let Some(mut daemon) = daemon {
            daemon.stop()?;
        }
        drop(nothing);
        if let Some(minimal) = minimal {
            let counted = minimal.counted()?;
            // Two turns of the dropped ones.
            ensure!(
                counted == u64::from(PACKETS) * 2,
                "the minimal counter counted {counted}: its times say nothing"
            );
        }
        if watcher == Watcher::Counters {
            self.gateway.nft("delete table inet counters")?;
        }
        Ok(Some(times))
    }
}

/// Twenty counters in each chain that packets pass.
fn counters() -> String {
    let ports = [443, 3544, 9999, 7680];
    let mut rules = String::new();
    for port in ports.iter().cycle().take(20) {
        rules.push_str("udp dport ");
        rules.push_str(&port.to_string());
        rules.push_str(" counter; ");
    }
    let chain =
        |hook| format!("chain {hook} {{ type filter hook {hook} priority -10; {rules} }}; ");
    let chains: String = ["input", "forward", "output"].map(chain).concat();
    format!("table inet counters {{ {chains} }}")
}

/// Of this thread, on which everything happens.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Measures all ways, `rounds` times.
pub(crate) fn measure(rounds: u32) -> Result<Vec<Row>> {
    if rounds == 0 {
        return Ok(Vec::new());
    }
    let lab = Lab::create()?;
    let before = sched_getaffinity(Pid::from_raw(0))?;
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("running on one CPU")?;
    let mut rounds_of: Vec<[Option<Vec<f64>>; WATCHERS.len()]> = Vec::new();
    for round in 0..rounds {
        let mut times = [const { None }; WATCHERS.len()];
        // Each is first, second, third and last as often as the others.
        for turn in 0..WATCHERS.len() {
            let at = (turn + round as usize) % WATCHERS.len();
            times[at] = lab.watched(WATCHERS[at])?;
        }
        rounds_of.push(times);
    }
    // What is measured after this has all of them again.
    sched_setaffinity(Pid::from_raw(0), &before).context("running on all CPUs")?;
    let mut rows = Vec::new();
    let ways = WAYS.iter().map(|(name, _)| *name).chain([STREAM]);
    for (way, name) in ways.enumerate() {
        for (port, (port_name, _)) in PORTS.iter().enumerate() {
            let at = way * PORTS.len() + port;
            let ratio = |watcher: usize| {
                let ratios = rounds_of.iter().filter_map(|times| {
                    let of = |watcher: usize| times[watcher].as_ref().map(|times| times[at]);
                    Some(of(watcher)? / of(0)?)
                });
                Spread::of(ratios.collect())
            };
            let nobody = rounds_of
                .iter()
                .filter_map(|times| Some(times[0].as_ref()?[at]));
            rows.push(Row {
                way: name,
                port: port_name,
                nobody: Spread::of(nobody.collect()).context("no rounds")?,
                noise: ratio(1).context("no rounds")?,
                daemon: ratio(2).context("no rounds")?,
                nothing: ratio(3),
                minimal: ratio(4),
                counters: ratio(5).context("no rounds")?,
                target: (port == 0)
                    .then(|| TARGETS.iter().find(|(way, _)| *way == name))
                    .flatten()
                    .map(|(_, target)| *target),
            });
        }
    }
    Ok(rows)
}
