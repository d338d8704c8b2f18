//! The running kernel, as far as its BTF tells: read once, before anything is loaded.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::facts::KernelFacts;
use super::features::{Feature, Features};
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
        if is_of_another_kernel(path) {
            return Err("it is the BTF of another kernel".to_owned());
        }
        Ok(Self {
            btf: Ok(path.to_owned()),
            facts: KernelFacts::from_btf(&btf).map_err(say)?,
            reasons: ReasonTable::from_btf(&btf).map_err(say)?,
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

/// Whether the kernel shows a BTF of its own that is certainly not this one: of another length. Offsets of
/// another kernel would be read as if they were right.
fn is_of_another_kernel(path: &Path) -> bool {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let own = length(Path::new(btf::VMLINUX));
    own != 0 && own != length(path)
}
