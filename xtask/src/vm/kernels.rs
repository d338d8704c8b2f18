//! The pinned kernels, and how they come into the cache folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{cmd, packages, state};

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
    /// The Debian package.
    pub(super) package: String,
    /// Its version.
    pub(super) version: String,
    /// SHA-256 of the package file, in hexadecimal digits.
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

/// The kernels of these names, or all when there are none.
///
/// # Errors
///
/// When the list is not understood, or a name is not in it.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Pin>> {
    let pins = parse(PINS)?;
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
        .filter(|pin| names.is_empty() || names.contains(&pin.name))
        .collect())
}

fn parse(text: &str) -> Result<Vec<Pin>> {
    let file: File = toml::from_str(text).context("xtask/kernels.toml")?;
    Ok(file.kernel)
}

impl Pin {
    /// Downloads, checks and unpacks it, unless that was done before.
    ///
    /// # Errors
    ///
    /// When the archive does not have it (any more), with what to do; when the checksum is another;
    /// when it cannot be unpacked.
    pub(super) fn fetch(&self) -> Result<Kernel> {
        let cache = state::cache_dir()?.join("kernels");
        let unpacked = cache.join(format!("{}_{}", self.package, self.version));
        if !unpacked.exists() {
            fs::create_dir_all(&cache)
                .with_context(|| format!("cannot make {}", cache.display()))?;
            let archive = self.download(&cache)?;
            self.check(&archive)?;
            println!("unpacking {}", archive.display());
            // Renamed when it is complete: an interrupted run leaves nothing that looks done.
            let scratch = cache.join(format!("unpack-{}", std::process::id()));
            let result =
                unpack(&archive, &scratch).and_then(|()| Ok(fs::rename(&scratch, &unpacked)?));
            if result.is_err() && scratch.exists() {
                fs::remove_dir_all(&scratch)?;
            }
            result.with_context(|| format!("cannot unpack {}", archive.display()))?;
        }
        let modules = modules_folder(&unpacked)?;
        let release = modules
            .file_name()
            .and_then(|name| name.to_str())
            .context("a release with a strange name")?;
        Ok(Kernel {
            release: release.to_owned(),
            image: unpacked.join("boot").join(format!("vmlinuz-{release}")),
            modules,
        })
    }

    /// The package file, as apt names it.
    fn file_name(&self) -> String {
        // apt writes the colon of an epoch as %3a.
        let version = self.version.replace(':', "%3a");
        format!("{}_{version}_amd64.deb", self.package)
    }

    fn download(&self, cache: &Path) -> Result<PathBuf> {
        let file = cache.join(self.file_name());
        if file.exists() {
            return Ok(file);
        }
        if !packages::is_debian_like() {
            bail!("there is no apt here: {}", self.by_hand(&file));
        }
        if packages::candidate(&self.package)?.is_none() {
            packages::update().with_context(|| {
                format!(
                    "apt does not know {} yet: {}",
                    self.package,
                    self.by_hand(&file)
                )
            })?;
        }
        println!("downloading {} {}", self.package, self.version);
        let wanted = format!("{}={}", self.package, self.version);
        cmd::output(
            Command::new("apt-get")
                .current_dir(cache)
                .args(["-qq", "download", &wanted]),
        )
        .with_context(|| format!("apt has no {wanted}: {}", self.by_hand(&file)))?;
        Ok(file)
    }

    fn by_hand(&self, file: &Path) -> String {
        format!(
            "get {} from Debian's snapshot archive and put it at {}, or pin a newer kernel in \
             xtask/kernels.toml",
            self.file_name(),
            file.display()
        )
    }

    fn check(&self, archive: &Path) -> Result<()> {
        let text = cmd::output(Command::new("sha256sum").arg(archive))?;
        let found = text.split_whitespace().next().unwrap_or_default();
        if found != self.sha256 {
            bail!(
                "{} has the SHA-256 {found}, and xtask/kernels.toml says {}: remove it, or correct \
                 that",
                archive.display(),
                self.sha256
            );
        }
        Ok(())
    }
}

/// Unpacks a package and prepares its modules.
fn unpack(archive: &Path, to: &Path) -> Result<()> {
    cmd::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(archive)
            .arg(to),
    )?;
    let modules = modules_folder(to)?;
    // Uncompressed, as the guest's modprobe takes them.
    for (extension, tool) in [("xz", "xz"), ("zst", "zstd")] {
        cmd::run(
            Command::new("find")
                .arg(&modules)
                .args(["-name", &format!("*.ko.{extension}"), "-exec", tool])
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
        for pin in pins {
            assert_eq!(pin.sha256.len(), 64, "{}", pin.name);
            assert!(
                pin.sha256
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
                "{}",
                pin.name
            );
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
    fn a_package_with_another_checksum_is_refused() {
        let mut pin = chosen(&["6.1".to_owned()]).unwrap().remove(0);
        let this = std::env::current_exe().unwrap();
        let error = pin.check(&this).unwrap_err().to_string();
        assert!(error.contains(&pin.sha256), "{error}");
        let text = cmd::output(Command::new("sha256sum").arg(&this)).unwrap();
        pin.sha256 = text.split(' ').next().unwrap().to_owned();
        pin.check(&this).unwrap();
    }
}
