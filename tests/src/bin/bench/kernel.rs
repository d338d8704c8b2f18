//! The two bpf(2) commands that aya does not offer for programs that are no object file's.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context as _, Result};

/// From `enum bpf_cmd`, `enum bpf_prog_type` in `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_PROG_TYPE_TRACING: u32 = 26;
/// From `enum bpf_attach_type`.
const BPF_TRACE_RAW_TP: u32 = 23;

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

/// `struct bpf_insn`, both registers 0.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
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
    load(&mut attr, kind.pass())
}

/// Loads `r0 = value; exit`.
fn load(attr: &mut ProgLoad, value: i32) -> Result<OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    let instruction = |code, immediate| Instruction {
        code,
        registers: 0,
        offset: 0,
        immediate,
    };
    // BPF_ALU64 | BPF_MOV | BPF_K, and BPF_JMP | BPF_EXIT.
    let instructions = [instruction(0xb7, value), instruction(0x95, 0)];
    attr.insn_cnt = 2;
    attr.insns = instructions.as_ptr() as u64;
    attr.license = LICENSE.as_ptr() as u64;
    open(BPF_PROG_LOAD, attr).context("the empty program was not loaded")
}

/// A command that gives a descriptor.
fn open<T>(command: libc::c_long, attr: &mut T) -> Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the call succeeded, and gives a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Loads an empty program for a BTF tracepoint, whose type is given by its number in the kernel's BTF, and attaches
/// it for as long as both are held: program and link.
pub(crate) fn empty_at_tracepoint(btf_id: u32) -> Result<(OwnedFd, OwnedFd)> {
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_TRACING,
        expected_attach_type: BPF_TRACE_RAW_TP,
        attach_btf_id: btf_id,
        ..ProgLoad::default()
    };
    let program = load(&mut attr, 0)?;
    let mut attr = TracepointOpen {
        prog_fd: u32::try_from(program.as_fd().as_raw_fd())?,
        ..TracepointOpen::default()
    };
    let link = open(BPF_RAW_TRACEPOINT_OPEN, &mut attr).context("the empty program")?;
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
