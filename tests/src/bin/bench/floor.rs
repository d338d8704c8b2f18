//! What any watcher costs, whatever it does: programs that do nothing at the same hooks, and counters that are made
//! by hand of as few instructions as counting takes.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use monitor::bpf::kernel::Kernel;
use monitor::btf::{self, Btf};
use monitor::{cgroup, netns};

use crate::kernel::{self, Instruction, Kind};

/// An empty program at every drop: program and link.
pub(crate) fn nothing_at_drops() -> Result<(OwnedFd, OwnedFd)> {
    let tracepoint = Btf::read(btf::VMLINUX)?.tracepoint_id("kfree_skb")?;
    kernel::at_tracepoint(tracepoint, &Instruction::end(0))
}

/// Programs that do nothing, wherever the daemon has one of its own, for as long as this is held.
pub(crate) struct Nothing {
    _programs: Vec<OwnedFd>,
}

impl Nothing {
    /// At interfaces of the caller's network namespace, by their indexes.
    pub(crate) fn attach(interfaces: &[u32]) -> Result<Self> {
        let classifier = kernel::load_empty(Kind::Classifier)?;
        let mut programs = Vec::new();
        for &interface in interfaces {
            programs.extend(kernel::attach(
                classifier.as_fd(),
                Kind::Classifier,
                interface,
            )?);
        }
        let root = cgroup::open_root()?;
        let delivered = kernel::load_empty(Kind::CgroupSkb)?;
        let target = u32::try_from(root.dir.as_raw_fd())?;
        programs.extend(kernel::attach(delivered.as_fd(), Kind::CgroupSkb, target)?);
        let (program, link) = nothing_at_drops()?;
        programs.extend([classifier, delivered, program, link]);
        Ok(Self {
            _programs: programs,
        })
    }
}

/// Opcodes of `linux/bpf.h`: loads of 1, 2, 4 and 8 bytes (`BPF_LDX | BPF_MEM`), and jumps where a register is
/// not a number (`BPF_JNE`), of 64 and of 32 bits.
const BYTE: u8 = 0x71;
const HALF: u8 = 0x69;
const WORD: u8 = 0x61;
const WHOLE: u8 = 0x79;
const UNLESS: u8 = 0x55;
const UNLESS_WORD: u8 = 0x56;
/// `to += from`
const ADD: u8 = 0x0f;

const fn load(size: u8, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction::new(size, to, from, offset, 0)
}

/// Jumps over so many instructions where a register is not a value.
const fn skip(code: u8, register: u8, value: i32, over: i16) -> Instruction {
    Instruction::new(code, register, 0, over, value)
}

/// A number of 16 bits as it stands in a packet.
fn network(value: u16) -> i32 {
    i32::from(value.to_be())
}

/// Adds 1 to the number of a map.
fn count(map: &OwnedFd) -> [Instruction; 5] {
    [
        // Its address (BPF_PSEUDO_MAP_VALUE), which takes two.
        Instruction::new(0x18, 5, 2, 0, map.as_raw_fd()),
        Instruction::new(0, 0, 0, 0, 0),
        load(WHOLE, 3, 5, 0),
        Instruction::new(0x07, 3, 0, 0, 1),
        Instruction::new(0x7b, 5, 3, 0, 0),
    ]
}

/// A classifier that counts the IPv4 TCP segments to or from one port, in one number, and nothing else: no bytes, no
/// directions, no other families or ports, one number for all processors.
pub(crate) struct Parser {
    /// The program.
    pub(crate) program: OwnedFd,
    count: OwnedFd,
}

impl Parser {
    /// For a port.
    pub(crate) fn load(port: u16) -> Result<Self> {
        let number = kernel::number()?;
        let program = [
            // The packet, and its end, which must be behind both ports.
            load(WORD, 2, 1, 76),
            load(WORD, 3, 1, 80),
            Instruction::new(0xbf, 4, 2, 0, 0),
            Instruction::new(0x07, 4, 0, 0, 38),
            Instruction::new(0x2d, 4, 3, 15, 0),
            load(HALF, 4, 2, 12),
            skip(UNLESS, 4, network(0x0800), 13),
            load(BYTE, 4, 2, 14),
            skip(UNLESS, 4, 0x45, 11),
            load(BYTE, 4, 2, 23),
            skip(UNLESS, 4, 6, 9),
            // One of both.
            load(HALF, 4, 2, 36),
            Instruction::new(0x15, 4, 0, 2, network(port)),
            load(HALF, 4, 2, 34),
            skip(UNLESS, 4, network(port), 5),
        ];
        let program = [
            program.as_slice(),
            &count(&number),
            &Instruction::end(Kind::Classifier.pass()),
        ];
        Ok(Self {
            program: kernel::load_classifier(&program.concat())?,
            count: number,
        })
    }

    /// How many packets it counted.
    pub(crate) fn counted(&self) -> Result<u64> {
        kernel::read_number(self.count.as_fd())
    }
}

/// A counter of dropped IPv4 UDP packets to one port, of the namespace in which it was made, and nothing else.
pub(crate) struct Minimal {
    count: OwnedFd,
    _program: (OwnedFd, OwnedFd),
}

impl Minimal {
    /// For a port. It reads headers directly, as kernels before 6.17 do not let it (feature `head_reads`).
    pub(crate) fn attach(port: u16) -> Result<Self> {
        let facts = Kernel::read(None)?.facts;
        let offset = |global: &str| -> Result<i16> {
            let offset = facts
                .offset(global)
                .with_context(|| format!("no {global}"))?;
            Ok(i16::try_from(offset)?)
        };
        let number = kernel::number()?;
        let program = [
            load(WHOLE, 6, 1, 0),
            load(HALF, 2, 6, offset("SK_BUFF_PROTOCOL")?),
            skip(UNLESS, 2, network(0x0800), 16),
            load(WHOLE, 2, 6, offset("SK_BUFF_HEAD")?),
            load(HALF, 3, 6, offset("SK_BUFF_NETWORK_HEADER")?),
            Instruction::new(ADD, 2, 3, 0, 0),
            load(BYTE, 3, 2, 9),
            skip(UNLESS, 3, 17, 11),
            load(HALF, 3, 2, 22),
            skip(UNLESS, 3, network(port), 9),
            load(WHOLE, 4, 6, offset("SK_BUFF_DEV")?),
            load(WHOLE, 4, 4, offset("NET_DEVICE_NET")?),
            load(WORD, 4, 4, offset("NET_INUM")?),
            skip(UNLESS_WORD, 4, netns::inum()?.cast_signed(), 5),
        ];
        let program = [program.as_slice(), &count(&number), &Instruction::end(0)].concat();
        let tracepoint = facts.tracepoint.context("no kfree_skb")?;
        Ok(Self {
            _program: kernel::at_tracepoint(tracepoint, &program)?,
            count: number,
        })
    }

    /// How many packets it counted.
    pub(crate) fn counted(&self) -> Result<u64> {
        kernel::read_number(self.count.as_fd())
    }
}
