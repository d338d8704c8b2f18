//! The bpf(2) commands that aya does not offer for programs that are no object file's.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context as _, Result};

/// From `enum bpf_cmd`, `enum bpf_map_type` and `enum bpf_prog_type` in `linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_PROG_TYPE_TRACING: u32 = 26;
/// From `enum bpf_attach_type`.
const BPF_CGROUP_INET_INGRESS: u32 = 0;
const BPF_TRACE_RAW_TP: u32 = 23;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads here: fields that older kernels lack are left out.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    /// From `prog_btf_fd` to `line_info_cnt`.
    unset: [u32; 9],
    attach_btf_id: u32,
}

/// What `BPF_RAW_TRACEPOINT_OPEN` reads.
#[repr(C)]
#[derive(Default)]
struct TracepointOpen {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

/// What `BPF_LINK_CREATE` reads here.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    /// A descriptor, or the index of an interface.
    target: u32,
    attach_type: u32,
    flags: u32,
    unset: [u64; 2],
}

/// What `BPF_MAP_CREATE` reads here.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// What the commands on an element of a map read.
#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The struct `test` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// `struct __sk_buff` up to the last field that a test run takes from us; the kernel sets the rest to 0.
#[repr(C)]
#[derive(Default)]
struct Context {
    /// From `len` to `priority`.
    unset: [u32; 9],
    ingress_ifindex: u32,
    ifindex: u32,
}

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// `code` as in `linux/bpf.h`; both registers are in one byte, as bit fields of the machine's order.
    pub(crate) const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        let registers = if cfg!(target_endian = "big") {
            to << 4 | from
        } else {
            from << 4 | to
        };
        Self {
            code,
            registers,
            offset,
            immediate,
        }
    }

    /// `r0 = value; exit`
    pub(crate) const fn end(value: i32) -> [Self; 2] {
        [Self::new(0xb7, 0, 0, 0, value), Self::new(0x95, 0, 0, 0, 0)]
    }
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a prefix of union bpf_attr, as long as said; pointers in it are to values that
    // the caller holds across the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// The types of program that are timed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// tc: `BPF_PROG_TYPE_SCHED_CLS`.
    Classifier,
    /// `BPF_PROG_TYPE_CGROUP_SKB`.
    CgroupSkb,
}

impl Kind {
    /// What a program that lets everything pass returns: `TC_ACT_UNSPEC` (-1), or 1.
    pub(crate) const fn pass(self) -> i32 {
        match self {
            Self::Classifier => -1,
            Self::CgroupSkb => 1,
        }
    }
}

/// Loads `r0 = value; exit`, the value being the one that lets packets pass: what any program of that
/// type costs at least.
pub(crate) fn load_empty(kind: Kind) -> Result<OwnedFd> {
    let mut attr = ProgLoad {
        prog_type: match kind {
            Kind::Classifier => BPF_PROG_TYPE_SCHED_CLS,
            Kind::CgroupSkb => BPF_PROG_TYPE_CGROUP_SKB,
        },
        ..ProgLoad::default()
    };
    load(&mut attr, &Instruction::end(kind.pass()))
}

/// Loads a classifier.
pub(crate) fn load_classifier(instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        ..ProgLoad::default()
    };
    load(&mut attr, instructions)
}

fn load(attr: &mut ProgLoad, instructions: &[Instruction]) -> Result<OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    attr.insn_cnt = u32::try_from(instructions.len())?;
    attr.insns = instructions.as_ptr() as u64;
    attr.license = LICENSE.as_ptr() as u64;
    open(BPF_PROG_LOAD, attr).context("a program of the measurement was not loaded")
}

/// Attaches a program of that type: a classifier to both directions of an interface of the caller's network
/// namespace, by its index; the other one to a cgroup, by its descriptor. Each for as long as its link is held.
pub(crate) fn attach(program: BorrowedFd<'_>, kind: Kind, target: u32) -> Result<Vec<OwnedFd>> {
    let places: &[u32] = match kind {
        Kind::Classifier => &[BPF_TCX_INGRESS, BPF_TCX_EGRESS],
        Kind::CgroupSkb => &[BPF_CGROUP_INET_INGRESS],
    };
    let links = places.iter().map(|&attach_type| {
        let mut attr = LinkCreate {
            prog_fd: u32::try_from(program.as_raw_fd())?,
            target,
            attach_type,
            ..LinkCreate::default()
        };
        open(BPF_LINK_CREATE, &mut attr).context("a program of the measurement was not attached")
    });
    links.collect()
}

/// Makes an array of one 64-bit number.
pub(crate) fn number() -> Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        ..MapCreate::default()
    };
    open(BPF_MAP_CREATE, &mut attr).context("a map")
}

/// Reads such a number.
pub(crate) fn read_number(map: BorrowedFd<'_>) -> Result<u64> {
    let (key, mut value) = (0_u32, 0_u64);
    let mut attr = MapElement {
        map_fd: u32::try_from(map.as_raw_fd())?,
        key: &raw const key as u64,
        value: &raw mut value as u64,
        ..MapElement::default()
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr).context("a map")?;
    Ok(value)
}

/// A command that gives a descriptor.
fn open<T>(command: libc::c_long, attr: &mut T) -> Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the call succeeded, and gives a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Loads a program for a BTF tracepoint, whose type is given by its number in the kernel's BTF, and attaches
/// it for as long as both are held: program and link.
pub(crate) fn at_tracepoint(
    btf_id: u32,
    instructions: &[Instruction],
) -> Result<(OwnedFd, OwnedFd)> {
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_TRACING,
        expected_attach_type: BPF_TRACE_RAW_TP,
        attach_btf_id: btf_id,
        ..ProgLoad::default()
    };
    let program = load(&mut attr, instructions)?;
    let mut attr = TracepointOpen {
        prog_fd: u32::try_from(program.as_fd().as_raw_fd())?,
        ..TracepointOpen::default()
    };
    let link = open(BPF_RAW_TRACEPOINT_OPEN, &mut attr).context("the tracepoint")?;
    Ok((program, link))
}

/// A packet and the devices that it is on. Without `device` a test run is on the loopback device, whose
/// packets the programs leave out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    /// The frame. A program on a cgroup sees it without its 14 bytes of Ethernet header.
    pub(crate) frame: &'a [u8],
    /// Index of the device that it is on, in the caller's network namespace.
    pub(crate) device: u32,
    /// Index of the device that it came in on, 0 for none.
    pub(crate) incoming: u32,
}

/// What a test run gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// What the program returned the last time.
    pub(crate) returned: i32,
    /// Mean time of one run, in whole nanoseconds as the kernel gives it.
    pub(crate) nanoseconds: u32,
}

/// Runs a program `repeat` times on one packet.
pub(crate) fn test_run(program: BorrowedFd<'_>, input: Input<'_>, repeat: u32) -> Result<Outcome> {
    let context = Context {
        ingress_ifindex: input.incoming,
        ifindex: input.device,
        ..Context::default()
    };
    let mut attr = TestRun {
        prog_fd: u32::try_from(program.as_fd().as_raw_fd())?,
        data_size_in: u32::try_from(input.frame.len())?,
        data_in: input.frame.as_ptr() as u64,
        repeat,
        ctx_size_in: u32::try_from(size_of::<Context>())?,
        ctx_in: &raw const context as u64,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr).context("the kernel refused the test run")?;
    Ok(Outcome {
        returned: attr.retval.cast_signed(),
        nanoseconds: attr.duration,
    })
}
