//! Which BPF programs are on the hooks that peerwatch uses, of others too, and in which order they run. Only numbers
//! of programs are asked for, and what they are: nothing is changed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::TcAttachType;
use serde::Serialize;

use super::Hook;
use super::attach::filters_of;
use super::load;
use super::sys::{self, bpf, bpf_fd, number, object};

/// `enum bpf_cmd`
const BPF_PROG_GET_NEXT_ID: libc::c_long = 11;
const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
/// `enum bpf_map_type`
const SOCKMAP: u32 = 15;
const SOCKHASH: u32 = 18;
/// `enum bpf_prog_type`
const TRACING: u32 = 26;
const RAW_TRACEPOINT: u32 = 17;
/// Where names of programs are cut off (`BPF_OBJ_NAME_LEN`, with the zero at its end).
const NAME: usize = 15;

const _: () = {
    assert!(size_of::<Numbered>() == 12);
    assert!(size_of::<ProgramInfo>() == 228);
    assert!(std::mem::offset_of!(ProgramInfo, name) == 64);
    assert!(std::mem::offset_of!(ProgramInfo, attach_btf_id) == 224);
};

/// A program on a hook.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Program {
    /// Its number, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name, of at most 15 bytes; empty where it has none or may not be asked.
    pub name: String,
    /// Whether it is one of peerwatch, by its name.
    pub ours: bool,
    /// How it is attached: `tcx`, `clsact`, `cgroup` or `tracepoint`.
    pub by: &'static str,
}

#[repr(C)]
struct Numbered {
    number: u32,
    next: u32,
    open_flags: u32,
}

/// The beginning of `struct bpf_prog_info`, up to what it is attached to.
#[derive(Clone, Copy)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    unused: [u32; 14],
    name: [u8; 16],
    more: [u32; 36],
    attach_btf_id: u32,
}

/// What is known of a program.
struct Known {
    kind: u32,
    name: String,
    attach_btf_id: u32,
}

fn known(id: u32) -> io::Result<Known> {
    let program = by_id(BPF_PROG_GET_FD_BY_ID, id)?;
    let mut info = ProgramInfo {
        kind: 0,
        id: 0,
        unused: [0; 14],
        name: [0; 16],
        more: [0; 36],
        attach_btf_id: 0,
    };
    object::info(&program, &mut info)?;
    let name = info.name.split(|byte| *byte == 0).next();
    Ok(Known {
        kind: info.kind,
        name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
        attach_btf_id: info.attach_btf_id,
    })
}

fn by_id(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    bpf_fd(
        command,
        &mut Numbered {
            number: id,
            next: 0,
            open_flags: 0,
        },
    )
}

/// All numbers of a kind of object; they may go while they are asked for.
fn all(command: libc::c_long) -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut attr = Numbered {
        number: 0,
        next: 0,
        open_flags: 0,
    };
    loop {
        match bpf(command, &mut attr) {
            Ok(_) => ids.push(attr.next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(ids),
            Err(error) => return Err(error),
        }
        attr.number = attr.next;
    }
}

/// Whether a name is that of one of our programs.
fn is_ours(name: &str) -> bool {
    let cut =
        |ours: &str| ours.as_bytes().get(..NAME).unwrap_or(ours.as_bytes()) == name.as_bytes();
    load::names().any(cut)
}

/// A program by its number; one that may not be asked has no name.
fn program(id: u32, by: &'static str) -> Program {
    let name = known(id).map(|known| known.name).unwrap_or_default();
    Program {
        id,
        ours: is_ours(&name),
        name,
        by,
    }
}

/// The programs on one side of an interface, in the order in which they run: those of TCX, then filters of `clsact`.
///
/// # Errors
///
/// What the kernel said.
pub fn on_interface(index: u32, hook: Hook) -> io::Result<Vec<Program>> {
    let (attach_type, side) = match hook {
        Hook::Ingress => (sys::link::BPF_TCX_INGRESS, TcAttachType::Ingress),
        _ => (sys::BPF_TCX_EGRESS, TcAttachType::Egress),
    };
    let mut programs = match sys::attached(index, attach_type) {
        Ok(ids) => ids.into_iter().map(|id| program(id, "tcx")).collect(),
        // A kernel without TCX, or an interface without programs.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let mut filters = filters_of(index, side)?;
    filters.sort_by_key(|(priority, ..)| *priority);
    programs.extend(filters.into_iter().map(|(_, id, name)| {
        let known = program(id, "clsact");
        // The filter's own name is there also where the program may not be asked.
        if known.name.is_empty() {
            Program {
                ours: is_ours(&name),
                name,
                ..known
            }
        } else {
            known
        }
    }));
    Ok(programs)
}

/// The programs on what the root of the cgroups gets, in the order in which they run.
///
/// # Errors
///
/// What the kernel said.
pub fn on_cgroup(root: &impl AsFd) -> io::Result<Vec<Program>> {
    let ids = sys::attached(number(root)?, sys::BPF_CGROUP_INET_INGRESS)?;
    Ok(ids.into_iter().map(|id| program(id, "cgroup")).collect())
}

/// The programs of others on `kfree_skb`, given by the number of that tracepoint in BTF. Raw ones do not say what
/// they are attached to, and are ours by their name or left out.
///
/// # Errors
///
/// What the kernel said: it takes `CAP_SYS_ADMIN`.
pub fn on_drops(tracepoint: Option<u32>) -> io::Result<Vec<Program>> {
    let mut programs = Vec::new();
    for id in all(BPF_PROG_GET_NEXT_ID)? {
        let Ok(known) = known(id) else { continue };
        let ours = is_ours(&known.name);
        let is_here = match known.kind {
            // Older kernels (5.10 is one) do not say what such a program is attached to.
            TRACING => ours || tracepoint.is_some_and(|number| number == known.attach_btf_id),
            RAW_TRACEPOINT => ours,
            _ => false,
        };
        // Those that the first goes on with are no programs of the hook of their own.
        if is_here && (!ours || load::serves_drops(&known.name)) {
            programs.push(Program {
                id,
                name: known.name,
                ours,
                by: "tracepoint",
            });
        }
    }
    Ok(programs)
}

/// How many maps of sockets there are, by which programs pass payload from one to another without packets.
///
/// # Errors
///
/// What the kernel said: it takes `CAP_SYS_ADMIN`.
pub fn socket_maps() -> io::Result<usize> {
    let mut count = 0;
    for id in all(BPF_MAP_GET_NEXT_ID)? {
        let info = by_id(BPF_MAP_GET_FD_BY_ID, id).and_then(|map| object::map_info(&map));
        count += usize::from(info.is_ok_and(|info| [SOCKMAP, SOCKHASH].contains(&info.map_type)));
    }
    Ok(count)
}
