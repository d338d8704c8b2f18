//! Links: they hold a program where it is attached, and can be pinned, asked and given another program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::object::info;
use super::{bpf, bpf_fd, number};

/// `enum bpf_cmd`
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
/// `enum bpf_attach_type`: tc ingress by TCX.
pub(in crate::bpf) const BPF_TCX_INGRESS: u32 = 46;
/// Before the program that is named, or before all where none is (`include/uapi/linux/bpf.h`).
const BPF_F_BEFORE: u32 = 1 << 3;

const _: () = {
    assert!(size_of::<LinkCreate>() == 16);
    assert!(size_of::<LinkUpdate>() == 16);
    assert!(size_of::<LinkDetach>() == 4);
    assert!(size_of::<LinkInfo>() == 32);
};

/// The rest, where a kernel has it, names a program to be before: none.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to an interface by TCX, before all others that are there.
pub(in crate::bpf) fn attach_first(
    program: &impl AsFd,
    interface: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    bpf_fd(
        BPF_LINK_CREATE,
        &mut LinkCreate {
            prog_fd: number(program)?,
            target: interface,
            attach_type,
            flags: BPF_F_BEFORE,
        },
    )
}

/// Attaches a program to an open cgroup. Links stand beside others there, and refuse flags that say so.
pub(in crate::bpf) fn attach_cgroup(
    program: &impl AsFd,
    cgroup: &impl AsFd,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    bpf_fd(
        BPF_LINK_CREATE,
        &mut LinkCreate {
            prog_fd: number(program)?,
            target: number(cgroup)?,
            attach_type,
            flags: 0,
        },
    )
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Gives a link of an interface or cgroup another program: no packet goes by in between.
pub(in crate::bpf) fn update(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: number(link)?,
        new_prog_fd: number(program)?,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Takes the program of a link of an interface or cgroup off its place, whoever else holds the link (since Linux
/// 5.9, `link_detach`). The kernel has no such thing for tracepoints.
pub(in crate::bpf) fn detach(link: &impl AsFd) -> io::Result<()> {
    let mut attr = LinkDetach {
        link_fd: number(link)?,
    };
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// What a link is: the beginning of `struct bpf_link_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    pad: u32,
    of_type: [u32; 4],
}

/// `enum bpf_link_type`
const CGROUP: u32 = 3;
const TCX: u32 = 11;

/// What a link holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::bpf) struct Held {
    /// The number of the program.
    pub(in crate::bpf) program: u32,
    /// Where: the index of an interface, or the number of a cgroup. 0 where that is gone, or the link was
    /// cut off; `None` for a tracepoint.
    pub(in crate::bpf) place: Option<u64>,
}

/// Asks what a link holds.
pub(in crate::bpf) fn held(link: &impl AsFd) -> io::Result<Held> {
    let mut of = LinkInfo::default();
    info(link, &mut of)?;
    let place = match of.link_type {
        TCX => Some(u64::from(of.of_type[0])),
        CGROUP => {
            let [first, second, ..] = of.of_type.map(u32::to_ne_bytes);
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&first);
            bytes[4..].copy_from_slice(&second);
            Some(u64::from_ne_bytes(bytes))
        }
        _ => None,
    };
    Ok(Held {
        program: of.program,
        place,
    })
}
