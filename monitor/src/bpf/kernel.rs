//! The running kernel, as far as its BTF tells: read once, before anything is loaded.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::facts::KernelFacts;
use super::features::{Feature, Features};
use super::own_btf;
use crate::btf::{self, Btf, BtfError};
use crate::drop::ReasonTable;

/// A file that was named as the kernel's BTF and is not.
#[derive(Debug, Error)]
#[error(
    "{} can't be used as the kernel's BTF: {why}; give the BTF of the running kernel with --btf, or leave \
     it out to use {}", path.display(), btf::VMLINUX
)]
pub struct BtfFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What is known of the running kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Where its BTF is, or why there is none, in words.
    pub btf: Result<PathBuf, String>,
    /// What the programs must know.
    pub facts: KernelFacts,
    /// Its drop reasons.
    pub reasons: ReasonTable,
    /// Why it could not be checked that a file has the BTF of this kernel.
    pub unchecked: Option<String>,
}

impl Kernel {
    /// Reads the kernel's BTF: that of the file, or else the kernel's own. Where that cannot be read, the
    /// kernel is one of which nothing is known.
    ///
    /// # Errors
    ///
    /// Where a file is named and cannot be used.
    pub fn read(file: Option<&Path>) -> Result<Self, BtfFileError> {
        let path = file.unwrap_or(Path::new(btf::VMLINUX));
        match (Self::from_file(path), file) {
            (Ok(kernel), _) => Ok(kernel),
            (Err(why), Some(_)) => Err(BtfFileError {
                path: path.to_owned(),
                why,
            }),
            (Err(why), None) => Ok(Self::unknown(format!("{}: {why}", path.display()))),
        }
    }

    /// A kernel whose BTF cannot be had, and why.
    #[must_use]
    pub fn unknown(why: String) -> Self {
        Self {
            facts: KernelFacts::unknown("no BTF"),
            btf: Err(why),
            reasons: ReasonTable::unavailable(),
            unchecked: None,
        }
    }

    fn from_file(path: &Path) -> Result<Self, String> {
        let say = |error: BtfError| match error {
            BtfError::Read { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        let btf = Btf::read(path).map_err(say)?;
        if !btf.has_native_order() {
            return Err("it has the byte order of another machine".to_owned());
        }
        let unchecked = match is_of_this_kernel(path) {
            Ok(true) => None,
            Ok(false) => return Err("it is the BTF of another kernel".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        Ok(Self {
            btf: Ok(path.to_owned()),
            facts: KernelFacts::from_btf(&btf).map_err(say)?,
            reasons: ReasonTable::from_btf(&btf).map_err(say)?,
            unchecked,
        })
    }

    /// Forgets what is not to be used: see [`Features`].
    pub fn restrict(&mut self, features: &Features) {
        if !features.has(Feature::DropReasons) {
            self.facts.has_reason = false;
            self.reasons = ReasonTable::unavailable();
        }
        self.facts.has_receiving_socket &= features.has(Feature::ReceivingSocket);
    }
}

/// Whether the file has the BTF of the running kernel, byte for byte: offsets of another kernel would be
/// read as if they were right. Fails where the kernel does not give its own.
fn is_of_this_kernel(path: &Path) -> io::Result<bool> {
    if path == Path::new(btf::VMLINUX) {
        return Ok(true);
    }
    let own = match std::fs::read(btf::VMLINUX) {
        Ok(own) if !own.is_empty() => own,
        _ => own_btf::read()?,
    };
    Ok(std::fs::read(path)? == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_the_btf_of_another_kernel_is_refused() {
        const FIELD: &[u8] = b"\0skb_iif\0";
        let Ok(own) = std::fs::read(btf::VMLINUX) else {
            return eprintln!("not run: {} can't be read", btf::VMLINUX);
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("btf");
        std::fs::write(&path, &own).unwrap();
        let kernel = Kernel::read(Some(&path)).unwrap();
        assert_eq!(kernel.unchecked, None);
        // Of the same length.
        let mut other = own.clone();
        let at = other.windows(FIELD.len()).position(|bytes| bytes == FIELD);
        other[at.unwrap() + 1] = b'x';
        std::fs::write(&path, &other).unwrap();
        let error = Kernel::read(Some(&path)).unwrap_err();
        assert_eq!(error.why, "it is the BTF of another kernel");
    }

    #[test]
    fn the_kernel_itself_gives_the_same_btf_as_its_file() {
        let Ok(shown) = std::fs::read(btf::VMLINUX) else {
            return eprintln!("not run: {} can't be read", btf::VMLINUX);
        };
        match own_btf::read() {
            Ok(given) => assert!(given == shown, "{} bytes of {}", given.len(), shown.len()),
            Err(error) => eprintln!("not run: {error}"),
        }
    }
}
