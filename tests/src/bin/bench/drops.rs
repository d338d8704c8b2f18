//! What a drop costs: `kfree_skb` has no timed test run, so real packets are dropped, and the kernel's BPF statistics
//! say how long the program ran, and an empty one beside it at the same drops.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::BtfTracePoint;
use aya::sys::{Stats, enable_stats};
use monitor::bpf::counters::Counters;
use monitor::bpf::tables::Tables;
use monitor_common::interface::InterfaceInfo;
use monitor_tests::netns::{NetNs, unique_prefix};
use monitor_tests::packet::{Packet, Protocol};
use monitor_tests::send::FrameSender;
use serde::Serialize;

use crate::floor;
use crate::product;
use crate::spread::Spread;

/// Packets in one turn.
const PACKETS: u64 = 5_000;

/// What is dropped: the name, the destination's port, whether it is IPv6, and whether it counts.
const CASES: [(&str, u16, bool, bool); 4] = [
    ("IPv4, not ours", 9999, false, false),
    ("IPv6, not ours", 9999, true, false),
    ("IPv4 UDP", 443, false, true),
    ("IPv6 UDP", 443, true, true),
];

/// Packets of another namespace are dropped like ours.
const FOREIGN: &str = "another namespace's";

/// One kind of drop, nanoseconds each.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    packet: &'static str,
    /// Of an empty program at the same drops.
    empty: Spread,
    /// Of `kfree_skb`, with those that it goes on with.
    ours: Spread,
    /// What ours took more in the same turn.
    above: Spread,
    /// What that is to be at most, nanoseconds.
    target: Option<u8>,
}

/// The rows as a table for people.
pub(crate) fn show(rows: &[Row]) -> Result<String> {
    let mut text = String::from(
        "\nA drop by the kernel's BPF statistics, which take some 20 ns themselves, in both: nanoseconds.\n\n",
    );
    writeln!(
        text,
        "{:<17} {:<41} {:>5} {:>5} {:>6}  above empty",
        "program", "packet", "empty", "ours", "target"
    )?;
    for row in rows {
        let Spread { median, min, max } = row.above;
        let target = row.target.map_or_else(String::new, |t| t.to_string());
        writeln!(
            text,
            "{:<17} {:<41} {:>5.0} {:>5.0} {target:>6}  {median:.0} ({min:.0}..{max:.0})",
            "kfree_skb", row.packet, row.empty.median, row.ours.median
        )?;
    }
    Ok(text)
}

/// A client, and a gateway that drops what it gets.
struct Lab {
    client: NetNs,
    gateway: NetNs,
    /// Drops as well, and is not watched.
    other: NetNs,
}

impl Lab {
    fn create() -> Result<Self> {
        let prefix = unique_prefix();
        let client = NetNs::create(&format!("{prefix}client"))?;
        let gateway = NetNs::create(&format!("{prefix}gw"))?;
        let other = NetNs::create(&format!("{prefix}other"))?;
        for (end, netns) in [("g", &gateway), ("o", &other)] {
            client.ip(&format!(
                "link add c{end} type veth peer name {end}0 netns {}",
                netns.name()
            ))?;
            client.ip(&format!("link set c{end} up"))?;
            netns.ip_batch(&format!(
                "link set {end}0 up\naddress add 10.9.1.1/24 dev {end}0\n\
                 address add fd00:9::1/64 dev {end}0 nodad\n"
            ))?;
            netns.nft(
                "table inet drops { chain input { type filter hook input priority 0; \
                 udp dport { 443, 9999 } drop; }; }",
            )?;
        }
        Ok(Self {
            client,
            gateway,
            other,
        })
    }

    /// One who sends to the gateway, or to the other one, and that one's link address.
    fn sender(&self, end: &str) -> Result<(FrameSender, [u8; 6])> {
        let netns = if end == "g" {
            &self.gateway
        } else {
            &self.other
        };
        let sender = FrameSender::open(&self.client, &format!("c{end}"))?;
        Ok((sender, netns.mac(&format!("{end}0"))?))
    }
}

/// The programs at work.
struct Bench {
    ebpf: Ebpf,
    counters: Counters,
    _tables: Tables,
    empty: OwnedFd,
    _link: OwnedFd,
}

impl Bench {
    fn new(lab: &Lab) -> Result<Self> {
        let mut ebpf = lab.gateway.run(product::load)?;
        let (mut tables, _) = product::tables(&mut ebpf)?;
        tables.set_interface(lab.gateway.ifindex("g0")?, InterfaceInfo::default())?;
        for address in ["10.9.1.1", "fd00:9::1"] {
            tables.add_address(address.parse()?)?;
        }
        let counters = Counters::new(&mut ebpf)?;
        let program = ebpf.program_mut("kfree_skb").context("no kfree_skb")?;
        let program: &mut BtfTracePoint = program.try_into()?;
        program.attach()?;
        let (empty, link) = floor::nothing_at_drops()?;
        Ok(Self {
            ebpf,
            counters,
            _tables: tables,
            empty,
            _link: link,
        })
    }

    fn ours(&self) -> Result<BorrowedFd<'_>> {
        let program = self.ebpf.program("kfree_skb").context("no kfree_skb")?;
        Ok(program.fd()?.as_fd())
    }

    /// Nanoseconds of the empty program and of ours for each packet of a turn.
    fn turn(&self, sender: &FrameSender, frame: &[u8], counts: bool) -> Result<(f64, f64)> {
        let dropped = || -> Result<u64> {
            let drops = self.counters.read()?.drops;
            Ok(drops.values().map(|count| count.packets).sum())
        };
        let before = (read(self.empty.as_fd())?, read(self.ours()?)?, dropped()?);
        let sent = sender.blast(&[frame.to_vec()], PACKETS)?;
        ensure!(sent.refused == 0, "{} frames found no room", sent.refused);
        let after = (read(self.empty.as_fd())?, read(self.ours()?)?, dropped()?);
        let counted = after.2 - before.2;
        ensure!(
            counted == if counts { PACKETS } else { 0 },
            "{counted} of {PACKETS} drops were counted"
        );
        Ok((mean(before.0, after.0)?, mean(before.1, after.1)?))
    }
}

/// Time and number of a program's runs, by its `/proc/self/fdinfo`.
fn read(program: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let value = |key: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        Ok(line.context("no BPF statistics")?.trim().parse()?)
    };
    Ok((value("run_time_ns:")?, value("run_cnt:")?))
}

/// Nanoseconds of a run. What else was freed on the machine meanwhile is in it, for both.
fn mean(before: (u64, u64), after: (u64, u64)) -> Result<f64> {
    let (time, runs) = (after.0 - before.0, after.1 - before.1);
    ensure!(
        runs >= PACKETS,
        "the program ran {runs} times at {PACKETS} drops"
    );
    let float = |number: u64| u32::try_from(number).map(f64::from);
    Ok(float(time)? / float(runs)?)
}

/// Measures all kinds of drops, `rounds` times.
pub(crate) fn measure(rounds: u32) -> Result<Vec<Row>> {
    let lab = Lab::create()?;
    let bench = Bench::new(&lab)?;
    let _statistics = enable_stats(Stats::RunTime).context("the kernel's BPF statistics")?;
    let mut turns = Vec::new();
    for (name, port, ipv6, counts) in CASES {
        let (sender, mac) = lab.sender("g")?;
        turns.push((name, sender, mac, (port, ipv6), counts));
    }
    let (sender, mac) = lab.sender("o")?;
    turns.push((FOREIGN, sender, mac, (443, false), false));
    let mut times = vec![Vec::new(); turns.len()];
    for round in 0..=rounds {
        for ((_, sender, mac, (port, ipv6), counts), times) in turns.iter().zip(&mut times) {
            let (from, to): (IpAddr, IpAddr) = if *ipv6 {
                ("fd00:9::2".parse()?, "fd00:9::1".parse()?)
            } else {
                ("10.9.1.2".parse()?, "10.9.1.1".parse()?)
            };
            let packet = Packet::new(Protocol::Udp, (from, 40_000), (to, *port));
            let frame = sender.frame(*mac, &packet.ip());
            let turn = bench.turn(sender, &frame, *counts)?;
            // The first fills caches.
            if round > 0 {
                times.push(turn);
            }
        }
    }
    let is_direct = product::reads_directly()?;
    let rows = turns
        .iter()
        .zip(times)
        .map(|((packet, _, _, _, counts), times)| {
            let spread = |pick: fn(&(f64, f64)) -> f64| {
                Spread::of(times.iter().map(pick).collect()).context("no rounds")
            };
            Ok(Row {
                packet,
                empty: spread(|(empty, _)| *empty)?,
                ours: spread(|(_, ours)| *ours)?,
                above: spread(|(empty, ours)| ours - empty)?,
                target: match (*packet, counts) {
                    (FOREIGN, _) => None,
                    (_, true) => Some(200),
                    (_, false) if is_direct => Some(25),
                    (_, false) => Some(80),
                },
            })
        });
    rows.collect()
}
