//! Pinned objects, and what the kernel tells of a map, program or link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{MapCreate, bpf, bpf_fd, number};

/// `enum bpf_cmd`
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `enum bpf_map_type`
const BPF_MAP_TYPE_ARRAY: u32 = 2;

const _: () = {
    assert!(size_of::<ObjGet>() == 16);
    assert!(size_of::<InfoByFd>() == 16);
    assert!(size_of::<MapElement>() == 32);
    assert!(size_of::<MapInfo>() == 24);
};

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens what is pinned at a path.
pub(in crate::bpf) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf_fd(
        BPF_OBJ_GET,
        &mut ObjGet {
            pathname: path.as_ptr() as u64,
            bpf_fd: 0,
            file_flags: 0,
        },
    )
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Fills `info` with the beginning of what the kernel tells of an object: it copies as many bytes as it has
/// and as there is room for.
pub(in crate::bpf) fn info<T>(object: &impl AsFd, info: &mut T) -> io::Result<()> {
    let mut attr = InfoByFd {
        bpf_fd: number(object)?,
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: &raw mut *info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// The number of a program (`struct bpf_prog_info`: its type comes first).
pub(in crate::bpf) fn program_id(program: &impl AsFd) -> io::Result<u32> {
    let mut head = [0_u32; 2];
    info(program, &mut head)?;
    Ok(head[1])
}

/// What a map is: the beginning of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(in crate::bpf) struct MapInfo {
    pub(in crate::bpf) map_type: u32,
    pub(in crate::bpf) id: u32,
    pub(in crate::bpf) key_size: u32,
    pub(in crate::bpf) value_size: u32,
    pub(in crate::bpf) max_entries: u32,
    map_flags: u32,
}

/// What a map is.
pub(in crate::bpf) fn map_info(map: &impl AsFd) -> io::Result<MapInfo> {
    let mut map_info = MapInfo::default();
    info(map, &mut map_info)?;
    Ok(map_info)
}

/// Puts an entry into a map, whose keys and values must be of these types.
pub(in crate::bpf) fn insert<K: aya::Pod, V: aya::Pod>(
    map: &impl AsFd,
    key: &K,
    value: &V,
) -> io::Result<()> {
    let mut attr = MapElement {
        map_fd: number(map)?,
        pad: 0,
        key: &raw const *key as u64,
        value: &raw const *value as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// A new array of one element of `size` bytes.
pub(in crate::bpf) fn cell(size: usize) -> io::Result<OwnedFd> {
    bpf_fd(
        BPF_MAP_CREATE,
        &mut MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: u32::try_from(size).map_err(io::Error::other)?,
            max_entries: 1,
            map_flags: 0,
        },
    )
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The value of the one element of such an array; `size` must be its size.
pub(in crate::bpf) fn read_cell(map: &impl AsFd, size: usize) -> io::Result<Vec<u8>> {
    let (key, mut value) = (0_u32, vec![0; size]);
    // The kernel writes as many bytes as the map says.
    if map_info(map)?.value_size as usize != size {
        return Err(io::Error::other(
            "the map is not of the size that it should have",
        ));
    }
    let mut attr = MapElement {
        map_fd: number(map)?,
        pad: 0,
        key: &raw const key as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// Writes the one element of such an array.
pub(in crate::bpf) fn write_cell(map: &impl AsFd, value: &[u8]) -> io::Result<()> {
    if map_info(map)?.value_size as usize != value.len() {
        return Err(io::Error::other(
            "the map is not of the size that it should have",
        ));
    }
    let key = 0_u32;
    let mut attr = MapElement {
        map_fd: number(map)?,
        pad: 0,
        key: &raw const key as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}
