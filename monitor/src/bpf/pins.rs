//! Pins: what goes on while no daemon runs, in a BPF file system.
//!
//! ```text
//! /sys/fs/bpf/peerwatch/v1/netns-4026531840-1/     layout, then inode number and cookie of the namespace
//!     3/map_ALLOWED  3/program_deliver  3/identity   a generation: maps and programs that belong together
//!     links/drop  links/deliver  links/egress_2      what is attached, each link by hook and interface
//! ```
//!
//! A generation is complete once its `identity` is there: it says which build and settings its programs were
//! made of, and the names of the traffics that its counters belong to. A daemon of the same build and
//! settings adopts it as it is. Any other makes the next generation, which takes over the maps that count;
//! then the links get the new programs, and the old generation goes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use monitor_common::traffic::MAX_TRAFFICS;
use nix::errno::Errno;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;

mod folder;

use super::sys::{self, object};
use crate::privileges::hint;

/// The version of the layout of pins and of the maps that count. Raise it when a record, or what it means,
/// changes: then say here how the older counts are taken over.
pub const LAYOUT: u32 = 1;

/// Where the BPF file system is, unless something else is said.
pub const DEFAULT_MOUNT: &str = "/sys/fs/bpf";

/// The folder of all pins, in the BPF file system.
pub const FOLDER: &str = "peerwatch";

const LINKS: &str = "links";
/// How the name of a namespace's folder begins.
const NETNS: &str = "netns-";
const IDENTITY: &str = "identity";

/// The longest name of a traffic, bytes.
const NAME: usize = crate::traffic::MAX_NAME;
/// A number, and the names of all traffics.
const IDENTITY_SIZE: usize = 8 + MAX_TRAFFICS as usize * NAME;

/// Why nothing can be pinned.
#[derive(Debug, Error)]
pub enum PinsError {
    /// There is no BPF file system.
    #[error("{path} is no BPF file system (mount -t bpf bpf {path})", path = .path.display())]
    NoBpfFs {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The folder is somebody else's, who could put anything there.
    #[error("{path} belongs to another user, or others may write to it", path = .path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{path}: {source}{}", hint(.source), path = .path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> PinsError + '_ {
    move |source| PinsError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The pins of one network namespace.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
}

/// A complete generation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Generation {
    /// Its number.
    pub number: u32,
    /// Of which build and settings its programs are.
    pub digest: u64,
    /// Whose the counters are: index and name of each traffic that there ever was.
    pub traffics: Vec<(u8, String)>,
}

/// The folder of a namespace's pins under that of all.
fn folder(mount: &Path, inum: u32, cookie: Option<u64>) -> PathBuf {
    let name = match cookie {
        // Unlike the number, no later namespace gets the cookie again.
        Some(cookie) => format!("{NETNS}{inum}-{cookie}"),
        None => format!("{NETNS}{inum}"),
    };
    mount.join(FOLDER).join(format!("v{LAYOUT}")).join(name)
}

/// Makes a folder that nobody else may enter, or makes sure that one which is there is such.
fn own(path: &Path) -> Result<(), PinsError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.map_err(at(path)),
    }
    let found = fs::symlink_metadata(path).map_err(at(path))?;
    let mine = found.is_dir()
        && found.uid() == nix::unistd::geteuid().as_raw()
        && found.mode() & 0o022 == 0;
    if mine {
        Ok(())
    } else {
        Err(PinsError::Foreign {
            path: path.to_owned(),
        })
    }
}

/// Whether a path is in a BPF file system.
pub(super) fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

impl Pins {
    /// Opens the pins of a network namespace, and makes their folder where it is not there.
    ///
    /// # Errors
    ///
    /// Where there is no BPF file system at `mount`, or not one that this process may write to.
    pub fn open(mount: &Path, inum: u32, cookie: Option<u64>) -> Result<Self, PinsError> {
        match statfs(mount) {
            Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {}
            // It may be one.
            Err(Errno::EACCES) => return Err(at(mount)(Errno::EACCES.into())),
            _ => {
                return Err(PinsError::NoBpfFs {
                    path: mount.to_owned(),
                });
            }
        }
        let folder = folder(mount, inum, cookie);
        for path in [2, 1, 0].map(|up| folder.ancestors().nth(up).unwrap_or(mount)) {
            own(path)?;
        }
        own(&folder.join(LINKS))?;
        Ok(Self { folder })
    }

    /// The pins of a network namespace, where there are some.
    #[must_use]
    pub fn find(mount: &Path, inum: u32, cookie: Option<u64>) -> Option<Self> {
        let folder = folder(mount, inum, cookie);
        let pins = Self { folder };
        (is_bpf_fs(mount) && pins.opened().is_ok()).then_some(pins)
    }

    /// All pins in a BPF file system, of whatever layout.
    #[must_use]
    pub fn all(mount: &Path) -> Vec<Self> {
        if !is_bpf_fs(mount) {
            return Vec::new();
        }
        let inside = |names: &[&OsStr], prefix: &str| -> Vec<OsString> {
            let found =
                folder::below(mount, names).and_then(|folder| folder::names(folder.as_fd()));
            let found = found.unwrap_or_default().into_iter();
            let found = found.map(|name| OsString::from_vec(name.into_bytes()));
            found
                .filter(|name| name.as_bytes().starts_with(prefix.as_bytes()))
                .collect()
        };
        let top = OsStr::new(FOLDER);
        let mut all = Vec::new();
        for layout in inside(&[top], "v") {
            for name in inside(&[top, &layout], NETNS) {
                let folder = mount.join(top).join(&layout).join(name);
                all.push(Self { folder });
            }
        }
        all.retain(|pins| pins.opened().is_ok());
        all
    }

    /// The mount, and the names of the folders from there to this one.
    fn place(&self) -> (&Path, [&OsStr; 3]) {
        let paths: Vec<&Path> = self.folder.ancestors().take(4).collect();
        let name = |above: usize| {
            let path = paths.get(above).copied();
            path.and_then(Path::file_name).unwrap_or_default()
        };
        let mount = paths.get(3).copied().unwrap_or(Path::new("/"));
        (mount, [name(2), name(1), name(0)])
    }

    /// The folder itself: no symbolic link on the way, and nobody else's.
    fn opened(&self) -> io::Result<OwnedFd> {
        let (mount, names) = self.place();
        folder::below(mount, &names)
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The number of the network namespace, out of the folder's name.
    #[must_use]
    pub fn namespace(&self) -> Option<u32> {
        let name = self.folder.file_name()?.to_str()?.strip_prefix(NETNS)?;
        name.split('-').next()?.parse().ok()
    }

    /// The numbers of all generations, complete or not, in order.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let names = entries(&self.folder);
        let mut numbers: Vec<u32> = names
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// The latest complete generation.
    #[must_use]
    pub fn newest(&self) -> Option<Generation> {
        self.numbers().into_iter().rev().find_map(|number| {
            let cell = object::get(&self.path(number, IDENTITY)).ok()?;
            let bytes = object::read_cell(&cell, IDENTITY_SIZE).ok()?;
            let (digest, names) = bytes.split_first_chunk()?;
            Some(Generation {
                number,
                digest: u64::from_ne_bytes(*digest),
                traffics: names_from(names),
            })
        })
    }

    /// Makes the folder of the next generation.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn begin(&self) -> Result<u32, PinsError> {
        let number = self.numbers().last().map_or(1, |last| last + 1);
        own(&self.folder.join(number.to_string()))?;
        Ok(number)
    }

    /// Makes a generation complete.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn complete(&self, generation: &Generation) -> Result<(), PinsError> {
        let path = self.path(generation.number, IDENTITY);
        let cell = object::cell(IDENTITY_SIZE).map_err(at(&path))?;
        object::write_cell(&cell, &identity_of(generation)).map_err(at(&path))?;
        sys::pin(&cell, &path).map_err(at(&path))
    }

    /// Notes the names of the traffics anew, in a generation that is complete.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn rename(&self, generation: &Generation) -> Result<(), PinsError> {
        let path = self.path(generation.number, IDENTITY);
        let cell = object::get(&path).map_err(at(&path))?;
        object::write_cell(&cell, &identity_of(generation)).map_err(at(&path))
    }

    /// Where something of a generation is pinned.
    fn path(&self, number: u32, name: &str) -> PathBuf {
        self.folder.join(number.to_string()).join(name)
    }

    /// Where a map of a generation is pinned.
    #[must_use]
    pub fn map(&self, number: u32, name: &str) -> PathBuf {
        self.path(number, &format!("map_{name}"))
    }

    /// Where a program of a generation is pinned.
    #[must_use]
    pub fn program(&self, number: u32, name: &str) -> PathBuf {
        self.path(number, &format!("program_{name}"))
    }

    /// Removes all generations but one: what only they held goes.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn keep_only(&self, number: u32) -> Result<(), PinsError> {
        let others = self.numbers().into_iter().filter(|other| *other != number);
        for other in others {
            self.forget(other)?;
        }
        Ok(())
    }

    /// Removes a generation.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn forget(&self, number: u32) -> Result<(), PinsError> {
        let name = number.to_string();
        let removed = self
            .opened()
            .and_then(|folder| folder::remove(folder.as_fd(), OsStr::new(&name)));
        removed.map_err(at(&self.folder.join(name)))
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.folder.join(LINKS).join(name)
    }

    /// The names of the links that are pinned.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let paths = entries(&self.folder.join(LINKS));
        let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
        names.map(str::to_owned).collect()
    }

    /// Whether the namespace is gone: its loopback device, which only goes with it, is.
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        let lo = object::get(&self.link(&link_name(super::Hook::Egress, LOOPBACK_INDEX)));
        let held = lo.and_then(|link| sys::link::held(&link));
        held.is_ok_and(|held| held.place == Some(0))
    }

    /// Removes everything, links first, so that nothing counts into maps that are not there.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn remove(&self) -> Result<(), PinsError> {
        let failed = at(&self.folder);
        let (mount, names) = self.place();
        let [top, layout, own] = names;
        let inside = folder::below(mount, &names).map_err(&failed)?;
        folder::remove(inside.as_fd(), OsStr::new(LINKS)).map_err(&failed)?;
        let above = folder::below(mount, &[top, layout]).map_err(&failed)?;
        folder::remove(above.as_fd(), own).map_err(&failed)?;
        // The folders above stay where something else is in them.
        for (names, name) in [(&[top][..], layout), (&[][..], top)] {
            let above = folder::below(mount, names);
            if !above.is_ok_and(|above| folder::remove_empty(above.as_fd(), name)) {
                break;
            }
        }
        Ok(())
    }
}

/// The index of the loopback device in every network namespace (`LOOPBACK_IFINDEX` of the kernel).
const LOOPBACK_INDEX: u32 = 1;

/// The name of the link of a hook of an interface.
pub(super) fn link_name(hook: super::Hook, interface: u32) -> String {
    format!("{}_{interface}", hook.as_str())
}

fn identity_of(generation: &Generation) -> Vec<u8> {
    let mut bytes = vec![0; IDENTITY_SIZE];
    let (digest, names) = bytes.split_at_mut(8);
    digest.copy_from_slice(&generation.digest.to_ne_bytes());
    for (index, name) in &generation.traffics {
        let from = usize::from(*index) * NAME;
        if let Some(room) = names.get_mut(from..from + NAME.min(name.len())) {
            room.copy_from_slice(&name.as_bytes()[..room.len()]);
        }
    }
    bytes
}

fn names_from(bytes: &[u8]) -> Vec<(u8, String)> {
    (0..)
        .zip(bytes.chunks(NAME))
        .filter_map(|(index, name)| {
            let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
            (!name.is_empty()).then(|| (index, name.to_owned()))
        })
        .collect()
}

/// What is in a folder; nothing where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).into_iter().flatten();
    read.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Pins an object under a path where nothing is, or in the place of what is.
pub(super) fn put(object: &impl AsFd, path: &Path) -> Result<(), PinsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
        _ => {}
    }
    sys::pin(object, path).map_err(at(path))
}

#[cfg(test)]
mod tests;
