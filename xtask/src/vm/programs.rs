//! The programs that are tested and that test, for each kind of machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{arch::Arch, kernels::Pin, rows};
use crate::{build, cmd, cross};

/// The programs for one kind of machine.
#[derive(Debug)]
pub(super) struct Programs {
    /// The daemon.
    pub(super) daemon: PathBuf,
    /// The conformance tests.
    pub(super) conformance: PathBuf,
}

/// The programs for each kind of machine; none where no such machine boots.
#[derive(Debug)]
pub(super) struct Sets {
    native: Option<Programs>,
    arm64: Option<Result<Programs>>,
}

impl Sets {
    /// Builds what kernels need beside the test program of this machine: the same that `cargo xtask test`
    /// runs, since the guest gets the libraries that they are linked with.
    ///
    /// # Errors
    ///
    /// When the daemon of this machine cannot be built.
    pub(super) fn build(conformance: PathBuf, pins: &[Pin]) -> Result<Self> {
        let wanted = pins.iter().any(|pin| pin.arch == Arch::Amd64);
        let daemon = wanted.then(build::daemon).transpose()?;
        let native = daemon.map(|daemon| Programs {
            daemon,
            conformance,
        });
        Ok(Self::new(native, pins))
    }

    /// Builds what kernels of another kind of machine need. That it cannot be built is a failure of those
    /// kernels.
    pub(super) fn new(native: Option<Programs>, pins: &[Pin]) -> Self {
        let wanted = pins.iter().any(|pin| pin.arch == Arch::Arm64);
        Self {
            native,
            arm64: wanted.then(Programs::cross_build),
        }
    }

    /// Those for a kind of machine.
    ///
    /// # Errors
    ///
    /// When they could not be built.
    pub(super) fn of(&self, arch: Arch) -> Result<&Programs> {
        let found = match arch {
            Arch::Amd64 => self.native.as_ref().map(Ok),
            Arch::Arm64 => self.arm64.as_ref().map(Result::as_ref),
        };
        match found {
            Some(Ok(programs)) => Ok(programs),
            Some(Err(error)) => bail!("{error:#}"),
            None => bail!("no programs were built for {}", arch.debian()),
        }
    }
}

impl Programs {
    fn cross_build() -> Result<Self> {
        cross::set_up()?;
        Ok(Self {
            daemon: cross::daemon()?.program,
            conformance: cross::conformance()?.program,
        })
    }
}

/// Builds the test program of this machine.
///
/// # Errors
///
/// When the build fails.
pub(super) fn conformance() -> Result<PathBuf> {
    let arguments = ["test", "--no-run", "--locked", "--package", "monitor-tests"];
    build::build(&[&arguments[..], &["--test", "conformance"]].concat())?
        .into_iter()
        .find(|built| built.target == "conformance")
        .map(|built| built.program)
        .context("cargo built no test program conformance")
}

/// The names of all tests that can run in a virtual machine, by the test program of this machine: the
/// others have the same.
///
/// # Errors
///
/// When it does not run.
pub(super) fn tests(conformance: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(conformance);
    let text = cmd::output(command.arg("--list"))?;
    let all = text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    Ok(rows::possible(all))
}
