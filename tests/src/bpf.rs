//! Tiny foreign BPF programs that drop or deny everything, as other tools' programs would, loaded by
//! bpf(2) from two hand-written instructions.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::netlink::{self, Attributes};
use crate::netns::NetNs;

/// From `enum bpf_cmd`, `enum bpf_prog_type` and `enum bpf_attach_type` in `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_CREATE: libc::c_long = 0;
/// `enum bpf_map_type`
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_INGRESS: u32 = 0;
const BPF_CGROUP_INET_EGRESS: u32 = 1;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
/// From `linux/if_link.h`: run it in the stack, where it raises a drop, not in the driver.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_FLAGS_HW_MODE: u32 = 1 << 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
/// From `linux/rtnetlink.h`.
const RTM_SETLINK: u16 = 19;

/// Return values: `TC_ACT_SHOT` of `linux/pkt_cls.h`; 0 denies in a cgroup program.
const TC_ACT_SHOT: i32 = 2;
/// `enum tcx_action_base`: go on with the next program.
const TCX_NEXT: i32 = -1;
const CGROUP_DENY: i32 = 0;
/// From `enum xdp_action`.
const XDP_DROP: i32 = 1;

/// Which side of an interface or cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Packets that come in.
    Ingress,
    /// Packets that go out.
    Egress,
}

impl Side {
    /// As `tc` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    const fn tcx(self) -> u32 {
        match self {
            Self::Ingress => BPF_TCX_INGRESS,
            Self::Egress => BPF_TCX_EGRESS,
        }
    }
}

/// Where in the TCX chain of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Before all that are there.
    Head,
    /// Behind them.
    Tail,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads here.
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
}

/// The part that `BPF_LINK_CREATE` reads for TCX and cgroup links.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// The part that `BPF_PROG_QUERY` reads and writes for TCX.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

fn call<T>(command: libc::c_long, attr: &mut T) -> Result<libc::c_long> {
    // SAFETY: `attr` is a prefix of union bpf_attr, as long as said; pointers in it are to values
    // that the caller holds across the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        bail!("bpf({command}): {}", io::Error::last_os_error());
    }
    Ok(result)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> Result<OwnedFd> {
    // Before 5.11 programs count as locked memory of their user. Where it is refused, it may do all the same.
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the structure lives across the call.
    let _refused = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    let fd = call(command, attr)?;
    // SAFETY: the call succeeded, and these commands return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Loads `r0 = value; exit`.
fn load(prog_type: u32, attach_type: u32, value: i32) -> Result<OwnedFd> {
    load_for(0, prog_type, attach_type, value)
}

/// The same for the hardware of an interface, by its index; 0 for none.
fn load_for(interface: u32, prog_type: u32, attach_type: u32, value: i32) -> Result<OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    // BPF_ALU64 | BPF_MOV | BPF_K with the value above, and BPF_JMP | BPF_EXIT (little endian).
    let instructions: [u64; 2] = [0xb7 | (u64::from(value.cast_unsigned()) << 32), 0x95];
    bpf(
        BPF_PROG_LOAD,
        &mut ProgLoad {
            prog_type,
            insn_cnt: 2,
            insns: instructions.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            prog_ifindex: interface,
            expected_attach_type: attach_type,
            ..ProgLoad::default()
        },
    )
}

/// A foreign program that is attached as long as this lives.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

fn fd_number(fd: &impl AsRawFd) -> Result<u32> {
    Ok(u32::try_from(fd.as_raw_fd())?)
}

/// Attaches a program to an interface through TCX that drops every packet.
///
/// # Errors
///
/// When the kernel has no TCX or refuses.
pub fn tcx_drop(netns: &NetNs, interface: &str, side: Side, place: Place) -> Result<Attached> {
    let attach_type = side.tcx();
    let program = load(BPF_PROG_TYPE_SCHED_CLS, attach_type, TC_ACT_SHOT)?;
    let mut attr = LinkCreate {
        prog_fd: fd_number(&program)?,
        target: netns.ifindex(interface)?,
        attach_type,
        flags: match place {
            Place::Head => BPF_F_BEFORE,
            Place::Tail => BPF_F_AFTER,
        },
        ..LinkCreate::default()
    };
    // The index is looked up in the namespace of the caller.
    let link = netns
        .run(|| bpf(BPF_LINK_CREATE, &mut attr))
        .context("TCX link")?;
    Ok(Attached { _link: link })
}

/// Fills the TCX chain of an interface with programs that let everything pass, until the kernel takes no
/// more.
///
/// # Errors
///
/// When the kernel has no TCX.
pub fn tcx_fill(netns: &NetNs, interface: &str, side: Side) -> Result<Vec<Attached>> {
    let attach_type = side.tcx();
    let target = netns.ifindex(interface)?;
    let mut filled = Vec::new();
    loop {
        let program = load(BPF_PROG_TYPE_SCHED_CLS, attach_type, TCX_NEXT)?;
        let mut attr = LinkCreate {
            prog_fd: fd_number(&program)?,
            target,
            attach_type,
            ..LinkCreate::default()
        };
        match netns.run(|| bpf(BPF_LINK_CREATE, &mut attr)) {
            Ok(link) => filled.push(Attached { _link: link }),
            Err(error) if filled.is_empty() => return Err(error.context("TCX link")),
            Err(_) => return Ok(filled),
        }
    }
}

/// How many programs are in the TCX chain of an interface.
///
/// # Errors
///
/// When the kernel has no TCX.
pub fn tcx_count(netns: &NetNs, interface: &str, side: Side) -> Result<u32> {
    let mut query = ProgQuery {
        target: netns.ifindex(interface)?,
        attach_type: side.tcx(),
        ..ProgQuery::default()
    };
    // Without a list to fill, only the number is told.
    netns.run(|| call(BPF_PROG_QUERY, &mut query).map(drop))?;
    Ok(query.count)
}

/// Attaches a generic XDP program to an interface that drops every packet.
///
/// # Errors
///
/// When the kernel refuses.
pub fn xdp_drop(netns: &NetNs, interface: &str) -> Result<Attached> {
    xdp(netns, interface, XDP_FLAGS_SKB_MODE)
}

/// The same in the driver, which must be one that can: veth can.
///
/// # Errors
///
/// When the kernel refuses.
pub fn xdp_drop_native(netns: &NetNs, interface: &str) -> Result<Attached> {
    xdp(netns, interface, XDP_FLAGS_DRV_MODE)
}

/// The same in the hardware, which must be some that can, as that of netdevsim. It is there as long as the interface.
///
/// # Errors
///
/// When the kernel or the hardware refuses.
pub fn xdp_drop_in_hardware(netns: &NetNs, interface: &str) -> Result<()> {
    let index = netns.ifindex(interface)?;
    netns.run(|| {
        let program = load_for(index, BPF_PROG_TYPE_XDP, BPF_XDP, XDP_DROP)?;
        let inside = Attributes::default()
            .bytes(IFLA_XDP_FD, &program.as_raw_fd().to_ne_bytes())?
            .bytes(IFLA_XDP_FLAGS, &XDP_FLAGS_HW_MODE.to_ne_bytes())?;
        // `struct ifinfomsg`: only the index matters.
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let attributes = Attributes::default().nest(IFLA_XDP, &inside)?;
        netlink::route(RTM_SETLINK, &header, &attributes).context("XDP in hardware")
    })
}

/// A map of sockets, which is there as long as this lives.
///
/// # Errors
///
/// When the kernel has none.
pub fn socket_map() -> Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: BPF_MAP_TYPE_SOCKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
    };
    bpf(BPF_MAP_CREATE, &mut attr).context("map of sockets")
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

fn xdp(netns: &NetNs, interface: &str, flags: u32) -> Result<Attached> {
    let program = load(BPF_PROG_TYPE_XDP, BPF_XDP, XDP_DROP)?;
    let mut attr = LinkCreate {
        prog_fd: fd_number(&program)?,
        target: netns.ifindex(interface)?,
        attach_type: BPF_XDP,
        flags,
        ..LinkCreate::default()
    };
    let link = netns
        .run(|| bpf(BPF_LINK_CREATE, &mut attr))
        .context("XDP link")?;
    Ok(Attached { _link: link })
}

/// Where cgroup2 is mounted: often `/sys/fs/cgroup`, below it on hybrid systems.
///
/// # Errors
///
/// When it is not mounted.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("cgroup2 is not mounted")
}

/// A cgroup with a program that denies everything in one direction, as systemd's `IPAddressDeny=any`
/// does. Removed on drop, when its processes have ended.
#[derive(Debug)]
pub struct DenyingCgroup {
    path: PathBuf,
    _link: OwnedFd,
}

impl DenyingCgroup {
    /// Creates it.
    ///
    /// # Errors
    ///
    /// When there is no cgroup2, or the kernel refuses the program.
    pub fn create(name: &str, side: Side) -> Result<Self> {
        let path = cgroup_root()?.join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        match Self::attach(&path, side) {
            Ok(link) => Ok(Self { path, _link: link }),
            Err(error) => {
                fs::remove_dir(&path)?;
                Err(error)
            }
        }
    }

    fn attach(path: &PathBuf, side: Side) -> Result<OwnedFd> {
        let attach_type = match side {
            Side::Ingress => BPF_CGROUP_INET_INGRESS,
            Side::Egress => BPF_CGROUP_INET_EGRESS,
        };
        let program = load(BPF_PROG_TYPE_CGROUP_SKB, attach_type, CGROUP_DENY)?;
        let directory = File::open(path)?;
        let mut attr = LinkCreate {
            prog_fd: fd_number(&program)?,
            target: fd_number(&directory)?,
            attach_type,
            ..LinkCreate::default()
        };
        bpf(BPF_LINK_CREATE, &mut attr).context("cgroup link")
    }

    /// The file to which a process writes 0 to move itself in.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for DenyingCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
