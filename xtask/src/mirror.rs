//! Files of distribution archives: from the mirrors that this machine's apt uses, into a cache.
//!
//! apt does not know a package whose suite it is not configured for, but its mirrors have it all the
//! same: an archive keeps the packages of all its suites in one pool. So a file is named by its path
//! in that pool and by its checksum, and apt's own helper downloads it, with apt's proxies and
//! certificates.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{cmd, packages};

/// apt's downloader, part of the package `apt` itself.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// An archive with a pool of its own.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Repository {
    /// Debian's main archive.
    #[default]
    Debian,
    /// Debian's security updates.
    DebianSecurity,
    /// Ubuntu, security updates included.
    Ubuntu,
}

impl Repository {
    /// What its `Release` files say of themselves: `Origin` and `Label`.
    fn origin_and_label(self) -> (&'static str, &'static str) {
        match self {
            Self::Debian => ("Debian", "Debian"),
            Self::DebianSecurity => ("Debian", "Debian-Security"),
            Self::Ubuntu => ("Ubuntu", "Ubuntu"),
        }
    }

    /// The environment variable that names a mirror of it: what stands before `pool/`.
    fn variable(self) -> &'static str {
        match self {
            Self::Debian => "PEERWATCH_MIRROR_DEBIAN",
            Self::DebianSecurity => "PEERWATCH_MIRROR_DEBIAN_SECURITY",
            Self::Ubuntu => "PEERWATCH_MIRROR_UBUNTU",
        }
    }

    /// The mirror that the environment names, then those of apt's configuration.
    ///
    /// # Errors
    ///
    /// When apt fails.
    pub(crate) fn mirrors(self) -> Result<Vec<String>> {
        let named = env::var(self.variable()).ok();
        if !packages::is_debian_like() {
            return Ok(named.into_iter().collect());
        }
        let mut mirrors = configured(self, &index_targets()?);
        if named.is_none() && mirrors.is_empty() && index_targets()?.lines().any(is_nameless) {
            // apt learns what a mirror is a mirror of from the lists themselves.
            packages::update().context("apt has no lists yet")?;
            mirrors = configured(self, &index_targets()?);
        }
        Ok(named.into_iter().chain(mirrors).collect())
    }
}

/// apt's sources, one `origin|label|address` a line.
fn index_targets() -> Result<String> {
    cmd::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
        "Created-By: Packages",
    ]))
}

/// Whether apt has no list of this source yet, so that it does not know its origin.
fn is_nameless(line: &str) -> bool {
    line.starts_with('|')
}

/// The mirrors of a repository among apt's sources, each once.
fn configured(repository: Repository, targets: &str) -> Vec<String> {
    let (origin, label) = repository.origin_and_label();
    let mut mirrors = Vec::new();
    for line in targets.lines() {
        let mut parts = line.splitn(3, '|');
        if (parts.next(), parts.next()) != (Some(origin), Some(label)) {
            continue;
        }
        let mirror = parts.next().unwrap_or_default().to_owned();
        if !mirror.is_empty() && !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    mirrors
}

/// The file `pool_path` (`pool/main/l/linux/….deb`) of a repository: from the folder `cache`, or
/// downloaded into it, which is made when it is not there. `sha256` is in hexadecimal digits.
///
/// # Errors
///
/// When no mirror has it (any more), with how to put it there by hand; when what is there has
/// another checksum; when the folder cannot be written.
pub(crate) fn fetch(
    repository: Repository,
    pool_path: &str,
    sha256: &str,
    cache: &Path,
) -> Result<PathBuf> {
    let name = pool_path.rsplit('/').next().unwrap_or(pool_path);
    let file = cache.join(name);
    if file.exists() {
        return check(&file, sha256).map(|()| file);
    }
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    download(repository, pool_path, sha256, &file)
        .with_context(|| by_hand(repository, pool_path, &file))?;
    Ok(file)
}

fn download(repository: Repository, pool_path: &str, sha256: &str, file: &Path) -> Result<()> {
    if !Path::new(HELPER).is_file() {
        bail!("there is no apt here");
    }
    let mirrors = repository.mirrors()?;
    // Renamed when it is complete and right: an interrupted run leaves nothing that looks done.
    let mut scratch = file.as_os_str().to_owned();
    scratch.push(format!(".{}", std::process::id()));
    let mut failures = Vec::new();
    for mirror in &mirrors {
        let address = format!("{}/{pool_path}", mirror.trim_end_matches('/'));
        println!("downloading {address}");
        match cmd::output(
            Command::new(HELPER)
                .args(["-qq", "download-file", &address])
                .arg(&scratch)
                .arg(format!("SHA256:{sha256}")),
        ) {
            Ok(_) => return Ok(fs::rename(&scratch, file)?),
            Err(error) => failures.push(format!("{error:#}")),
        }
        if Path::new(&scratch).exists() {
            fs::remove_file(&scratch)?;
        }
    }
    if failures.is_empty() {
        bail!("apt's configuration names no mirror of this kind");
    }
    bail!("{}", failures.join("\n"))
}

/// What to do when no mirror has a file.
fn by_hand(repository: Repository, pool_path: &str, file: &Path) -> String {
    let (origin, label) = repository.origin_and_label();
    let name = if origin == label {
        origin.to_owned()
    } else {
        format!("{origin} ({label})")
    };
    format!(
        "cannot get {pool_path} of {name}: name a mirror that has it, the part before `pool/`, in \
         {}, or take the file from the distribution's archive of old packages and put it at {}",
        repository.variable(),
        file.display()
    )
}

/// Makes sure of a file's checksum.
///
/// # Errors
///
/// When it is another, with both.
fn check(file: &Path, sha256: &str) -> Result<()> {
    let text = cmd::output(Command::new("sha256sum").arg(file))?;
    // A backslash stands in front when the name needed quoting.
    let found = text.trim_start_matches('\\').split_whitespace().next();
    if found != Some(sha256) {
        bail!(
            "{} has the SHA-256 {}, and {sha256} is wanted: remove the file, or correct the pin",
            file.display(),
            found.unwrap_or_default()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_told_apart_by_origin_and_label() {
        let targets = "Debian|Debian|http://one.example/debian/\n\
                       Debian|Debian|http://one.example/debian/\n\
                       Debian|Debian|http://two.example/debian/\n\
                       Debian|Debian-Security|http://one.example/security/\n\
                       Other|Debian|http://three.example/\n";
        assert_eq!(
            configured(Repository::Debian, targets),
            ["http://one.example/debian/", "http://two.example/debian/"]
        );
        assert_eq!(
            configured(Repository::DebianSecurity, targets),
            ["http://one.example/security/"]
        );
        assert!(configured(Repository::Ubuntu, targets).is_empty());
        assert!(is_nameless("||http://one.example/debian/"));
        assert!(!targets.lines().any(is_nameless));
    }

    #[test]
    fn a_file_in_the_cache_is_taken_when_its_checksum_is_right_and_refused_otherwise() {
        let cache = env::temp_dir().join(format!("peerwatch-mirror-{}", std::process::id()));
        fs::create_dir(&cache).unwrap();
        fs::write(cache.join("x.deb"), "abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let fetched = fetch(Repository::Debian, "pool/x/x.deb", right, &cache);
        let wrong = "0".repeat(64);
        let refused = fetch(Repository::Debian, "pool/x/x.deb", &wrong, &cache);
        fs::remove_dir_all(&cache).unwrap();
        assert_eq!(fetched.unwrap(), cache.join("x.deb"));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(right) && error.contains(&wrong), "{error}");
    }

    #[test]
    fn the_way_out_names_the_variable_and_the_place() {
        let text = by_hand(
            Repository::DebianSecurity,
            "pool/x.deb",
            Path::new("/c/x.deb"),
        );
        assert!(
            text.contains("PEERWATCH_MIRROR_DEBIAN_SECURITY")
                && text.contains("Debian (Debian-Security)")
                && text.ends_with("/c/x.deb"),
            "{text}"
        );
    }
}
