//! The probes of the table. Each gives why the feature is missing, or why it could not be asked, in words.

use std::io;
use std::os::fd::OwnedFd;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{
    BpfHelper, Stats, enable_stats, is_helper_supported, is_map_supported, is_program_supported,
};

use super::{Asked, Lack};
use crate::bpf::kernel::Kernel;
use crate::bpf::may_pass;
use crate::bpf::pins::is_bpf_fs;
use crate::bpf::sys::{self, Instruction};
use crate::cgroup;

type Found = Result<(), Lack>;

/// What a kernel says of a command that it does not know, or that it could not carry out now.
fn refused(what: &str) -> impl Fn(io::Error) -> Lack {
    move |error| lack(what, &error)
}

fn lack(what: &str, error: &io::Error) -> Lack {
    let why = format!("{what}: {error}");
    if may_pass(error) {
        Lack::Unknown(why)
    } else {
        Lack::Missing(why)
    }
}

fn missing(why: &str) -> Lack {
    Lack::Missing(why.to_owned())
}

/// What the library found of the kernel itself, `true` where it is there.
fn asked(answer: Result<bool, ProgramError>, why: &str) -> Found {
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing(why)),
        Err(ProgramError::SyscallError(error)) => Err(lack(error.call, &error.io_error)),
        Err(other) => Err(Lack::Unknown(other.to_string())),
    }
}

/// A fact out of BTF.
fn fact(kernel: &Kernel, has: bool, why: &str) -> Found {
    if kernel.btf.is_err() {
        return Err(missing("not known without kernel_btf"));
    }
    if has { Ok(()) } else { Err(missing(why)) }
}

pub(super) fn kernel_btf(&Asked { kernel, .. }: &Asked<'_>) -> Found {
    kernel.btf.as_ref().map(drop).map_err(|why| missing(why))
}

pub(super) fn drop_reasons(&Asked { kernel, .. }: &Asked<'_>) -> Found {
    let has = kernel.facts.has_reason && kernel.reasons.has_reasons();
    fact(kernel, has, "kfree_skb has no such argument")
}

pub(super) fn receiving_socket(&Asked { kernel, .. }: &Asked<'_>) -> Found {
    let has = kernel.facts.has_receiving_socket;
    fact(kernel, has, "kfree_skb has no such argument")
}

pub(super) fn reason_subsystems(&Asked { kernel, .. }: &Asked<'_>) -> Found {
    fact(kernel, kernel.facts.has_subsystems, "there is no such enum")
}

/// Attaches an empty program to the BTF tracepoint `kfree_skb`.
fn attach_to_btf_tracepoint(kernel: &Kernel) -> Result<OwnedFd, Lack> {
    let id = kernel
        .facts
        .tracepoint
        .ok_or_else(|| missing("not possible without kernel_btf"))?;
    let program = sys::load_tracepoint(Some(id), &[Instruction::ZERO, Instruction::EXIT])
        .map_err(refused("the program is refused"))?;
    sys::attach_tracepoint(&program, None).map_err(refused("attaching is refused"))
}

pub(super) fn tp_btf(&Asked { kernel, .. }: &Asked<'_>) -> Found {
    attach_to_btf_tracepoint(kernel).map(drop)
}

/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;

pub(super) fn tcx(_: &Asked<'_>) -> Found {
    sys::query(LOOPBACK, sys::BPF_TCX_EGRESS).map_err(refused("BPF_PROG_QUERY"))
}

pub(super) fn cgroup_ingress(_: &Asked<'_>) -> Found {
    match cgroup::open_root() {
        Ok(root) => sys::query_cgroup(&root.dir, sys::BPF_CGROUP_INET_INGRESS)
            .map_err(refused("BPF_PROG_QUERY")),
        Err(_) => asked(
            is_program_supported(ProgramType::CgroupSkb),
            "the type of program is not known",
        ),
    }
}

pub(super) fn cgroup_root(_: &Asked<'_>) -> Found {
    let root = cgroup::open_root();
    root.map(drop)
        .map_err(|error| Lack::Missing(error.to_string()))
}

pub(super) fn ring_buffer(_: &Asked<'_>) -> Found {
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing("the type of map is not known")),
        Err(error) => Err(lack(error.call, &error.io_error)),
    }
}

fn netns_cookie(program: ProgramType) -> Found {
    if crate::netns::cookie().is_none() {
        return Err(missing("network namespaces have no cookie"));
    }
    asked(
        is_helper_supported(program, BpfHelper::BPF_FUNC_get_netns_cookie),
        "this type of program may not call it",
    )
}

pub(super) fn netns_cookie_cgroup(_: &Asked<'_>) -> Found {
    netns_cookie(ProgramType::CgroupSkb)
}

pub(super) fn netns_cookie_tc(_: &Asked<'_>) -> Found {
    netns_cookie(ProgramType::SchedClassifier)
}

/// Where the kernel says how far it is locked down (`kernel_lockdown(7)`).
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

pub(super) fn kernel_reads(_: &Asked<'_>) -> Found {
    let helper = BpfHelper::BPF_FUNC_probe_read_kernel;
    let state = std::fs::read_to_string(LOCKDOWN).unwrap_or_default();
    let why = if state.contains("[confidentiality]") {
        "the kernel is locked down: lockdown=confidentiality"
    } else {
        "the kernel forbids it, as when it is locked down (lockdown=confidentiality)"
    };
    asked(is_helper_supported(ProgramType::RawTracePoint, helper), why)
}

pub(super) fn head_reads(&Asked { kernel, .. }: &Asked<'_>) -> Found {
    let head = kernel.facts.offset("SK_BUFF_HEAD");
    let head = head.and_then(|offset| i16::try_from(offset).ok());
    let (Some(id), Some(head)) = (kernel.facts.tracepoint, head) else {
        return Err(missing("not possible without kernel_btf"));
    };
    let program = [
        // The first argument, then `head` of it, then a byte there, and one as far away as the second argument
        // says, which may be anything.
        Instruction::load64(2, 1, 0),
        Instruction::load64(3, 2, head),
        Instruction::load8(4, 3, 0),
        Instruction::load64(5, 1, 8),
        Instruction::add(3, 5),
        Instruction::load8(4, 3, 0),
        Instruction::ZERO,
        Instruction::EXIT,
    ];
    let loaded = sys::load_tracepoint(Some(id), &program);
    loaded.map(drop).map_err(refused("the program is refused"))
}

pub(super) fn map_batch(_: &Asked<'_>) -> Found {
    sys::read_empty_map_in_a_batch().map_err(refused("BPF_MAP_LOOKUP_BATCH"))
}

pub(super) fn link_pinning(asked: &Asked<'_>) -> Found {
    let (kernel, directory) = (asked.kernel, asked.bpffs);
    if !is_bpf_fs(directory) {
        let place = directory.display();
        return Err(missing(&format!("{place} is no BPF file system")));
    }
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

pub(super) fn statistics(_: &Asked<'_>) -> Found {
    let enabled = enable_stats(Stats::RunTime);
    enabled
        .map(drop)
        .map_err(|error| lack(error.call, &error.io_error))
}
