//! The few calls of bpf(2) that probes need and aya does not offer: programs of some instructions, maps
//! and queries. Structs are the beginning of `union bpf_attr` (`include/uapi/linux/bpf.h`), whose rest
//! counts as zero. None has padding of the compiler's: its bytes would be undefined, and a kernel refuses
//! those that it does not know unless they are zero.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub(super) mod link;
pub(super) mod object;

/// `enum bpf_cmd`
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
/// `enum bpf_map_type`
const BPF_MAP_TYPE_HASH: u32 = 1;
/// `enum bpf_prog_type`
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const BPF_PROG_TYPE_TRACING: u32 = 26;
/// `enum bpf_attach_type`
const BPF_TRACE_RAW_TP: u32 = 23;
/// Also what a query of a cgroup's ingress programs is for.
pub(super) const BPF_CGROUP_INET_INGRESS: u32 = 0;
/// tc egress by TCX.
pub(super) const BPF_TCX_EGRESS: u32 = 47;

const _: () = {
    assert!(size_of::<Instruction>() == 8);
    assert!(size_of::<ProgLoad>() == 112);
    assert!(size_of::<RawTracepointOpen>() == 16);
    assert!(size_of::<ProgQuery>() == 32);
    assert!(size_of::<MapCreate>() == 20);
    assert!(size_of::<MapBatch>() == 56);
    assert!(size_of::<ObjPin>() == 16);
    assert!(std::mem::offset_of!(ProgLoad, log_buf) == 32);
    assert!(std::mem::offset_of!(ProgLoad, prog_name) == 48);
    assert!(std::mem::offset_of!(ProgLoad, attach_btf_id) == 108);
};

/// Calls bpf(2): `attr` begins as the command's part of `union bpf_attr`, and has no padding.
pub(super) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a prefix of union bpf_attr, as long as said; pointers in it are to values that
    // the caller holds across the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// For the commands that give a descriptor.
pub(super) fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: the call succeeded, and gives a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor as bpf(2) takes it.
pub(super) fn number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

/// `struct bpf_insn`
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// Both registers are in one byte, as bit fields of the machine's order.
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
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

    /// `to = *(u64 *)(from + offset)`: `BPF_LDX | BPF_MEM | BPF_DW`.
    pub(super) const fn load64(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x79, to, from, offset, 0)
    }

    /// `to = *(u8 *)(from + offset)`: `BPF_LDX | BPF_MEM | BPF_B`.
    pub(super) const fn load8(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x71, to, from, offset, 0)
    }

    /// `to += from`: `BPF_ALU64 | BPF_ADD | BPF_X`.
    pub(super) const fn add(to: u8, from: u8) -> Self {
        Self::new(0x0f, to, from, 0, 0)
    }

    /// `r0 = 0`: `BPF_ALU64 | BPF_MOV | BPF_K`.
    pub(super) const ZERO: Self = Self::new(0xb7, 0, 0, 0, 0);
    /// `BPF_JMP | BPF_EXIT`
    pub(super) const EXIT: Self = Self::new(0x95, 0, 0, 0, 0);
}

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
    prog_name: [u64; 2],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Loads a tracepoint program: for a BTF tracepoint where its number is given, else a raw one.
pub(super) fn load_tracepoint(
    tracepoint: Option<u32>,
    instructions: &[Instruction],
) -> io::Result<OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    let (prog_type, expected_attach_type) = match tracepoint {
        Some(_) => (BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP),
        None => (BPF_PROG_TYPE_RAW_TRACEPOINT, 0),
    };
    bpf_fd(
        BPF_PROG_LOAD,
        &mut ProgLoad {
            prog_type,
            insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            insns: instructions.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            expected_attach_type,
            attach_btf_id: tracepoint.unwrap_or(0),
            ..ProgLoad::default()
        },
    )
}

#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

/// Attaches a tracepoint program; a BTF one has the tracepoint in itself. Closing the link detaches it.
pub(super) fn attach_tracepoint(program: &impl AsFd, name: Option<&CStr>) -> io::Result<OwnedFd> {
    bpf_fd(
        BPF_RAW_TRACEPOINT_OPEN,
        &mut RawTracepointOpen {
            name: name.map_or(0, |name| name.as_ptr() as u64),
            prog_fd: number(program)?,
            pad: 0,
        },
    )
}

#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// Asks how many programs are attached to an interface, or to an open cgroup.
pub(super) fn query(target: u32, attach_type: u32) -> io::Result<()> {
    let mut attr = ProgQuery {
        target,
        attach_type,
        ..ProgQuery::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr).map(drop)
}

/// The numbers of the programs that are attached to an interface, or to an open cgroup, in the order in which they
/// run.
pub(super) fn attached(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_ATTACHED];
    let mut attr = ProgQuery {
        target,
        attach_type,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(ids.len()).map_err(io::Error::other)?,
        ..ProgQuery::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// How many programs a hook has at most: `BPF_CGROUP_MAX_PROGS` and `BPF_MPROG_MAX` of the kernel are 64.
const MOST_ATTACHED: usize = 64;

/// [`query`] of an open cgroup.
pub(super) fn query_cgroup(cgroup: &OwnedFd, attach_type: u32) -> io::Result<()> {
    query(number(cgroup)?, attach_type)
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads all entries of a new hash map at once.
pub(super) fn read_empty_map_in_a_batch() -> io::Result<()> {
    let map = bpf_fd(
        BPF_MAP_CREATE,
        &mut MapCreate {
            map_type: BPF_MAP_TYPE_HASH,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            map_flags: 0,
        },
    )?;
    let (mut position, mut key, mut value) = (0_u32, 0_u32, 0_u32);
    let mut attr = MapBatch {
        in_batch: 0,
        out_batch: &raw mut position as u64,
        keys: &raw mut key as u64,
        values: &raw mut value as u64,
        count: 1,
        map_fd: number(&map)?,
        elem_flags: 0,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        // There is no more: the end of the map.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    }
}

/// Reads the next entries of a hash map into `keys` and `values`, which have room for `room` of them, and
/// gives how many there are, and where to go on: `None` at the end. `position` is where to begin.
///
/// ENOSPC: a chain of entries is longer than the room.
pub(super) fn lookup_batch(
    map: &impl AsFd,
    position: Option<u32>,
    keys: *mut u8,
    values: *mut u8,
    room: u32,
) -> io::Result<(usize, Option<u32>)> {
    let (mut begin, mut next) = (position.unwrap_or(0), 0_u32);
    let mut attr = MapBatch {
        in_batch: if position.is_some() {
            &raw mut begin as u64
        } else {
            0
        },
        out_batch: &raw mut next as u64,
        keys: keys as u64,
        values: values as u64,
        count: room,
        map_fd: number(map)?,
        elem_flags: 0,
        flags: 0,
    };
    let position = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => Some(next),
        // The end of the map: what it had is here.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
        Err(error) => return Err(error),
    };
    Ok((
        usize::try_from(attr.count).map_err(io::Error::other)?,
        position,
    ))
}

/// Deletes entries; those that are not there are left out. Gives up at the first other error.
pub(super) fn delete_batch(
    map: &impl AsFd,
    keys: *const u8,
    size: usize,
    count: usize,
) -> io::Result<()> {
    let mut done = 0;
    while done < count {
        // SAFETY: within the keys, by the caller's word.
        let from = unsafe { keys.add(done * size) };
        let mut attr = MapBatch {
            in_batch: 0,
            out_batch: 0,
            keys: from as u64,
            values: 0,
            count: u32::try_from(count - done).map_err(io::Error::other)?,
            map_fd: number(map)?,
            elem_flags: 0,
            flags: 0,
        };
        match bpf(BPF_MAP_DELETE_BATCH, &mut attr) {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                // The first that is not there ends the call.
                done += usize::try_from(attr.count).map_err(io::Error::other)? + 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins a program, map or link at a path of a BPF file system.
pub(super) fn pin(fd: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjPin {
        pathname: path.as_ptr() as u64,
        bpf_fd: number(fd)?,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}
