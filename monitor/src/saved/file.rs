//! The state file: a header with version, boot and checksum, then the content.
//!
//! ```text
//! bytes  0..16   "peerwatch state\n"
//!       16..20   version, little-endian as all numbers
//!       20..24   CRC-32 (ISO-HDLC) of everything from byte 24 on
//!       24..60   the boot, as in /proc/sys/kernel/random/boot_id
//!       60..     content
//! ```
//!
//! It is written beside its place and renamed into it, so that a daemon that is killed leaves the old one or
//! the new one. Nothing waits for the disk: what is in the file matters as long as the system runs.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

const MAGIC: &[u8; 16] = b"peerwatch state\n";
const BOOT: usize = 36;
const CHECKED: usize = 24;
const HEADER: usize = CHECKED + BOOT;

/// The version of the content. Raise it with every change.
const VERSION: u32 = 2;

/// Larger ones are not ours: all tables at their limits are some 40 MB.
const MAX_SIZE: u64 = 256 * 1024 * 1024;

/// What keeps a file from being used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Fault {
    /// It does not begin as ours do.
    #[error("it is no state file of peerwatch")]
    Foreign,
    /// Another version wrote it.
    #[error("it is of version {0}, and this is {VERSION}")]
    Version(u32),
    /// Its checksum is another.
    #[error("it is damaged")]
    Damaged,
    /// Of another boot: what it says is no longer true.
    #[error("it is of another boot")]
    Boot,
}

/// Where the state of a network namespace is.
#[must_use]
pub fn path(folder: &Path, inum: u32, cookie: Option<u64>) -> PathBuf {
    let cookie = cookie
        .map(|cookie| format!("-{cookie}"))
        .unwrap_or_default();
    folder.join(format!("netns-{inum}{cookie}.state"))
}

/// Removes a state file, and what was moved aside or half written for it.
///
/// # Errors
///
/// What the kernel said.
pub fn remove(path: &Path) -> io::Result<()> {
    for name in ["state", "state.bad", "state.new"] {
        match fs::remove_file(path.with_extension(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a file is a state file, one that was moved aside, or one that was half written.
#[must_use]
pub fn is_ours(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let rest = name.strip_prefix("netns-");
    rest.is_some_and(|rest| {
        [".state", ".state.bad", ".state.new"]
            .iter()
            .any(|end| rest.ends_with(end))
    })
}

/// The boot that this is.
///
/// # Errors
///
/// Without /proc.
pub fn boot() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// A whole file with this content.
#[must_use]
pub fn encode(boot: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    let mut name = [b' '; BOOT];
    for (to, from) in name.iter_mut().zip(boot.bytes()) {
        *to = from;
    }
    bytes.extend(name);
    bytes.extend(content);
    let sum = crc32fast::hash(&bytes[CHECKED..]);
    bytes[CHECKED - 4..CHECKED].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The content of a whole file.
///
/// # Errors
///
/// What is wrong with it.
pub fn decode<'a>(boot: &str, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(Fault::Foreign)?;
    let (version, rest) = rest.split_first_chunk().ok_or(Fault::Damaged)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Fault::Version(version));
    }
    let (sum, rest) = rest.split_first_chunk().ok_or(Fault::Damaged)?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
        return Err(Fault::Damaged);
    }
    let (of, content) = rest.split_at_checked(BOOT).ok_or(Fault::Damaged)?;
    if of.trim_ascii_end() != boot.as_bytes() {
        return Err(Fault::Boot);
    }
    Ok(content)
}

/// Reads a whole file; `None` where there is none.
///
/// # Errors
///
/// What the kernel said.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut options = fs::OpenOptions::new();
    // Where others may write to the folder: no link, and nothing to wait for.
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Some(Vec::new())),
        file => file?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let own = [0, nix::unistd::geteuid().as_raw()];
    let mut bytes = Vec::new();
    if own.contains(&found.uid()) {
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
    }
    Ok(Some(bytes))
}

/// Writes a whole file in the place of the one that is there.
///
/// # Errors
///
/// What the kernel said; then the old one is still there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("state.new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        options.write(true).create_new(true).mode(0o600);
        options.open(&new)?.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().inspect_err(|_| {
        // Half a file takes room where there may be none.
        fs::remove_file(&new).ok();
    })
}

/// Moves a file aside that cannot be used. Gives where it is now.
///
/// # Errors
///
/// What the kernel said.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension("state.bad");
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "5a3c1f0e-1111-2222-3333-444455556666";

    #[test]
    fn content_comes_back_and_every_damage_is_noticed() {
        let bytes = encode(HERE, b"content");
        assert_eq!(decode(HERE, &bytes), Ok(b"content".as_slice()));
        assert_eq!(decode("another", &bytes), Err(Fault::Boot));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(HERE, &damaged).is_err(), "byte {at}");
            assert!(decode(HERE, &bytes[..at]).is_err(), "{at} bytes");
        }
        assert_eq!(decode(HERE, b"[traffic]"), Err(Fault::Foreign));
        assert_eq!(decode(HERE, b""), Err(Fault::Foreign));
        let mut later = bytes;
        later[16] = 9;
        assert_eq!(decode(HERE, &later), Err(Fault::Version(9)));
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = path(folder.path(), 7, Some(1));
        assert_eq!(read(&file).unwrap(), None);
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(read(&file).unwrap(), Some(b"two".to_vec()));
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        // A folder in the way of the new file: the old one stays.
        fs::create_dir(file.with_extension("state.new")).unwrap();
        assert!(write(&file, b"three").is_err());
        assert_eq!(read(&file).unwrap(), Some(b"two".to_vec()));
        let aside = set_aside(&file).unwrap();
        assert!(is_ours(&aside) && is_ours(&file) && !is_ours(Path::new("/run/netns-1")));
        assert_eq!(
            (read(&file).unwrap(), fs::read(aside).unwrap()),
            (None, b"two".to_vec())
        );
    }
}
