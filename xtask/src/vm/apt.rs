//! apt with a configuration of its own: any suite of Debian, for any kind of machine.
//!
//! It reads the lists of a suite into a folder of its own, checks their signatures as ever, and leaves
//! the machine's own lists, and what is installed, alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::arch::Arch;
use crate::{cmd, mirror::Repository, state};

/// A suite.
pub(super) struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Reads the lists of a suite.
    ///
    /// # Errors
    ///
    /// When no mirror of Debian is known, or apt fails.
    pub(super) fn read(suite: &str, arch: Arch) -> Result<Self> {
        let mirrors = Repository::Debian.mirrors()?;
        let mirror = mirrors.first().context(
            "apt's configuration names no mirror of Debian; name one in PEERWATCH_MIRROR_DEBIAN",
        )?;
        let folder = folder(suite, arch)?;
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let arch = arch.debian();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))
                .map(|()| path)
        };
        let sources = write(
            "sources.list",
            format!("deb [arch={arch}] {mirror} {suite} main\n"),
        )?;
        let installed = write("installed", String::new())?;
        let option = |key: &str, value: &Path| format!("{key}={}", value.display());
        let options = vec![
            option("Dir::Etc::sourcelist", &sources),
            option("Dir::Etc::sourceparts", &folder.join("parts")),
            option("Dir::State::lists", &folder.join("lists")),
            option("Dir::State::status", &installed),
            option("Dir::Cache", &folder.join("cache")),
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            "Acquire::Languages=none".to_owned(),
            // Otherwise lists that could not be had are those of the last time, and no failure.
            "APT::Update::Error-Mode=any".to_owned(),
        ];
        let apt = Self { folder, options };
        cmd::output(apt.command("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("the lists of {suite}"))?;
        Ok(apt)
    }

    /// What apt says of the newest version of a package.
    ///
    /// # Errors
    ///
    /// When apt fails.
    pub(super) fn show(&self, package: &str) -> Result<String> {
        let mut command = self.command("apt-cache");
        cmd::output(command.args(["show", "--no-all-versions", package]))
    }

    /// Downloads packages and all that they depend on, and gives the folder where they are, with those
    /// of earlier calls.
    ///
    /// # Errors
    ///
    /// When apt fails.
    pub(super) fn download(&self, packages: &[&str]) -> Result<PathBuf> {
        let mut command = self.command("apt-get");
        command
            .args(["-qq", "install", "--download-only", "--yes"])
            .arg("--no-install-recommends")
            .args(packages);
        cmd::output(&mut command)?;
        Ok(self.folder.join("cache/archives"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// The folder for what is of a suite.
///
/// # Errors
///
/// When there is no place for a cache folder.
pub(super) fn folder(suite: &str, arch: Arch) -> Result<PathBuf> {
    let name = match arch {
        Arch::Amd64 => suite.to_owned(),
        Arch::Arm64 => format!("{suite}-{}", arch.debian()),
    };
    Ok(state::cache_dir()?.join("suites").join(name))
}
