//! The running kernel's BTF from the kernel itself: also where /sys does not show it.

use std::io;
use std::os::fd::OwnedFd;

use super::sys::{bpf, bpf_fd, number};

/// `enum bpf_cmd`
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_GET_FD_BY_ID: libc::c_long = 19;
const BPF_BTF_GET_NEXT_ID: libc::c_long = 23;

/// For `BPF_BTF_GET_NEXT_ID`: the number after `start` comes back in `next`. `BPF_BTF_GET_FD_BY_ID` has the
/// number that it is about in place of `start`.
#[repr(C)]
struct GetId {
    start: u32,
    next: u32,
    open_flags: u32,
}

#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_btf_info`
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

const _: () = {
    assert!(size_of::<GetId>() == 12);
    assert!(size_of::<GetInfo>() == 16);
    assert!(size_of::<BtfInfo>() == 32);
};

/// The name of the kernel's own BTF; others are its modules'.
const NAME: &[u8] = b"vmlinux\0";

/// Fills in what `info` asks for.
fn get_info(btf: &OwnedFd, info: &mut BtfInfo) -> io::Result<()> {
    let mut attr = GetInfo {
        bpf_fd: number(btf)?,
        info_len: u32::try_from(size_of::<BtfInfo>()).map_err(io::Error::other)?,
        info: &raw mut *info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// The bytes of one BTF object, where it is the kernel's own.
fn bytes_of(btf: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut name = [0_u8; NAME.len()];
    let mut info = BtfInfo {
        name: name.as_mut_ptr() as u64,
        name_len: u32::try_from(name.len()).map_err(io::Error::other)?,
        ..BtfInfo::default()
    };
    match get_info(btf, &mut info) {
        // The name of a module is longer.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Ok(None),
        other => other?,
    }
    if info.kernel_btf == 0 || name != NAME {
        return Ok(None);
    }
    let mut bytes = vec![0_u8; usize::try_from(info.btf_size).map_err(io::Error::other)?];
    let mut info = BtfInfo {
        btf: bytes.as_mut_ptr() as u64,
        btf_size: info.btf_size,
        ..BtfInfo::default()
    };
    get_info(btf, &mut info)?;
    Ok(Some(bytes))
}

/// Asks the kernel for its BTF: Linux 5.11 and later (commit 5329722057d4), with `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// What the kernel said; ENOENT where it has none to give.
pub(super) fn read() -> io::Result<Vec<u8>> {
    let mut id = 0;
    loop {
        let mut attr = GetId {
            start: id,
            next: 0,
            open_flags: 0,
        };
        bpf(BPF_BTF_GET_NEXT_ID, &mut attr)?;
        id = attr.next;
        attr = GetId {
            start: id,
            next: 0,
            open_flags: 0,
        };
        match bpf_fd(BPF_BTF_GET_FD_BY_ID, &mut attr) {
            Ok(btf) => {
                if let Some(bytes) = bytes_of(&btf)? {
                    return Ok(bytes);
                }
            }
            // Gone since.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
}
