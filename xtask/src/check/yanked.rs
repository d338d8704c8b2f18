//! Versions that were taken back: every version of the lock files must still be one that the registry offers.

use std::{env, fs, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail};

use super::{Checked, deps::Package};
use crate::cmd;

/// Asks cargo to choose exactly the locked versions anew, without a lock file: it never chooses one that was yanked.
///
/// # Errors
///
/// When it refuses one, with what it says.
pub(super) fn check(packages: &[Package]) -> Result<Checked> {
    let folder = Folder::new()?;
    fs::create_dir(folder.0.join("src"))?;
    fs::write(folder.0.join("src/lib.rs"), "")?;
    fs::write(folder.0.join("Cargo.toml"), manifest(packages))?;
    let output = cmd::cargo()
        .args(["generate-lockfile", "--quiet", "--manifest-path"])
        .arg(folder.0.join("Cargo.toml"))
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    if output.status.success() {
        let count = packages.iter().filter(|p| p.source.is_some()).count();
        println!("{count} versions, none of them yanked");
        return Ok(Checked::Yes);
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.contains("yanked") {
        bail!("{text}");
    }
    let first = text.lines().next().unwrap_or_default();
    Ok(Checked::No(format!(
        "the registry could not be asked for yanked versions: {first}"
    )))
}

/// A package that depends on each of these versions. Those that are there twice get a name of their own.
fn manifest(packages: &[Package]) -> String {
    let lines: Vec<_> = packages
        .iter()
        .filter(|package| package.source.is_some())
        .enumerate()
        .map(|(number, Package { name, version, .. })| {
            format!(
                "p{number} = {{ package = \"{name}\", version = \"={version}\", default-features = false }}"
            )
        })
        .collect();
    format!(
        "[package]\nname = \"locked\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\n{}\n",
        lines.join("\n")
    )
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("peerwatch-yanked-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_a_registry_is_pinned() {
        let package = |name: &str, version: &str, source: Option<&str>| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            source: source.map(str::to_owned),
            licence: None,
        };
        let text = manifest(&[
            package("syn", "2.0.1", Some("registry+x")),
            package("xtask", "0.1.0", None),
            package("syn", "3.0.0", Some("registry+x")),
        ]);
        assert!(
            text.contains("p0 = { package = \"syn\", version = \"=2.0.1\""),
            "{text}"
        );
        assert!(
            text.contains("p1 = { package = \"syn\", version = \"=3.0.0\""),
            "{text}"
        );
        assert!(!text.contains("xtask"), "{text}");
    }
}
