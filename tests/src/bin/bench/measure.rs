//! Timing: each program and an empty one of its type in turn, round after round.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use monitor::bpf::counters::{Counters, Snapshot};
use monitor::traffic::Traffics;
use monitor_common::Flow;
use monitor_common::counter::{Series, Slot};
use monitor_common::interface::InterfaceInfo;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::cases::{Case, DEVICE_MAC, Expected, HOST_IPV4, MINIMAL, PEER_PORT, cases};
use crate::floor::Parser;
use crate::kernel::{self, Input, Kind};
use crate::product;
use crate::spread::Spread;

/// How often each case runs before the timing, to see that it counts.
const PROOF: u32 = 1000;

/// One program with one packet.
#[derive(Clone, Debug, Serialize)]
struct Row {
    program: &'static str,
    packet: String,
    /// Nanoseconds of the empty program.
    empty: Spread,
    /// Nanoseconds of ours.
    ours: Spread,
    /// What ours took more than the empty one right before it.
    above: Spread,
    /// What that is to be at most.
    target: Option<u8>,
}

/// Everything that was measured, and where.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    kernel: String,
    cpu: String,
    /// Whether the kernel keeps BPF statistics, which cost time in both programs.
    statistics: bool,
    rounds: u32,
    repeat: u32,
    rows: Vec<Row>,
}

impl Report {
    /// As a table for people.
    pub(crate) fn show(&self) -> Result<String> {
        let mut text = format!(
            "Linux {}, {}{}\n{} rounds; in each the empty program and ours take turns, {} runs each. \
             Nanoseconds a packet: median (min..max).\nAll caches are warm. \"minimal\" is a classifier made by hand, \
             which only counts the segments of one port in one number.\n\n",
            self.kernel,
            self.cpu,
            if self.statistics {
                ", with BPF statistics on"
            } else {
                ""
            },
            self.rounds,
            self.repeat
        );
        writeln!(
            text,
            "{:<17} {:<41} {:>5} {:>5} {:>6}  above empty",
            "program", "packet", "empty", "ours", "target"
        )?;
        for row in &self.rows {
            let Spread { median, min, max } = row.above;
            let target = row.target.map_or_else(String::new, |t| t.to_string());
            writeln!(
                text,
                "{:<17} {:<41} {:>5.0} {:>5.0} {target:>6}  {median:.0} ({min:.0}..{max:.0})",
                row.program, row.packet, row.empty.median, row.ours.median
            )?;
        }
        Ok(text)
    }
}

/// Measures every case in a network namespace of its own, and proves that each run counted exactly what
/// it should. `repeat` runs make a turn.
pub(crate) fn measure(rounds: u32, repeat: u32) -> Result<Report> {
    // It ends with the thread, and the devices in it.
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)
                    .context("a network namespace (this needs root)")?;
                Bench::new()?.run(rounds, repeat)
            })
            .join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What was counted: by slot packets and bytes, fragments by direction, packets by interface and
/// direction, and what could not be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Counted {
    allowed: BTreeMap<Slot, (u64, u64)>,
    fragments: [u64; 3],
    passed: BTreeMap<u32, [u64; 3]>,
    lost: u64,
}

impl Counted {
    /// All that was ever counted.
    fn read(counters: &Counters) -> Result<Self> {
        let snapshot: Snapshot = counters.read()?;
        let allowed = snapshot.allowed.iter();
        let passed = snapshot.interfaces.iter();
        Ok(Self {
            allowed: allowed
                .map(|(slot, count)| (*slot, (count.packets, count.bytes)))
                .collect(),
            fragments: snapshot.fragments,
            passed: passed
                .map(|(index, count)| (*index, count.passed))
                // Some entries are there from the start.
                .filter(|(_, passed)| passed.iter().any(|packets| *packets > 0))
                .collect(),
            lost: snapshot.losses.iter().sum(),
        })
    }

    /// Adds what `runs` runs of a case must count on a device.
    fn expect(&mut self, case: &Case, traffics: &Traffics, device: u32, runs: u64) -> Result<()> {
        match case.expected {
            Expected::Nothing => {}
            Expected::Fragment(direction) => self.fragments[usize::from(direction.code())] += runs,
            Expected::Allowed {
                traffic,
                protocol,
                family,
                direction,
                bytes,
            } => {
                let traffic = traffics
                    .iter()
                    .find(|known| known.name == traffic)
                    .with_context(|| format!("no traffic {traffic}"))?
                    .index;
                let slot = Slot::of(&Series {
                    traffic,
                    protocol,
                    family,
                    direction,
                    flow: Flow::Request,
                });
                let count = self.allowed.entry(slot).or_default();
                count.0 += runs;
                count.1 += runs * bytes;
                let passed = self.passed.entry(device).or_default();
                passed[usize::from(direction.code())] += runs;
            }
        }
        Ok(())
    }
}

/// The programs, loaded for a namespace with two devices.
struct Bench {
    ebpf: Ebpf,
    counters: Counters,
    traffics: Traffics,
    empty_classifier: OwnedFd,
    empty_cgroup: OwnedFd,
    minimal: Parser,
    /// What it must have counted by now.
    minimal_expected: u64,
    device: u32,
    incoming: u32,
    /// What must have been counted by now.
    expected: Counted,
}

impl Bench {
    fn new() -> Result<Self> {
        let mac = DEVICE_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let link = format!("link add bench0 address {mac} type veth peer name bench1");
        let output = Command::new("ip")
            .args(link.split(' '))
            .output()
            .context("ip")?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("ip {link}: {}", stderr.trim());
        }
        let (device, incoming) = (if_nametoindex("bench0")?, if_nametoindex("bench1")?);
        let mut ebpf = product::load()?;
        let (mut tables, traffics) = product::tables(&mut ebpf)?;
        tables.set_interface(device, InterfaceInfo::default())?;
        tables.set_interface(incoming, InterfaceInfo::default())?;
        tables.add_address(IpAddr::from(HOST_IPV4))?;
        Ok(Self {
            counters: Counters::new(&mut ebpf)?,
            ebpf,
            traffics,
            empty_classifier: kernel::load_empty(Kind::Classifier)?,
            empty_cgroup: kernel::load_empty(Kind::CgroupSkb)?,
            minimal: Parser::load(PEER_PORT)?,
            minimal_expected: 0,
            device,
            incoming,
            expected: Counted::default(),
        })
    }

    /// The program of a case, the empty one next to it, and their type.
    fn programs(&self, case: &Case) -> Result<(BorrowedFd<'_>, BorrowedFd<'_>, Kind)> {
        if case.program == MINIMAL {
            let ours = self.minimal.program.as_fd();
            return Ok((ours, self.empty_classifier.as_fd(), Kind::Classifier));
        }
        let program = self.ebpf.program(case.program).context(case.program)?;
        let ours = program.fd()?.as_fd();
        match program {
            aya::programs::Program::SchedClassifier(_) => {
                Ok((ours, self.empty_classifier.as_fd(), Kind::Classifier))
            }
            aya::programs::Program::CgroupSkb(_) => {
                Ok((ours, self.empty_cgroup.as_fd(), Kind::CgroupSkb))
            }
            _ => bail!("{} has no timed test run", case.program),
        }
    }

    /// Nanoseconds of the empty program and of ours, in one turn of each.
    fn turn(&mut self, case: &Case, repeat: u32) -> Result<(f64, f64)> {
        let input = Input {
            frame: &case.frame,
            device: self.device,
            incoming: if case.forwarded { self.incoming } else { 0 },
        };
        let (ours, empty, kind) = self.programs(case)?;
        let empty = kernel::test_run(empty, input, repeat)?;
        let ours = kernel::test_run(ours, input, repeat)?;
        for outcome in [empty, ours] {
            ensure!(
                outcome.returned == kind.pass(),
                "{} with {} returned {}: it must let every packet pass",
                case.program,
                case.packet,
                outcome.returned
            );
        }
        if case.program == MINIMAL && case.packet == "IPv4 TCP" {
            self.minimal_expected += u64::from(repeat);
        }
        self.expected
            .expect(case, &self.traffics, self.device, u64::from(repeat))?;
        Ok((f64::from(empty.nanoseconds), f64::from(ours.nanoseconds)))
    }

    /// Fails unless exactly what was to be counted was counted.
    fn prove(&self, what: &str) -> Result<()> {
        let counted = Counted::read(&self.counters)?;
        ensure!(
            counted == self.expected,
            "{what}: the programs do not count what they should, so their times say nothing\n  \
             counted  {counted:?}\n  expected {:?}",
            self.expected
        );
        let counted = self.minimal.counted()?;
        ensure!(
            counted == self.minimal_expected,
            "the minimal classifier counted {counted} of {}",
            self.minimal_expected
        );
        Ok(())
    }

    fn run(mut self, rounds: u32, repeat: u32) -> Result<Report> {
        let cases = cases();
        for case in &cases {
            if let Some(program) = self.ebpf.program(case.program) {
                ensure!(
                    program.info()?.size_jitted() > 0,
                    "the kernel interprets BPF programs (net.core.bpf_jit_enable): times say nothing"
                );
            }
            self.turn(case, PROOF)?;
            self.prove(&format!("{} with {}", case.program, case.packet))?;
        }
        let mut times = vec![Vec::new(); cases.len()];
        for _ in 0..rounds {
            for (case, times) in cases.iter().zip(&mut times) {
                times.push(self.turn(case, repeat)?);
            }
        }
        self.prove("all together")?;
        let rows = cases.iter().zip(times).map(|(case, times)| {
            let spread = |pick: fn(&(f64, f64)) -> f64| {
                Spread::of(times.iter().map(pick).collect()).context("no rounds")
            };
            Ok(Row {
                program: case.program,
                packet: case.packet.clone(),
                empty: spread(|(empty, _)| *empty)?,
                ours: spread(|(_, ours)| *ours)?,
                above: spread(|(empty, ours)| ours - empty)?,
                target: case.target,
            })
        });
        let statistics = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")
            .is_ok_and(|value| value.trim() == "1");
        Ok(Report {
            rows: rows.collect::<Result<_>>()?,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            cpu: cpu()?,
            statistics,
            rounds,
            repeat,
        })
    }
}

/// Model of the processor, or its architecture where the kernel does not tell.
fn cpu() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(model
        .map_or(std::env::consts::ARCH, |(_, name)| name)
        .to_owned())
}
