//! The pinned kernels, and how they come into the cache folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::arch::Arch;
use crate::{
    cmd,
    mirror::{self, Repository},
    state,
};

/// The list.
const PINS: &str = include_str!("../../kernels.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kernel: Vec<Pin>,
}

/// A kernel as it is pinned.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    /// What people call it, `6.1`.
    pub(super) name: String,
    /// Which release of a distribution has it.
    pub(super) distribution: String,
    /// That release's suite in the archive, where newer ones appear.
    pub(super) suite: String,
    /// The package's version.
    pub(super) version: String,
    /// The kind of machine that it runs on.
    #[serde(default)]
    pub(super) arch: Arch,
    /// Whether it is part of the short version, in `cargo xtask test`.
    #[serde(default)]
    pub(super) short: bool,
    /// The archive that it comes from.
    #[serde(default)]
    pub(super) repository: Repository,
    /// The package files that image and modules are in.
    #[serde(rename = "file")]
    files: Vec<PinnedFile>,
}

/// A package file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinnedFile {
    /// Its place in the archive.
    path: String,
    /// Its SHA-256, in hexadecimal digits.
    sha256: String,
}

/// A kernel that is unpacked in the cache folder.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What it calls itself, `6.1.0-50-cloud-amd64`.
    pub(super) release: String,
    /// The image that boots.
    pub(super) image: PathBuf,
    /// The folder `lib/modules/RELEASE`; modules are uncompressed, and `modules.dep` is there.
    pub(super) modules: PathBuf,
}

/// All kernels.
///
/// # Errors
///
/// When the list is not understood.
pub(super) fn all() -> Result<Vec<Pin>> {
    parse(PINS)
}

/// The kernels of these names; when there are none, all of Debian that the tests need not be built anew for.
///
/// # Errors
///
/// When the list is not understood, or a name is not in it.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Pin>> {
    let pins = all()?;
    if let Some(unknown) = names
        .iter()
        .find(|name| !pins.iter().any(|pin| pin.name == **name))
    {
        let known: Vec<_> = pins.iter().map(|pin| pin.name.as_str()).collect();
        bail!(
            "no kernel {unknown:?} in xtask/kernels.toml; there are: {}",
            known.join(", ")
        );
    }
    Ok(pins
        .into_iter()
        .filter(|pin| {
            if names.is_empty() {
                pin.arch == Arch::default() && pin.is_of_debian()
            } else {
                names.contains(&pin.name)
            }
        })
        .collect())
}

fn parse(text: &str) -> Result<Vec<Pin>> {
    let file: File = toml::from_str(text).context("xtask/kernels.toml")?;
    Ok(file.kernel)
}

impl Pin {
    /// Whether it is one of Debian. Others run only when they are named: not every machine that builds this has a
    /// mirror of theirs.
    pub(super) fn is_of_debian(&self) -> bool {
        self.repository == Repository::Debian
    }

    /// Downloads, checks and unpacks it, unless that was done before.
    ///
    /// # Errors
    ///
    /// When the archive does not have it (any more), with what to do; when a checksum is another;
    /// when it cannot be unpacked.
    pub(super) fn fetch(&self) -> Result<Kernel> {
        let cache = state::cache_dir()?.join("kernels");
        // Other files, another folder: a changed pin never finds what an older one left.
        let digests: Vec<&str> = self
            .files
            .iter()
            .map(|file| file.sha256.get(..8).unwrap_or_default())
            .collect();
        let unpacked = cache.join(format!(
            "{}_{}_{}",
            self.name,
            self.version,
            digests.join("-")
        ));
        if !unpacked.exists() {
            // Renamed when it is complete: an interrupted run leaves nothing that looks done.
            let scratch = cache.join(format!("unpack-{}-{}", self.name, std::process::id()));
            if scratch.exists() {
                // Of a run that was killed, whose number we have now.
                fs::remove_dir_all(&scratch)?;
            }
            let result = self
                .unpack(&cache, &scratch)
                .and_then(|()| Ok(fs::rename(&scratch, &unpacked)?));
            if result.is_err() && scratch.exists() {
                fs::remove_dir_all(&scratch)?;
            }
            result?;
        }
        Kernel::find(&unpacked)
    }

    /// Unpacks all files and prepares the modules.
    fn unpack(&self, cache: &Path, to: &Path) -> Result<()> {
        for file in &self.files {
            let archive = mirror::fetch(self.repository, &file.path, &file.sha256, cache)?;
            println!("unpacking {}", archive.display());
            cmd::run(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&archive)
                    .arg(to),
            )
            .with_context(|| format!("cannot unpack {}", archive.display()))?;
        }
        // Newer packages have all below /usr, where depmod does not look.
        if !to.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", to.join("lib"))?;
        }
        let modules = modules_folder(to)?;
        // Uncompressed, as the guest's modprobe takes them.
        for (extension, tool) in [("xz", &["xz"][..]), ("zst", &["zstd", "--rm"])] {
            cmd::run(
                Command::new("find")
                    .arg(&modules)
                    .args(["-name", &format!("*.ko.{extension}"), "-exec"])
                    .args(tool)
                    .args(["-d", "-q", "--"])
                    .args(["{}", "+"]),
            )?;
        }
        let release = modules.file_name().context("modules without a release")?;
        cmd::run(
            Command::new("busybox")
                .args(["depmod", "-b"])
                .arg(to)
                .arg(release),
        )
    }
}

impl Kernel {
    /// The parts of an unpacked kernel.
    fn find(unpacked: &Path) -> Result<Self> {
        // Through a link to the folder usr/lib where there is one.
        let modules = modules_folder(unpacked)?;
        let release = modules
            .file_name()
            .and_then(|name| name.to_str())
            .context("a release with a strange name")?
            .to_owned();
        let images = [
            unpacked.join("boot").join(format!("vmlinuz-{release}")),
            modules.join("vmlinuz"),
        ];
        let image = images
            .into_iter()
            .find(|image| image.exists())
            .with_context(|| format!("no kernel image in {}", unpacked.display()))?;
        Ok(Self {
            release,
            image,
            modules,
        })
    }
}

/// The one folder below `lib/modules`.
fn modules_folder(unpacked: &Path) -> Result<PathBuf> {
    let parent = unpacked.join("lib/modules");
    let entries =
        fs::read_dir(&parent).with_context(|| format!("cannot read {}", parent.display()))?;
    let found = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    match <[PathBuf; 1]>::try_from(found) {
        Ok([one]) => Ok(one),
        Err(found) => bail!("{} folders in {}, not one", found.len(), parent.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_understood_and_its_checksums_are_some() {
        let pins = parse(PINS).unwrap();
        assert!(pins.iter().any(|pin| pin.name == "6.1"));
        assert_eq!(pins.iter().filter(|pin| pin.short).count(), 1);
        for pin in pins {
            assert!(!pin.files.is_empty(), "{}", pin.name);
            for file in &pin.files {
                assert_eq!(file.sha256.len(), 64, "{}", file.path);
                assert!(
                    file.sha256
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
                    "{}",
                    file.path
                );
                assert!(file.path.starts_with("pool/"), "{}", file.path);
            }
        }
    }

    #[test]
    fn a_name_that_is_not_pinned_is_refused_with_those_that_are() {
        let error = chosen(&["2.4".to_owned()]).unwrap_err().to_string();
        assert!(
            error.contains("\"2.4\"") && error.contains("6.1"),
            "{error}"
        );
        assert_eq!(chosen(&["6.1".to_owned()]).unwrap().len(), 1);
    }

    #[test]
    fn another_kind_of_machine_or_archive_runs_only_when_it_is_named() {
        let named = chosen(&["6.12-arm64".to_owned()]).unwrap();
        assert_eq!(named[0].arch, Arch::Arm64);
        let usual = chosen(&[]).unwrap();
        assert!(usual.iter().all(|pin| pin.arch == Arch::Amd64));
        assert!(usual.iter().all(Pin::is_of_debian));
        assert!(usual.len() < all().unwrap().len());
    }
}
