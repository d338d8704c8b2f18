//! The probes of the table. Each gives why the feature is missing, in words.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{
    BpfHelper, Stats, enable_stats, is_helper_supported, is_map_supported, is_program_supported,
};

use super::sys::{self, Instruction};
use crate::bpf::kernel::Kernel;
use crate::cgroup;

type Found = Result<(), String>;

/// What a kernel says of a command that it does not know, or that is not for us.
fn refused(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// A fact out of BTF.
fn fact(kernel: &Kernel, has: bool, why: &str) -> Found {
    kernel_btf(kernel).map_err(|_| "not known without kernel_btf".to_owned())?;
    if has { Ok(()) } else { Err(why.to_owned()) }
}

pub(super) fn kernel_btf(kernel: &Kernel) -> Found {
    kernel.btf.as_ref().map(drop).map_err(Clone::clone)
}

pub(super) fn drop_reasons(kernel: &Kernel) -> Found {
    let has = kernel.facts.has_reason && kernel.reasons.has_reasons();
    fact(kernel, has, "kfree_skb has no such argument")
}

pub(super) fn receiving_socket(kernel: &Kernel) -> Found {
    let has = kernel.facts.has_receiving_socket;
    fact(kernel, has, "kfree_skb has no such argument")
}

pub(super) fn reason_subsystems(kernel: &Kernel) -> Found {
    fact(kernel, kernel.facts.has_subsystems, "there is no such enum")
}

/// Attaches an empty program to the BTF tracepoint `kfree_skb`.
fn attach_to_btf_tracepoint(kernel: &Kernel) -> Result<OwnedFd, String> {
    let id = kernel
        .facts
        .tracepoint
        .ok_or("not possible without kernel_btf")?;
    let program = sys::load_tracepoint(Some(id), &[Instruction::ZERO, Instruction::EXIT])
        .map_err(refused("the program is refused"))?;
    sys::attach_tracepoint(&program, None).map_err(refused("attaching is refused"))
}

pub(super) fn tp_btf(kernel: &Kernel) -> Found {
    attach_to_btf_tracepoint(kernel).map(drop)
}

/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;

pub(super) fn tcx(_: &Kernel) -> Found {
    sys::query(LOOPBACK, sys::BPF_TCX_EGRESS).map_err(refused("BPF_PROG_QUERY"))
}

pub(super) fn cgroup_ingress(_: &Kernel) -> Found {
    match cgroup::open_root() {
        Ok(root) => sys::query_cgroup(&root.dir, sys::BPF_CGROUP_INET_INGRESS)
            .map_err(refused("BPF_PROG_QUERY")),
        Err(_) => match is_program_supported(ProgramType::CgroupSkb) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the type of program is not known".to_owned()),
            Err(error) => Err(program_error(&error)),
        },
    }
}

pub(super) fn cgroup_root(_: &Kernel) -> Found {
    let root = cgroup::open_root();
    root.map(drop).map_err(|error| error.to_string())
}

pub(super) fn ring_buffer(_: &Kernel) -> Found {
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the type of map is not known".to_owned()),
        Err(error) => Err(format!("{}: {}", error.call, error.io_error)),
    }
}

fn program_error(error: &ProgramError) -> String {
    match error {
        ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
        other => other.to_string(),
    }
}

fn netns_cookie(program: ProgramType) -> Found {
    if crate::netns::cookie().is_none() {
        return Err("network namespaces have no cookie".to_owned());
    }
    match is_helper_supported(program, BpfHelper::BPF_FUNC_get_netns_cookie) {
        Ok(true) => Ok(()),
        Ok(false) => Err("this type of program may not call it".to_owned()),
        Err(error) => Err(program_error(&error)),
    }
}

pub(super) fn netns_cookie_cgroup(_: &Kernel) -> Found {
    netns_cookie(ProgramType::CgroupSkb)
}

pub(super) fn netns_cookie_tc(_: &Kernel) -> Found {
    netns_cookie(ProgramType::SchedClassifier)
}

/// Where the kernel says how far it is locked down (`kernel_lockdown(7)`).
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

pub(super) fn kernel_reads(_: &Kernel) -> Found {
    let helper = BpfHelper::BPF_FUNC_probe_read_kernel;
    match is_helper_supported(ProgramType::RawTracePoint, helper) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let state = std::fs::read_to_string(LOCKDOWN).unwrap_or_default();
            Err(if state.contains("[confidentiality]") {
                "the kernel is locked down: lockdown=confidentiality".to_owned()
            } else {
                "the kernel forbids it, as when it is locked down (lockdown=confidentiality)"
                    .to_owned()
            })
        }
        Err(error) => Err(program_error(&error)),
    }
}

pub(super) fn head_reads(kernel: &Kernel) -> Found {
    let head = kernel.facts.offset("SK_BUFF_HEAD");
    let head = head.and_then(|offset| i16::try_from(offset).ok());
    let (Some(id), Some(head)) = (kernel.facts.tracepoint, head) else {
        return Err("not possible without kernel_btf".to_owned());
    };
    let program = [
        // The first argument, then `head` of it, then a byte there.
        Instruction::load64(2, 1, 0),
        Instruction::load64(3, 2, head),
        Instruction::load8(4, 3, 0),
        Instruction::ZERO,
        Instruction::EXIT,
    ];
    let loaded = sys::load_tracepoint(Some(id), &program);
    loaded.map(drop).map_err(refused("the program is refused"))
}

pub(super) fn map_batch(_: &Kernel) -> Found {
    sys::read_empty_map_in_a_batch().map_err(refused("BPF_MAP_LOOKUP_BATCH"))
}

/// Where a BPF file system is mounted.
fn bpf_file_system() -> Result<PathBuf, String> {
    let path = "/proc/thread-self/mountinfo";
    let mounts = std::fs::read_to_string(path).map_err(refused(path))?;
    let mut points = mounts.lines().rev().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?;
        what.starts_with("bpf ").then(|| PathBuf::from(point))
    });
    let none = "no BPF file system is mounted (mount -t bpf bpf /sys/fs/bpf)";
    points.next().ok_or_else(|| none.to_owned())
}

pub(super) fn link_pinning(kernel: &Kernel) -> Found {
    let directory = bpf_file_system()?;
    let link = attach_to_btf_tracepoint(kernel).or_else(|_| {
        let program = sys::load_tracepoint(None, &[Instruction::ZERO, Instruction::EXIT])
            .map_err(refused("the program is refused"))?;
        sys::attach_tracepoint(&program, Some(c"kfree_skb"))
            .map_err(refused("attaching is refused"))
    })?;
    let path = directory.join(format!("peerwatch-probe-{}", std::process::id()));
    let place = path.display().to_string();
    sys::pin(&link, &path).map_err(refused(&place))?;
    std::fs::remove_file(&path).map_err(refused(&place))
}

pub(super) fn statistics(_: &Kernel) -> Found {
    let enabled = enable_stats(Stats::RunTime);
    enabled
        .map(drop)
        .map_err(|error| format!("{}: {}", error.call, error.io_error))
}
