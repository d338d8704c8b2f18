//! The root of the cgroup v2 hierarchy, where the hook on delivered packets attaches.
//!
//! It must be the real root. A cgroup namespace shows its own cgroup as the root of what it mounts, and a
//! hook there sees only the packets of that cgroup: it would undercount in silence. The real root is
//! known by its inode, 1, which kernfs gives to the first directory of a hierarchy.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

/// Inode of the root directory of a kernfs.
const ROOT_INODE: u64 = 1;

/// What stands for the path of a mount that is in no mount table.
const PRIVATE: &str = "(private mount)";

/// The root of the cgroup v2 hierarchy.
#[derive(Debug)]
pub struct CgroupRoot {
    /// The directory, open: attach to this descriptor.
    pub dir: OwnedFd,
    /// Where it is mounted, or `(private mount)`; for people.
    pub path: String,
}

/// Why the root of the hierarchy cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// All that can be opened is the root of a cgroup namespace.
    #[error(
        "the cgroup v2 root at {path} is only that of this cgroup namespace (inode {inode}, not 1), so \
         packets to other cgroups would be missed; start peerwatch in the host's cgroup namespace \
         (nsenter --cgroup --target 1, docker run --cgroupns=host), or mount the host's /sys/fs/cgroup \
         into the container"
    )]
    Namespace {
        /// Where it is mounted.
        path: String,
        /// Its inode.
        inode: u64,
    },
    /// None is mounted, or none could be opened, and none could be mounted either.
    #[error(
        "no cgroup v2 hierarchy: {found}, and mounting one privately failed ({mount}); mount one \
         (mount -t cgroup2 none /sys/fs/cgroup), or start peerwatch as root with CAP_SYS_ADMIN, which it uses \
         at its start only"
    )]
    Unavailable {
        /// What the mount table had to offer.
        found: String,
        /// Why a private mount was not possible.
        mount: io::Error,
    },
}

/// Opens the real root of the cgroup v2 hierarchy: where it is mounted, or else through a mount of our
/// own that appears in no mount table and goes with the descriptor (Linux 5.2 or later, `CAP_SYS_ADMIN`).
///
/// # Errors
///
/// What was found, and the way out.
pub fn open_root() -> Result<CgroupRoot, CgroupError> {
    let mut found = "none is mounted".to_owned();
    let mut namespace = None;
    // Of the thread, as everywhere: threads can be in different mount namespaces.
    let visible = read_mounts("/proc/thread-self/mountinfo");
    for mount in &visible {
        let path = mount.point.display().to_string();
        match open_directory(&mount.point).and_then(|dir| Ok((root_inode(&dir)?, dir))) {
            Ok((ROOT_INODE, dir)) => return Ok(CgroupRoot { dir, path }),
            Ok((inode, _)) => namespace = Some((path, inode)),
            Err(error) => found = format!("{path} cannot be used ({error})"),
        }
    }
    // Process 1 sees the host's mounts, even where its files are out of our reach.
    let options = visible
        .into_iter()
        .chain(read_mounts("/proc/1/mountinfo"))
        .next()
        .map_or_else(Vec::new, |mount| mount.options);
    match private_mount(&options).and_then(|dir| Ok((root_inode(&dir)?, dir))) {
        Ok((ROOT_INODE, dir)) => {
            let path = PRIVATE.to_owned();
            Ok(CgroupRoot { dir, path })
        }
        Ok((inode, _)) => {
            let (path, inode) = namespace.unwrap_or_else(|| (PRIVATE.to_owned(), inode));
            Err(CgroupError::Namespace { path, inode })
        }
        Err(mount) => Err(match namespace {
            Some((path, inode)) => CgroupError::Namespace { path, inode },
            None => CgroupError::Unavailable { found, mount },
        }),
    }
}

/// The root, for as long as the daemon runs: it can be opened again without the power that a private mount takes.
#[derive(Debug, Default)]
pub struct Root {
    /// The directory of a private mount, which there is where no mount that can be seen would do. It keeps the
    /// mount. One that can be seen is not held: it could not be unmounted then.
    private: Option<OwnedFd>,
}

impl Root {
    /// Makes a private mount where there has to be one and can be.
    #[must_use]
    pub fn find() -> Self {
        let private = open_root().ok().filter(|root| root.path == PRIVATE);
        Self {
            private: private.map(|root| root.dir),
        }
    }

    /// Opens it: where it is mounted by now, or else the private mount.
    ///
    /// # Errors
    ///
    /// As [`open_root`].
    pub fn open(&self) -> Result<CgroupRoot, CgroupError> {
        open_root().or_else(|error| {
            let held = self.private.as_ref().and_then(|dir| dir.try_clone().ok());
            let path = PRIVATE.to_owned();
            held.map(|dir| CgroupRoot { dir, path }).ok_or(error)
        })
    }
}

/// A mount of cgroup2.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    /// Of the hierarchy, as `nsdelegate`; without `rw` and `ro`.
    pub(crate) options: Vec<CString>,
}

/// The mounts in a table of the proc file system; none where it cannot be read.
fn read_mounts(path: &str) -> Vec<Mount> {
    std::fs::read(path)
        .map(|table| mounts(&table))
        .unwrap_or_default()
}

/// The mounts of cgroup2 in a table of `proc_pid_mountinfo(5)`, the last mounted first: it lies on top
/// where several share a place.
pub(crate) fn mounts(table: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<_> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
            // Any number of optional fields ends with a dash; type, source and options follow it.
            let mut fields = fields.skip_while(|field| *field != b"-");
            if fields.nth(1)? != b"cgroup2" {
                return None;
            }
            let options = fields
                .nth(1)
                .unwrap_or_default()
                .split(|byte| *byte == b',')
                .filter(|option| ![&b"rw"[..], b"ro", b""].contains(option))
                .filter_map(|option| CString::new(option).ok())
                .collect();
            Some(Mount { point, options })
        })
        .collect();
    mounts.reverse();
    mounts
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash (`mangle_path`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            after @ ..,
        ] = rest
        {
            plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let dir = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)?;
    Ok(dir.into())
}

/// Inode of an open directory that must be on cgroup2: something else may be mounted on top of it, and
/// the root of other file systems has inode 1, too.
fn root_inode(dir: &OwnedFd) -> io::Result<u64> {
    if fstatfs(dir)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(io::Error::other("another file system is mounted over it"));
    }
    Ok(File::from(dir.try_clone()?).metadata()?.ino())
}

/// Mounts cgroup2 without a place in the file tree, and opens its root directory. The mount goes when
/// the last descriptor on it is closed.
///
/// The options must be those of the hierarchy: there is only one, and in the host's cgroup namespace a
/// mount without `nsdelegate` takes it away from everybody (`apply_cgroup_root_flags` in the kernel). Nothing tells them where no
/// mount is to be seen.
fn private_mount(options: &[CString]) -> io::Result<OwnedFd> {
    // SAFETY: fsopen(2) takes a string, which lives through the call, and flags.
    let context = descriptor(unsafe {
        libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), FSOPEN_CLOEXEC)
    })?;
    for option in options {
        configure(&context, FSCONFIG_SET_FLAG, Some(option))?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None)?;
    // SAFETY: fsmount(2) takes a descriptor and two sets of flags, no memory.
    let mount = descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0)
    })?;
    // What fsmount gives is only a place; hooks attach to a directory that is open for reading.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(&mount, ".", flags, Mode::empty())?)
}

/// A command of fsconfig(2) with a key at most.
fn configure(context: &OwnedFd, command: libc::c_uint, key: Option<&CString>) -> io::Result<()> {
    let key = key.map_or(std::ptr::null(), |key| key.as_ptr());
    let value: *const libc::c_char = std::ptr::null();
    // SAFETY: the key is null or a string that lives through the call; these commands take no value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            value,
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The descriptor that a system call gave, or its error.
fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(result) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
        Ok(raw) if raw >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(raw) }),
        _ => Err(io::Error::last_os_error()),
    }
}

// From include/uapi/linux/mount.h; not in libc.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

#[cfg(test)]
mod tests;
