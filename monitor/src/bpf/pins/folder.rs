//! Folders of pins, by descriptors and never through a symbolic link: in a BPF file system that others may
//! write to, nobody must lead a daemon or `uninstall` of root to folders elsewhere.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

fn open(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(parent, name, flags, Mode::empty())
}

fn c_name(name: &OsStr) -> nix::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Whether nobody but root, this process and `owner` may have put something into a folder.
fn is_trusted(folder: &FileStat, owner: u32) -> bool {
    let trusted = [0, geteuid().as_raw(), owner];
    trusted.contains(&folder.st_uid) && folder.st_mode & 0o022 == 0
}

/// Opens a folder below a mount: each of `names` in the one before.
///
/// # Errors
///
/// `ENOTDIR` or `ELOOP` where one of them is no folder, `EPERM` where one is somebody else's.
pub(super) fn below(mount: &Path, names: &[&OsStr]) -> io::Result<OwnedFd> {
    // The user's own word: that may be a link.
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = nix::fcntl::open(mount, flags, Mode::empty())?;
    let owner = fstat(&folder)?.st_uid;
    for name in names {
        folder = open(folder.as_fd(), &c_name(name)?)?;
        if !is_trusted(&fstat(&folder)?, owner) {
            return Err(Errno::EPERM.into());
        }
    }
    Ok(folder)
}

/// The names in a folder.
///
/// # Errors
///
/// What the kernel said.
pub(super) fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut dir = Dir::openat(
        folder,
        ".",
        OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes what has a name in a folder, with what is in it. Nothing there is no error. The standard library's
/// call for that opens files, which a BPF file system refuses.
///
/// # Errors
///
/// What the kernel said.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    Ok(remove_named(parent, &c_name(name)?)?)
}

fn remove_named(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let found = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(()),
        found => found?,
    };
    let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
    let flag = if kind == SFlag::S_IFDIR {
        let folder = open(parent, name)?;
        let names = names(folder.as_fd())
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        for name in names {
            remove_named(folder.as_fd(), &name)?;
        }
        UnlinkatFlags::RemoveDir
    } else {
        UnlinkatFlags::NoRemoveDir
    };
    match unlinkat(parent, name, flag) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Removes a folder where nothing is in it; whether it is gone.
pub(super) fn remove_empty(parent: BorrowedFd<'_>, name: &OsStr) -> bool {
    c_name(name)
        .is_ok_and(|name| unlinkat(parent, name.as_c_str(), UnlinkatFlags::RemoveDir).is_ok())
}
